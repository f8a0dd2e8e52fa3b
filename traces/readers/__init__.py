"""Readers of published request traces: each turns one form of file into rows, and says what it left out or assumed."""
