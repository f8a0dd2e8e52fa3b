"""Cost: how long one piece of work takes on one GPU of a cluster, how sure that is, and what bounds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.collectives import FabricFit, collective_s, crowd_s, load_fabric_fit
from moesim.hwmodels.exchange_kernels import ExchangeFit, exchange_s
from moesim.hwmodels.kernels import (
    Legs,
    attention_time_s,
    gemm_legs,
    gemm_time_s,
    grouped_gemm_legs,
    grouped_gemm_time_s,
    stream_key,
    stream_time_s,
)
from moesim.hwmodels.measured_transfers import as_all_to_all, exchange_ratio, measured_s
from moesim.hwmodels.profile import Profile
from moesim.hwmodels.work import Attention, Comm, ExpertExchange, Gemm, GroupedGemm, Stream, Work, bound_of, floor_s


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds, relative spread (one standard deviation), what bounds it, and where the number comes from."""

    time_s: float
    spread: float
    bound: str  # compute | memory | network | latency
    source: str  # profile name, "derived", "roofline" or "assumed"


# formats that share a tensor path, nearest first: used where a table has no kernel of the format itself
_STAND_INS: dict[str, tuple[str, ...]] = {
    "fp16": ("bf16",),
    "mxfp8": ("fp8", "fp8_block"),
    "fp8": ("fp8_block",),
    "fp8_block": ("fp8",),
    "mxfp4": ("nvfp4",),
    "w8a16": ("bf16",),  # weight-only: 16-bit kernels that read narrow weights
    "int4": ("bf16",),
}
# where kernels are derived anyway and the lender has no such tensor path: the efficiencies of its 16-bit kernels on the
# part's own peak of the format, and on the bytes of the narrow operands (Ada's FP8, from Ampere)
_DERIVED_STAND_INS: dict[str, tuple[str, ...]] = {d: ("bf16",) for d in ("fp8", "fp8_block", "mxfp8", "nvfp4", "mxfp4")}
# attention with an 8-bit cache: the efficiencies of the 16-bit kernels on the bytes of the narrow one
_ATTENTION_STAND_INS: dict[str, tuple[str, ...]] = {"fp16": ("bf16",), "fp8": ("bf16",)}


class CostModel(Protocol):
    """What every cost model offers: a pure function of the work."""

    def cost(self, work: Work) -> Cost:
        """Seconds of `work` when nothing else runs on its resources. NoFit when there is no honest answer."""
        ...


_NETWORK_SPREAD = 0.10  # assumed: relative spread of a transfer inside a step


@dataclass(frozen=True, slots=True, kw_only=True)
class Sustained:
    """What separates kernels inside a long training step from the same kernels timed alone.

    Factors multiply the profile's time, keyed by dtype; bandwidths are shares of the HBM peak, keyed by Stream.kind.
    """

    gemm: Mapping[str, float] = field(default_factory=dict)
    grouped: Mapping[str, float] = field(default_factory=dict)
    attention: float = 1.0
    stream_bandwidth: Mapping[str, float] = field(default_factory=dict)
    stream_launch_s: float = 2.0e-6


