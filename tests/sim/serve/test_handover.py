"""Caches between pools: alone by the closed form, together max-min fair on the ports of their workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.hwmodels.cluster import build_cluster
from moesim.sim.clock.network import fair_rates
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.accounts import latencies_of, span_s
from moesim.sim.serve.handover import HandOver, Place, Port
from moesim.sim.serve.kv_cache import token_bytes
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import PoolMachines, ServeRun, simulate, wires_of
from moesim.traces.rng import stream

TOKEN_BYTES = 1e5


def wires(
    prefill: int, decode: int, gpus: int = 8, ranks: int = 1, share: float = 0.8, receive: float = 1.0
) -> HandOver:
    """Workers of `gpus` GPUs each on nodes of eight; a decode rank's GPUs hold `receive` times the bytes."""
    cluster = build_cluster("dgx-h100", (prefill + decode) * gpus)
    senders = [Place(cluster, n * gpus, gpus, ranks, TOKEN_BYTES) for n in range(prefill)]
    begin = prefill * gpus
    receivers = [Place(cluster, begin + n * gpus, gpus, ranks, receive * TOKEN_BYTES) for n in range(decode)]
    return HandOver(senders, receivers, 0.01, share)


def drained(hand: HandOver, starts: list[tuple[float, int, int, int]]) -> dict[int, float]:
    """When each transfer of (start, sender, receiver, tokens) ends."""
    ends, ahead = {}, sorted((s, n) for n, s in enumerate(starts))
    while ahead or hand.next_s < float("inf"):
        if ahead and ahead[0][0][0] < hand.next_s:
            (time_s, sender, receiver, tokens), n = ahead.pop(0)
            hand.promise(receiver)
            hand.start(n, sender, receiver, tokens, time_s)
        else:
            time_s, over = hand.finish()
            ends |= {n: time_s for n, _ in over}
    return ends


def fluid(starts: list[tuple[float, int, int, int]], hand: HandOver) -> dict[int, float]:
    """The same in the plainest way: all rates solved anew at every start and end."""
    alone = [hand.wire(sender, receiver) for _, sender, receiver, _ in starts]
    left = {n: alone[n][0] * starts[n][3] for n in range(len(starts))}
    now, ends = 0.0, {}
    while left:
        running = [n for n in left if starts[n][0] <= now]
        ports = {port for n in running for port in alone[n][1]}
        rates = fair_rates([list(alone[n][1].items()) for n in running], [1.0] * len(running), ports)
        begin = min((s[0] for n, s in enumerate(starts) if n in left and s[0] > now), default=float("inf"))
        over = min(((left[n] / r, n) for n, r in zip(running, rates, strict=True)), default=(float("inf"), -1))
        step = min(over[0], begin - now)
        for n, r in zip(running, rates, strict=True):
            left[n] -= r * step
        now = begin if begin - now < over[0] else now + over[0]
        if begin - step > now or over[0] <= step:
            ends[over[1]] = now
            del left[over[1]]
    return ends


def test_a_lone_transfer_is_its_closed_form() -> None:
    ends = drained(wires(2, 2), [(1.5, 0, 1, 4000)])
    assert ends[0] == 1.5 + 4000 * (TOKEN_BYTES / 5e10 / 0.8)
    inside = drained(wires(4, 4, gpus=1), [(0.0, 0, 3, 4000)])  # eight GPUs of one node
    assert inside[0] == pytest.approx(4000 * TOKEN_BYTES / 4.5e11 / 0.8, rel=1e-12)
    narrow = drained(wires(2, 2, receive=4.0), [(0.0, 0, 1, 4000)])  # what arrives goes through a quarter of the NICs
    assert narrow[0] == pytest.approx(4 * 4000 * TOKEN_BYTES / 5e10 / 0.8, rel=1e-12)


