"""Hostile inputs of every command: none may hang, lie, or end in anything but an answer or one line."""
