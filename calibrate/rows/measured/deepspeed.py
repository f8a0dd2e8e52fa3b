"""Training logs of DeepSpeed: samples per second of its timer, time lines, memory, and the config that it prints."""

from __future__ import annotations

import re

from moesim.calibrate.rows.measured.told import Facts, Pace, Steps, Told, cell, number

# `epoch=0/micro_step=100/global_step=10, RunningAvgSamplesPerSec=12.3, CurrSamplesPerSec=12.5, MemAllocated=10.1GB,
# MaxMemAllocated=35.2GB`; old releases: `0/100, SamplesPerSec=12.3, MemAllocated=...`
_RATE = re.compile(r"(?<!Avg)(?:Curr)?SamplesPerSec=([\d.eE+-]+|nan|inf)")
_STEP = re.compile(r"global_step=(\d+)|\b\d+/(\d+), SamplesPerSec")
_PEAK = re.compile(r"MaxMemAllocated=\s*([\d.]+)\s*GB")
_TIME = re.compile(r"step=(\d+).*?time \(sec\)[=:]\s*([\d.]+)|steps: (\d+) loss: \S+ iter time \(s\): ([\d.]+)")
_PRINT = re.compile(r"\bprint\]\s+(\w+) \.* (.*)$")  # no dots behind a long name
_JSON = re.compile(r"\"(train_batch_size|train_micro_batch_size_per_gpu|gradient_accumulation_steps|stage)\":\s*(\d+)")
_STAGE = re.compile(r"['\"]?stage['\"]?\s*[=:]\s*(\d)|ZeroStageEnum\.\w+?(\d)?\b")
_STACK = "stack hf-eager, no pipeline: the nearest to DeepSpeed's ZeRO (assumed; a scenario states another)"
_ZERO = {"disabled": "0", "optimizer_states": "1", "gradients": "2", "weights": "3"}
_ZERO_NAME = re.compile(r"ZeroStageEnum\.(\w+)")


class DeepSpeedLog:
    """Collects the lines of a log; `told` at its end."""

    form = "DeepSpeed log"

    def __init__(self) -> None:
        self.rates: list[tuple[int, float | None]] = []
        self.steps, self.facts = Steps(), Facts()
        self.peak_gib = 0.0

    def take(self, line: str) -> None:
        """One line, without prefixes."""
        if "SamplesPerSec" in line:
            self._rate(line)
        time = _TIME.search(line) if "time (s" in line else None
        if time:
            step, seconds = next(pair for pair in (time.groups()[:2], time.groups()[2:]) if pair[0])
            self.steps.add(int(step), number(seconds))
        printed = _PRINT.search(line)
        if printed:
            self._setting(printed.group(1), printed.group(2))
        for name, value in _JSON.findall(line):
            self.facts.add("zero_stage" if name == "stage" else name, value)

    def _rate(self, line: str) -> None:
        rate, step = _RATE.search(line), _STEP.search(line)
        if rate:
            done = int(next(filter(None, step.groups()))) if step else len(self.rates)
            self.rates.append((done, number(rate.group(1))))
        peak = _PEAK.search(line)
        if peak:
            self.peak_gib = max(self.peak_gib, number(peak.group(1)) or 0.0)

    def _setting(self, name: str, value: str) -> None:
        """A line of the config print."""
        stage = _ZERO_NAME.search(value) or _STAGE.search(value)
        if name in ("zero_config", "zero_optimization") and stage and stage.group(1):
            self.facts.add("zero_stage", _ZERO.get(stage.group(1), stage.group(1)))
        elif re.fullmatch(r"[\w.]+", value.strip()):
            self.facts.add(name, value)

    def told(self) -> Told | None:
        """The row of the log; None where it holds no timer lines."""
        if not self.rates:
            self.steps.check_any()
        if not self.rates and not self.steps.seconds:
            return None
        facts = self.facts
        numbers = {
            "gpus": facts.whole("world_size"),
            "gbs": facts.whole("train_batch_size"),
            "mbs": facts.whole("train_micro_batch_size_per_gpu"),
            "zero": facts.text("zero_stage"),
        }
        row = {"stack": "hf-eager", "pp": "1", **{name: str(value) for name, value in numbers.items() if value}}
        if facts.yes("bfloat16_enabled", "bfloat16_config"):
            row["precision"] = "BF16"
        elif facts.yes("fp16_enabled", "float16_config"):
            row["precision"] = "FP16"
        row |= {"peak_allocated_gib": cell(self.peak_gib)} if self.peak_gib else {}
        notes = [_STACK, *facts.notes()]
        if self.steps.seconds:
            cells, said = self.steps.settled()
            return Told(self.form, ({**row, **cells},), (*said, *notes))
        return Told(self.form, (row,), tuple(notes), pace=Pace(("gbs",), tuple(self.rates)))
