"""Constants from samples and rows marked fit, each with its error on what was left out."""
