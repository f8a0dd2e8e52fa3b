"""A capacity plan in a page: layout, days and dollars of a training run, what would change it, and a fleet for traffic.

python examples/capacity_plan.py
"""

from __future__ import annotations

from pathlib import Path

from reports import frames
from sim import compare, predict_serve, predict_train
from sim.plan.plan import plan_train
from sim.plan.run import training_run
from sim.plan.search import Effort
from sim.plan.sweep import run_sweep
from sim.plan.whatif import whatif_train
from sim.scenario import read_mapping

HERE = Path(__file__).parent
TOKENS, USERS = 2e12, (32, 128, 512)
job, served = (read_mapping(HERE / name) for name in ("mixtral-8x7b-h100.yaml", "serve-mixtral-8x7b-h100.yaml"))

layouts = frames.plan(plan_train(job, given={"tp": (1, 2), "micro_batch": (1,), "vpp": (1, 8)}, effort=Effort(5)))
print(layouts[["tp", "pp", "vpp", "ep", "step_time_s", "usd_per_million_tokens"]].to_string(index=False))
print(frames.run(training_run(predict_train(job), TOKENS))[["days", "usd", "energy_mwh", "goodput"]].to_string())
print(frames.whatif(whatif_train(job)).head(5)[["knob", "change", "tokens_per_s_factor"]].to_string(index=False))

models = compare([served], twin="iso-quality", tokens=TOKENS)
print(frames.compare(models).filter(regex="usd_per_million_tokens|gpus_for|bottleneck$", axis=0).to_string())
print(frames.break_evens(models)[["section", "axis", "answer"]].to_string(index=False))

load = {"serve.requests.kind": ("closed",), "serve.requests.concurrency": USERS, "serve.requests.count": (1024,)}
fleet = frames.sweep(run_sweep(served, load)).set_index("serve.requests.concurrency")
print(fleet[["tpot_p99_s", "output_tokens_per_s", "usd_per_million_output_tokens"]].to_string())
print(frames.serve(predict_serve(served)).describe().loc[["mean", "50%", "max"]].to_string())
