"""Memory-bound work of a measured machine: monotone, above its floor, and nothing for no bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moesim.hwmodels.kernel_fits import StreamFit
from moesim.hwmodels.kernels import stream_key, stream_time_s
from moesim.hwmodels.work import Stream

fits = st.builds(
    StreamFit,
    launch_s=st.floats(0.0, 1e-3),
    memory_efficiency=st.floats(0.01, 10.0),
    cache_share=st.floats(0.0, 1.0),
    cache_bytes=st.floats(0.0, 1e9),
)
sizes = st.floats(1.0, 1e12)


@given(fit=fits, small=sizes, large=sizes)
def test_more_bytes_never_take_less(fit: StreamFit, small: float, large: float) -> None:
    small, large = sorted((small, large))
    first, second = (stream_time_s(Stream(b), 1e11, fit) for b in (small, large))
    assert fit.launch_s <= first <= second * (1.0 + 1e-12)


@given(fit=fits, size=sizes)
def test_a_cache_only_helps(fit: StreamFit, size: float) -> None:
    cold = StreamFit(
        launch_s=fit.launch_s, memory_efficiency=fit.memory_efficiency, cache_share=0.0, cache_bytes=fit.cache_bytes
    )
    assert stream_time_s(Stream(size), 1e11, fit) <= stream_time_s(Stream(size), 1e11, cold) * (1.0 + 1e-12)


def test_no_bytes_take_no_time_and_backward_has_a_name_of_its_own() -> None:
    fit = StreamFit(launch_s=1.0, memory_efficiency=1.0, cache_share=0.5, cache_bytes=1.0)
    assert stream_time_s(Stream(0.0), 1.0, fit) == 0.0
    assert stream_key(Stream(1.0, "norm")) == "norm" and stream_key(Stream(1.0, "norm", backward=True)) == "norm.bwd"
