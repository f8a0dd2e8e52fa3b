"""A deployment: what a pass of inference costs, what fits into memory, when each request gets its tokens."""
