"""Answers as tables in the terminal, and as Markdown."""