class KernelCostModel:
    """Measured-kernel fits over the roofline floor, closed forms for transfers; memoised by work."""

    def __init__(
        self,
        cluster: Cluster,
        profile: Profile,
        sustained: Sustained,
        fabric: FabricFit | None = None,
        exchange: ExchangeFit | None = None,
    ) -> None:
        self._cluster = cluster
        self._profile = profile
        self._sustained = sustained
        self._fabric = fabric or load_fabric_fit(cluster.gpu.generation)
        self._exchange = exchange
        self._memo: dict[Work, Cost] = {}

    def cost(self, work: Work) -> Cost:
        """Seconds of `work` alone on this cluster's GPU or links."""
        price = self._memo.get(work)
        if price is None:
            price = self._price(work)
            self._memo[work] = price
        return price

    def legs(self, work: Gemm | GroupedGemm) -> Legs:
        """A matrix kernel's fit taken apart, without sustained factors and without the roofline floor."""
        gpu = self._cluster.gpu
        peak, sms = gpu.peak(work.dtype), max(1, gpu.sm_count)
        if isinstance(work, Gemm):
            fit = self._profile.fit_of(self._profile.gemms, "gemm", self._stand_in("gemm", work.dtype))
            return gemm_legs(work, peak, gpu.hbm_bytes_per_s, sms, fit)
        name = self._stand_in("grouped_gemm", work.dtype)
        grouped = self._profile.fit_of(self._profile.grouped_gemms, "grouped_gemm", name)
        return grouped_gemm_legs(work, peak, gpu.hbm_bytes_per_s, sms, grouped)

    def _price(self, work: Work) -> Cost:
        if isinstance(work, Comm):
            if work.group.ranks <= 1:
                return Cost(0.0, 0.0, "network", "nothing to send")
            seconds = self._transfer_s(work)
            return Cost(seconds, _NETWORK_SPREAD, "network", self._source("collectives", "nccl", "nccl"))
        if isinstance(work, ExpertExchange) and self._profile.device is not None and work.kernel == "all_to_all":
            # the machine's own all-to-all was timed: it says more than constants of a GPU generation
            return self._price(as_all_to_all(work))
        if isinstance(work, ExpertExchange):
            seconds = exchange_s(work, self._cluster, self._exchange) + self._crowded_s(work)
            if self._profile.transfers:
                own = self._profile.transfers
                seconds *= exchange_ratio(work, self._cluster, self._profile.collectives, self._fabric, own)
            return Cost(seconds, _NETWORK_SPREAD, "network", "fit: expert exchange")
        if isinstance(work, Stream):
            return self._stream(work)
        return self._kernel(work)

    def _transfer_s(self, work: Comm) -> float:
        """Seconds of one collective: as the user's own logs measured it where they did, else as shipped."""
        own, fit = self._profile.transfers, self._profile.collectives
        if not own:
            return collective_s(work, self._cluster, fit, self._fabric)
        return measured_s(work, self._cluster, fit, self._fabric, own)

    def _crowded_s(self, work: ExpertExchange) -> float:
        """What a library's all-to-all loses to very many peers; exchange kernels post messages by themselves."""
        if work.kernel != "all_to_all" or work.group.domains <= 1:
            return 0.0
        return crowd_s(self._fabric, work.group.ranks - work.group.fewest)

    def _stream(self, work: Stream) -> Cost:
        key = stream_key(work) if self._profile.streams else ""
        fit = self._profile.streams.get(key)
        if fit is not None:
            seconds = stream_time_s(work, self._cluster.gpu.hbm_bytes_per_s, fit)
            return Cost(seconds, self._spread(f"stream/{key}"), "memory", self._source(key, "", ""))
        share = self._sustained.stream_bandwidth.get(work.kind, self._sustained.stream_bandwidth.get("*", 1.0))
        seconds = (
            work.bytes / (self._cluster.gpu.hbm_bytes_per_s * share) + work.kernels * self._sustained.stream_launch_s
        )
        return Cost(seconds, 0.15, "memory", "assumed: memory-bound kernels")

    def _kernel(self, work: Gemm | GroupedGemm | Attention) -> Cost:
        """The fit's time in a long step, at least the roofline floor."""
        gpu, profile, sustained = self._cluster.gpu, self._profile, self._sustained
        op = "gemm" if isinstance(work, Gemm) else "grouped_gemm" if isinstance(work, GroupedGemm) else "attention"
        dtype = self._stand_in(op, work.dtype)
        spread, source = self._spread(op, dtype), self._source(op, dtype, work.dtype)
        on = (gpu.peak(work.dtype), gpu.hbm_bytes_per_s, max(1, gpu.sm_count))
        floor, bound = floor_s(work, gpu), bound_of(work, gpu)
        if isinstance(work, Gemm):
            factor = sustained.gemm.get(work.dtype, 1.0)
            seconds = gemm_time_s(work, *on, profile.fit_of(profile.gemms, op, dtype))
        elif isinstance(work, GroupedGemm):
            # one group is a plain GEMM, whatever launches it
            factors = sustained.gemm if len(work.rows) == 1 else sustained.grouped
            factor = factors.get(work.dtype, 1.0)
            seconds = grouped_gemm_time_s(work, *on, profile.fit_of(profile.grouped_gemms, op, dtype))
            floor = max(floor, self._as_one_s(work))
        else:
            factor = sustained.attention
            seconds = attention_time_s(work, *on, profile.fit_of(profile.attentions, op, dtype))
        return Cost(max(seconds * factor, floor), spread, bound, source)

    def _as_one_s(self, work: GroupedGemm) -> float:
        """Seconds of a plain GEMM with the rows of all groups, in a long step: more groups are never faster than one.

        Both run at the clock that the chip sustains; kernels of groups alone were timed too briefly to meet it.
        """
        if len(work.rows) == 1 or not self._sustained.grouped or not work.total_rows:
            return 0.0
        m, n, k = work.total_rows, work.n, work.k
        one = Gemm(n, k, m, work.dtype) if work.weight_gradient else Gemm(m, n, k, work.dtype)
        return self.cost(one).time_s

    def _stand_in(self, op: str, dtype: str) -> str:
        """The dtype whose fit is used: its own where measured, else the nearest format on the same tensor path."""
        fits = {
            "gemm": self._profile.gemms,
            "grouped_gemm": self._profile.grouped_gemms,
            "attention": self._profile.attentions,
        }[op]
        stand_ins = (_ATTENTION_STAND_INS if op == "attention" else _STAND_INS).get(dtype, ())
        if self._profile.derived_from and op != "attention":
            stand_ins = (*stand_ins, *_DERIVED_STAND_INS.get(dtype, ()))
        return next((d for d in (dtype, *stand_ins) if d in fits), dtype)

    def _spread(self, op: str, dtype: str = "") -> float:
        for key in (op, f"{op}/{dtype}", f"{op}_forward/{dtype}"):
            if key in self._profile.provenance:
                return self._profile.provenance[key].median_error * 1.5  # median to standard deviation
        return 0.15

    def _source(self, op: str, dtype: str, asked: str) -> str:
        name = self._profile.derived_from or self._profile.gpu
        label = f"fit: {name} {op} {dtype}".rstrip()
        if asked != dtype and not (asked == "fp16" and dtype == "bf16"):
            label += f" standing in for {asked}"
        return f"derived {label}" if self._profile.derived_from else label
