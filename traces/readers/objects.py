"""JSON: a request a line (Mooncake, Bailian, our own records), or ShareGPT's list of conversations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from moesim.traces.readers.rows import FORMS, Loaded, Rows, loaded, prompt_of, shown, tokens_of
from moesim.traces.readers.times import TimeReader, counted, reader_of_times
from moesim.traces.routing import BadTrace

CHARACTERS = 4.0  # assumed: of English text per token of today's vocabularies
# what the ShareGPT data set of vLLM's benchmark leaves out (vllm/benchmarks/datasets: prompt, prompt and answer)
_LONGEST_PROMPT, _LONGEST_PAIR = 1024, 2048
_BLOCKS = {"mooncake": 512, "bailian": 16}  # tokens of a block of hash_ids, as their makers say


def read_lines(lines: Iterable[str], name: str) -> Loaded:
    """Requests of a file with a JSON object on every line."""
    return _requests(_parsed(lines, name), name)


def _parsed(lines: Iterable[str], name: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines, 1):
        if line and not line.isspace():
            yield f"trace {name}, line {number}", parsed(line, f"trace {name}, line {number}")


def parsed(text: str, place: str) -> Any:
    """JSON, or BadTrace that says where it ends to be some."""
    try:
        return json.loads(text)
    except RecursionError:
        raise BadTrace(f"{place}: is nested too deep to be a trace; moesim reads: {FORMS}") from None
    except ValueError as error:  # JSON's own, and numbers of thousands of digits
        raise BadTrace(f"{place}: not JSON ({str(error)[:80]}); moesim reads: {FORMS}") from None


def read_list(text: str, name: str) -> Loaded:
    """Requests of a file that is one JSON list: conversations, or objects as on the lines of the other files."""
    entries = parsed(text, f"trace {name}")
    if not entries:
        raise BadTrace(f"trace {name} holds no requests: its list is empty; moesim reads: {FORMS}")
    if isinstance(entries[0], dict) and "conversations" in entries[0]:
        return _conversations(entries, name)
    return _requests(((f"trace {name}, entry {i}", entry) for i, entry in enumerate(entries, 1)), name)


def _requests(entries: Iterator[tuple[str, Any]], name: str) -> Loaded:
    rows, form, hashed, surplus = Rows(), "", False, 0
    time = inputs = outputs = ""
    read_time: TimeReader | None = None
    for place, entry in entries:
        if not isinstance(entry, dict):
            raise BadTrace(f"{place}: {shown(entry)} is no JSON object; moesim reads: {FORMS}")
        if read_time is None:
            form = _form_of(entry, place)
            time, inputs, outputs = _COLUMNS["own" if form == "own" else "published"]
            read_time, rows.said = _time_reader(form, entry.get(time), place)
            hashed = form != "own" and "hash_ids" in entry
        _check(entry, (time, inputs, "hash_ids") if hashed else (time, inputs), place)
        time_s, prompt = read_time(entry[time], place), prompt_of(entry[inputs], place, inputs)
        answer = tokens_of(entry.get(outputs), place, outputs)
        if answer < 1:
            rows.unanswered += 1
            continue
        rows.times_s.append(time_s)
        rows.inputs.append(prompt)
        rows.outputs.append(answer)
        if hashed:
            rows.hashes.append(_hashes(entry["hash_ids"], prompt, _BLOCKS[form], place))
            surplus += len(entry["hash_ids"]) > len(rows.hashes[-1])
        elif form == "own":
            rows.prefixes.append(tokens_of(entry.get("prefix"), place, "prefix"))
    if surplus:
        rows.said.append(f"trace: hash_ids go on beyond the prompt, and those are left out, in requests: {surplus:,}")
    return loaded(rows, name, _BLOCKS.get(form, 0))


_COLUMNS = {
    "own": ("arrival_s", "input_tokens", "output_tokens"),
    "published": ("timestamp", "input_length", "output_length"),
}


def _form_of(entry: dict[str, Any], place: str) -> str:
    """own, mooncake or bailian, by the keys of the first object. BadTrace names the keys that the nearest lacks."""
    kind = max(_COLUMNS, key=lambda kind: sum(key in entry for key in _COLUMNS[kind]))
    if not any(key in entry for key in _COLUMNS[kind]):
        found = ", ".join(map(str, entry))[:80] or "nothing"
        raise BadTrace(f"{place}: its keys ({found}) are those of no trace that is known; moesim reads: {FORMS}")
    _check(entry, _COLUMNS[kind], place)
    if kind == "own":
        return "own"
    return "bailian" if "chat_id" in entry or "parent_chat_id" in entry else "mooncake"


def _check(entry: dict[str, Any], needed: tuple[str, ...], place: str) -> None:
    missing = [key for key in needed if key not in entry]
    if missing:
        found = ", ".join(map(str, entry))[:80] or "nothing"
        raise BadTrace(f"{place}: lacks {', '.join(missing)}; it has {found}. moesim reads: {FORMS}")


def _time_reader(form: str, first: object, place: str) -> tuple[TimeReader, list[str]]:
    if form == "own":
        return counted("arrival_s", 1.0), []
    if isinstance(first, str) or form == "bailian":
        return reader_of_times(first, "timestamp", place)
    return counted("timestamp", 1e-3), ["trace: timestamp is taken as milliseconds, as Mooncake's traces have it"]


def _hashes(value: object, tokens: int, block: int, place: str) -> tuple[int, ...]:
    """Keys of the blocks of a prompt, none beyond its end. BadTrace for anything but whole numbers of at least 0."""
    if not isinstance(value, list) or not all(type(key) is int and key >= 0 for key in value):
        raise BadTrace(
            f"{place}: hash_ids is {shown(value)}; it must be a list of whole numbers, one a block of {block}"
        )
    return tuple(value[: -(-tokens // block)])


def _conversations(entries: list[Any], name: str) -> Loaded:
    """Of each conversation the first two turns, as vLLM's benchmark takes them: a prompt and its answer."""
    rows, short, long = Rows(), 0, 0
    for i, entry in enumerate(entries, 1):
        place = f"trace {name}, conversation {i}"
        turns = entry.get("conversations") if isinstance(entry, dict) else None
        if not isinstance(turns, list):
            raise BadTrace(f"{place}: has no list of conversations; ShareGPT's entries are {_SHAREGPT}")
        if len(turns) < 2:
            short += 1
            continue
        prompt, answer = (_text(turn, place) for turn in turns[:2])
        tokens, output = (max(1, round(len(text) / CHARACTERS)) if text else 0 for text in (prompt, answer))
        if not tokens or not output:
            short += 1
        elif tokens > _LONGEST_PROMPT or tokens + output > _LONGEST_PAIR:
            long += 1
        else:
            rows.times_s.append(0.0)
            rows.inputs.append(tokens)
            rows.outputs.append(output)
    rows.said = [
        "trace: of each conversation the first prompt and its answer, all at once (the file has no times)",
        f"trace: a token is {CHARACTERS:g} characters (assumed: the file holds text)",
    ]
    rows.said += [f"trace: conversations without an answer; left out: {short:,}"] if short else []
    if long:
        limits = f"a prompt above {_LONGEST_PROMPT:,} tokens, or above {_LONGEST_PAIR:,} with its answer"
        rows.said.append(f"trace: conversations that vLLM's benchmark drops ({limits}); left out: {long:,}")
    if not rows.times_s:
        raise BadTrace(
            f"trace {name} holds no requests: {short:,} of its conversations lack an answer, {long:,} are long"
        )
    return loaded(rows, name)


_SHAREGPT = '{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}'


def _text(turn: object, place: str) -> str:
    text = turn.get("value") if isinstance(turn, dict) else None
    if not isinstance(text, str):
        raise BadTrace(f"{place}: a turn is {shown(turn)}; ShareGPT's entries are {_SHAREGPT}")
    return text
