"""Words that rows state about software and network, as what a scenario says; an unknown word is refused, named by its
column, with those that are known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from moesim.calibrate.rows.cells import Row, text_of, whole_of
from moesim.hwmodels.cluster import fabric_kinds
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.software.dispatchers import dispatcher_named, unknown_dispatcher
from moesim.sim.software.stack import stack_named, unknown_stack

# words of a network by what they mean, as they stand in texts
_NETWORKS = (
    (r"\befa\b", "efa"),
    (r"\broce(v\d)?\b|\bspectrum-?x\b|\bethernet\b", "roce"),
    (r"\bslingshot\b", "slingshot"),
    (r"\binfiniband\b|\bib\b|\bedr\b|\bhdr\b|\bndr\b|\bxdr\b", "infiniband"),
)
_YES = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}
_GRAPHS = ("none", "partial", "full")


@dataclass(frozen=True, slots=True)
class Network:
    """What a row says of the network between its nodes: kind of fabric, "" where it does not, and bytes/s per GPU."""

    kind: str
    nic_bytes_per_s: float | None


def fabric_word(text: str) -> str:
    """The kind of fabric that a text names; "" for none."""
    return next((kind for pattern, kind in _NETWORKS if re.search(pattern, text.lower())), "")


def network_of(text: str, gpus_per_node: int) -> Network:
    """The network of an `internode` cell."""
    rate = None
    per = re.search(r"(\d+(?:\.\d+)?)\s*Gb(?:/s|ps)\s+per\s+(node|GPU)", text, re.IGNORECASE)
    nics = re.search(r"(?:(\d+)\s*x\s*)?(\d+)G\b", text)
    if per:
        rate = float(per.group(1)) * 1e9 / 8.0 / (gpus_per_node if per.group(2).lower() == "node" else 1)
    elif nics:  # one for each GPU, unless the number of them is said
        rate = float(nics.group(2)) * 1e9 / 8.0 * (int(nics.group(1)) / gpus_per_node if nics.group(1) else 1.0)
    return Network(fabric_word(text), rate)


def cluster_of(row: Row) -> tuple[dict[str, Any], list[str]]:
    """What a row says of hosts and network as keys of `cluster`, and what it leaves open though it speaks of it."""
    per_node, text = whole_of(row, "gpus_per_node"), text_of(row, "internode")
    cluster: dict[str, Any] = {"gpus_per_node": per_node} if per_node else {}
    assumed = []
    network = network_of(text, per_node or 8)
    if network.kind:
        cluster["fabric"] = network.kind
    if network.nic_bytes_per_s:
        cluster["nic_bytes_per_s"] = network.nic_bytes_per_s
    if text and not network.kind:
        known = ", ".join(fabric_kinds())
        assumed.append(f"cluster.fabric: internode {text!r} names none of {known}; infiniband assumed")
    if text and not network.nic_bytes_per_s:
        assumed.append(f"cluster.nic_bytes_per_s: internode {text!r} says no rate; the node's usual NICs assumed")
    return cluster, assumed


def stack_of_software(text: str) -> tuple[str, str]:
    """The stack that a framework's name stands for, and the rule that says so. ScenarioError for an unknown one."""
    stack = stack_named(text)
    if stack is None:
        raise ScenarioError(f"column software: {unknown_stack(text)}; or leave it empty")
    return stack, f"software: {text}"


def yes_no(row: Row, column: str) -> bool | None:
    """What a cell of yes or no says; None where it is empty. ScenarioError for another word."""
    said = text_of(row, column).lower()
    if said and said not in _YES:
        raise ScenarioError(f"column {column}: {said!r} is not known; write yes or no")
    return _YES[said] if said else None


def settings_of(row: Row) -> dict[str, Any]:
    """Stack settings that a row's own cells state. ScenarioError for a word that nobody knows."""
    settings: dict[str, Any] = {}
    if text_of(row, "precision").lower().startswith("amp_"):
        settings["grad_dtype"] = "fp32"
    said = text_of(row, "dispatcher")
    if said:
        settings["dispatcher"] = dispatcher_named(said)
        if settings["dispatcher"] is None:
            raise ScenarioError(f"column dispatcher: {unknown_dispatcher(said)}")
    hidden = yes_no(row, "ep_overlap")
    if hidden is not None:
        settings["ep_overlap"] = "hidden" if hidden else "none"
    said = text_of(row, "cuda_graphs").lower()
    if said:
        if said not in _GRAPHS:
            raise ScenarioError(f"column cuda_graphs: {said!r} is not known; write one of {', '.join(_GRAPHS)}")
        settings["cuda_graphs"] = said
    return settings
