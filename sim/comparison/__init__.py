"""Experts against dense: columns side by side, twins built on request, and where the other one starts to win."""
