"""Number formats: how many bytes one element takes, block scales included."""

from __future__ import annotations

# bytes per element; block formats carry their scales: MXFP8 one byte per 32, FP8 blocks 4 bytes per 128,
# MXFP4 one byte per 32 nibbles, NVFP4 one byte per 16 nibbles.
_BYTES: dict[str, float] = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0 + 4.0 / 128.0,
    "mxfp8": 1.0 + 1.0 / 32.0,
    "fp6": 0.75,
    "int8": 1.0,
    "int4": 0.5 + 2.0 / 128.0,
    "mxfp4": 0.5 + 1.0 / 32.0,
    "nvfp4": 0.5 + 1.0 / 16.0,
}

# the peak of the spec sheet that a format runs at
PEAK_OF: dict[str, str] = {
    "fp64": "fp32",
    "fp32": "fp32",
    "tf32": "tf32",
    "bf16": "bf16",
    "fp16": "fp16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "mxfp8": "fp8",
    "fp6": "fp6",
    "int8": "int8",
    "int4": "bf16",  # weight-only: dequantised to 16 bits before the tensor cores
    "mxfp4": "fp4",
    "nvfp4": "fp4",
}


def bytes_per_element(dtype: str) -> float:
    """Bytes of one element of `dtype`, block scales included. KeyError for an unknown name."""
    return _BYTES[dtype]


# formats that token vectors travel in, and the one above that counts their scales
_TOKEN = {"bf16": "bf16", "fp16": "fp16", "fp8": "fp8_block", "mxfp8": "mxfp8", "nvfp4": "nvfp4"}


def token_dtypes() -> tuple[str, ...]:
    """Formats in which token vectors are sent to experts."""
    return tuple(_TOKEN)


def token_bytes(hidden: float, dtype: str) -> float:
    """Bytes of one token's vector with its scales (fp8: one float per 128). KeyError for an unknown name."""
    return hidden * _BYTES[_TOKEN[dtype]]


def known_dtypes() -> tuple[str, ...]:
    """All names that `bytes_per_element` accepts."""
    return tuple(_BYTES)
