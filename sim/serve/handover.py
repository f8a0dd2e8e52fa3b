"""HandOver: caches on their way from prefill to decode workers, as flows that share each worker's NICs.

A transfer alone takes its closed form. It fills a share of the ports that it goes through; while the shares at a port
sum to more than one, transfers are slowed, max-min fair. Rates are solved again only when a transfer starts or ends,
and only for those that full ports connect it with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from moesim.hwmodels.cluster import Cluster, link_bytes_per_s

_TOGETHER = 1e-12  # transfers that end within that share of the time end together
Port = tuple[str, str, int]  # wire ("nic" or "scale-up"), direction ("out" or "in"), worker of that side's pool


@dataclass(frozen=True, slots=True)
class Side:
    """One pool as its caches are sent or received: worker n begins at GPU `first_gpu` + n x `gpus`."""

    first_gpu: int
    gpus: int  # of a worker
    ranks: int  # attention ranks of a worker: a cache lies on one of them, and goes through the NICs of that one
    token_bytes: float  # on each GPU of that rank

    def domain_of(self, worker: int, cluster: Cluster) -> int | None:
        """The scale-up domain that a worker lies in; None for one that lies in several."""
        first = self.first_gpu + worker * self.gpus
        last = first + self.gpus - 1
        return first // cluster.domain if first // cluster.domain == last // cluster.domain else None


@dataclass(slots=True)
class Flow:
    """A transfer under way."""

    request: int
    receiver: int
    left_s: float  # of its seconds alone
    shares: Mapping[Port, float]  # of each port, that it fills when alone
    start_s: float
    alone_s: float
    at_s: float  # `left_s` is of this time
    rate_share: float = 1.0  # of its rate alone
    version: int = 0


def fair_rates(flows: Sequence[Mapping[Port, float]], room: Mapping[Port, float]) -> list[float]:
    """Rates, at most 1, of flows that fill shares of ports with that much room; max-min fair."""
    rates, open_flows, left = [1.0] * len(flows), set(range(len(flows))), dict(room)
    while open_flows:
        sums: dict[Port, float] = {}
        for n in sorted(open_flows):
            for port, share in flows[n].items():
                if port in left:
                    sums[port] = sums.get(port, 0.0) + share
        tightest = min(sums, key=lambda port: (left[port] / sums[port], port), default=None)
        if tightest is None or left[tightest] >= sums[tightest]:
            break  # everybody left over runs at full speed
        rate = max(0.0, left[tightest]) / sums[tightest]
        for n in sorted(n for n in open_flows if tightest in flows[n]):
            rates[n] = rate
            open_flows.discard(n)
            for port, share in flows[n].items():
                if port in left:
                    left[port] -= rate * share
    return rates


@dataclass(slots=True)
class HandOver:
    """All transfers of a run: drivers call `start` and `finish`, in order of time."""

    cluster: Cluster
    senders: Side
    receivers: Side
    fixed_s: float  # before the first byte: router, handshake, slot
    rate_efficiency: float  # share of a port's rate that one transfer reaches alone
    late_s: float = 0.0  # what sharing cost, over all transfers so far
    taken_s: float = 0.0  # seconds of all transfers so far, fixed ones included
    count: int = 0
    port_busy_s: dict[Port, float] = field(default_factory=dict)  # of what a port can carry: seconds at full rate
    coming: dict[int, int] = field(default_factory=dict)  # caches on their way by decode worker
    _ports: dict[Port, dict[int, Flow]] = field(default_factory=dict)
    _sums: dict[Port, float] = field(default_factory=dict)
    _ends: list[tuple[float, int, int]] = field(default_factory=list)  # (when, request, version)
    _flows: dict[int, Flow] = field(default_factory=dict)
    _open: dict[Port, None] = field(default_factory=dict)  # full ports where something changed at `_changed_s`
    _changed_s: float = 0.0
    _wires: dict[tuple[int, int], tuple[float, dict[Port, float]]] = field(default_factory=dict)

    def wire(self, sender: int, receiver: int) -> tuple[float, dict[Port, float]]:
        """(seconds per token alone, share of each port filled meanwhile) from a prefill to a decode worker."""
        known = self._wires.get((sender, receiver))
        if known is None:
            known = self._wires[sender, receiver] = self._new_wire(sender, receiver)
        return known

    def _new_wire(self, sender: int, receiver: int) -> tuple[float, dict[Port, float]]:
        domain = self.senders.domain_of(sender, self.cluster)
        inside = domain is not None and domain == self.receivers.domain_of(receiver, self.cluster)
        by_link = inside or self.cluster.nic_bytes_per_s <= 0.0
        rate = link_bytes_per_s(self.cluster) if by_link else self.cluster.nic_bytes_per_s
        out_s, in_s = (side.token_bytes / rate for side in (self.senders, self.receivers))
        alone_s = max(out_s, in_s) / self.rate_efficiency
        if alone_s <= 0.0:
            return 0.0, {}
        kind = "scale-up" if by_link else "nic"
        shares = {
            (kind, "out", sender): out_s / alone_s / self.senders.ranks,
            (kind, "in", receiver): in_s / alone_s / self.receivers.ranks,
        }
        return alone_s, shares

    @property
    def next_s(self) -> float:
        """When the next transfer ends, if no other starts before; infinite when none is under way."""
        self._solve()
        while self._ends:
            time_s, request, version = self._ends[0]
            flow = self._flows.get(request)
            if flow is not None and flow.version == version:
                return time_s
            heappop(self._ends)
        return float("inf")

    def promise(self, receiver: int) -> None:
        """A cache will come to this decode worker: it counts there from now on."""
        self.coming[receiver] = self.coming.get(receiver, 0) + 1

    def start(self, request: int, sender: int, receiver: int, tokens: int, time_s: float) -> None:
        """The first byte leaves; a decode worker was promised it."""
        token_s, shares = self.wire(sender, receiver)
        alone_s = token_s * tokens
        flow = Flow(request, receiver, alone_s, shares, time_s, alone_s, time_s)
        self._flows[request] = flow
        for port, share in shares.items():
            self._ports.setdefault(port, {})[request] = flow
            self._sums[port] = self._sums.get(port, 0.0) + share
            self.port_busy_s[port] = self.port_busy_s.get(port, 0.0) + share * alone_s
        heappush(self._ends, (time_s + alone_s, request, flow.version))
        self._changed(self._full(shares), time_s)

    def finish(self) -> tuple[float, list[tuple[int, int]]]:
        """(when, [(request, decode worker)]) of the transfers that end next, together."""
        time_s = self.next_s
        ended = []
        while self._ends and self._ends[0][0] <= time_s * (1.0 + _TOGETHER):
            _, request, version = heappop(self._ends)
            flow = self._flows.get(request)
            if flow is not None and flow.version == version:
                self._end(request, flow, time_s)
                ended.append((request, flow.receiver))
        return time_s, ended

    def _end(self, request: int, flow: Flow, time_s: float) -> None:
        del self._flows[request]
        self._changed(self._full(flow.shares), time_s)
        for port, share in flow.shares.items():
            del self._ports[port][request]
            self._sums[port] = self._sums[port] - share if self._ports[port] else 0.0
        self.coming[flow.receiver] -= 1
        if flow.version:  # it did not run at full speed all the time
            self.late_s += max(0.0, time_s - flow.start_s - flow.alone_s)
        self.taken_s += time_s - flow.start_s + self.fixed_s
        self.count += 1

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
        """Rates of all transfers that ports with a change connect."""
        if not self._open:
            return
        flows = self._connected(list(self._open))
        self._open.clear()
        full = {port: 1.0 for flow in flows for port in flow.shares if self._sums[port] > 1.0 + 1e-12}
        if len(full) == 1:  # all of them go through it
            port = next(iter(full))
            rates = [1.0 / self._sums[port] if port in flow.shares else 1.0 for flow in flows]
        else:
            rates = fair_rates([flow.shares for flow in flows], full)
        time_s = self._changed_s
        for flow, rate in zip(flows, rates, strict=True):
            if rate != flow.rate_share:
                flow.left_s = max(0.0, flow.left_s - flow.rate_share * (time_s - flow.at_s))
                flow.at_s, flow.rate_share, flow.version = time_s, rate, flow.version + 1
                heappush(self._ends, (time_s + flow.left_s / rate, flow.request, flow.version))

    def _connected(self, ports: list[Port]) -> list[Flow]:
        """Transfers at these ports, those at other full ports of theirs, and so on."""
        found: dict[int, Flow] = {}
        seen, ahead = set(ports), list(ports)
        while ahead:
            for request, flow in self._ports[ahead.pop()].items():
                if request not in found:
                    found[request] = flow
                    for port in flow.shares:
                        if port not in seen and self._sums[port] > 1.0 + 1e-12:
                            seen.add(port)
                            ahead.append(port)
        return list(found.values())