def test_a_port_carries_no_more_than_its_rate_and_never_idles_with_work() -> None:
    """Incast: the NIC at full rate, not at the share that one transfer reaches; two senders are enough to fill it."""
    for senders in (2, 8, 40):
        ends = drained(wires(senders, 1), [(0.0, n, 0, 1000) for n in range(senders)])
        assert max(ends.values()) == pytest.approx(senders * 1000 * TOKEN_BYTES / 5e10, rel=1e-9)
    spread = drained(wires(2, 1, ranks=2), [(0.0, n, 0, 1000) for n in range(2)])  # to two ranks: ports of their own
    assert max(spread.values()) == pytest.approx(1000 * TOKEN_BYTES / 5e10 / 0.8, rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_solving_where_something_changed_equals_solving_everything(seed: int) -> None:
    draws = stream(seed, "test.handover")
    hand = wires(5, 3, gpus=2, ranks=1 + seed % 2, receive=1.0 + seed / 3)
    starts = [
        (float(draws.uniform(0, 0.1)), int(draws.integers(5)), int(draws.integers(3)), 200 + int(draws.integers(4000)))
        for _ in range(60)
    ]
    fast, plain = drained(hand, starts), fluid(starts, hand)
    assert fast.keys() == plain.keys() == set(range(60))
    np.testing.assert_allclose([fast[n] for n in range(60)], [plain[n] for n in range(60)], rtol=1e-9)
    assert hand.late_s > 0 and not any(hand.coming.values()) and hand.count == 60
    longest = max(fast.values())
    assert all(busy <= longest * (1 + 1e-9) for busy in hand.port_busy_s.values())


@pytest.mark.parametrize("seed", range(10))
def test_rates_are_max_min_fair(seed: int) -> None:
    """Each transfer runs at full speed, or goes through a full port where nobody is faster."""
    draws = stream(seed, "test.fair")
    ports: list[Port] = [("nic", "in", n) for n in range(5)]
    flows = [{ports[p]: float(draws.uniform(0.1, 1.2)) for p in draws.choice(5, 2, replace=False)} for _ in range(12)]
    rates = fair_rates([list(flow.items()) for flow in flows], [1.0] * len(flows), ports)
    used = {p: sum(f.get(p, 0.0) * r for f, r in zip(flows, rates, strict=True)) for p in ports}
    assert all(total <= 1 + 1e-9 for total in used.values())
    for flow, rate in zip(flows, rates, strict=True):
        fastest = [max(r for f, r in zip(flows, rates, strict=True) if p in f) for p in flow if used[p] > 1 - 1e-9]
        assert rate == 1.0 or any(rate >= other - 1e-9 for other in fastest)


def pools(prefill: int, decode: int, gpus: int, nic: float | None = None, **load: object) -> dict[str, Any]:
    requests = {"kind": "offline", "count": 150, "input_tokens": 2500, "output_tokens": 2, **load}
    workers = {"prefill": {"workers": prefill}, "decode": {"workers": decode}}
    cluster: dict[str, object] = {"node": "dgx-h100", "gpus": gpus}
    cluster |= {"nic_bytes_per_s": nic} if nic else {}
    return {"model": "llama-2-13b", "cluster": cluster, "serve": {"pools": workers, "requests": requests}}


def served(asked: dict[str, Any]) -> ServeRun:
    resolved = resolve_serve(parse_scenario(asked))
    return simulate(resolved.deployment, resolved.workload, resolved.tuning())


def test_many_prefill_workers_push_no_more_into_one_decode_worker_than_its_nic_takes() -> None:
    run = served(pools(24, 1, 25))
    cache_bytes = 2500 * token_bytes(run.machine.job)
    assert 0.9 * 5e10 / cache_bytes < 150 / span_s(run) <= 5e10 / cache_bytes
    assert served(pools(24, 1, 25, nic=5e11)).wires is not None
    assert 150 / span_s(served(pools(24, 1, 25, nic=5e11))) > 2 * 150 / span_s(run)


def test_neighbours_hand_over_by_their_links() -> None:
    slow, fast = (served(pools(7, 1, 8, nic=nic, count=40)) for nic in (1e6, 5e10))
    assert span_s(slow) == span_s(fast)
    assert span_s(served(pools(8, 1, 9, nic=1e6, count=40))) > 50 * span_s(fast)  # the ninth GPU is in another node


def test_a_pools_answer_says_what_the_network_cost() -> None:
    calm = predict_serve(pools(2, 2, 16, kind="closed", concurrency=1, count=8, output_tokens=20)).to_dict()["handover"]
    asked = resolve_serve(parse_scenario(pools(2, 2, 16)))
    machines = PoolMachines(asked.deployment, asked.workload, asked.tuning(), None)
    hand = wires_of(asked.deployment, machines, asked.tuning())
    assert calm["network_wait_s"] == 0.0
    assert calm["seconds"] == pytest.approx(hand.fixed_s + 2500 * hand.wire(0, 0)[0], rel=1e-9)
    crowded = predict_serve(pools(24, 1, 25)).to_dict()["handover"]
    assert crowded["network_wait_s"] > 1.0 and crowded["busiest_nic"] == "decode worker 0, in"
    assert 0.9 < crowded["busiest_nic_share"] <= 1.0
    replicas = {
        **pools(1, 1, 2),
        "serve": {"requests": {"kind": "offline", "count": 4, "input_tokens": 64, "output_tokens": 4}},
    }
    assert predict_serve(replicas).to_dict()["handover"] == {}


def test_clients_see_first_tokens_after_the_last_byte() -> None:
    run = served(pools(16, 1, 24, kind="closed", concurrency=32, count=96, output_tokens=16))
    assert run.wires is not None and run.wires.late_s > 0
    sent = np.array(run.prefill_replicas[0].log.finish_s)
    least = run.wires.fixed_s + 2500 * run.wires.wire(0, 0)[0]
    assert (np.array(run.log.first_s) >= sent + least - 1e-9).all()
    assert (latencies_of(run).ttft_s > 0).all()
