"""What carries tokens to experts, by the words that tables of results use; and what a library loses on a fabric.

alltoall         NCCL, RCCL: a copy per expert
deepep           DeepEP: a copy per node over the network; the GPU posts messages itself (IBGDA)
deepep-uccl      DeepEP's kernels, messages posted by CPU threads of UCCL
deepep-nvshmem   DeepEP's kernels, messages posted by the CPU proxy of NVSHMEM over libfabric
hybridep         Hybrid-EP
mori             AMD's MoRI-EP: priced as DeepEP (assumed)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moesim.sim.software.stack import Tuning


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """`kernel` is that of hwmodels/exchange_kernels.py; `also` are other spellings, lower case, letters and digits."""

    kernel: str
    also: tuple[str, ...] = ()


DISPATCHERS = {
    "alltoall": Dispatcher("all_to_all", ("a2a", "nccl", "rccl", "ncclalltoall")),
    "deepep": Dispatcher("normal", ("deepepibgda",)),
    "deepep-uccl": Dispatcher("normal", ("uccl", "ucclep")),
    "deepep-nvshmem": Dispatcher("normal", ("nvshmem", "deepeplibfabric", "deepepnvshmemlibfabric")),
    "hybridep": Dispatcher("hybrid"),
    "mori": Dispatcher("normal", ("moriep",)),
}


def dispatcher_named(text: str) -> str | None:
    """Our word for a spelling of it ("All-to-All", "Hybrid-EP"); None for one that nobody knows."""
    plain = re.sub(r"[^a-z0-9]", "", text.lower())
    spelled = {re.sub(r"[^a-z0-9]", "", word): word for word in DISPATCHERS}
    spelled |= {other: word for word, dispatcher in DISPATCHERS.items() for other in dispatcher.also}
    return spelled.get(plain)


def carried(tuning: Tuning, fabric: str, dispatcher: str, domains: int) -> tuple[float, float]:
    """(share of the kernel's own NIC rate, seconds of a CPU per copy that leaves a domain) inside a training step.

    (1, 0) for exchanges that stay inside one domain. Fitted constants of sim/software/stacks/constants.yaml.
    """
    if domains <= 1:
        return 1.0, 0.0
    share = tuning.get("exchange_nic_share", fabric, dispatcher)
    return share, tuning.get("exchange_copy_s", fabric, dispatcher)
