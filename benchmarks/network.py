"""How long the network model itself takes: `python benchmarks/network.py`. Medians of repeated runs; ratios to the line
before say how cost grows."""

from __future__ import annotations

import resource
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table
from timing import timed

from moesim.hwmodels.cluster import build_cluster
from moesim.hwmodels.collectives import collective_s, load_fabric_fit
from moesim.hwmodels.fairshare import max_min_rates
from moesim.hwmodels.profile import load_profile
from moesim.hwmodels.topology import build_topology
from moesim.hwmodels.traffic import exchange_loads, uniform
from moesim.hwmodels.work import Comm
from moesim.sim.clock.flows import Transfer, run_transfers
from moesim.sim.transfer.predict import predict_comm
from moesim.sim.transfer.question import CommQuestion

MIB = 2.0**20


def routed(ranks: int, kernel: str, fabric: str | None = None, sigma: float = 0.0) -> Callable[[], object]:
    """A dispatch with sampled routing on that many GPUs."""
    question = CommQuestion(
        node="dgx-h100", op="moe_dispatch", ranks=ranks, tokens=4096, hidden=7168, top_k=8, experts=max(256, ranks),
        dtype="fp8", algorithm=kernel, fabric=fabric, sigma=sigma,
    )  # fmt: skip
    return lambda: predict_comm(question)


def hierarchical(ranks: int) -> Callable[[], object]:
    """Loads of a forwarded exchange, traffic given."""
    topology = build_topology(build_cluster("dgx-h100", ranks))
    matrix, copies = uniform(ranks, 64 * MIB), np.full((ranks, ranks // 8), 64 * MIB / ranks)
    return lambda: exchange_loads(matrix, topology, "forwarded", copies)


def closed_forms(count: int) -> Callable[[], object]:
    """Collectives of a training step, every one of another size."""
    cluster = build_cluster("dgx-h100", 256)
    fit, fabric = load_profile("h100-sxm").collectives, load_fabric_fit("hopper")
    comms = [Comm("all_gather", 1e6 + i, cluster.group(64)) for i in range(count)]
    return lambda: [collective_s(c, cluster, fit, fabric) for c in comms]


def overlapping(count: int) -> Callable[[], object]:
    """Transfers on eight shared NICs, about four at a time."""
    capacity = {f"nic{i}": 50e9 for i in range(8)}
    transfers = []
    for i in range(count):
        first, second = f"nic{i % 8}", f"nic{(i * 3 + 1) % 8}"
        if first != second:
            transfers.append(Transfer(f"t{i}", {first: 1e6, second: 5e5}, {first: 8.0, second: 4.0}, 6e-6 * i))
    return lambda: run_transfers(transfers, capacity)


def exact(flows: int) -> Callable[[], object]:
    """One exact max-min solve of random flows on 4,096 links."""
    rng = np.random.default_rng(1)
    paths = rng.integers(0, 4096, (flows, 4)).astype(np.int32)
    return lambda: max_min_rates(paths, np.full(4096, 50e9))


def main() -> None:
    """Print both tables."""
    console = Console()
    table = Table(title="What the network model costs")
    table.add_column("what")
    table.add_column("seconds", justify="right")
    table.add_column("peak of the process so far, MB", justify="right")
    cases: list[tuple[str, Callable[[], Callable[[], object]]]] = [
        ("2,048-rank all-to-all, random routing", lambda: routed(2048, "all_to_all")),
        ("2,048-rank exchange on a fat tree, hot experts", lambda: routed(2048, "normal", "fat-tree-ib-400", 0.65)),
        ("16,384-rank exchange on a fat tree, hot experts", lambda: routed(16384, "normal", "fat-tree-ib-400", 0.65)),
        ("1,024-rank hierarchical exchange, traffic given", lambda: hierarchical(1024)),
        ("10,000 collectives in closed form", lambda: closed_forms(10_000)),
        ("10,000 transfers that overlap, event by event", lambda: overlapping(10_000)),
        ("exact max-min, 200,000 flows on 4,096 links", lambda: exact(200_000)),
    ]
    for name, build in cases:
        span = timed(build())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        table.add_row(name, f"{span:.3f}", f"{peak:.0f}")
    console.print(table)
    growth = Table(title="Growth of a routed dispatch with ranks (up to 512 every pair of ranks is drawn)")
    for column in ("ranks", "seconds", "ratio"):
        growth.add_column(column, justify="right")
    before = 0.0
    for ranks in (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384):
        now = timed(routed(ranks, "normal", "fat-tree-ib-400"))
        growth.add_row(f"{ranks:,}", f"{now:.3f}", f"{now / before:.2f}" if before else "")
        before = now
    console.print(growth)


if __name__ == "__main__":
    main()
