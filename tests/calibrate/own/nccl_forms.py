"""Output of nccl-tests in the forms of its releases and launchers, from a law: floor + bytes on the wire over rate."""

from __future__ import annotations

from collections.abc import Sequence

FLOOR_US, RATE = 20.0, 100e9  # of every log: microseconds, and bytes per second on the wire
SIZES = tuple(2**i for i in range(20, 31))
BUS = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "alltoall": 1.0}


def bus_factor(test: str, ranks: int) -> float:
    """Bus over algorithm bandwidth, as nccl-tests prints it."""
    return BUS[test] * (ranks - 1) / ranks if test in BUS else 1.0


def seconds_of(test: str, ranks: int, size: int, slower: float = 1.0) -> float:
    """What the law says of one size."""
    return (FLOOR_US * 1e-6 + size * bus_factor(test, ranks) / RATE) * slower


def rank_lines(
    hosts: Sequence[str], each: int, gpu: str = "NVIDIA H100 80GB HBM3", group: str = " Group  0"
) -> list[str]:
    """Ranks in order over hosts."""
    return [
        f"#  Rank {host * each + d:>2}{group} Pid {4000 + d:>6} on {name:>10} device {d:>2} [0000:{d:02x}:00] {gpu}"
        for host, name in enumerate(hosts)
        for d in range(each)
    ]


def rows(test: str, ranks: int, columns: str = "redop root", wrong: int = 0, slower: float = 1.0) -> list[str]:
    """Lines of a table. `columns`: which of redop and root there are."""
    lines = []
    for size in SIZES:
        seconds = seconds_of(test, ranks, size, slower)
        algbw = size / seconds / 1e9
        half = f"{seconds * 1e6:8.2f} {algbw:7.2f} {algbw * bus_factor(test, ranks):7.2f}"
        between = {"redop root": "     sum      -1", "redop": "     sum", "": ""}[columns]
        lines.append(f"{size:>12} {size // 4:>13}     float{between} {half} {wrong:>6} {half}    N/A")
    return lines


def log(test: str, hosts: Sequence[str] = ("node0",), each: int = 8, **form: object) -> str:
    """A whole log of one test."""
    gpu = str(form.pop("gpu", "NVIDIA H100 80GB HBM3"))
    group = str(form.pop("group", " Group  0"))
    ranks = len(hosts) * each
    head = [f"# Collective test starting: {test}_perf", "# nThread 1 nGpus 1 minBytes 1048576", "#", "# Using devices"]
    lines = [*head, *rank_lines(hosts, each, gpu, group), "#", *rows(test, ranks, **form)]  # type: ignore[arg-type]  # words of any form
    return "\n".join([*lines, "# Out of bounds values : 0 OK", "# Avg bus bandwidth    : 100.0", "#"]) + "\n"
