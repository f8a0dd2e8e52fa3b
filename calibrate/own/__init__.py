"""Your own machine and runs: profiles, logs, traces and corrections."""
