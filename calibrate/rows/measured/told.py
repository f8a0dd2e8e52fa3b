"""Told: what a log or a result file says, as cells of rows; and what readers of logs share: lines, steps, facts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import median

from moesim.calibrate.rows.files import BadRows
from moesim.files.opening import Opening
from moesim.files.words import counted

FORMS = (
    "CSV of runs (docs/rows.md); training logs of Megatron-LM, NeMo, torchtitan and DeepSpeed; results of vLLM, "
    "SGLang, genai-perf, aiperf, guidellm and InferenceMAX"
)
FEWEST_STEPS = 3  # steady ones, of which a median says something
MEASURED_FILE = Opening("file", 500_000_000, BadRows, f"moesim reads {FORMS}", True)
_PREFIX = re.compile(
    r"^(?:\x1b\[[0-9;]*m|\[[^\]\s]{1,80}\](?:<std(?:out|err)>)?:\s?|\[pod/[^\]]*\]\s|"
    r"\d{4}-\d\d-\d\dT[\d:.]+Z\s|\s*\d{1,5}:\s|\[?(?:default|rank)\d+\]?:\s?)+"
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Pace:
    """Rates in place of step times: (step, rate) of samples per second, or of tokens per second of one GPU.

    needs: the cells that make seconds of them: gbs, and for tokens seq_len and gpus.
    """

    needs: tuple[str, ...]
    rates: tuple[tuple[int, float | None], ...]

    def settled(self, row: dict[str, str]) -> tuple[dict[str, str], list[str]]:
        """Cells of the settled step, of a row that states what is needed."""
        work = float(row["gbs"])
        if "seq_len" in self.needs:
            work *= float(row["seq_len"]) / float(row["gpus"])
        steps = Steps()
        for at, rate in self.rates:
            steps.add(at, work / rate if rate else None)
        return steps.settled()


@dataclass(frozen=True, slots=True)
class Told:
    """Rows of one file: the cells that it states, measured values among them; and what was left out or assumed.

    asks: cells that the form never states and that a prediction cannot do without. pace: rates that become a step time
    once the row is complete.
    """

    form: str
    rows: tuple[dict[str, str], ...]
    notes: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    pace: Pace | None = None


def bare(line: str) -> str:
    """A line without what launchers, containers and terminals put around it."""
    return _PREFIX.sub("", _COLOUR.sub("", line)).rstrip("\r\n")


def number(text: str) -> float | None:
    """A positive number with commas between thousands, else None."""
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if isfinite(value) and value > 0.0 else None


def cell(value: float) -> str:
    """A number as a cell holds it: nine digits, no trailing zeros."""
    return f"{value:.9g}"


@dataclass
class Steps:
    """Step times of a log as they are read: the number of the step, seconds, and the sequences of its batch."""

    numbers: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)  # 0: not said
    begun_again: int = 0  # how often the numbers went back: a run that was started again into the same file
    odd: int = 0  # lines without a positive time

    def add(self, number: int, seconds: float | None, batch: int = 0) -> None:
        """One logged step, or several whose mean it is. The last run of a file counts."""
        if seconds is None:
            self.odd += 1
            return
        if self.numbers and number <= self.numbers[-1]:
            if number == self.numbers[-1]:  # another rank tells the same step
                return
            self.begun_again += 1
            self.numbers.clear()
            self.seconds.clear()
            self.batches.clear()
        self.numbers.append(number)
        self.seconds.append(seconds)
        self.batches.append(batch)

    def check_any(self) -> None:
        """BadRows where steps were logged, and none of them has a time."""
        if self.odd and not self.seconds:
            raise BadRows(
                f"{counted(self.odd, 'logged step')}, none with a positive step time (0, negative, "
                "nan and inf are none): give the log of a run that trained"
            )

    def settled(self) -> tuple[dict[str, str], list[str]]:
        """Cells of the settled step (step_time_s, gbs where said, repeats, spread_pct), and how they were had.

        Steps of the largest batch count where batches ramp up; the first tenth, at least one of three and two of eight,
        are left out as warm-up; the median is the step, half the middle half of all its spread. BadRows where fewer
        than three are left: of two nobody knows which is the run's.
        """
        self.check_any()
        notes = [f"the file holds {self.begun_again + 1} runs; the last one counts"] if self.begun_again else []
        notes += [f"{counted(self.odd, 'line')} without a positive time left out"] if self.odd else []
        kept = list(zip(self.numbers, self.seconds, self.batches, strict=True))
        largest = max(self.batches)
        if any(batch != largest for batch in self.batches):
            kept = [step for step in kept if step[2] == largest]
            notes.append(
                f"the batch changes during the run: {len(kept)} of {len(self.batches)} logged steps have {largest}"
            )
        warm = _warm_up(len(kept))
        times = [seconds for _, seconds, _ in kept[warm:]]
        if len(times) < FEWEST_STEPS:
            dead = f", {self.odd} lines without a positive time" if self.odd else ""
            raise BadRows(
                f"{counted(len(times), 'steady step time')} ({len(self.seconds)} logged, {warm} of "
                f"warm-up{dead}); at least {FEWEST_STEPS} are needed: give the log of a longer run"
            )
        middle, spread = median(times), _spread(times)
        notes.append(
            f"step time: median of {len(times)} logged steps ({warm} of warm-up left out), spread {spread:.1f} %"
        )
        cells = {"step_time_s": cell(middle), "repeats": str(len(times)), "spread_pct": f"{spread:.2f}"}
        return cells | ({"gbs": str(largest)} if largest else {}), notes


def _warm_up(count: int) -> int:
    """Logged steps at the start that do not count."""
    return max(2, count // 10) if count >= 8 else 1 if count >= 3 else 0


def _spread(times: Sequence[float]) -> float:
    """Half the middle half, in % of the median."""
    ordered = sorted(times)
    quarter = len(ordered) // 4
    return 50.0 * (ordered[-1 - quarter] - ordered[quarter]) / median(ordered)


@dataclass
class Facts:
    """Settings as a log prints them; what it prints twice with different values is not taken, and said."""

    values: dict[str, str] = field(default_factory=dict)
    disputed: set[str] = field(default_factory=set)

    def add(self, name: str, value: str) -> None:
        """One setting and its value as printed."""
        text = value.strip().strip("'\"").rstrip(",")
        if name in self.values and self.values[name] != text:
            self.disputed.add(name)
        self.values.setdefault(name, text)

    def text(self, *names: str) -> str:
        """The value of the first of these that the log states; "" for none."""
        known = (n for n in names if n in self.values and n not in self.disputed)
        text = next((self.values[n] for n in known if self.values[n] not in ("None", "null", "~", "")), "")
        return text[:200]

    def whole(self, *names: str) -> int:
        """The same as a whole number above zero; 0 where there is none."""
        text = self.text(*names)
        return int(text) if re.fullmatch(r"\d{1,12}", text) else 0

    def yes(self, *names: str) -> bool:
        """Whether the first of these that is stated is on."""
        return self.text(*names).lower() in ("true", "1", "yes", "on")

    def notes(self) -> list[str]:
        """What was not taken."""
        names = ", ".join(sorted(self.disputed))
        return [f"printed twice with different values, not taken: {names[:200]}"] if names else []
