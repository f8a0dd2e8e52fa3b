"""Files that training runs and benchmarks of serving write themselves, as rows of measured runs."""
