"""Exact max-min fair rates of flows on shared links, by progressive filling: what the closed forms of
traffic.py are compared with.

Every round finds the share each link still gives to each of its flows, and fixes all flows whose own smallest share is
the smallest of every link they cross (Bertsekas and Gallager, Data Networks, section 6.5).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.hwmodels.facts import FactError

Paths = npt.NDArray[np.int32]
Rates = npt.NDArray[np.float64]


def max_min_rates(paths: Paths, capacity: Rates) -> Rates:
    """Bytes per second of every flow; `paths` [flows, hops] holds link numbers, -1 for none.

    FactError for links without bandwidth or paths that name links that do not exist.
    """
    if (capacity <= 0).any():
        raise FactError("every link needs a bandwidth above zero")
    if paths.size and (paths.max() >= len(capacity) or (paths < 0).all(axis=1).any()):
        raise FactError("a path names a link that does not exist, or none at all")
    flows, links = len(paths), len(capacity)
    hops = np.ascontiguousarray(np.where(paths < 0, links, paths).T)  # [hop, flow]
    left = np.append(capacity, np.inf)
    rates = np.zeros(flows)
    waiting = np.arange(flows)
    while waiting.size:
        crossing = np.bincount(hops.reshape(-1), minlength=links + 1)
        share = np.divide(left, crossing, out=np.full(links + 1, np.inf), where=crossing > 0)
        share[links] = np.inf
        offered = share[hops]
        smallest = offered.min(axis=0)
        # a flow is final when no other flow on its tightest links is tighter still
        least = np.full(links + 1, np.inf)
        np.minimum.at(least, hops.reshape(-1), np.tile(smallest, len(hops)))
        tight = (least[hops] >= smallest * (1 - 1e-12)) | (hops == links)
        final = (tight | (offered > smallest * (1 + 1e-12))).all(axis=0)
        if not final.any():
            final = smallest <= smallest.min() * (1 + 1e-12)
        rates[waiting[final]] = smallest[final]
        used = np.bincount(hops[:, final].reshape(-1), np.tile(smallest[final], len(hops)), links + 1)
        left = np.maximum(left - used, 0.0)
        left[links] = np.inf
        waiting, hops = waiting[~final], hops[:, ~final]
    return rates
