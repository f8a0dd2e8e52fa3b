"""How long work takes on the machine at hand: what to measure, clocks, torch kernels, ranks, and the sample table."""
