"""How often memory-bound work moves each element it touches, forward and backward, when nothing is fused or spilt.

One place for the layers that ask for such work and for calibration, which times the same work on a machine: a fit per
byte is only worth something where both count the same bytes.
"""

from __future__ import annotations

# kind -> (passes forward, passes backward) over the elements named beside it
PASSES: dict[str, tuple[float, float]] = {
    "norm": (2.0, 4.0),  # the hidden state; backward joins the residual's gradient
    "residual": (3.0, 1.0),  # the hidden state: read two, write one
    "rope": (2.0, 2.0),  # queries and keys
    "act": (2.0, 3.0),  # the intermediate activations
    "gated_act": (3.0, 5.0),  # the same with a gate
    "embedding": (2.0, 4.0),  # one row of the table per token; backward adds into its gradient
    "permute": (2.0, 2.0),  # rows copied into expert order
    "unpermute": (2.0, 2.0),  # and back, summed per token
}
_SCORE_BYTES = 4.0  # routers score in fp32
_LOSS_FORWARD_SHARE = 0.4  # of what cross-entropy moves per logit


def router_bytes(tokens: float, experts: int, passes: float) -> float:
    """Bytes of scores that top-k, softmax and the losses move in one direction."""
    return passes * _SCORE_BYTES * tokens * experts


def loss_bytes(logits: float, bytes_per_logit: float) -> tuple[float, float]:
    """Bytes of softmax cross-entropy, forward and backward."""
    forward = _LOSS_FORWARD_SHARE * bytes_per_logit * logits
    return forward, bytes_per_logit * logits - forward
