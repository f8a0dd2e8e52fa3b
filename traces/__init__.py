"""What the outside world sends: requests, and which expert each token picks."""
