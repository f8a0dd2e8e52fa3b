"""Which known names are nearest to one that nobody knows, by how it is spelled and by what it means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher

_MOST = 200  # characters of a text that are read
_TOGETHER = 5  # neighbouring words that may make one name
_LEAST = 3  # letters from which the beginning of a word counts as the word
_COMMON = frozenset({"and", "as", "for", "from", "of", "on", "or", "the", "to", "with"})


def _words(text: str) -> list[str]:
    """Words and numbers of a text, lower case."""
    return [word for word in re.findall(r"[a-z]+|\d+", text.lower()) if word not in _COMMON]


def _shared(asked: list[str], known: list[str]) -> float:
    """Share of the letters that were asked for whose word is known, or begins or is begun by a known one."""

    def is_known(word: str) -> bool:
        return any(
            word == other
            or (min(len(word), len(other)) >= _LEAST and (word.startswith(other) or other.startswith(word)))
            for other in known
        )

    letters = sum(len(word) for word in asked)
    return sum(len(word) for word in asked if is_known(word)) / letters if letters else 0.0


def nearest(asked: str, meanings: Mapping[str, str], count: int = 3) -> list[str]:
    """The `count` names that are nearest to `asked`, nearest first; of equals the one that stands first.

    `meanings`: name -> what it is, in words. Spelling and meaning count alike.
    """
    text = asked[:_MOST].lower()
    words = _words(text)

    def far(name: str) -> float:
        spelled = SequenceMatcher(None, text, name.lower()).ratio()
        return -spelled - _shared(words, _words(f"{name} {meanings[name]}"))

    return sorted(meanings, key=far)[:count]


def plain(text: str) -> str:
    """Letters and digits of a text, lower case."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _spelled(text: str) -> set[str]:
    """All runs of neighbouring words of a text, written together."""
    words = re.findall(r"[a-z0-9]+", text.lower()[:_MOST])
    return {"".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, min(i + _TOGETHER, len(words)) + 1)}


def named_in(text: str, spellings: Mapping[str, str], shared: Mapping[str, str] | None = None) -> str | None:
    """The name whose longest spelling stands in a text ("MORI-EP (normal)", "nccl-tests, NCCL 2.29.2"); None for none.

    `spellings`: plain spelling -> name. What stands in brackets counts where nothing else is known.
    `shared`: spellings that texts about others carry too ("FSDP2 on PyTorch"); they count where no other does.
    """
    bare = re.sub(r"\(.*?\)", " ", text)
    for words in (spellings, shared or {}):
        for part in (bare, text):
            found = _spelled(part) & set(words)
            if found:
                return words[max(sorted(found), key=len)]
    return None


def with_a_way_out(asked: str, meanings: Mapping[str, str], assumed: Mapping[str, str]) -> str:
    """The nearest three names, each with what would be assumed with it: the end of a refusal."""
    return "nearest are " + "; ".join(f"{name} ({assumed[name]})" for name in nearest(asked, meanings))
