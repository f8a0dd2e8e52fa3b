"""Hardware of one's own beside the catalogue's: completed and said, refused in a line; instances by spelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moesim import compare, plan, predict_comm, predict_serve, predict_train, whatif
from moesim.hwmodels.cluster import build_cluster, node_for_gpu, node_names
from moesim.hwmodels.facts import FactError, catalogue
from moesim.hwmodels.gpu import gpu_names, load_gpu
from moesim.hwmodels.hardware import SHIPPED, hardware_of
from moesim.hwmodels.profile import load_profile, profile_of
from moesim.refusal import Refusal
from moesim.reports.template import HARDWARE
from moesim.sim.model.catalogue import load_model
from moesim.sim.question.scenario import load_scenario, read_mapping

GPU = {
    "like": "H100", "peak_flops_per_s": {"bf16": "1.2 PFLOP/s", "fp8": 2.4e15}, "hbm_bytes": "192 GB",
    "hbm_bytes_per_s": "6 TB/s", "tdp_w": "900 W", "price_usd_per_hour": 3.5,
}  # fmt: skip
NODE = {"gpu": "zeus", "gpus": 8, "scale_up_bytes_per_s": "600 GB/s", "nic_bytes_per_s": "400 Gb/s"}
ZEUS: dict[str, Any] = {"gpus": {"zeus": GPU}, "nodes": {"zeus-pod": NODE}}
TRAIN: dict[str, Any] = {
    "model": {"base": "qwen3-30b-a3b", "layers": 8},
    "cluster": {"hardware": ZEUS, "node": "zeus-pod", "gpus": 16}, "layout": {"ep": 8},
    "train": {"global_batch": 64, "seq_len": 4096},
}  # fmt: skip
REQUESTS = {"kind": "closed", "concurrency": 4, "count": 8, "input_tokens": 256, "output_tokens": 16}


def test_text_with_units_becomes_si_and_what_is_left_out_is_lent_and_said() -> None:
    hardware = hardware_of(ZEUS)
    gpu, lender = load_gpu("zeus", hardware), load_gpu("h100-sxm")
    assert gpu.peak_flops_per_s == {"bf16": 1.2e15, "fp8": 2.4e15}
    assert (gpu.hbm_bytes, gpu.hbm_bytes_per_s, gpu.tdp_w) == (192e9, 6e12, 900.0)
    assert (gpu.family, gpu.generation, gpu.sm_count) == (lender.family, lender.generation, lender.sm_count)
    assert gpu.price_usd_per_hour == 3.5
    cluster = build_cluster("zeus-pod", 16, hardware=hardware)
    assert (cluster.domain, cluster.gpus_per_host, cluster.nic_bytes_per_s) == (8, 8, 50e9)
    assert cluster.gpu.scale_up_bytes_per_s == 600e9  # the node's, not what H100 lends
    said = " ".join(hardware.assumed(("gpus", "zeus"), ("nodes", "zeus-pod")))
    assert "like" in said and "sm_count" in said and "one NIC per GPU (assumed)" in said and "256 GiB" in said


def test_kernels_are_those_of_the_gpu_it_is_like() -> None:
    lent, own = load_profile("h100-sxm"), profile_of(load_gpu("zeus", hardware_of(ZEUS)))
    assert own.gpu == "zeus" and own.derived_from == "h100-sxm"
    assert own.gemms == lent.gemms


def test_a_twin_of_a_catalogue_machine_gives_its_numbers() -> None:
    """Facts written out by hand are the same machine, but for what is known only of the original."""
    h100 = catalogue("gpus")["h100-sxm"]
    facts = {key: h100[key] for key in ("peak_flops_per_s", "hbm_bytes", "hbm_bytes_per_s", "tdp_w")}
    mine = {"gpus": {"mine": {"like": "h100-sxm", **facts}}, "nodes": {"box": {**NODE, "gpu": "mine"}}}
    mine["nodes"]["box"]["scale_up_bytes_per_s"] = h100["scale_up_bytes_per_s"]
    own = predict_train({**TRAIN, "cluster": {"hardware": mine, "node": "box", "gpus": 16}})
    shipped = predict_train({**TRAIN, "cluster": {"node": "dgx-h100", "gpus": 16}})
    assert own.step_time_s == pytest.approx(shipped.step_time_s, rel=1e-9)
    assert own.high_s / own.low_s > shipped.high_s / shipped.low_s  # no run was fitted on it


def test_every_verb_takes_it() -> None:
    layout = {"model": "qwen3-30b-a3b", "cluster": TRAIN["cluster"], "layout": {"tp": 2}}
    served = predict_serve({**layout, "serve": {"engine": "vllm", "requests": REQUESTS}})
    assert served.tpot_s.mean > 0
    assert predict_train(TRAIN).cost["usd_per_gpu_hour"] == 3.5
    assert len(whatif(TRAIN).outcomes) > 5
    assert plan(TRAIN).options
    assert compare([TRAIN], twin="iso-active").columns
    sent = {"op": "all_reduce", "ranks": 16, "size_bytes": 1e9}
    shipped = predict_comm({"node": "dgx-h100", **sent}).prediction.time_s
    with_less = {**ZEUS, "nodes": {"zeus-pod": {**NODE, "nic_bytes_per_s": "100 Gb/s"}}}
    assert predict_comm({"node": "zeus-pod", "hardware": with_less, **sent}).prediction.time_s > shipped


def test_the_written_template_is_a_file_that_works(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(HARDWARE)
    cluster = build_cluster("my-pod", 64, hardware=hardware_of(str(file)))
    assert (
        cluster.fabric == "my-fabric"
        and cluster.oversubscription == 2.0
        and cluster.fabric_latency_s == pytest.approx(5e-6)
    )
    file.write_text(HARDWARE.replace("400 Gb/s     #", "200 Gb/s     #"))
    assert build_cluster("my-pod", 64, hardware=hardware_of(str(file))).nic_bytes_per_s == 25e9  # read again


@pytest.mark.parametrize(
    ("hardware", "words"),
    [
        ({}, "mapping with some of gpus"),
        ({"gpu": {}}, "did you mean 'gpus'"),
        ({"gpus": []}, "mapping of names to records"),
        ({"gpus": {"h100-sxm": GPU}}, "like: h100-sxm"),
        ({"gpus": {"H100": GPU}}, "name of the catalogue"),
        ({"nodes": {"dgx-h100": NODE}}, "name of the catalogue"),
        ({"gpus": {"zeus": {**GPU, "like": "h1000"}}}, "zeus.like: unknown GPU"),
        ({"gpus": {"zeus": {**GPU, "hbm_bytes": -1}}}, "zeus.hbm_bytes: -1 is not between"),
        ({"gpus": {"zeus": {**GPU, "hbm_bytes": float("nan")}}}, "no text, number, list or mapping"),
        ({"gpus": {"zeus": {**GPU, "hbm_bytes": "80 GB/s"}}}, "not in B"),
        ({"gpus": {"zeus": {**GPU, "peak_flops_per_s": {"fp8": 1e15}}}}, "needs the 16-bit peak"),
        ({"gpus": {"zeus": {**GPU, "peak_flops_per_s": {"bf16": 1e15, "fp9": 1e15}}}}, "no format of a data sheet"),
        ({"gpus": {"zeus": {**GPU, "peak_flops_per_s": {"bf16": -1e15}}}}, "is not between"),
        ({"gpus": {"zeus": {**GPU, "memory": 3}}}, "fields are"),
        ({"gpus": {"zeus": {"like": "H100"}}}, "peak_flops_per_s"),
        ({"gpus": {"zeus": {k: v for k, v in GPU.items() if k not in ("like", "tdp_w")}}}, "or say like: h100-sxm"),
        ({"nodes": {"pod": {"gpus": 8}}}, "gpu is missing"),
        ({"nodes": {"pod": {"gpu": "zeus", "gpus": 8}}}, "unknown gpu 'zeus'"),
        ({"nodes": {"pod": {"gpu": "H100"}}}, "gpus is missing"),
        ({"nodes": {"pod": {"gpu": "H100", "gpus": 0}}}, "at least 1"),
        ({"nodes": {"pod": {"gpu": "H100", "gpus": 2.5}}}, "whole number"),
        ({"nodes": {"pod": {"gpu": "H100", "gpus": 8, "fabric": "roce-4000"}}}, "unknown fabric"),
        ({"nodes": {"pod": {"gpu": "H100", "gpus": 8, "nic_bytes_per_s": 1e11}}}, "PCIe slot"),
        ({"gpus": {"z": {k: v for k, v in GPU.items() if k != "like"}}, "nodes": {"p": {"gpu": "z", "gpus": 8}}},
         "scale_up_bytes_per_s"),
        ({"fabrics": {"f": {"kind": "carrier-pigeon", "link_bytes_per_s": 1e9, "latency_s": 1e-6}}}, "f: kind"),
        ({"fabrics": {"f": {"kind": "roce", "link_bytes_per_s": 1e9, "latency_s": 1e-6, "topology": "ring"}}},
         "use one of rail"),
        ({"gpus": {"zeus": {**GPU, "tdp_w": 1e-300}}}, "is not between 1 and 100000"),
        ({"gpus": {"zeus": {**GPU, "hbm_bytes_per_s": 6}}}, "hbm_bytes_per_s: 6 is not between"),
        ({"gpus": {"zeus": {**GPU, "peak_flops_per_s": {"bf16": 1200}}}}, "is not between"),
        ({"nodes": {"pod": {"gpu": "H100", "gpus": 10**14}}}, "is not between 1 and 100000"),
        ({"instances": {"mine": {"node": "nowhere"}}}, "unknown node 'nowhere'"),
        ({"servers": {"mine": {"gpus": 8, "kw": 10, "rack_units": 8}}}, "named after its node"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_is_refused_where_it_stands(hardware: dict[str, Any], words: str) -> None:
    with pytest.raises(FactError) as refusal:
        hardware_of(hardware)
    assert words in str(refusal.value), refusal.value
    assert len(str(refusal.value)) < 500 or "fields are" in words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gpus: &a {x: 1}\nnodes: *a\n", "aliases"),
        ("gpus: {a: {tdp_w: 1}, a: {tdp_w: 2}}\n", "given twice"),
        ("gpus: [", "not valid YAML"),
        ("\x00\xff", "not valid YAML"),
        ("", "mapping with some of"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(Refusal, match=words) as refusal:
        hardware_of(str(file))
    assert "my.yaml" in str(refusal.value)
    with pytest.raises(Refusal, match="moesim init --hardware"):
        hardware_of(str(tmp_path / "none.yaml"))
    with pytest.raises(Refusal, match="folder"):
        hardware_of(str(tmp_path))


@pytest.mark.parametrize(
    ("spelling", "gpu", "nic_bytes_per_s", "per_host"),
    [
        ("p5en.48xlarge", "h200-sxm", 50e9, 8),
        ("P5.48XLARGE", "h100-sxm", 50e9, 8),
        ("p4d.24xlarge", "a100-sxm-40gb", 6.25e9, 8),
        ("a3-ultragpu-8g", "h200-sxm", 50e9, 8),
        ("a3-megagpu-8g", "h100-sxm", 25e9, 8),
        ("ND H200 v5", "h200-sxm", 50e9, 8),
        ("Standard_ND96isr_H100_v5", "h100-sxm", 50e9, 8),
        ("nd96isr_h100_v5", "h100-sxm", 50e9, 8),
        ("BM.GPU.MI300X.8", "mi300x", 50e9, 8),
        ("BM.GPU.GB200.4", "gb200", 50e9, 4),
    ],
)
def test_a_rented_instance_is_a_machine(spelling: str, gpu: str, nic_bytes_per_s: float, per_host: int) -> None:
    cluster = build_cluster(node_for_gpu(spelling), 144)
    assert (cluster.gpu.name, cluster.gpus_per_host) == (gpu, per_host)
    assert cluster.nic_bytes_per_s == pytest.approx(nic_bytes_per_s)
    by_gpu = predict_train({**TRAIN, "cluster": {"gpu": spelling, "gpus": 16}})
    by_node = predict_train({**TRAIN, "cluster": {"node": spelling, "gpus": 16}})
    assert by_gpu.step_time_s == by_node.step_time_s


def test_an_instance_has_the_price_of_its_cloud() -> None:
    answer = predict_train({**TRAIN, "cluster": {"gpu": "BM.GPU.H100.8", "gpus": 16}})
    assert answer.cost["usd_per_gpu_hour"] == 10.0  # 80 dollars for eight
    assert "BM.GPU.H100.8 on demand, 2026-04" in answer.cost["price_source"]


@pytest.mark.parametrize("name", sorted(catalogue("instances")))
def test_every_instance_builds(name: str) -> None:
    cluster = build_cluster(name, 16)
    assert cluster.gpus_per_host >= 1 and cluster.fabric_latency_s > 0
    price = catalogue("instances")[name].get("usd_per_hour")
    assert price is None or 1.0 < price["low"] / cluster.gpus_per_host <= price["high"] / cluster.gpus_per_host < 20.0 \
        or cluster.gpu.name in ("t4", "l4")  # fmt: skip
    spellings = [name, *catalogue("instances")[name].get("aliases", [])]
    assert {SHIPPED.instance_called(spelling) for spelling in spellings} == {name}


@pytest.mark.parametrize("name", gpu_names())
def test_no_gpu_of_the_catalogue_is_a_dead_end(name: str) -> None:
    assert build_cluster(node_for_gpu(name), 8).gpu.name == name


# NICs that sit on the chip itself: no slot of a host is between
_ON_CHIP = {"gaudi3-node"}


@pytest.mark.parametrize("node", sorted(set(node_names()) - _ON_CHIP))
def test_no_nic_is_faster_than_its_slot(node: str) -> None:
    cluster = build_cluster(node, 20_000)
    if cluster.gpu.pcie_bytes_per_s:
        assert cluster.nic_bytes_per_s <= cluster.gpu.pcie_bytes_per_s


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes": {"gpus": 8.5}}, "nodes.mine.gpus: 8.5 must be a whole number"),
        ({"nodes": {"gpus": None, "gpus_per_domain": "many"}}, "nodes.mine.gpus_per_domain: 'many' must be a whole"),
        ({"nodes": {"nics_per_host": "8 NICs"}}, "nics_per_host: '8 NICs' is not a number; write a number alone: "
         "nics_per_host: 8"),
        ({"servers": {"kw": "14 kW"}}, "kw: '14 kW' is not a number of kilowatts; write a number alone: kw: 14"),
        ({"servers": {"usd": {"low": 1, "high": 2, "date": 2026}}}, "usd.date: 2026 is a number where text is wanted; "
         "write it in quotes: date: '2026'"),
        ({"servers": {"rack_units": "tall"}}, "rack_units: 'tall' is not a number of rack units"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_by_the_key_as_it_was_written(changes: dict[str, Any], message: str) -> None:
    own = {
        "gpus": {"theirs": GPU},
        "nodes": {"mine": {"gpu": "theirs", "gpus": 8, **changes.get("nodes", {})}},
        "servers": {"mine": {"gpus": 8, "kw": 14, "rack_units": 8, **changes.get("servers", {})}},
    }
    own["nodes"]["mine"] = {key: value for key, value in own["nodes"]["mine"].items() if value is not None}
    with pytest.raises(FactError) as told:
        hardware_of(own)
    assert message in str(told.value)


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing yet\n", encoding="utf-8")
    for ask in (hardware_of, load_scenario, read_mapping, load_model):
        with pytest.raises(Refusal, match="is empty"):
            ask(str(empty))  # type: ignore[operator]  # each takes a path


def test_bytes_with_a_prefix_alone_are_bytes() -> None:
    made = {"gpus": {"zeus": {**GPU, "hbm_bytes": "192Gi"}}, "nodes": {"zeus-pod": NODE}}
    assert load_gpu("zeus", hardware_of(made)).hbm_bytes == 192 * 2**30
    with pytest.raises(Refusal, match="not in B/s"):
        hardware_of({"gpus": {"zeus": {**GPU, "hbm_bytes_per_s": "6T"}}, "nodes": {"zeus-pod": NODE}})
