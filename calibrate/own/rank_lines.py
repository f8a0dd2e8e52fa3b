"""Where the ranks of an nccl-tests run sat: from its rank lines, its command line, and what its bandwidths imply."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

# `#  Rank  0 Group  0 Pid   1000 on      node0 device  0 [0000:0a:00] NVIDIA H100 80GB HBM3`, behind any prefix; the
# oldest releases print neither group nor brackets
_RANK = re.compile(
    r"\bRank\s+(?P<rank>\d+)\s+(?:Group\s+(?P<group>\d+)\s+)?Pid\s+\d+\s+on\s+(?P<host>\S+)\s+device\s+(?P<device>\d+)"
    r"(?:\s+\[[0-9a-fA-FxX:.]*\])?\s*(?P<gpu>.*?)\s*$",
    re.IGNORECASE,
)
# how launchers say ranks a host
_PER_HOST = re.compile(
    r"--ntasks-per-node[= ](\d+)|-n?perno?de[= ](\d+)|--npernode[= ](\d+)|-ppn[= ](\d+)|ppr:(\d+):node|"
    r"--nproc[-_]per[-_]node[= ](\d+)|mpirun\s.*?-N[= ](\d+)"
)
_GPUS_A_PROCESS = re.compile(r"_perf\S*\s.*?(?:-g|--ngpus)[= ](\d+)")
_THREADS = re.compile(r"_perf\S*\s.*?(?:-t|--nthreads)[= ](\d+)")
_NGPUS = re.compile(r"nThreads? (\d+) nGpus (\d+)", re.IGNORECASE)
_SAME_DEVICE_NOTE = "several hosts share the name {host}: told apart by their devices"


@dataclass
class Ranks:
    """What the lines before a table say of the ranks; filled line by line."""

    host_of: dict[int, tuple[str, int]] = field(default_factory=dict)  # rank -> host, device
    groups: dict[int, int] = field(default_factory=dict)  # rank -> group of a split run
    gpus: Counter[str] = field(default_factory=Counter)
    per_host_asked: int = 0

    def read(self, line: str) -> bool:
        """Take what a line says of ranks; whether it was a rank line."""
        found = _RANK.search(line)
        if not found:
            self._command(line)
            return False
        rank = int(found["rank"])
        self.host_of[rank] = (found["host"], int(found["device"]))
        self.groups[rank] = int(found["group"] or 0)
        if found["gpu"]:
            self.gpus[found["gpu"][:60]] += 1
        return True

    def _command(self, line: str) -> None:
        """Ranks a host as a command line asks for them: tasks a host times threads and GPUs a task."""
        header = _NGPUS.search(line)
        if header:  # a release prints them by itself: of one process
            each = int(header.group(1)) * int(header.group(2))
            self.per_host_asked = max(self.per_host_asked, each if each > 1 else 0)
        if "_perf" not in line or line.lstrip().startswith("#"):
            return
        each = 1
        for pattern in (_GPUS_A_PROCESS, _THREADS):
            told = pattern.search(line)
            each *= int(told.group(1)) if told else 1
        asked = _PER_HOST.search(line)
        if asked or each > 1:
            self.per_host_asked = each * (int(next(filter(None, asked.groups()))) if asked else 1)


@dataclass(frozen=True, slots=True)
class Placement:
    """How many ranks one communicator has, and how many of them each host holds."""

    ranks: int
    per_host: int  # 0: nothing says it
    gpu: str  # as the driver calls it; "" where no line says it
    notes: tuple[str, ...]

    @property
    def hosts(self) -> int:
        """Hosts that the communicator spans; 0 where nothing says how many ranks each holds."""
        return -(-self.ranks // self.per_host) if self.per_host else 0


def placement(lines: Ranks, implied: int, kind: str) -> Placement:
    """The communicator of a table. `implied`: ranks by bus over algorithm bandwidth, 0 where that tells nothing.

    ranks is 0 where nothing says how many there are.
    """
    notes: list[str] = []
    of_group = _first_group(lines, notes)
    seen = len(of_group)
    ranks = seen
    if of_group and not (set(of_group) >= set(range(max(of_group) + 1)) or set(lines.groups.values()) != {0}):
        ranks = implied or max(of_group) + 1
        told = "bandwidths of the table" if implied else "highest number"
        notes.append(f"{seen} of {ranks} rank lines are there (the rest cut off); {ranks} ranks by the {told}")
    elif not of_group and implied:
        ranks = implied
        notes.append(f"no rank lines; {ranks} ranks by the ratio of bus to algorithm bandwidth of {kind}")
    per_host = _per_host(of_group, notes) if ranks == seen else 0
    if not per_host and lines.per_host_asked and ranks:
        per_host = min(ranks, lines.per_host_asked)
        notes.append(f"{per_host} ranks a host by the command line")
    return Placement(ranks, per_host, _one_gpu(lines, notes), tuple(notes))


def _first_group(lines: Ranks, notes: list[str]) -> dict[int, tuple[str, int]]:
    """The ranks of one communicator: of a split run (NCCL_TESTS_SPLIT) those of its first group."""
    groups = sorted(set(lines.groups.values()))
    if len(groups) <= 1:
        return lines.host_of
    notes.append(f"{len(groups)} groups ran at once: times are with links that they share")
    return {rank: at for rank, at in lines.host_of.items() if lines.groups[rank] == groups[0]}


def _per_host(of_group: dict[int, tuple[str, int]], notes: list[str]) -> int:
    """The most ranks that one host holds."""
    hosts = Counter(host for host, _ in of_group.values())
    devices = Counter(of_group.values())
    if not hosts:
        return 0
    shared = max(devices.values())
    if shared > 1:  # one name for several hosts: each device of the name is there once a host
        name = max(devices, key=lambda at: devices[at])[0]
        notes.append(_SAME_DEVICE_NOTE.format(host=name[:40]))
        return max(len({device for host, device in of_group.values() if host == each}) for each in hosts)
    if len(set(hosts.values())) > 1:
        notes.append(
            f"hosts hold {min(hosts.values())} to {max(hosts.values())} ranks: counted as {max(hosts.values())}"
        )
    ordered = [of_group[rank][0] for rank in sorted(of_group)]
    if len(hosts) > 1 and sum(a != b for a, b in pairwise(ordered)) >= len(ordered) - 1:
        notes.append("ranks are dealt to hosts in turn: a ring over them crosses hosts at every step")
    return max(hosts.values())


def _one_gpu(lines: Ranks, notes: list[str]) -> str:
    """The GPU that most rank lines name."""
    if not lines.gpus:
        return ""
    if len(lines.gpus) > 1:
        notes.append(f"several GPUs in one run: {', '.join(sorted(lines.gpus))[:120]}")
    return max(sorted(lines.gpus), key=lambda name: lines.gpus[name])
