"""Libraries that carry transfers: which kernels each has, whose constants it takes, and what its own rows teach.

Records: specs/libraries.yaml. Constants of their own: profiles/comm/libraries.yaml, `post_s[library,kernel]`, seconds
in which a CPU posts one copy of a token that leaves its domain, where the GPU does not do it itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from moesim.hwmodels.facts import FactError, catalogue, comm_records
from moesim.hwmodels.nearest import named_in, plain, with_a_way_out
from moesim.hwmodels.work import ExpertExchange

GENERIC = "generic"  # asked for by name: no library in particular


@dataclass(frozen=True, slots=True)
class Library:
    """One record. `kernels`: kinds of exchange kernel by the words that select them, the default first."""

    name: str
    title: str
    words: tuple[str, ...]
    shared_words: tuple[str, ...]
    kernels: Mapping[str, str]
    collectives: bool
    usual_on: tuple[str, ...]  # vendors of GPUs
    constants_of: str  # itself, or the library whose constants stand for its own
    compared: bool  # with any fit row
    rows: str  # what it was compared with
    source: str


@cache
def libraries() -> dict[str, Library]:
    """All libraries by name. FactError for a record that borrows from one that does not exist."""
    found = {
        name: Library(
            name=name,
            title=str(record["title"]),
            words=tuple(str(word) for word in record["words"]),
            shared_words=tuple(str(word) for word in record.get("shared_words", ())),
            kernels=record["kernels"],
            collectives=bool(record.get("collectives", False)),
            usual_on=tuple(str(vendor) for vendor in record.get("usual_on", ())),
            constants_of=str(record.get("constants_of", name)),
            compared=bool(record.get("compared", True)),
            rows=str(record["rows"]),
            source=str(record["source"]),
        )
        for name, record in catalogue("libraries").items()
    }
    for library in found.values():
        if library.constants_of not in found:
            raise FactError(f"specs/libraries.yaml: {library.name}: constants_of names no library")
    return found


def library_named(text: str, collective: bool) -> Library:
    """The library that a text names ("MORI-EP (normal)", "nccl-tests, NCCL 2.29.2").

    FactError for one that nobody knows, or that does not carry such a transfer; it names the nearest three.
    """
    known = libraries()
    spellings = {word: each.name for each in known.values() for word in (plain(each.name), *each.words)}
    able = {name: each for name, each in known.items() if (each.collectives if collective else each.kernels)}
    named = named_in(text, spellings, {word: each.name for each in known.values() for word in each.shared_words})
    if named is not None:
        if named in able:
            return able[named]
        what = f"library {text!r}: {named} carries no collectives"
    else:
        what = f"library {text!r} is not known"
    meanings = {name: f"{each.title} {' '.join(each.words)}" for name, each in able.items() if name != GENERIC}
    assumed = {name: assumed_with(each) for name, each in able.items()}
    raise FactError(f"{what}; {with_a_way_out(text, meanings, assumed)}; or ask for {GENERIC}")


def usual_library(vendor: str, kernel: str = "") -> tuple[Library, str]:
    """Whose transfers a vendor's GPUs are taken to run where nobody says, and how that is said.

    `kernel`: of an exchange. A vendor without a library has NCCL's form of collectives, and whoever has the kernel.
    """
    able = [each for each in libraries().values() if (kernel in each.kernels.values() if kernel else each.collectives)]
    library = ([each for each in able if vendor in each.usual_on] or able)[0]
    return library, borrowed_from(library, kernel, stated=False)


def assumed_with(library: Library) -> str:
    """What would be assumed with a library, in a few words."""
    whose = "its own constants" if library.constants_of == library.name else f"constants of {library.constants_of}"
    return f"{whose}, kernels {', '.join(dict.fromkeys(library.kernels.values()))}"


def kernel_in(library: Library, text: str) -> str:
    """The kind of exchange kernel that a text of algorithms selects in a library; its default where it selects none.

    FactError where the text names a kernel that the library does not have.
    """
    written = plain(text)
    for word, kernel in library.kernels.items():
        if plain(word) in written or plain(kernel) in written:
            return kernel
    for word in libraries()[GENERIC].kernels:
        if plain(word) in written:
            has = ", ".join(library.kernels)
            raise FactError(f"library {library.name} has no {word} kernels; it has {has}; or ask for {GENERIC}")
    if library.name == GENERIC:
        raise FactError(f"algorithm {text!r} names no kernel; write one of {', '.join(library.kernels)}")
    return next(iter(library.kernels.values()))


def _post_s(library: Library, kernel: str) -> float | None:
    record = comm_records("libraries").get(f"post_s[{library.name},{kernel}]")
    return None if record is None else float(record["value"])


def carried_by(work: ExpertExchange, library: Library) -> ExpertExchange:
    """The exchange as this library runs it: its own constants before those of the kernel's form."""
    post_s = _post_s(library, work.kernel)
    return work if post_s is None else replace(work, copy_s=post_s)


def borrowed_from(library: Library, kernel: str = "", stated: bool = True) -> str:
    """What is assumed about a library that was not stated, or whose constants are another's; else "".

    `kernel`: of an exchange, "" of a collective.
    """
    if library.name == GENERIC:
        return f"library = {GENERIC} (asked for): constants of whoever the {kernel or 'collective'} was fitted on"
    name = f"library = {library.name}" + ("" if stated else " (not stated)")
    if library.constants_of == library.name:
        return "" if stated else name
    own = ", a CPU that posts messages besides" if kernel and _post_s(library, kernel) is not None else ""
    return f"{name}: constants of {library.constants_of}{own} ({library.rows})"
