"""Measured rows of other people: read, turned into questions, and predicted."""
