"""Settings of all tests. Being here also puts this folder first on the import path, so that the rooms are found
before the test folders of the same names."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
# other scenarios on every run, and many more of them (tests/laws/examples.py)
settings.register_profile("fuzz", settings.get_profile("ci"), derandomize=False, print_blob=True)
settings.load_profile("fuzz" if os.environ.get("MOESIM_TESTS") == "fuzz" else "ci")

os.environ.pop("COLUMNS", None)  # how wide tables are is decided by the tests, not by the terminal around them
