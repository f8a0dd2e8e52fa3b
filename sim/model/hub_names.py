"""Names of models as hubs write them: organisation/Model-Instruct-2507, by the name that the catalogue may have."""

from __future__ import annotations

import re

# words of a name that say how a model was trained further or when, and nothing of its shape
_FURTHER = frozenset({
    "instruct", "chat", "base", "it", "pt", "hf", "thinking", "inst", "bf16", "v1", "v1.5", "preview", "exp", "03",
    "2025", "2407", "2411", "2501", "2503", "2506", "2507", "2512", "0324", "0414", "0528", "0711", "0905",
})  # fmt: skip
_PREFIXES = ("meta-", "nvidia-", "c4ai-", "ai21-", "unsloth-")
_FORMATS = frozenset({
    "fp8", "nvfp4", "mxfp4", "fp4", "int4", "int8", "awq", "gptq", "w4a16", "w8a8", "bnb", "gguf", "4bit", "8bit",
    "quantized", "mlx", "exl2",
})  # fmt: skip
_ONE_SLASH = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def names_of(text: str) -> list[str]:
    """Catalogue names that a hub's name may stand for, nearest first; none for what is no hub's name."""
    if not _ONE_SLASH.fullmatch(text.strip()):
        return []
    name = text.strip().lower().rpartition("/")[2].replace("_", ".")
    found = [name]
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            found.append(name.removeprefix(prefix))
    found += ["-".join(word for word in name.split("-") if word not in _FURTHER) for name in tuple(found)]
    return list(dict.fromkeys(name for name in found if name))


def format_of(text: str) -> str | None:
    """The format of the weights that a hub's name ends in (a quantised copy of a model); None without one."""
    words = re.split(r"[-_.]", text.strip().lower().rpartition("/")[2])
    return next((word for word in words if word in _FORMATS), None)
