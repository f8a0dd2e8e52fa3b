"""Faults around a command, one after the other, as a table; exit code 1 if any is wrong.

python -m tests.faults [words of titles]
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.bench import JOB, Bench, Wrong
from tests.faults.scenarios import SCENARIOS, Skipped


def main(words: list[str]) -> int:
    """Run those whose titles hold one of the words, or all."""
    wrong = 0
    for title, function in SCENARIOS.items():
        if words and not any(word in title for word in words):
            continue
        begin = time.monotonic()
        with TemporaryDirectory() as folder:
            bench = Bench(Path(folder))
            bench.write("job.yaml", JOB)
            try:
                function(bench)
                said = "holds"
            except Skipped as skipped:
                said = f"skipped: {skipped}"
            except (Wrong, subprocess.TimeoutExpired) as error:
                wrong, said = wrong + 1, f"WRONG: {' '.join(str(error).split())}"
        print(f"{time.monotonic() - begin:6.1f} s  {title:62} {said}", flush=True)
    print(f"{wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
