"""What carries tokens to experts, by the words that tables of results use; and what a library loses on a fabric."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moesim.hwmodels.nearest import with_a_way_out

if TYPE_CHECKING:
    from moesim.sim.software.stack import Tuning


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """`kernel` is that of hwmodels/exchange_kernels.py; `also` are other spellings, lower case, letters and digits."""

    title: str
    kernel: str
    also: tuple[str, ...] = ()


DISPATCHERS = {
    "alltoall": Dispatcher(
        "NCCL, RCCL: a copy per expert", "all_to_all", ("a2a", "nccl", "rccl", "ncclalltoall", "awsofinccl")
    ),
    "deepep": Dispatcher(
        "DeepEP: a copy per node over the network; the GPU posts messages itself (IBGDA)", "normal", ("deepepibgda",)
    ),
    "deepep-uccl": Dispatcher("DeepEP's kernels, messages posted by CPU threads of UCCL", "normal", ("uccl", "ucclep")),
    "deepep-nvshmem": Dispatcher(
        "DeepEP's kernels, messages posted by the CPU proxy of NVSHMEM over libfabric",
        "normal",
        ("nvshmem", "deepeplibfabric", "deepepnvshmemlibfabric"),
    ),
    "hybridep": Dispatcher("NVIDIA's Hybrid-EP: one copy per rank over NVLink", "hybrid"),
    "mori": Dispatcher("AMD's MoRI-EP: priced as DeepEP (assumed)", "normal", ("moriep",)),
    "two-level": Dispatcher(
        "NCCL in two stages (Tutel's 2DH, DeepSpeed-MoE): inside the domain, then between GPUs of one rail",
        "all_to_all",
        ("2dh", "2d", "tutel", "hierarchical", "2dhierarchical"),
    ),
    "einsum": Dispatcher(
        "one-hot masks multiplied with the tokens (GShard, Mesh TensorFlow, Fairseq): all slots travel, filled or not",
        "all_to_all",
        ("onehot", "masks", "gshard", "meshtensorflow", "fairseq"),
    ),
}


def dispatcher_named(text: str) -> str | None:
    """Our word for a spelling of it ("All-to-All", "Hybrid-EP"); None for one that nobody knows."""
    plain = re.sub(r"[^a-z0-9]", "", text.lower())
    spelled = {re.sub(r"[^a-z0-9]", "", word): word for word in DISPATCHERS}
    spelled |= {other: word for word, dispatcher in DISPATCHERS.items() for other in dispatcher.also}
    return spelled.get(plain)


# where no fit row shows a library on a fabric: the library and fabric that are closest (assumed); on EFA no GPU posts
# messages itself
_BY_CPU = ("deepep-uccl", "deepep-nvshmem")  # what their CPU threads cost was seen on EFA alone
_ON_EFA = {
    "deepep": "deepep-uccl",
    "hybridep": "deepep-uccl",
    "mori": "deepep-uccl",
    "two-level": "alltoall",
    "einsum": "alltoall",
}
_LENT = {"mori": "deepep", "two-level": "alltoall", "einsum": "alltoall"}  # the same kernels, or the same library


def closest(fabric: str, dispatcher: str) -> tuple[str, str]:
    """The (fabric, dispatcher) whose constants are used for this one: itself where there are fit rows of it."""
    if fabric == "efa":
        return fabric, _ON_EFA.get(dispatcher, dispatcher)
    if dispatcher in _BY_CPU:
        return "efa", dispatcher
    return "infiniband", _LENT.get(dispatcher, dispatcher)


def unknown_dispatcher(text: str) -> str:
    """Why a dispatcher is refused: the nearest three, and what would be assumed with each."""
    meanings = {name: f"{each.title} {' '.join(each.also)}" for name, each in DISPATCHERS.items()}
    assumed = {}
    for name, each in DISPATCHERS.items():
        fabric, lender = closest("infiniband", name)
        assumed[name] = f"kernel {each.kernel}, constants of {lender} over {fabric}"
    return f"{text!r} is not known; {with_a_way_out(text, meanings, assumed)}"


def carried(tuning: Tuning, fabric: str, dispatcher: str, software: tuple[str, str]) -> tuple[float, float]:
    """(share of the kernel's own NIC rate, seconds of a CPU per copy that leaves a domain) inside a training step.

    `software` is a stack and the age of its release. Fitted constants of sim/software/stacks/constants.yaml.
    """
    seen = closest(fabric, dispatcher)
    return tuning.get("exchange_nic_share", *seen, *software), tuning.get("exchange_copy_s", *seen)


def borrowed(fabric: str, dispatcher: str) -> str:
    """What is assumed about a library on a fabric that no fit row shows; empty where one does."""
    seen = closest(fabric, dispatcher)
    if seen == (fabric, dispatcher):
        return ""
    return f"exchange by {dispatcher} over {fabric}: constants of {seen[1]} over {seen[0]} (the closest with fit rows)"
