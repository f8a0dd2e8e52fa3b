"""Serving: what a step of inference costs, what fits into memory, and when each request gets its tokens."""
