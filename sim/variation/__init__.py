"""One thing changed at a time or many at once: sweeps, what-ifs, and where the seconds lie on the roofline."""
