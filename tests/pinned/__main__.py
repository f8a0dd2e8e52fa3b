"""What moved in the pinned answers, and `--write` to keep the new ones.

python -m tests.pinned            # which answers are not what they were
python -m tests.pinned --write    # keep them: the change was meant
"""

from __future__ import annotations

import argparse
import sys

from tests.pinned.answers import FILES, answer, moved, read, write


def main() -> int:
    """The command; 1 when an answer moved and was not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="keep the new answers")
    asked = parser.parse_args()
    changed = 0
    for kind in FILES:
        pins = read(kind)
        for number, pin in enumerate(pins):
            new = answer(kind, pin["ask"])
            changes = moved(pin["answer"], new)
            if changes:
                changed += 1
                pin["answer"] = new
                print(f"{kind} {number}: {'; '.join(changes)}")
        sys.stderr.write(f"{kind}: {len(pins)} questions\n")
        if asked.write and changed:
            write(kind, pins)
    print(f"{changed} answers moved{', and are kept' if changed and asked.write else ''}")
    return int(changed > 0 and not asked.write)


if __name__ == "__main__":
    raise SystemExit(main())
