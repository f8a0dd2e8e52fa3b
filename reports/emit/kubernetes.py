"""Manifests: a DynamoGraphDeployment of NVIDIA Dynamo, and values of the charts of llm-d."""

from __future__ import annotations

from typing import Any

from moesim.reports.emit.commands import comments
from moesim.reports.emit.flags import items, sglang_flags, vllm_flags, words
from moesim.reports.emit.trtllm import text_of, trtllm_options
from moesim.reports.emit.worker import Deployed, Worker
from moesim.sim.software.engine_options import check_option, engine_options, paths_of, source_of

_IMAGES = {"vllm": "vllm-runtime", "sglang": "sglang-runtime", "trtllm": "tensorrtllm-runtime"}
_REGISTRY = "nvcr.io/nvidia/ai-dynamo"
_ROUTERS = {"round_robin": "round-robin", "prefix": "kv"}
_RPC = 13345


def _checked(target: str, *documents: dict[str, Any]) -> None:
    for document in documents:
        for path in paths_of(document):
            check_option(target, path)


def dynamo_files(d: Deployed) -> dict[str, str]:
    """One manifest: a frontend with its router, and a service per pool; for TensorRT-LLM a ConfigMap of its options."""
    engine = d.family
    name = f"{d.resolved.deployment.job.arch.name.replace('.', '-')}-{engine}"
    kind = d.resolved.ask.router.kind
    notes = [f"image tags: the version that the options are of; secret hf-token-secret: access to {d.model}"]
    if kind not in _ROUTERS:
        notes.append(f"router: simulated with {kind}; kv, which also weighs what workers hold, is the nearest here")
    image = f"{_REGISTRY}/{_IMAGES[engine]}:{engine_options('dynamo')['version']}"
    routed = [("router-mode", _ROUTERS.get(kind, "kv")), ("http-port", 8000)]
    services: dict[str, Any] = {
        "Frontend": {
            "componentType": "frontend",
            "replicas": 1,
            "extraPodSpec": {
                "mainContainer": {
                    "image": image,
                    "command": ["python3", "-m", "dynamo.frontend"],
                    "args": items(routed),
                }
            },
        }
    }
    files: dict[str, str] = {}
    for w in d.workers:
        service, own = _service(w, d, engine, image, name, files)
        services[{"serve": "Worker", "prefill": "PrefillWorker", "decode": "DecodeWorker"}[w.role] + _nth(w)] = service
        notes += own
    manifest = {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": name},
        "spec": {"backendFramework": engine, "services": services},
    }
    documents: list[dict[str, Any]] = [manifest]
    if files:
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-options"}, "data": files}
        documents.insert(0, config)
    _checked("dynamo", *documents)
    return {"dynamo.yaml": comments(d, "dynamo", notes, engine) + text_of(*documents)}


