"""`python -m moesim` is the command `moesim`."""

from __future__ import annotations

from moesim.reports.cli.app import main

if __name__ == "__main__":
    main()
