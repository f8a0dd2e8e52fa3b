"""Words as they may be shown: no control characters in a terminal, no formulas in a spreadsheet, no '1 steps'."""

from __future__ import annotations

MOST_MESSAGE = 500  # characters of a refusal; more is a page, not a message
SPACES = "\u00a0\u2009\u202f"  # that do not break, or are thin: people write them, and they do no harm
LINES = "\n\t"
_RUN = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of a formula


def visible(text: str, kept: str = "") -> str:
    """Terminal escapes, other control characters, marks that turn the direction of text, lone surrogates: as \\x1b.

    kept: control characters that may stay, such as line ends.
    """
    if is_visible(text):
        return text
    return "".join(c if c.isprintable() or c in kept or c in SPACES else _escaped(c) for c in text)


def is_visible(text: str) -> bool:
    """Whether a text holds nothing that a terminal would obey; line ends count as such."""
    return text.isprintable() or text.translate(_SPACES).isprintable()


_SPACES = {ord(space): "" for space in SPACES}


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str) -> str:
    """A message in one line of at most MOST_MESSAGE visible characters."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= MOST_MESSAGE else f"{line[: MOST_MESSAGE - 4].rstrip()} ..."


def counted(number: int, thing: str) -> str:
    """'1 step', '2,048 steps': a count and what is counted, in the singular where there is one."""
    ending = "" if number == 1 else "es" if thing.endswith("ch") else "s"
    return f"{number:,} {thing}{ending}"


def shown(value: object) -> object:
    """A cell of a table: text without what a terminal would obey; numbers stay."""
    return visible(value, kept="\n") if isinstance(value, str) else value


def cell(value: object) -> object:
    """A cell of a CSV that no spreadsheet runs: text that begins like a formula gets an apostrophe as well."""
    text = shown(value)
    return f"'{text}" if isinstance(text, str) and text.startswith(_RUN) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
