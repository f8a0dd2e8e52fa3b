"""Which layout of a training job is best."""
