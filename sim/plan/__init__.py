"""Which layout is best: candidates, bounds that no schedule beats, and the simulation of what they leave."""
