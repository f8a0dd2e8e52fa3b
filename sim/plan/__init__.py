"""Which is best: candidates, bounds that none beats, and the simulation of what they leave."""
