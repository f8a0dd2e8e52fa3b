"""How many replicas, racks and dollars a day of traffic takes, year after year."""
