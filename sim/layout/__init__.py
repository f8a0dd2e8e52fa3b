"""Where each part of a model is: parallel degrees and their groups, pipeline orders, stages, experts."""
