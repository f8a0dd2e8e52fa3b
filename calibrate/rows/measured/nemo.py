"""Training logs of NeMo: the progress of Lightning in both its forms, and settings as they are printed."""

from __future__ import annotations

import re

from moesim.calibrate.rows.measured.told import Facts, Steps, Told, number

_TIMING = re.compile(r"train_step_timing in s\s*[:=]\s*([\d.eE+-]+|nan|inf)")
_STEP = re.compile(r"global_step\s*[:=]\s*(\d+)|iteration\s+(\d+)/\d+")
_BATCH = re.compile(r"global_batch_size\s*[:=]\s*(\d+)")
_WORLD = re.compile(r"Starting with (\d+) processes")
# settings that are printed as YAML, keywords or arguments anywhere
_SETTING = re.compile(
    r"\b(tensor_model_parallel_size|pipeline_model_parallel_size|virtual_pipeline_model_parallel_size|context_parallel_size|"
    r"expert_model_parallel_size|expert_tensor_parallel_size|micro_batch_size|global_batch_size|seq_length|num_nodes|"
    r"devices|sequence_parallel|moe_token_dispatcher_type)\s*[:=]\s*['\"]?(\w+)"
)


class NemoLog:
    """Collects the lines of a log; `told` at its end."""

    form = "NeMo log"

    def __init__(self) -> None:
        self.steps, self.facts = Steps(), Facts()

    def take(self, line: str) -> None:
        """One line, without prefixes; a progress bar draws many times into one."""
        if "train_step_timing" in line:
            for part in line.split("\r"):
                self._progress(part)
            return
        world = _WORLD.search(line) if "processes" in line else None
        if world:
            self.facts.add("world_size", world.group(1))
        if "=" in line or ":" in line:
            for name, value in _SETTING.findall(line[:2000]):
                self.facts.add(name, value)

    def _progress(self, text: str) -> None:
        timing = _TIMING.search(text)
        if not timing:
            return
        step, batch = _STEP.search(text), _BATCH.search(text)
        done = int(next(filter(None, step.groups()))) if step else len(self.steps.numbers)
        self.steps.add(done, number(timing.group(1)), int(batch.group(1)) if batch else 0)

    def told(self) -> Told | None:
        """The row of the log; None where it holds no step timings."""
        self.steps.check_any()
        if not self.steps.seconds:
            return None
        cells, notes = self.steps.settled()
        facts = self.facts
        gpus = facts.whole("world_size") or facts.whole("num_nodes") * facts.whole("devices")
        stated = {
            "gpus": gpus,
            "seq_len": facts.whole("seq_length"),
            "gbs": facts.whole("global_batch_size"),
            "mbs": facts.whole("micro_batch_size"),
            "tp": facts.whole("tensor_model_parallel_size"),
            "pp": facts.whole("pipeline_model_parallel_size"),
            "vpp": facts.whole("virtual_pipeline_model_parallel_size"),
            "cp": facts.whole("context_parallel_size"),
            "ep": facts.whole("expert_model_parallel_size"),
            "etp": facts.whole("expert_tensor_parallel_size"),
        }
        row = {"software": "NeMo", **{name: str(value) for name, value in stated.items() if value}}
        return Told(self.form, ({**row, **cells},), (*notes, *facts.notes()))
