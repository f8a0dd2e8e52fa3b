"""Shell files that start vLLM or SGLang: one per pool, the same on every host of a worker but for its number."""

from __future__ import annotations

from moesim.files.words import counted
from moesim.reports.emit.flags import sglang_flags, vllm_flags, words
from moesim.reports.emit.worker import Deployed, Flag, Flags, Worker, unsaid
from moesim.sim.software.engine_options import engine_options, source_of

_PORTS = {"serve": 8000, "prefill": 8100, "decode": 8200}
_RPC = 13345  # any free port of the first host


def comments(d: Deployed, target: str, more: list[str], engine: str = "") -> str:
    """Lines that say what this is, where its options come from and what no option says.

    engine: what runs on the platform, where the target is one.
    """
    lines = [
        f"{d.resolved.deployment.job.arch.name} on {counted(d.resolved.deployment.gpus, 'GPU')}: "
        + " and ".join(w.title for w in d.workers),
        f"options: {source_of(target)}",
        *_of_version(d, engine or target),
        *dict.fromkeys([*more, *unsaid(d, engine or target)]),
    ]
    return "".join(f"# {line}\n" for line in lines)


def _of_version(d: Deployed, engine: str) -> list[str]:
    """How the version that the scenario states differs from the one whose documented options are written."""
    stated, table = d.resolved.deployment.job.engine.version, engine_options(engine)["version"]
    if engine != d.family or not stated or stated == table:
        return []
    return [
        f"the scenario says {engine} {stated}; these options are those of the documentation of {engine} {table}: "
        f"check `--help` of {stated} before you start it, or run {table}"
    ]


def vllm_files(d: Deployed) -> dict[str, str]:
    """A shell file per pool."""
    return {f"{w.name}.sh": _vllm(w, d) for w in d.workers}


def sglang_files(d: Deployed) -> dict[str, str]:
    """A shell file per pool, and the router that stands before them."""
    files = {f"{w.name}.sh": _sglang(w, d) for w in d.workers}
    return files


def _script(d: Deployed, w: Worker, f: Flags, command: str, routed: str) -> str:
    """Comments, variables and one command."""
    variables = [f"MODEL={d.model}  # or the path of its weights"]
    if w.hosts > 1:
        variables.append("HEAD=${HEAD:?address of the first host of this worker}")
        variables.append(f"NODE_RANK=${{NODE_RANK:?0 to {w.hosts - 1}, the number of this host in its worker}}")
    where = f"run on each of the {w.hosts} hosts of a worker" if w.hosts > 1 else "run once per worker"
    notes = [f"{w.title}; {where}", *f.notes, routed]
    return "#!/bin/sh\n" + comments(d, f.target, notes) + "\n".join(variables) + "\n" + command + "\n"


def _vllm(w: Worker, d: Deployed) -> str:
    f, job = vllm_flags(w, d), w.job
    hosts: list[Flag] = []
    if w.hosts > 1 and job.attention_dp > 1 and job.layout.pp == 1 and w.tp <= job.cluster.gpus_per_host:
        local = job.cluster.gpus_per_host // w.tp
        for name in ("data-parallel-size-local", "data-parallel-address", "data-parallel-rpc-port"):
            f.add(name, {"data-parallel-size-local": local, "data-parallel-rpc-port": _RPC}.get(name, "$HEAD"))
        hosts = f.flags[-3:]
        f.flags = f.flags[:-3]
        tail = [
            *_raw(hosts),
            f'$([ "$NODE_RANK" = 0 ] || echo --headless --data-parallel-start-rank $((NODE_RANK * {local})))',
        ]
    elif w.hosts > 1:
        f.add("distributed-executor-backend", "ray")
        f.notes.append("one worker over several hosts: start a Ray cluster over them first, then this on the first one")
        tail = []
    else:
        tail = []
    f.add("port", _PORTS[w.role])
    command = " \\\n  ".join(['vllm serve "$MODEL"', *words(f.flags), *tail])
    routed = (
        "pools: a proxy or router sends a request to a prefill worker first, then to a decode worker (llm-d, Dynamo)"
    )
    return _script(d, w, f, command, routed if d.pools else _router(d, w))


def _raw(flags: list[Flag]) -> list[str]:
    """Options whose values the shell fills in."""
    return [f"--{name} {value}" for name, value in flags]


def _sglang(w: Worker, d: Deployed) -> str:
    f = sglang_flags(w, d)
    tail: list[str] = []
    if w.hosts > 1:
        many: list[Flag] = [("nnodes", w.hosts), ("node-rank", '"$NODE_RANK"'), ("dist-init-addr", f'"$HEAD:{_RPC}"')]
        tail = _raw(many)
    f.add("host", "0.0.0.0")  # of the server that is started, as its documentation does
    f.add("port", _PORTS[w.role])
    command = " \\\n  ".join(['python3 -m sglang.launch_server --model-path "$MODEL"', *words(f.flags), *tail])
    routed = "pools: sglang_router with --pd-disaggregation, --prefill and --decode and the address of every worker"
    return _script(d, w, f, command, routed if d.pools else _router(d, w))


def _router(d: Deployed, w: Worker) -> str:
    kind = d.resolved.ask.router.kind
    if w.count == 1:
        return "one replica: no router"
    return f"{counted(w.count, 'replica')} behind a router; simulated with router: {kind}"
