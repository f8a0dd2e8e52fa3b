"""Which model: columns side by side, dense twins built on request, and where the other one starts to win."""
