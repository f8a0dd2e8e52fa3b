"""The command line: one file per command, results on stdout, diagnostics on stderr."""
