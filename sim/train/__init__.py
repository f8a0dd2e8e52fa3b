"""A training step: the job, prices of its segments, its program, memory, and the answer; and the whole run."""
