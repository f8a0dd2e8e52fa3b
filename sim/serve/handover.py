"""HandOver: caches on their way from prefill to decode workers, as flows that share each worker's NICs.

A transfer alone takes its closed form. It fills a share of the ports that it goes through; while the shares at a port
sum to more than one, transfers are slowed, max-min fair. Rates are solved again only when a transfer starts or ends,
and only for those that full ports connect it with; transfers between the same two workers are one lane of that net.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

from moesim.hwmodels.cluster import Cluster, link_bytes_per_s
from moesim.sim.clock.network import fair_rates

_TOGETHER = 1e-12  # transfers that end within that share of the time end together
_ROUNDED = 1e-9  # a transfer is not late that is so by less than that share of its time
Port = tuple[str, str, int]  # wire ("nic" or "scale-up"), direction ("out" or "in"), worker of that side's pool


@dataclass(frozen=True, slots=True)
class Place:
    """One worker as its caches are sent or received: where its GPUs begin, and what a token is there."""

    cluster: Cluster
    first_gpu: int
    gpus: int
    ranks: int  # attention ranks of the worker: a cache lies on one of them, and goes through the NICs of that one
    token_bytes: float  # on each GPU of that rank

    @property
    def domain(self) -> int | None:
        """The scale-up domain that it lies in; None for one that lies in several."""
        first, last = self.first_gpu // self.cluster.domain, (self.first_gpu + self.gpus - 1) // self.cluster.domain
        return first if first == last else None


@dataclass(slots=True)
class Lane:
    """Transfers from one worker to another: all have the same rate at any time, so that one number counts for all."""

    number: int
    receiver: int
    token_s: float  # seconds per token alone
    shares: Mapping[Port, float]  # of each port, that one of them fills alone
    done_s: float = 0.0  # of seconds alone, that each transfer has come on so far; the next one begins there
    at_s: float = 0.0  # `done_s` is of this time
    rate_share: float = 1.0  # of the rate alone
    version: int = 0
    ends: list[tuple[float, int, float, float]] = field(
        default_factory=list
    )  # (done_s at its end, request, start, alone)

    def move(self, time_s: float) -> None:
        """Up to a time."""
        self.done_s += self.rate_share * (time_s - self.at_s)
        self.at_s = time_s


@dataclass(slots=True)
class HandOver:
    """All transfers of a run: drivers call `start` and `finish`, in order of time."""

    senders: list[Place]  # by prefill worker
    receivers: list[Place]  # by decode worker
    fixed_s: float  # before the first byte: router, handshake, slot
    rate_efficiency: float  # share of a port's rate that one transfer reaches alone
    late_s: float = 0.0  # what sharing cost, over all transfers so far
    taken_s: float = 0.0  # seconds of all transfers so far, fixed ones included
    count: int = 0
    port_busy_s: dict[Port, float] = field(default_factory=dict)  # of what a port can carry: seconds at full rate
    coming: dict[int, int] = field(default_factory=dict)  # caches on their way by decode worker
    _lanes: dict[tuple[int, int], Lane] = field(default_factory=dict)
    _ports: dict[Port, dict[int, Lane]] = field(default_factory=dict)  # lanes under way by number
    _sums: dict[Port, float] = field(default_factory=dict)  # of the shares of all transfers under way
    _next: list[tuple[float, int, int, Lane]] = field(default_factory=list)  # (when, lane, version): its next end
    _open: dict[Port, None] = field(default_factory=dict)  # full ports where something changed at `_changed_s`
    _changed_s: float = 0.0

    def wire(self, sender: int, receiver: int) -> tuple[float, Mapping[Port, float]]:
        """(seconds per token alone, share of each port filled meanwhile) from a prefill to a decode worker."""
        lane = self._lane(sender, receiver)
        return lane.token_s, lane.shares

    def _lane(self, sender: int, receiver: int) -> Lane:
        lane = self._lanes.get((sender, receiver))
        if lane is None:
            token_s, shares = self._wire(sender, receiver)
            lane = self._lanes[sender, receiver] = Lane(len(self._lanes), receiver, token_s, shares)
        return lane

    def _wire(self, sender: int, receiver: int) -> tuple[float, dict[Port, float]]:
        out, into = self.senders[sender], self.receivers[receiver]
        inside = out.cluster == into.cluster and out.domain is not None and out.domain == into.domain
        by_link = inside or min(out.cluster.nic_bytes_per_s, into.cluster.nic_bytes_per_s) <= 0.0
        out_s, in_s = (
            side.token_bytes / (link_bytes_per_s(side.cluster) if by_link else side.cluster.nic_bytes_per_s)
            for side in (out, into)
        )
        alone_s = max(out_s, in_s) / self.rate_efficiency
        if alone_s <= 0.0:
            return 0.0, {}
        kind = "scale-up" if by_link else "nic"
        shares = {
            (kind, "out", sender): out_s / alone_s / out.ranks,
            (kind, "in", receiver): in_s / alone_s / into.ranks,
        }
        return alone_s, shares

    @property
    def next_s(self) -> float:
        """When the next transfer ends, if no other starts before; infinite when none is under way."""
        self._solve()
        while self._next:
            time_s, _, version, lane = self._next[0]
            if version == lane.version:
                return time_s
            heappop(self._next)
        return float("inf")

    def promise(self, receiver: int) -> None:
        """A cache will come to this decode worker: it counts there from now on."""
        self.coming[receiver] = self.coming.get(receiver, 0) + 1

    def start(self, request: int, sender: int, receiver: int, tokens: int, time_s: float) -> None:
        """The first byte leaves; a decode worker was promised it."""
        lane = self._lane(sender, receiver)
        alone_s = lane.token_s * tokens
        if lane.ends:
            lane.move(time_s)
        else:
            lane.done_s, lane.at_s, lane.rate_share = 0.0, time_s, 1.0
        heappush(lane.ends, (lane.done_s + alone_s, request, time_s, alone_s))
        for port, share in lane.shares.items():
            self._ports.setdefault(port, {})[lane.number] = lane
            self._sums[port] = self._sums.get(port, 0.0) + share
            self.port_busy_s[port] = self.port_busy_s.get(port, 0.0) + share * alone_s
        self._schedule(lane)
        self._changed(self._full(lane.shares), time_s)

    def finish(self) -> tuple[float, list[tuple[int, int]]]:
        """(when, [(request, decode worker)]) of the transfers that end next, together."""
        time_s = self.next_s
        ended = []
        while self._next and self._next[0][0] <= time_s * (1.0 + _TOGETHER):
            _, _, version, lane = heappop(self._next)
            if version == lane.version:
                ended += [(request, lane.receiver) for request in self._end(lane, time_s)]
        return time_s, ended

    def _end(self, lane: Lane, time_s: float) -> list[int]:
        """Those of a lane that have come to their ends; never asked of the residue that rounding leaves."""
        full, requests = self._full(lane.shares), []
        lane.done_s, lane.at_s = lane.ends[0][0], time_s
        while lane.ends and lane.ends[0][0] <= lane.done_s * (1.0 + _TOGETHER):
            _, request, start_s, alone_s = heappop(lane.ends)
            requests.append(request)
            self.late_s += late_s if (late_s := time_s - start_s - alone_s) > alone_s * _ROUNDED else 0.0
            self.taken_s += time_s - start_s + self.fixed_s
        self.count += len(requests)
        self.coming[lane.receiver] -= len(requests)
        for port, share in lane.shares.items():
            if not lane.ends:
                del self._ports[port][lane.number]
            self._sums[port] = self._sums[port] - share * len(requests) if self._ports[port] else 0.0
        self._schedule(lane)
        self._changed(full, time_s)
        return requests

    def _schedule(self, lane: Lane) -> None:
        """What was known about its next end no longer holds."""
        lane.version += 1
        if lane.ends:
            due_s = lane.at_s + max(0.0, lane.ends[0][0] - lane.done_s) / lane.rate_share
            heappush(self._next, (due_s, lane.number, lane.version, lane))

    def account(self, span_s: float) -> dict[str, float | str]:
        """Of a finished run: means over its transfers, and how busy the busiest NIC port of a worker was."""
        nics = {port: busy / span_s for port, busy in self.port_busy_s.items() if port[0] == "nic"}
        busiest = max(nics, key=lambda port: (nics[port], port), default=None)
        name = "none: all stay inside a scale-up domain"
        if busiest is not None:
            name = f"{'prefill' if busiest[1] == 'out' else 'decode'} worker {busiest[2]}, {busiest[1]}"
        return {
            "seconds": self.taken_s / max(1, self.count),
            "network_wait_s": self.late_s / max(1, self.count),
            "busiest_nic": name,
            "busiest_nic_share": nics[busiest] if busiest is not None else 0.0,
        }

    def _full(self, shares: Mapping[Port, float]) -> list[Port]:
        return [port for port in shares if self._sums[port] > 1.0 + 1e-12]

    def _changed(self, ports: list[Port], time_s: float) -> None:
        """Who goes through these full ports has to be solved again; changes at one time are solved together."""
        if ports and time_s != self._changed_s:
            self._solve()
            self._changed_s = time_s
        self._open.update(dict.fromkeys(ports))

    def _solve(self) -> None:
        """Rates of all lanes that ports with a change connect."""
        if not self._open:
            return
        lanes = self._connected(list(self._open))
        self._open.clear()
        full = {port for lane in lanes for port in self._full(lane.shares)}
        loads = [[(port, share * len(lane.ends)) for port, share in lane.shares.items()] for lane in lanes]
        for lane, rate in zip(lanes, fair_rates(loads, [1.0] * len(lanes), full), strict=True):
            if rate != lane.rate_share:
                lane.move(self._changed_s)
                lane.rate_share = rate
                self._schedule(lane)

    def _connected(self, ports: list[Port]) -> list[Lane]:
        """Lanes through these ports, those through other full ports of theirs, and so on."""
        found: dict[int, Lane] = {}
        seen, ahead = set(ports), list(ports)
        while ahead:
            for number, lane in self._ports[ahead.pop()].items():
                if number not in found:
                    found[number] = lane
                    new = [port for port in self._full(lane.shares) if port not in seen]
                    seen.update(new)
                    ahead += new
        return list(found.values())
