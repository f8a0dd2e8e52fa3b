"""Training logs of torchtitan: tokens per second of a GPU, memory, and what it says of its mesh, model and settings."""

from __future__ import annotations

import re
from math import prod

from moesim.calibrate.measure.driver_names import gpu_of_driver
from moesim.calibrate.rows.measured.told import Facts, Pace, Told, number

_STEP = re.compile(r"\bstep:\s*(\d+)\s.*?\btps:\s*([\d,.]+)")
_MEMORY = re.compile(r"\bmemory:\s*([\d.]+)GiB")
_CAPACITY = re.compile(r"(?:CUDA|XPU|HIP|cuda|Device) capacity:\s*(.+?)\s+with\s")
_TRAINER = re.compile(
    r"local batch size (\d+), global batch size (\d+)(?:, gradient accumulation steps \d+)?, sequence length (\d+)"
)
_MESH = re.compile(r"Building \d+-D device mesh with \[([^\]]*)\], \[([\d, ]+)\]")
# newer releases: `Building device mesh with parallelism: pp=1, dp_replicate=1, dp_shard=8, cp=1, tp=8, ep=1, etp=1`
_DEGREES = re.compile(r"Building device mesh with parallelism:\s*(\w+=-?\d+(?:,\s*\w+=-?\d+)*)")
_WORLD = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
_MODEL = re.compile(r"Model (\S+) (\S+) size: ")
# `--training.seq_len 8192` or =; also `seq_len = 8192` under `[training]` of a TOML file, and JSON of a config dump
_OVERRIDE = re.compile(r"--(training|parallelism|activation_checkpoint|model)\.(\w+)[= ]\"?([\w.-]+)")
_TOML = re.compile(r"^\s*\"?(\w+)\"?\s*[=:]\s*\"?([\w.-]+)\"?,?\s*(?:#.*)?$")
_SECTION = re.compile(r"^\s*\[(\w+)\]\s*$|^\s*\"(\w+)\":\s*\{\s*$")
_MODELS = {
    ("llama3", "8b"): "llama-3.1-8b",
    ("llama3", "70b"): "llama-3.1-70b",
    ("llama3", "405b"): "llama-3.1-405b",
    ("llama4", "17bx16e"): "llama-4-scout",
    ("llama4", "17bx128e"): "llama-4-maverick",
    ("deepseek_v3", "671b"): "deepseek-v3",
    ("qwen3", "32b"): "qwen3-32b",
    ("qwen3", "30b-a3b"): "qwen3-30b-a3b",
    ("qwen3", "235b-a22b"): "qwen3-235b-a22b",
}
_SAID = ((_CAPACITY, ("gpu",)), (_TRAINER, ("local", "global", "length")), (_MODEL, ("model", "flavor")))
_SECTIONS = ("training", "parallelism", "activation_checkpoint", "model")


class TorchtitanLog:
    """Collects the lines of a log; `told` at its end."""

    form = "torchtitan log"

    def __init__(self) -> None:
        self.rates: list[tuple[int, float | None]] = []
        self.facts = Facts()
        self.peak_gib = 0.0
        self.section = ""

    def take(self, line: str) -> None:
        """One line, without prefixes."""
        step = _STEP.search(line) if "tps:" in line else None
        if step:
            self.rates.append((int(step.group(1)), number(step.group(2))))
            memory = _MEMORY.search(line)
            self.peak_gib = max(self.peak_gib, (number(memory.group(1)) or 0.0) if memory else 0.0)
            return
        for section, name, value in _OVERRIDE.findall(line[:4000]):
            self.facts.add(f"{section}.{name}", value)
        self._config(line)
        self._said(line)

    def _config(self, line: str) -> None:
        """A line of a TOML or JSON config that was printed."""
        section = _SECTION.match(line)
        if section:
            self.section = next(filter(None, section.groups()))
            return
        setting = _TOML.match(line)
        if setting and self.section in _SECTIONS:
            self.facts.add(f"{self.section}.{setting.group(1)}", setting.group(2))

    def _said(self, line: str) -> None:
        """What torchtitan says of itself while it starts."""
        for pattern, names in _SAID:
            found = pattern.search(line)
            if found:
                for name, value in zip(names, found.groups(), strict=True):
                    self.facts.add(f"said.{name}", value)
        mesh = _MESH.search(line)
        if mesh:
            axes = re.findall(r"\w+", mesh.group(1))
            sizes = [int(n) for n in re.findall(r"\d+", mesh.group(2))]
            if len(axes) == len(sizes):
                self.facts.add("mesh.world", str(prod(sizes)))
                for name, size in zip(axes, sizes, strict=True):
                    self.facts.add(f"mesh.{name}", str(size))
        degrees = _DEGREES.search(line)
        if degrees:
            held = {name: int(size) for name, size in re.findall(r"(\w+)=(-?\d+)", degrees.group(1))}
            if all(held.get(name, 1) > 0 for name in _WORLD):
                self.facts.add("mesh.world", str(prod(held.get(name, 1) for name in _WORLD)))
            for name, size in held.items():
                self.facts.add(f"mesh.{name}", str(size))
        if "activation checkpointing to the model" in line:
            self.facts.add("said.recompute", "full" if "full" in line.lower() else "selective")

    def told(self) -> Told | None:
        """The row of the log; None where it holds no steps. Its rate becomes seconds once batch and GPUs are known."""
        if not self.rates:
            return None
        facts = self.facts
        described = facts.text("said.gpu")
        gpu = gpu_of_driver(described) if described else None
        family, flavor = facts.text("said.model", "model.name"), facts.text("said.flavor", "model.flavor")
        model = _MODELS.get((family.lower(), flavor.lower()))
        numbers = {
            "gpus": facts.whole("mesh.world"),
            "seq_len": facts.whole("said.length", "training.seq_len"),
            "gbs": facts.whole("said.global", "training.global_batch_size"),
            "mbs": facts.whole("said.local", "training.local_batch_size", "training.batch_size"),
            "tp": facts.whole("mesh.tp", "parallelism.tensor_parallel_degree"),
            "pp": facts.whole("mesh.pp", "parallelism.pipeline_parallel_degree"),
            "cp": facts.whole("mesh.cp", "parallelism.context_parallel_degree"),
            "ep": facts.whole("mesh.ep", "parallelism.expert_parallel_degree"),
        }
        row = {"software": "torchtitan", **{name: str(value) for name, value in numbers.items() if value}}
        notes = [*facts.notes()]
        if facts.values:  # a mesh names all degrees above one, settings those that are not torchtitan's own
            unsaid = [name for name in ("tp", "pp", "cp") if name not in row]
            row |= dict.fromkeys(unsaid, "1")
            notes += [f"{', '.join(unsaid)} = 1 (not printed: torchtitan's own)"] if unsaid else []
        row |= {"model": model} if model else {}
        row |= {"gpu": gpu.gpu} if gpu and gpu.gpu else {}
        row |= {"recompute": facts.text("said.recompute")} if facts.text("said.recompute") else {}
        if described and not row.get("gpu"):
            notes.append(f"the log calls the GPU {described[:60]!r}, which the catalogue does not know")
        if self.peak_gib:
            notes.append(f"the log's memory ({self.peak_gib:g} GiB) is what was reserved, not allocated: not compared")
        return Told(self.form, (row,), tuple(notes), pace=Pace(("gbs", "seq_len", "gpus"), tuple(self.rates)))