def _service(
    w: Worker, d: Deployed, engine: str, image: str, name: str, files: dict[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """One pool; options of TensorRT-LLM go into `files`."""
    container: dict[str, Any] = {"image": image, "command": ["python3", "-m", f"dynamo.{engine}"]}
    pod: dict[str, Any] = {"mainContainer": container}
    role = [] if w.role == "serve" else [("disaggregation-mode", w.role)]
    if engine == "trtllm":
        options, notes = trtllm_options(w, d)
        files[f"{w.name}.yaml"] = text_of(options)
        flags = [("model-path", d.model), ("extra-engine-args", f"/options/{w.name}.yaml"), *role]
        container["volumeMounts"] = [{"name": "options", "mountPath": "/options"}]
        pod["volumes"] = [{"name": "options", "configMap": {"name": f"{name}-options"}}]
    else:
        f = vllm_flags(w, d) if engine == "vllm" else sglang_flags(w, d)
        notes = f.notes
        own = [pair for pair in f.flags if pair[0] != "disaggregation-mode"]
        flags = [("model" if engine == "vllm" else "model-path", d.model), *own, *role]
    container["args"] = items(flags)
    gpus = w.job.layout.gpus // w.hosts
    service: dict[str, Any] = {"componentType": "worker"}
    if role:
        service["subComponentType"] = w.role
    service |= {"replicas": w.count, "envFromSecret": "hf-token-secret"}
    if w.hosts > 1:
        service["multinode"] = {"nodeCount": w.hosts}
    service |= {"resources": {"limits": {"gpu": str(gpus)}}, "extraPodSpec": pod}
    return service, notes


def _nth(w: Worker) -> str:
    """Nothing for the first pool of a role."""
    return str(w.number) if w.number > 1 else ""


_PLUGINS = """\
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
{filters}- type: queue-scorer
- type: kv-cache-utilization-scorer
{scorer}- type: max-score-picker
{handler}schedulingProfiles:
{profiles}"""


def _uri(model: str) -> str:
    """Where the weights are fetched from: a hub by name, or a folder on a volume, whose name nobody has said."""
    return f"pvc://VOLUME/{model.lstrip('/')}" if model.startswith(("/", ".")) else f"hf://{model}"


def llmd_files(d: Deployed) -> dict[str, str]:
    """Values of llm-d-modelservice for the workers, and of the inference pool for the scheduler before them."""
    arch = d.resolved.deployment.job.arch.name
    labels = {"llm-d.ai/inferenceServing": "true", "llm-d.ai/model": arch}
    several = any(w.hosts > 1 for w in d.workers)
    notes = [
        f"options of vLLM: {source_of('vllm')}",
        "modelArtifacts.uri: the hub name or volume of the weights; secret llm-d-hf-token: access to it",
    ]
    values: dict[str, Any] = {
        "multinode": several,
        "modelArtifacts": {
            "name": d.model, "uri": _uri(d.model), "size": "2Ti", "authSecretName": "llm-d-hf-token",
            "labels": labels,
        },
        "accelerator": {"type": "nvidia"},
        "routing": {"servicePort": 8000, "proxy": {"enabled": d.pools, "connector": "nixlv2", "targetPort": 8200}},
    }  # fmt: skip
    for w in d.workers:
        pool, own = _pool(w, d)
        if w.number > 1:
            notes.append(
                f"{w.title}: a second pool of a role needs a release of the chart of its own; not written here"
            )
            continue
        values["prefill" if w.role == "prefill" else "decode"] = pool
        notes += own
    if not d.pools:
        values["prefill"] = {"create": False}
        notes.append("replicas that do both: llm-d calls them decode")
    scheduler = {
        "inferencePool": {"targetPortNumber": 8000, "modelServers": {"matchLabels": labels}},
        "inferenceExtension": {
            "replicas": 1,
            "pluginsConfigFile": "plugins.yaml",
            "pluginsCustomConfig": {"plugins.yaml": _plugins(d)},
        },
    }
    _checked("llm-d", values, scheduler)
    kind = d.resolved.ask.router.kind
    told = [f"scheduler: simulated with router: {kind}"]
    return {
        "modelservice.yaml": comments(d, "llm-d", notes, "vllm") + text_of(values),
        "scheduler.yaml": comments(d, "llm-d", told, "vllm") + text_of(scheduler),
    }


def _pool(w: Worker, d: Deployed) -> tuple[dict[str, Any], list[str]]:
    """Values of one pool: vLLM, whatever engine was simulated."""
    f, job = vllm_flags(w, d), w.job
    local = max(1, job.layout.gpus // w.hosts // w.tp)
    notes = list(f.notes)
    container: dict[str, Any] = {"name": "vllm", "image": "ghcr.io/llm-d/llm-d-cuda:v0.4.0"}
    port = 8200 if w.role == "decode" and d.pools else 8000
    if job.attention_dp > 1:
        more = [f"--port {port}"]
        if w.hosts > 1:
            more += [
                f"--data-parallel-size-local {local}", "--data-parallel-hybrid-lb",
                "--data-parallel-address ${LWS_LEADER_ADDRESS}", f"--data-parallel-rpc-port {_RPC}",
                f"--data-parallel-start-rank $(( ${{LWS_WORKER_INDEX:-0}} * {local} ))",
            ]  # fmt: skip
        command = " ".join([f"exec vllm serve {d.model}", *words(f.flags), *more])
        container |= {"modelCommand": "custom", "command": ["/bin/sh", "-c"], "args": [command]}
    else:
        flags = [(name, value) for name, value in f.flags if name != "tensor-parallel-size"]
        container |= {"modelCommand": "vllmServe", "args": items(flags)}
        notes.append("tensor-parallel-size: the chart writes it from parallelism.tensor")
    container["mountModelVolume"] = True
    gpus = str(job.layout.gpus // w.hosts)
    container["resources"] = {"limits": {"nvidia.com/gpu": gpus}, "requests": {"nvidia.com/gpu": gpus}}
    parallelism = {"tensor": w.tp, "data": job.attention_dp, "dataLocal": local, "workers": w.hosts}
    return {"create": True, "replicas": w.count, "parallelism": parallelism, "containers": [container]}, notes


def _plugins(d: Deployed) -> str:
    """Which worker gets a request: filters by role, scores by queue, cache and, for router prefix, what they hold."""
    prefix = d.resolved.ask.router.kind in ("prefix", "sticky")
    scorers = ["queue-scorer", "kv-cache-utilization-scorer", *(["prefix-cache-scorer"] if prefix else [])]
    listed = "".join(f"  - pluginRef: {name}\n    weight: 1\n" for name in scorers)
    picker = "  - pluginRef: max-score-picker\n"
    roles = ("prefill", "decode") if d.pools else ()
    if roles:
        profiles = "".join(f"- name: {r}\n  plugins:\n  - pluginRef: {r}-filter\n{listed}{picker}" for r in roles)
    else:
        profiles = f"- name: default\n  plugins:\n{listed}{picker}"
    return _PLUGINS.format(
        filters="".join(f"- type: {role}-filter\n" for role in roles),
        scorer="- type: prefix-cache-scorer\n" if prefix else "",
        handler="- type: pd-profile-handler\n" if roles else "",
        profiles=profiles,
    )
