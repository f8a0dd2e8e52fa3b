"""What a model computes, where each piece runs, when everything happens, and which layout is best."""
