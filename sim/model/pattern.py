"""Layer patterns: one line of text that says which kind of layer comes where in a stack.

attention+dense                                   every layer
3 x attention+dense, 58 x attention+moe           first three dense
3 x gated_deltanet+moe, attention+moe             repeated until the layers are used up
2 x (attention+dense, attention+moe[32])          groups; experts of this layer in brackets
encoder attention+dense, cross_attention+dense    encoder and decoder
5 x window_attention+dense, attention+dense@wide  a layer with sizes of its own, those of the variant "wide"
MEM*E-                                            one letter per single-block layer (Nemotron):
                                                  M mamba2, * attention, E experts, - dense
"""

from __future__ import annotations

import re
from typing import cast, get_args

from moesim.sim.model.arch import MAX_LAYERS, ArchError, FfnKind, LayerKind, MixerKind, short

_LETTERS = {
    "M": LayerKind(mixer="mamba2", ffn="none"),
    "*": LayerKind(mixer="attention", ffn="none"),
    "E": LayerKind(mixer="none", ffn="moe"),
    "-": LayerKind(mixer="none", ffn="dense"),
}
_COUNT = re.compile(r"\s*(\d{1,6})\s*x\s*")
_KIND = re.compile(r"\s*(encoder\s+)?([a-z0-9_]+)\s*\+\s*([a-z_]+)(?:\[(\d{1,6})\])?(?:@([A-Za-z0-9_-]{1,40}))?\s*")
_MAX_DEPTH = 4
_HELP = "needs e.g. '3 x attention+dense, 58 x attention+moe'"


def parse_pattern(text: str, layers: int, where: str) -> tuple[LayerKind, ...]:
    """The kinds of all `layers` layers; a shorter pattern is repeated if it fits a whole number of times."""
    text = text.strip()
    if text and not set(text) - set(_LETTERS):
        kinds = [_LETTERS[letter] for letter in text]
    else:
        kinds = _Parser(text, where).run()
    if len(kinds) > layers or layers % len(kinds):
        raise ArchError(f"{where}: pattern spells out {len(kinds)} layers; needs {layers} (layers) or a divisor of it")
    return tuple(kinds) * (layers // len(kinds))


class _Parser:
    """Recursive descent over: sequence = item {"," item}; item = [count "x"] (kind | "(" sequence ")")."""

    def __init__(self, text: str, where: str) -> None:
        self._text = text
        self._at = 0
        self._where = where

    def run(self) -> list[LayerKind]:
        kinds = self._sequence(0)
        if self._at != len(self._text):
            raise self._error(f"cannot be read from {short(self._text[self._at :])} on")
        return kinds

    def _sequence(self, depth: int) -> list[LayerKind]:
        if depth > _MAX_DEPTH:
            raise self._error("has too many nested brackets")
        kinds = self._item(depth)
        while self._take(","):
            kinds = kinds + self._item(depth)
            self._limit(len(kinds))
        return kinds

    def _item(self, depth: int) -> list[LayerKind]:
        count = 1
        if match := _COUNT.match(self._text, self._at):
            count = int(match[1])
            self._at = match.end()
        if count < 1:
            raise self._error("repeats something 0 times")
        if self._take("("):
            kinds = self._sequence(depth + 1)
            if not self._take(")"):
                raise self._error("has a bracket that is not closed")
        else:
            kinds = [self._kind()]
        self._limit(len(kinds) * count)
        return kinds * count

    def _kind(self) -> LayerKind:
        match = _KIND.match(self._text, self._at)
        if match is None:
            raise self._error(f"cannot be read from {short(self._text[self._at :])} on")
        self._at = match.end()
        encoder, mixer, ffn, experts, variant = match.groups()
        if mixer not in get_args(MixerKind):
            raise self._error(f"has an unknown mixer {mixer!r}; known: {', '.join(get_args(MixerKind))}")
        if ffn not in get_args(FfnKind):
            raise self._error(f"has an unknown ffn {ffn!r}; known: {', '.join(get_args(FfnKind))}")
        if mixer == ffn == "none":
            raise self._error("has a layer none+none that does nothing")
        if experts is not None and (int(experts) < 1 or not ffn.startswith("moe")):
            raise self._error(f"gives {experts} experts to a layer {mixer}+{ffn}")
        return LayerKind(
            mixer=cast(MixerKind, mixer),
            ffn=cast(FfnKind, ffn),
            experts=int(experts) if experts else None,
            encoder=encoder is not None,
            variant=variant,
        )

    def _take(self, mark: str) -> bool:
        while self._text[self._at : self._at + 1].isspace():
            self._at += 1
        taken = self._text.startswith(mark, self._at)
        self._at += len(mark) if taken else 0
        return taken

    def _limit(self, layers: int) -> None:
        if layers > MAX_LAYERS:
            raise self._error(f"spells out more than {MAX_LAYERS} layers")

    def _error(self, why: str) -> ArchError:
        return ArchError(f"{self._where}: pattern {short(self._text)} {why}; {_HELP}")
