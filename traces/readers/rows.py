"""Rows: what every reader collects, request by request, and how they become Requests that start at zero."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

from moesim.traces.requests import Chains, Requests, seen_before
from moesim.traces.routing import BadTrace

MOST = 1e12  # of a time in seconds or a number of tokens; more is a mistake
FORMS = (
    "CSV with columns arrival_s,input_tokens,output_tokens[,prefix]; Azure LLM inference CSV "
    "(TIMESTAMP,ContextTokens,GeneratedTokens); BurstGPT CSV (Timestamp,Request tokens,Response tokens); "
    "Mooncake JSONL (timestamp in ms,input_length,output_length,hash_ids); "
    "Bailian JSONL (the same with chat_id, timestamp in s); ShareGPT JSON (conversations); each also as .gz"
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Requests of a file, and what was left out or assumed to read them."""

    requests: Requests
    said: tuple[str, ...] = ()


@dataclass(slots=True)
class Rows:
    """Columns in the order of the file. `hashes`: keys of equal blocks of each prompt, where the file has them."""

    times_s: list[float] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    prefixes: list[int] = field(default_factory=list)
    hashes: list[tuple[int, ...]] = field(default_factory=list)
    unanswered: int = 0  # rows without an answer: failures, left out
    said: list[str] = field(default_factory=list)


def tokens_of(value: object, place: str, column: str) -> int:
    """A whole number of tokens of at least zero, as text or number; zero for what is empty. BadTrace otherwise."""
    if value is None or value == "":
        return 0
    try:
        number = float("nan") if isinstance(value, bool) else float(value)  # type: ignore[arg-type]  # caught
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not isfinite(number) or number < 0 or number > MOST or number != int(number):
        raise BadTrace(f"{place}: {column} is {shown(value)}; it must be a whole number of tokens from 0 to 1e12")
    return int(number)


def prompt_of(value: object, place: str, column: str) -> int:
    """Tokens of a prompt: at least one. BadTrace otherwise."""
    tokens = tokens_of(value, place, column)
    if tokens < 1:
        raise BadTrace(
            f"{place}: {column} is {shown(value)}; a prompt has at least one token, so mend or drop the line"
        )
    return tokens


def shown(value: object) -> str:
    """What was found: a number as it is, of everything else only what it is, for the file may be of somebody else."""
    kind = _KINDS.get(type(value))
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return "text"
        text = value.strip()
    else:
        text = kind or _digits(value)
    return text if len(text) <= 40 else text[:37] + "..."


_KINDS = {bool: "true or false", list: "a list", dict: "a mapping", type(None): "nothing"}


def _digits(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # whole numbers with thousands of digits have no text
        return "a very long number"


def loaded(rows: Rows, name: str, block_tokens: int = 0) -> Loaded:
    """Requests sorted by arrival, the first at zero; hashes of blocks of `block_tokens` become chains and prefixes."""
    if not rows.times_s:
        left = f": all {rows.unanswered:,} rows lack an answer" if rows.unanswered else ""
        raise BadTrace(f"trace {name} holds no requests{left}; it needs at least one line with output tokens")
    said = list(rows.said)
    if rows.unanswered:
        said.append(f"trace: rows without output tokens are failures; left out: {rows.unanswered:,}")
    order = sorted(range(len(rows.times_s)), key=rows.times_s.__getitem__)
    begin = rows.times_s[order[0]]
    arrivals = tuple(rows.times_s[i] - begin for i in order)
    inputs = tuple(rows.inputs[i] for i in order)
    outputs = tuple(rows.outputs[i] for i in order)
    if not rows.hashes:
        prefix = tuple(min(rows.prefixes[i], rows.inputs[i]) for i in order) if rows.prefixes else (0,) * len(order)
        return Loaded(Requests(arrivals, inputs, outputs, prefix), tuple(said))
    hashes = [rows.hashes[i] for i in order]
    chains, from_chains = _chains(hashes, inputs, block_tokens)
    prefix = seen_before(chains, inputs)
    said += from_chains
    return Loaded(Requests(arrivals, inputs, outputs, prefix, chains), tuple(said))


def _chains(hashes: list[tuple[int, ...]], inputs: tuple[int, ...], block_tokens: int) -> tuple[Chains, list[str]]:
    """Pieces of every prompt; one piece of its own stands for what lies beyond the hashes, where they end early."""
    known: dict[tuple[int, int], tuple[int, ...]] = {}  # most prompts of a length share their ends
    keys, ends, short = [], [], 0
    for i, (named, tokens) in enumerate(zip(hashes, inputs, strict=True)):
        full = len(named) * block_tokens
        if full < tokens:
            short += 1
            keys.append((*named, -1 - i))
        else:
            keys.append(named)
        shape = (len(named), tokens)
        if shape not in known:
            blocks = tuple(min(n * block_tokens, tokens) for n in range(1, len(named) + 1))
            known[shape] = (*blocks, tokens) if full < tokens else blocks
        ends.append(known[shape])
    lack = f"trace: hash_ids end before the prompt, and what is beyond counts as new, in requests: {short:,}"
    return Chains(tuple(keys), tuple(ends)), [lack] if short else []
