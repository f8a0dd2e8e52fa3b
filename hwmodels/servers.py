"""ServerSpec: a server as people buy, house and power it. Facts with a source and a date each."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.hwmodels.facts import InstanceRecord, ServerRecord
from moesim.hwmodels.gpu import GpuSpec
from moesim.hwmodels.hardware import SHIPPED, Hardware, record_of

_BESIDE_GPUS = 1.8  # assumed: largest draw of a server over that of its GPUs, 10.2 kW against 8 x 700 W in a DGX H100
_UNITS_PER_GPU = 1.0  # assumed: rack units, 8U for eight GPUs
_WHOLE_RACK = 42


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """What one server holds, draws, fills and costs; usd is None where no price is known."""

    name: str
    gpus: int
    power_w: float  # largest draw
    rack_units: float
    usd: float | None
    usd_note: str
    source: str

    def per_rack(self, rack_w: float) -> int:
        """Servers that one rack of that many watts takes; a rack-sized server is its own rack."""
        return max(1, min(int(_WHOLE_RACK // self.rack_units), int(rack_w // self.power_w)))


def load_server(node: str, gpus_per_host: int, gpu: GpuSpec, hardware: Hardware = SHIPPED) -> ServerSpec:
    """The server of a node; for one without a record, sizes by rule and no price."""
    rented = None if node in hardware.names("nodes") else hardware.instance_called(node)
    if rented is not None:
        node = record_of(InstanceRecord, "instances", rented, hardware).node
    if node not in hardware.names("servers"):
        power_w = gpus_per_host * gpu.tdp_w * _BESIDE_GPUS
        source = f"assumed: {_BESIDE_GPUS:g} times the power of its GPUs, {_UNITS_PER_GPU:g}U per GPU"
        units = max(1.0, gpus_per_host * _UNITS_PER_GPU)
        return ServerSpec(
            name=node, gpus=gpus_per_host, power_w=power_w, rack_units=units, usd=None, usd_note="no price is known",
            source=source,
        )  # fmt: skip
    r = record_of(ServerRecord, "servers", node, hardware)
    usd = None if r.usd is None else (r.usd.low + r.usd.high) / 2.0
    note = "no price is known" if r.usd is None else f"middle of {r.usd.low:,.0f} to {r.usd.high:,.0f}, {r.usd.date}"
    return ServerSpec(
        name=node, gpus=r.gpus, power_w=r.kw * 1e3, rack_units=r.rack_units, usd=usd, usd_note=note, source=r.source
    )
