"""Modules that a `quantization_config` names, by name, glob or pattern: which part of the model, in which layers.

Names are classed by their words; patterns (`re:...`, matched from the beginning as engines do) are tried on the usual
names of the large matrices. What lists cover only in part is kept for the answer to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from moesim.sim.model.arch import ArchError, LayerKind

_LAYER = re.compile(r"(?:layers|blocks|h)\.(\d+)(?=[.*]|$)")
_WHOLE_LAYER = re.compile(r"(?:^|.*\.)(?:layers|blocks|h)\.(\d+)\.?\*?$")
_BESIDE = r"norm|conv1d|indexer|e_score|embed|vision|visual|projector|mtp|rotary|shared_expert_gate"
_NEVER = re.compile(
    rf"{_BESIDE}|router"
    r"|(mlp|moe|block_sparse_moe|feed_forward|mixer|ffn)\.gate(\.|\*|$)|^gate$"
)
_MATRIX = re.compile(
    r"(self_attn|attention|attn|linear_attn|mixer|temporal_block)\*?(\.\*|\.\.\*|\*)?$"
    r"|(q_proj|q_b_proj|qkv|qkv_proj|in_proj|in_proj_qkv|in_proj_qkvz|o_proj|out_proj|c_attn|query_key_value|wqkv)"
)
_LONGEST_PATTERN = 200
_MOST_REPEATS = 6
_BEFORE = ("model.", "", "model.language_model.", "language_model.model.", "backbone.")
# large matrices by the names that files give them: a part follows what is said of these
_GATED = ("gate_proj", "up_proj", "gate_up_proj", "down_proj")
_USUAL = {
    "attention": (
        "self_attn.q_proj", "self_attn.qkv_proj", "self_attn.q_b_proj", "self_attn.o_proj", "linear_attn.in_proj_qkv",
        "linear_attn.in_proj_qkvz", "linear_attn.out_proj", "mixer.in_proj", "mixer.out_proj",
    ),
    "dense": tuple(f"mlp.{name}" for name in _GATED),
    "experts": (*(f"mlp.experts.0.{name}" for name in _GATED), "block_sparse_moe.experts.0.w1", "mlp.experts"),
    "shared": tuple(f"mlp.{block}.{name}" for block in ("shared_experts", "shared_expert") for name in _GATED),
}  # fmt: skip


def part_of(name: str) -> str | None:
    """The part of a model that a module's name (or pattern of names) belongs to; None for what is never quantised."""
    text = name.lower().removeprefix("re:")
    if re.search(_BESIDE, text):
        return None
    if re.search(r"lm_head|(^|[.*])head\b|output_layer", text):
        return "head"
    if "shared_expert" in text or "share_expert" in text:
        return "shared"
    if "expert" in text:
        return "experts"
    if _NEVER.search(text):
        return None
    if re.search(r"attn|attention|mixer|mamba", text):
        return "attention" if _MATRIX.search(text) else None
    return "dense" if re.search(r"mlp|ffn|feed_forward|(gate|up|down)_proj", text) else None


