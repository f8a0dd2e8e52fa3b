"""What runs the model: training stacks, their releases and age, and serving engines."""
