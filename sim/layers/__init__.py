"""What a layer computes and sends, forward and backward: operations without seconds."""
