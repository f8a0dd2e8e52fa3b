"""Rows of published serving runs as scenarios: column spellings, and what harnesses and engines do by default.

Only workload columns are read: never id, source, notes or a measured value. Every assumption is a rule on those
columns and is applied to every row alike.
"""

from __future__ import annotations

import re
from typing import Any

from moesim.calibrate.rows.arrivals import CLOSED, OFFLINE, RATE, arrival_of
from moesim.calibrate.rows.cells import Row, text_of, whole_of
from moesim.calibrate.rows.training import precision_of
from moesim.hwmodels.cluster import node_for_gpu
from moesim.hwmodels.gpu import load_gpu
from moesim.sim.question.scenario import ScenarioError

_PUBLIC_LENGTHS = (1024, 8192)  # of the public benchmark harness, which draws lengths from [0.8, 1] of them
_PUBLIC_JITTER = 0.2
_PER_CLIENT = 10  # requests per client of a closed loop, as the harness of the public tables runs it
_EARLY_STREAM, _LATE_STREAM = 40, 15  # tokens per group: read off fit rows of several models, see _stream_tokens
_LEAST_BUDGET = 1024  # prompt tokens of a pass in the vendor's sweeps, at least; read off the same rows
_WIDE = 16  # assumed: from that many expert-parallel ranks on deployments replicate busy experts
_OPEN_COUNT = 1000  # requests of a run at a rate: num_prompts of the harnesses of vLLM and SGLang
_DATASETS = r"sharegpt|share gpt|lmsys|alpaca|dolly|mean|average|avg|varied|variable|distribut|dataset|conversation"
_LEAST_MEAN, _NEAR, _ROUND = 32, 0.01, (50, 64)  # assumed: within a hundredth of a multiple of these, a length was set
_YES = ("yes", "true", "1", "mtp")
# assumed where a row only says that it drafted: one token, accepted as the DeepSeek-V3 report has it (0.85 to 0.9); two
# drafted tokens suit the 15 fit rows hardly worse
_DRAFTS: dict[str, Any] = {"tokens": 1, "acceptance": 0.85}
_DRAFTING_BATCH, _OVER = 48, 2  # SGLang's limit with drafts; assumed: who runs more than twice as many has raised it
_MOST_CLOSED = 20_000  # requests simulated of a closed loop; at least three per client
_ENGINES = {"vllm": "vllm", "sglang": "sglang", "trtllm": "trtllm", "tensorrt-llm": "trtllm"}
# requests of an offline table by total tokens: its source says 30,000, 3,000, 1,500 or 1,000, depending on lengths.
# Which goes with which is assumed, and 6,000 stand for the 30,000 of the shortest: a steady state long before
_OFFLINE = ((300, 6000), (3000, 3000), (4200, 1500), (10**9, 1000))


def _whole(row: Row, key: str, default: int = 1) -> int:
    """A whole number above zero; the default where the cell is empty or zero."""
    return whole_of(row, key) or default


def engine_of(row: Row) -> tuple[str, str]:
    """(our name of the engine, its version): the version chooses the record of its age (sim/software).

    Pools name their router's version, or run builds of their own: none.
    """
    name = text_of(row, "engine").lower()
    if name not in _ENGINES:
        raise ScenarioError(f"column engine: {name!r} is not known; write one of {', '.join(sorted(set(_ENGINES)))}")
    version = text_of(row, "engine_version")
    if text_of(row, "prefill_workers"):
        version = ""
    return _ENGINES[name], version


def is_public(row: Row) -> bool:
    """Lengths of the public harness; what runs on early pre-releases of TensorRT-LLM is the vendor's own."""
    lengths = {_whole(row, "isl"), _whole(row, "osl")}
    return lengths <= set(_PUBLIC_LENGTHS) and not _is_vendors(row)


def _is_vendors(row: Row) -> bool:
    """The vendor's own sweeps ran on pre-releases of TensorRT-LLM 1.0."""
    return text_of(row, "engine_version").startswith("1.0.0rc")


def _is_spread(row: Row) -> bool:
    """Lengths of a data set: the text says so, or the mean input is no number that anybody would ask for.

    215 or 229 tokens are means of what people wrote; 128, 1,000 and 3,998 of 4,000 are lengths that were set.
    """
    if re.search(_DATASETS, text_of(row, "arrival").lower()):
        return True
    isl = _whole(row, "isl")
    return isl >= _LEAST_MEAN and all(abs(isl - step * round(isl / step)) > _NEAR * isl for step in _ROUND)


def load_of(row: Row) -> tuple[dict[str, Any], list[str]]:
    """The requests of a row, and what had to be assumed about them."""
    isl, osl = _whole(row, "isl"), _whole(row, "osl")
    arrival = arrival_of(row)
    ask: dict[str, Any] = {"input_tokens": isl, "output_tokens": osl}
    said = []
    spread = _is_spread(row)
    if spread:
        ask["lengths"] = "lognormal"
        said.append("lengths lognormal around the means (those of a data set, not stated)")
    if arrival.kind == RATE:
        count = arrival.count or _OPEN_COUNT
        said += [] if arrival.count else [f"{count} requests (not stated: the harnesses' own number)"]
        said += ["column concurrency not used: requests come at a rate"] if text_of(row, "concurrency") else []
        return {**ask, "kind": "poisson", "rate_per_s": arrival.rate_per_s, "count": count}, said
    if arrival.kind == CLOSED:
        clients = arrival.count or 1
        jitter = _PUBLIC_JITTER if is_public(row) else 0.0
        count = max(3 * clients, min(_PER_CLIENT * clients, _MOST_CLOSED))
        lengths = "" if spread else f", lengths uniform in [{1 - jitter:g}, 1] of the nominal ones"
        said.append(f"{count} requests{lengths} (not stated)")
        return {**ask, "kind": "closed", "concurrency": clients, "count": count, "jitter": jitter}, said
    if arrival.count is not None:
        return {**ask, "kind": "offline", "count": arrival.count}, said
    count = next(n for limit, n in _OFFLINE if isl + osl <= limit)
    return {**ask, "kind": "offline", "count": count}, [*said, f"{count} requests, all queued (not stated)"]


