"""Rows of published serving runs as scenarios: column spellings, and what harnesses and engines do by default.

Only workload columns are read: never id, source, notes or a measured value. Every assumption is a rule on those
columns and is applied to every row alike.
"""

from __future__ import annotations

import re
from typing import Any

from moesim.calibrate.rows import harness
from moesim.calibrate.rows.arrivals import CLOSED, OFFLINE, RATE, arrival_of
from moesim.calibrate.rows.cells import Row, text_of, whole_of
from moesim.calibrate.rows.training import precision_of
from moesim.calibrate.rows.under_scenario import serving_under
from moesim.hwmodels.cluster import node_for_gpu
from moesim.hwmodels.nearest import with_a_way_out
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.software.engine_release import version_of
from moesim.sim.software.serving_engine import engine_title, is_known_version, nearest_versions

_PER_CLIENT = 10  # requests per client of a closed loop, as the harness of the public tables runs it
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


def _whole(row: Row, key: str, default: int = 1) -> int:
    """A whole number above zero; the default where the cell is empty or zero."""
    return whole_of(row, key) or default


def engine_of(row: Row) -> tuple[str, str]:
    """(our name of the engine, its version): the version chooses the record of its age (sim/software).

    Pools name their router's version, or run builds of their own: none.
    """
    name = text_of(row, "engine").lower()
    if name not in _ENGINES:
        known = {word: engine_title(engine) for word, engine in _ENGINES.items()}
        raise ScenarioError(f"column engine: {name!r} is not known; {with_a_way_out(name, known, known)}")
    version = text_of(row, "engine_version")
    if text_of(row, "prefill_workers"):
        version = ""
    return _ENGINES[name], version


def _is_spread(row: Row) -> bool:
    """Lengths of a data set: the text says so, or the mean input is no number that anybody would ask for.

    215 or 229 tokens are means of what people wrote; 128, 1,000 and 3,998 of 4,000 are lengths that were set.
    """
    if re.search(_DATASETS, text_of(row, "arrival").lower()):
        return True
    isl = _whole(row, "isl")
    return isl >= _LEAST_MEAN and all(abs(isl - step * round(isl / step)) > _NEAR * isl for step in _ROUND)


def _lengths(row: Row, closed: bool) -> tuple[dict[str, Any], list[str]]:
    """How lengths spread around the nominal ones: as stated, else those of a data set, or of the harness guessed.

    closed: of a closed loop; the harnesses of other loads are not known to spread them.
    """
    text = text_of(row, "lengths").lower()
    if text == "fixed":
        return {"jitter": 0.0}, []
    if text == "lognormal":
        return {"lengths": "lognormal"}, []
    spread = re.fullmatch(r"uniform (0?\.\d+|1)", text)
    if spread:
        return {"jitter": 1.0 - float(spread.group(1))}, []
    if text:
        raise ScenarioError(f"column lengths: {text!r} is not known; write fixed, lognormal, or uniform 0.8")
    if _is_spread(row):
        return {"lengths": "lognormal"}, ["lengths lognormal around the means (those of a data set, not stated)"]
    if not closed:
        return {}, []
    guess = harness.jitter(row)
    if guess is None:
        return {"jitter": 0.0}, ["lengths as they are printed (not stated)"]
    return {"jitter": guess.value}, [guess.said]


def load_of(row: Row) -> tuple[dict[str, Any], list[str]]:
    """The requests of a row, and what had to be assumed about them."""
    isl, osl = _whole(row, "isl"), _whole(row, "osl")
    arrival = arrival_of(row)
    spread, said = _lengths(row, arrival.kind == CLOSED)
    # a measured row is the mean over all its requests, those of the start included
    ask: dict[str, Any] = {"input_tokens": isl, "output_tokens": osl, "warmup": 0, **spread}
    stated = whole_of(row, "requests")
    if arrival.kind == RATE:
        count = stated or arrival.count or _OPEN_COUNT
        known = stated or arrival.count
        said += [] if known else [f"{count} requests (not stated: the harnesses' own number)"]
        said += ["column concurrency not used: requests come at a rate"] if text_of(row, "concurrency") else []
        return {**ask, "kind": "poisson", "rate_per_s": arrival.rate_per_s, "count": count}, said
    if arrival.kind == CLOSED:
        clients = arrival.count or 1
        count = stated or max(3 * clients, min(_PER_CLIENT * clients, _MOST_CLOSED))
        said += [] if stated else [f"{count} requests (not stated)"]
        return {**ask, "kind": "closed", "concurrency": clients, "count": count}, said
    if stated or arrival.count is not None:
        return {**ask, "kind": "offline", "count": stated or arrival.count}, said
    guess = harness.offline_requests(row)
    return {**ask, "kind": "offline", "count": guess.value}, [*said, guess.said]


def _engine_settings(row: Row, name: str) -> tuple[dict[str, Any], list[str]]:
    """Tokens of a group and of a pass: as stated, else as the harness that is guessed has them."""
    settings: dict[str, Any] = {}
    said = []
    for column, guess in (
        ("stream_tokens", harness.stream_tokens(row, name)),
        ("token_budget", harness.token_budget(row)),
    ):
        stated = whole_of(row, column)
        if stated:
            settings[column] = stated
        elif guess is not None:
            settings[column] = guess.value
            said.append(guess.said)
    return settings, said


def _precision(text: str) -> str:
    """Our name of a published precision. ScenarioError for one that no engine serves."""
    if text == "int4":
        return text
    if precision_of(text) not in _PRECISIONS:
        raise ScenarioError(f"column precision: no engine serves {text}; write int4, {', '.join(_PRECISIONS)}")
    return _PRECISIONS[precision_of(text)]


def _pool(row: Row, name: str) -> dict[str, int]:
    return {
        "workers": _whole(row, f"{name}_workers"),
        "tp": _whole(row, f"{name}_tp"),
        "ep": _whole(row, f"{name}_ep"),
        "attention_dp": _whole(row, f"{name}_attention_dp"),
    }


def serving_row(row: Row) -> tuple[dict[str, Any], list[str]]:
    """(scenario, assumptions) of a row. ScenarioError or FactError when a needed cell is unusable."""
    if text_of(row, "scenario"):
        requests, said = load_of(row)
        raw, whose = serving_under(row, requests)
        return raw, [*whose, *said]
    precision = text_of(row, "precision").lower()
    ask: dict[str, Any] = {"precision": _precision(precision)}
    name, version = engine_of(row)
    settings: dict[str, Any] = {"name": name, "cold_start": True}
    if text_of(row, "measured_on") and not text_of(row, "prefill_workers"):
        settings["date"] = text_of(row, "measured_on")[:7]
    ask["requests"], said = load_of(row)
    if version_of(version) is None and not is_known_version(name, version):
        # an image or a commit that says nothing of its age: a scenario's author can be asked for it, a row's cannot
        said.append(
            f"engine version {version!r} says no release: taken as undated; known are {nearest_versions(name, version)}"
        )
        version = ""
    settings["version"] = version
    if arrival_of(row).kind == OFFLINE and name == "vllm":
        settings["run"] = "library"
        said.append("run = library (an offline run has no API server)")
    grouped, guessed = _engine_settings(row, name)
    settings |= grouped
    said += guessed
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
