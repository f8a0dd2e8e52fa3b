"""Training logs of Megatron-LM (and what prints as it does): iteration lines, memory lines, the dump of arguments."""

from __future__ import annotations

import re

from moesim.calibrate.rows.measured.models import models_of_sizes
from moesim.calibrate.rows.measured.told import Facts, Steps, Told, cell, number

_ITERATION = re.compile(r"\biteration\s+(\d+)\s*/\s*\d+\s*\|(.*)")
_FIELD = re.compile(r"\s*([^|:]+?)\s*:\s*([^|]*?)\s*(?:\||$)")
_ARGUMENT = re.compile(r"(?:^|\s)(\w+)\s\.+\s(.*)$")
_MEMORY = re.compile(r"\(after \d+ iterations\) memory \((MB|GB)\)(.*)")
_WORLD = re.compile(r"using world size:\s*(\d+)")
_MIB = 1024.0  # MiB in a GiB: torch's counters over 1024^2, which Megatron calls MB
_DISPATCHERS = (("deepep", "deepep"), ("hybridep", "hybridep"))


class MegatronLog:
    """Collects the lines of a log; `told` at its end."""

    form = "Megatron-LM log"

    def __init__(self) -> None:
        self.steps, self.facts = Steps(), Facts()
        self.peak_gib = 0.0
        self.skipped = 0

    def take(self, line: str) -> None:
        """One line, without prefixes."""
        if "memory (" in line:  # ranks that write at once share a line
            for part in line.split("[Rank")[1:] or [line]:
                self._memory(part)
        elif "iteration" in line and "|" in line:
            self._iteration(line)
        elif " ..." in line:
            argument = _ARGUMENT.search(line)
            if argument:
                self.facts.add(argument.group(1), argument.group(2))
        elif "using world size" in line:
            world = _WORLD.search(line)
            if world:
                self.facts.add("world_size", world.group(1))

    def _iteration(self, line: str) -> None:
        found = _ITERATION.search(line)
        if not found:
            return
        fields = {name.lower(): value for name, value in _FIELD.findall(found.group(2))}
        elapsed = fields.get("elapsed time per iteration (ms)")
        if elapsed is None:
            return
        milliseconds = number(elapsed.split("/")[0])  # Primus prints the mean of the run behind it
        batch = fields.get("global batch size", "0")
        self.steps.add(
            int(found.group(1)),
            milliseconds / 1e3 if milliseconds else None,
            int(batch) if batch.isdigit() else 0,
        )
        self.skipped += int((number(fields.get("number of skipped iterations", "")) or 0) > 0)

    def _memory(self, line: str) -> None:
        found = _MEMORY.search(line)
        if not found:
            return
        fields = {name.lower(): value for name, value in _FIELD.findall(found.group(2).lstrip(" |"))}
        peak = number(fields.get("max allocated", ""))
        if peak:
            self.peak_gib = max(self.peak_gib, peak / (_MIB if found.group(1) == "MB" else 1.0))

    def told(self) -> Told | None:
        """The row of the log; None where it holds no iteration lines."""
        self.steps.check_any()
        if not self.steps.seconds:
            return None
        cells, notes = self.steps.settled()
        stated = self._stated(notes)
        batch = stated.get("gbs")
        if batch and cells.get("gbs") and batch != cells["gbs"] and not self.facts.text("rampup_batch_size"):
            notes.append(
                f"iterations have a global batch of {cells['gbs']}, the arguments {batch}: the iterations count"
            )
        if self.peak_gib:
            cells["peak_allocated_gib"] = cell(self.peak_gib)
        if self.skipped:
            notes.append(f"{self.skipped} logged steps skipped iterations (overflow): their times count all the same")
        return Told(self.form, ({**stated, **cells},), (*notes, *self.facts.notes()))

    def _stated(self, notes: list[str]) -> dict[str, str]:
        """Cells of what the dump of arguments states."""
        facts = self.facts
        stated = {
            "gpus": facts.whole("world_size"),
            "seq_len": facts.whole("seq_length", "encoder_seq_length"),
            "gbs": facts.whole("global_batch_size"),
            "mbs": facts.whole("micro_batch_size"),
            "tp": facts.whole("tensor_model_parallel_size"),
            "pp": facts.whole("pipeline_model_parallel_size"),
            "cp": facts.whole("context_parallel_size"),
            "ep": facts.whole("expert_model_parallel_size"),
            "etp": facts.whole("expert_tensor_parallel_size"),
            "vpp": facts.whole("virtual_pipeline_model_parallel_size") or self._virtual(),
        }
        cells = {name: str(value) for name, value in stated.items() if value}
        cells |= self._words() | self._experts()
        if facts.values:
            cells.setdefault("software", "Megatron-LM")
            cells |= self._model(notes)
        return cells

    def _virtual(self) -> int:
        """Virtual stages where their layers are said instead."""
        facts = self.facts
        each = facts.whole("num_layers_per_virtual_pipeline_stage")
        pp, layers = facts.whole("pipeline_model_parallel_size"), facts.whole("num_layers")
        if each and pp and layers % (pp * each) == 0:
            return layers // (pp * each)
        return 1 if "num_layers_per_virtual_pipeline_stage" in facts.values and pp else 0

    def _words(self) -> dict[str, str]:
        """Precision, sharding, recomputation, sequence parallelism."""
        facts = self.facts
        cells: dict[str, str] = {}
        eight, recipe = facts.text("fp8"), facts.text("fp8_recipe").lower()
        four = facts.text("fp4")
        if four:
            cells["precision"] = "NVFP4"
        elif eight:
            cells["precision"] = {"blockwise": "FP8-block", "mxfp8": "MXFP8"}.get(recipe, "FP8")
        elif facts.yes("bf16"):
            cells["precision"] = "BF16"
        elif facts.yes("fp16"):
            cells["precision"] = "FP16"
        elif "bf16" in facts.values:
            cells["precision"] = "FP32"
        if facts.yes("use_torch_fsdp2", "use_megatron_fsdp", "use_custom_fsdp"):
            cells["zero"] = "3"
        elif "use_distributed_optimizer" in facts.values:
            cells["zero"] = "1" if facts.yes("use_distributed_optimizer") else "0"
        if "recompute_granularity" in facts.values:
            modules = re.findall(r"\w+", facts.text("recompute_modules"))
            selective = ", ".join(m for m in modules if m != "None") or "selective"
            words = {"full": "full", "selective": "core_attention" if selective == "core_attn" else selective}
            cells["recompute"] = words.get(facts.text("recompute_granularity"), "none")
        if "sequence_parallel" in facts.values and facts.whole("tensor_model_parallel_size") > 1:
            cells["sequence_parallel"] = "yes" if facts.yes("sequence_parallel") else "no"
        if "mtp_num_layers" in facts.values:
            cells["mtp"] = "yes" if facts.whole("mtp_num_layers") else "no"
        return cells

    def _experts(self) -> dict[str, str]:
        """Dispatcher, overlap, routing and dropping of experts."""
        facts = self.facts
        cells: dict[str, str] = {}
        if not facts.whole("num_experts", "num_moe_experts"):
            return {}
        kind = facts.text("moe_token_dispatcher_type")
        backend = facts.text("moe_flex_dispatcher_backend").lower()
        if kind == "flex":
            named = next((ours for word, ours in _DISPATCHERS if word in backend), "")
            named = named or ("deepep" if facts.yes("moe_enable_deepep") else "")
            cells |= {"dispatcher": named} if named else {}
        elif kind in ("alltoall", "alltoall_seq"):
            cells["dispatcher"] = "alltoall"
        if "overlap_moe_expert_parallel_comm" in facts.values:
            cells["ep_overlap"] = "yes" if facts.yes("overlap_moe_expert_parallel_comm") else "no"
        forced = facts.yes("moe_router_force_load_balancing")
        cells["routing"] = "force_balanced" if forced else "natural"
        capacity = facts.text("moe_expert_capacity_factor")
        if re.fullmatch(r"\d+(\.\d+)?", capacity):
            cells["capacity_factor"] = capacity
        return cells

    def _model(self, notes: list[str]) -> dict[str, str]:
        """The model by its sizes: the one of the catalogue, or a plain GPT; nothing where neither is meant."""
        facts = self.facts
        sizes = {
            "layers": facts.whole("num_layers"),
            "hidden": facts.whole("hidden_size"),
            "heads": facts.whole("num_attention_heads"),
            "kv_heads": facts.whole("num_query_groups") if facts.yes("group_query_attention") else 0,
            "ffn": facts.whole("ffn_hidden_size"),
            "experts": facts.whole("num_experts", "num_moe_experts"),
            "top_k": facts.whole("moe_router_topk"),
            "expert_ffn": facts.whole("moe_ffn_hidden_size"),
        }
        if sizes["experts"] and not sizes["expert_ffn"]:
            sizes["expert_ffn"], sizes["ffn"] = sizes["ffn"], 0
        if not sizes["layers"] or not sizes["hidden"]:
            return {}
        named = models_of_sizes(sizes)
        shown = ", ".join(f"{name} {value}" for name, value in sizes.items() if value)
        if len(named) == 1:
            notes.append(f"model {named[0]} by its sizes ({shown})")
            return {"model": named[0]}
        plain = not sizes["experts"] and not facts.yes("swiglu") and not facts.yes("group_query_attention")
        if plain and sizes["heads"]:
            vocab = facts.whole("padded_vocab_size", "vocab_size")
            cells = {name: str(sizes[name]) for name in ("layers", "hidden", "heads")}
            return {"model": "gpt", **cells, **({"vocab": str(vocab)} if vocab else {})}
        which = f"of several models ({', '.join(named)[:120]})" if named else "of no model of the catalogue"
        notes.append(f"sizes ({shown}) are those {which}")
        return {}
