"""What this machine really takes, and how wrong we are."""