@dataclass
class Modules:
    """The parts of one model, the layers that hold each, and what reading its lists has to say."""

    layers: Sequence[LayerKind]
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        held: dict[str, set[int]] = {part: set() for part in _USUAL} | {"head": {0}}
        for i, kind in enumerate(self.layers):
            if kind.mixer != "none":
                held["attention"].add(i)
            if kind.ffn in ("dense", "moe_residual"):
                held["dense"].add(i)
            if kind.ffn in ("moe", "moe_residual"):
                held["experts"].add(i)
                held["shared"].add(i)
        self.held = {part: frozenset(where) for part, where in held.items()}

    def named(self, names: Iterable[str]) -> dict[str, set[int]]:
        """The layers of every part that these names or patterns mean."""
        found: dict[str, set[int]] = {}
        unplaced = 0
        for name in names:
            meant = self._matched(name.removeprefix("re:")) if name.startswith("re:") else {}
            meant = meant or self._classed(name)
            unplaced += not meant and not _NEVER.search(name.lower()) and not _LAYER.search(name)
            for part, where in meant.items():
                found.setdefault(part, set()).update(where)
        if unplaced:
            some = f"{unplaced} entr{'ies' if unplaced > 1 else 'y'}"
            self._say(f"{some} of its lists of modules: no matrix that is priced by itself has such a name, not used")
        return found

    def covered(self, names: Iterable[str], fmt: str) -> set[str]:
        """Parts that a list leaves in 16 bits: named in half of the layers that hold them, or more.

        Where these are not all or none it is said what was taken; `fmt`: the format of the others.
        """
        parts = set()
        for part, where in self.named(names).items():
            count, whole = len(where & self.held[part]), len(self.held[part])
            left = 2 * count >= max(1, whole)
            if left:
                parts.add(part)
            if 0 < count < whole:
                taken = "16 bits" if left else fmt
                self._say(f"{part} of {count} of {whole} layers left in 16 bits: taken as {taken} in all of them")
        return parts

    def _say(self, line: str) -> None:
        line = f"quantization_config: {line}"
        if line not in self.said:
            self.said.append(line)

    def mixed(self, part: str, counts: Mapping[str, int], where: set[int], taken: str) -> None:
        """Say where matrices of one part have several formats, or only some layers have one."""
        count, whole = len(where & self.held[part]), len(self.held[part])
        if len(counts) > 1 and whole:
            listed = ", ".join(f"{n} {fmt}" for fmt, n in sorted(counts.items()))
            self._say(f"{part} in several formats (entries: {listed}): taken as {taken} in all layers")
        elif 0 < count < whole:
            self._say(f"{part} of {count} of {whole} layers named as {taken}: taken so in all of them")

    def _classed(self, name: str) -> dict[str, set[int]]:
        text = name.removeprefix("re:").replace("\\.", ".")
        whole = _WHOLE_LAYER.match(text)
        if whole is not None:
            own = int(whole[1]) if len(whole[1]) < 6 else -1
            return {part: {own} for part, where in self.held.items() if part != "head" and own in where}
        part = part_of(name)
        if part is None:
            return {}
        place = _LAYER.search(text)
        if place is None:
            return {part: set(self.held[part])}
        return {part: {int(place[1]) if len(place[1]) < 6 else -1}}

    def _matched(self, pattern: str) -> dict[str, set[int]]:
        """What a regular expression matches from the beginning of a module's name on."""
        compiled = _compiled(pattern)
        by_layer = any(letter.isdigit() for letter in pattern) or "\\d" in pattern
        found: dict[str, set[int]] = {}
        for part, ends in _USUAL.items():
            where = sorted(self.held[part])
            for layer in where if by_layer else where[:1]:
                starts = [f"{before}layers.{layer}." for before in _BEFORE]
                if any(compiled.match(start + end) for end in ends for start in starts):
                    found.setdefault(part, set()).update([layer] if by_layer else where)
        if compiled.match("lm_head"):
            found["head"] = set(self.held["head"])
        return found


def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern from a foreign file. ArchError where it is none, or where it could take for ever."""
    if len(pattern) > _LONGEST_PATTERN:
        raise ArchError(
            f"quantization_config: a pattern (re:...) has {len(pattern):,} letters; needs at most {_LONGEST_PATTERN}"
        )
    plain = re.sub(r"(\.\*)+", ".*", pattern)
    if _takes_for_ever(plain):
        raise ArchError(
            "quantization_config: a pattern (re:...) repeats what repeats or chooses, or repeats more than "
            f"{_MOST_REPEATS} times; write it plainer, or name the modules"
        )
    try:
        return re.compile(plain)
    except (re.error, OverflowError, RecursionError):
        raise ArchError(
            "quantization_config: a pattern (re:...) of its lists of modules is no regular expression; mend it, or "
            "name the modules"
        ) from None


def _takes_for_ever(pattern: str) -> bool:
    """Whether a group that repeats holds repeats or choices, or there are too many repeats in all."""
    plain = re.sub(r"\\.", "x", pattern)
    plain = re.sub(r"\[\^?\]?[^\]]*\]", "x", plain)
    groups, repeats = [False], 0
    for at, letter in enumerate(plain):
        if letter == "(":
            groups.append(False)
        elif letter == ")" and len(groups) > 1:
            inside = groups.pop()
            if inside and plain[at + 1 : at + 2] in ("*", "+", "{"):
                return True
            groups[-1] = groups[-1] or inside
        elif letter in "*+{|":
            groups[-1] = True
            repeats += letter != "|"
    return repeats > _MOST_REPEATS
