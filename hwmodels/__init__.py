"""What the hardware is, and how long one piece of work or one transfer takes on it."""
