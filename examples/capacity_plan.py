"""A capacity plan in a page: layout, days and dollars of a training run, what would change it, and a fleet for traffic.

python examples/capacity_plan.py
"""

from __future__ import annotations

from pathlib import Path

from moesim.reports import frames
from moesim.sim.comparison.comparison import compare
from moesim.sim.plan.train.plan import plan_train
from moesim.sim.plan.train.search import Effort
from moesim.sim.question.scenario import read_mapping
from moesim.sim.serve.predict import predict_serve
from moesim.sim.train.predict import predict_train
from moesim.sim.train.whole_run import training_run
from moesim.sim.variation.sweep import run_sweep
from moesim.sim.variation.whatif_train import whatif_train

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
