"""What a deployment serves when its queue is never empty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesim.sim.question.serving_sections import AdmissionAsk
from moesim.sim.serve.job import Deployment
from moesim.sim.serve.simulate import PricedJobs, ServeRun, simulate
from moesim.sim.serve.workload import Workload
from moesim.sim.software.stack import Tuning
from moesim.traces.requests import Requests

_LEAST = 3000  # requests that drain
_FULL_BATCHES = 4  # and as many times what may run at once: the batch is full most of the time


def drained_per_s(deployment: Deployment, load: Workload, tuning: Tuning, priced: PricedJobs) -> float:
    """Requests per second of a full queue with the load's own lengths. Replicas are alike: one of them is simulated.

    Nobody is turned away from it: that would be fast, and nothing served.
    """
    job, deployment = deployment.job, replace(deployment, admission=AdmissionAsk())
    one = deployment if deployment.prefill is not None else replace(deployment, replicas=1)
    running = job.engine.max_batch * job.attention_dp * (deployment.replicas if deployment.prefill is not None else 1)
    run = simulate(one, Workload(_queued(load.requests, max(_LEAST, _FULL_BATCHES * running))), tuning, priced)
    return _steady_per_s(run) * deployment.replicas / one.replicas


def of_strangers(load: Workload, run: ServeRun) -> Workload:
    """The load as requests that wait for nobody, whose prompts find what they found in a run.

    Caches are as large as they are: the prefix column of requests that share is of one without limit.
    """
    if load.runs is None:
        return load
    return replace(load, requests=replace(load.requests, prefix=tuple(run.log.hit), chains=None, after=()))


def _queued(r: Requests, count: int) -> Requests:
    """`count` requests, all there at once, lengths again from the start where there are fewer."""
    times = -(-count // len(r))
    return Requests(
        (0.0,) * count, (r.input_tokens * times)[:count], (r.output_tokens * times)[:count], (r.prefix * times)[:count]
    )


def _steady_per_s(run: ServeRun) -> float:
    """Requests per second until the last one starts: those finished by then, and half of what is running."""
    finish, last = np.array(run.log.finish_s), float(np.max(run.log.first_s))
    done = float((finish <= last).sum())
    if last <= 0.0 or done < 0.5 * len(finish):  # most ran at once: no queue to speak of
        return len(finish) / float(finish.max())
    return (done + 0.5 * (len(finish) - done)) / last
