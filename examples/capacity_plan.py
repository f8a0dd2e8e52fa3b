"""A capacity plan in a page: layout, days and dollars of a training run, what would change it, and a fleet for traffic.

python examples/capacity_plan.py
"""

from __future__ import annotations

from pathlib import Path

import moesim
from moesim import frames

HERE = Path(__file__).parent
TOKENS, USERS = 2e12, (32, 128, 512)
job, served = HERE / "mixtral-8x7b-h100.yaml", HERE / "serve-mixtral-8x7b-h100.yaml"

layouts = frames.plan(moesim.plan(job, given={"tp": (1, 2), "micro_batch": 1, "vpp": (1, 8)}, effort=moesim.Effort(5)))
print(layouts[["tp", "pp", "vpp", "ep", "step_time_s", "usd_per_million_tokens"]].to_string(index=False))
print(frames.run(moesim.run(job, TOKENS))[["days", "usd", "energy_mwh", "goodput"]].to_string())
print(frames.whatif(moesim.whatif(job)).head(5)[["knob", "change", "tokens_per_s_factor"]].to_string(index=False))

models = moesim.compare([served], twin="iso-quality", tokens=TOKENS)
print(frames.compare(models).filter(regex="usd_per_million_tokens|gpus_for|bottleneck$", axis=0).to_string())
print(frames.break_evens(models)[["section", "axis", "answer"]].to_string(index=False))

load = {"serve.requests.kind": ("closed",), "serve.requests.concurrency": USERS, "serve.requests.count": (1024,)}
fleet = frames.sweep(moesim.sweep(served, load)).set_index("serve.requests.concurrency")
print(fleet[["tpot_p99_s", "output_tokens_per_s", "usd_per_million_output_tokens"]].to_string())
print(frames.serve(moesim.predict_serve(served)).describe().loc[["mean", "50%", "max"]].to_string())
