"""Which deployment serves a load within limits at the least cost."""