def _stream_tokens(row: Row, engine: str) -> int:
    """Public recipes of SGLang on Blackwell send tokens in groups; from 0.5.10 on the first one leaves earlier.

    Read off fit rows: their TTFT is 30 to 50 times their TPOT at every load, 10 to 20 times from 0.5.10 on.
    """
    blackwell = load_gpu(text_of(row, "gpu")).generation == "blackwell"
    if engine != "sglang" or not blackwell or not is_public(row) or text_of(row, "prefill_workers"):
        return 1
    version = re.match(r"0\.5\.(\d+)", text_of(row, "engine_version"))
    return _LATE_STREAM if version and int(version.group(1)) >= 10 else _EARLY_STREAM


def _token_budget(row: Row) -> int | None:
    """Steps of the vendor's sweeps on pre-releases of TensorRT-LLM 1.0 carry one prompt, short ones together.

    Read off fit rows: a prompt delays the others' tokens by the same time at every load, and the first tokens of
    many clients come as early as if their prompts never met.
    """
    if not _is_vendors(row) or arrival_of(row).kind != CLOSED or text_of(row, "prefill_workers"):
        return None
    return max(_whole(row, "isl"), _LEAST_BUDGET) + (arrival_of(row).count or 1)


def _pool(row: Row, name: str) -> dict[str, int]:
    return {
        "workers": _whole(row, f"{name}_workers"),
        "tp": _whole(row, f"{name}_tp"),
        "ep": _whole(row, f"{name}_ep"),
        "attention_dp": _whole(row, f"{name}_attention_dp"),
    }


def serving_row(row: Row) -> tuple[dict[str, Any], list[str]]:
    """(scenario, assumptions) of a row. ScenarioError or FactError when a needed cell is unusable."""
    precision = text_of(row, "precision").lower()
    ask: dict[str, Any] = {"precision": "int4" if precision == "int4" else _PRECISIONS[precision_of(precision)]}
    name, version = engine_of(row)
    settings: dict[str, Any] = {"name": name, "version": version, "cold_start": True}
    if text_of(row, "measured_on") and not text_of(row, "prefill_workers"):
        settings["date"] = text_of(row, "measured_on")[:7]
    ask["requests"], said = load_of(row)
    if arrival_of(row).kind == OFFLINE and name == "vllm":
        settings["run"] = "library"
        said.append("run = library (an offline run has no API server)")
    grouped = _stream_tokens(row, settings["name"])
    if grouped > 1:
        settings["stream_tokens"] = grouped
        said.append(f"stream_tokens = {grouped} (public recipes of SGLang on Blackwell)")
    budget = _token_budget(row)
    if budget is not None:
        settings["token_budget"] = budget
        said.append(f"token_budget = {budget} (one prompt per pass in the vendor's sweeps)")
    ask["engine"] = settings
    if text_of(row, "mtp").lower() in _YES:
        ask["speculative"] = dict(_DRAFTS)
        said.append(f"{_DRAFTS['tokens']} drafted token, accepted with {_DRAFTS['acceptance']:g} (not stated)")
        clients = ask["requests"].get("concurrency", 0)
        if name == "sglang" and (text_of(row, "prefill_workers") or clients > _OVER * _DRAFTING_BATCH):
            settings["max_batch"] = max(clients, _DRAFTING_BATCH)
            said.append(
                f"max_batch = {settings['max_batch']} (the default of {_DRAFTING_BATCH} could not carry this load)"
            )
    gpus = _whole(row, "gpus")
    layout = {"tp": _whole(row, "tp"), "pp": _whole(row, "pp"), "ep": _whole(row, "ep")}
    if text_of(row, "prefill_workers"):
        ask["pools"] = {"prefill": _pool(row, "prefill"), "decode": _pool(row, "decode")}
        layout = {}
        if ask["pools"]["decode"]["ep"] >= _WIDE:
            ask["expert_slots"] = ask["pools"]["decode"]["ep"]
            said.append(f"expert_slots = {ask['expert_slots']} (wide expert parallelism runs with EPLB)")
    else:
        ask["attention_dp"] = _whole(row, "attention_dp")
        if ask["attention_dp"] > 1 and not text_of(row, "ep"):
            layout["ep"] = layout["tp"] * ask["attention_dp"]
            said.append(f"ep = {layout['ep']} (not printed: attention that is data-parallel goes with split experts)")
    cluster = {"node": node_for_gpu(text_of(row, "gpu")), "gpus": gpus}
    asked = {"model": text_of(row, "model"), "cluster": cluster, "layout": layout, "serve": ask, "routing": _ROUTING}
    return asked, said


_ROUTING = {"lognormal": 0.65}  # assumed: no row says it, and the engines' constants were fitted with it
_PRECISIONS = {"bf16": "bf16", "fp16": "bf16", "fp8": "fp8", "fp8_block": "fp8_block", "mxfp8": "fp8", "nvfp4": "fp4"}
