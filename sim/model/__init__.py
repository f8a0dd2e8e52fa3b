"""What a model is: sizes, kinds of layers, parameters and weights, from our catalogue or a config.json."""
