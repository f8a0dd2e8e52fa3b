"""CommQuestion: one transfer as people ask about it, on the command line or in Python, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from numbers import Integral, Real
from typing import Any

from moesim.hwmodels.facts import did_you_mean
from moesim.hwmodels.gpu import token_dtypes
from moesim.hwmodels.units import UnitError, parse_quantity
from moesim.hwmodels.work import COLLECTIVES
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.transfer.beside import Beside, parse_beside

EXCHANGES = ("moe_dispatch", "moe_combine")
MAX_RANKS = 4096  # of a collective: traffic matrices grow with the square
MAX_ROUTED_RANKS = 65536  # of an expert exchange
_MOST = 10**9  # no count that can be meant comes near


@dataclass(frozen=True, slots=True, kw_only=True)
class CommQuestion:
    """What is sent, by how many ranks, on which machines.

    A collective says `size_bytes`. An expert exchange (op moe_dispatch or moe_combine, or all_to_all with tokens) says
    `tokens` per rank, `hidden`, `top_k` and `experts` instead, and its bytes follow from routing.
    """

    node: str  # of the catalogue, or a GPU, whose usual node is taken
    op: str
    ranks: int  # one GPU each
    size_bytes: float = 0.0  # buffer of one rank
    hardware: str | Mapping[str, Any] | None = None  # a file of nodes and fabrics of one's own
    profile: str | None = (
        None  # a file of transfers measured on one's own machines: `moesim calibrate --from nccl-tests`
    )
    fabric: str | None = None  # of the catalogue; None: the node's NICs
    oversubscription: float | None = None  # of the uplinks from leaves to spines, 1 or more
    algorithm: str = "auto"  # or one to force: of a library's collective, or a kind of exchange kernel
    library: str = ""  # that carries it (hwmodels/specs/libraries.yaml), or "generic"; "": the usual one, and said so
    tokens: int = 0  # per rank
    hidden: int = 0  # elements of one token's vector
    top_k: int = 0  # experts per token
    experts: int = 0  # in all
    groups: int = 1  # of experts, of a group-limited router
    top_groups: int = 0  # 0: four, as DeepSeek's routers, or all where there are fewer
    dtype: str = "bf16"  # of the vectors
    sigma: float = 0.0  # of the lognormal popularity of experts; 0: all alike
    seed: int = 0  # of the sampled routing
    sms: int = 0  # given to the kernel; 0: the library's default
    ecmp: bool = False  # fabric links picked by a hash per pair of NICs; else adaptive routing spreads evenly
    beside: tuple[Beside, ...] = ()  # other collectives at the same time
    degrade: tuple[str, ...] = ()  # links at a share of their rate, "nic3 -> leaf3=0.5"; 0: dead

    @property
    def routed(self) -> bool:
        """True when volumes come from routing tokens to experts."""
        return self.tokens > 0 or self.op in EXCHANGES


_ROUTING = {
    "hidden": 0,
    "top_k": 0,
    "experts": 0,
    "groups": 1,
    "top_groups": 0,
    "dtype": "bf16",
    "sigma": 0.0,
    "sms": 0,
}
_MAX_SIGMA = 5.0  # of a lognormal popularity: beyond it one expert takes everything


# what a key may hold, by its annotation
_FORMS: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a text"),
    "str | None": ((str, type(None)), "a text"),
    "str | Mapping[str, Any] | None": ((str, Mapping, type(None)), "a file's path or a mapping"),
    "int": ((Integral,), "a whole number"),
    "float": ((Real,), "a number"),
    "float | None": ((Real, type(None)), "a number"),
    "bool": ((bool,), "true or false"),
    "tuple[str, ...]": ((list, tuple), "a list of LINK=FACTOR"),
    "tuple[Beside, ...]": ((list, tuple), "a list of OP:BYTES:RANKS or OP:BYTES:RANKS:STRIDE"),
}


def comm_question(asked: CommQuestion | Mapping[str, Any]) -> CommQuestion:
    """A checked question from a record or a mapping. ScenarioError with one line that names the key otherwise."""
    if isinstance(asked, CommQuestion):
        values = {f.name: getattr(asked, f.name) for f in fields(CommQuestion)}
    elif isinstance(asked, Mapping):
        values = dict(asked)
    else:
        raise ScenarioError(f"a question about a transfer is a mapping or a CommQuestion, not {type(asked).__name__}")
    known = {f.name: f for f in fields(CommQuestion)}
    for key in values:
        if key not in known:
            raise ScenarioError(f"unknown key {str(key)[:80]!r}; {did_you_mean(str(key)[:80], list(known))}")
    for name, field in known.items():
        if name not in values:
            if field.default is MISSING:
                raise ScenarioError(f"{name} is missing")
            continue
        values[name] = _formed(name, str(field.type), values[name])
    question = CommQuestion(**values)
    _check(question)
    return question


def _formed(name: str, annotation: str, value: Any) -> Any:
    """The value in the form that its key holds; sizes may carry units, and neighbours be texts."""
    if name == "size_bytes" and isinstance(value, str):
        try:
            return parse_quantity(value, "B")
        except UnitError as error:
            raise ScenarioError(f"{name}: {error}") from None
    types, form = _FORMS[annotation]
    if not isinstance(value, types) or (isinstance(value, bool) and annotation != "bool"):
        raise ScenarioError(f"{name} must be {form}, not {type(value).__name__}")
    if name == "degrade":
        return _texts(name, form, value)
    return _neighbours(name, form, value) if name == "beside" else value


def _texts(name: str, form: str, given: Any) -> tuple[str, ...]:
    for text in given:
        if not isinstance(text, str):
            raise ScenarioError(f"{name} must be {form}; one of them is of type {type(text).__name__}")
    return tuple(given)


def _neighbours(name: str, form: str, given: Any) -> tuple[Beside, ...]:
    for other in given:
        if not isinstance(other, str | Beside):
            raise ScenarioError(f"{name} must be {form}; one of them is of type {type(other).__name__}")
    return tuple(other if isinstance(other, Beside) else parse_beside(other) for other in given)


def _check(q: CommQuestion) -> None:
    if q.op not in (*COLLECTIVES, *EXCHANGES):
        raise ScenarioError(f"op={q.op!r} is not known; {did_you_mean(q.op, [*COLLECTIVES, *EXCHANGES])}")
    most = MAX_ROUTED_RANKS if q.routed and not (q.ecmp or q.beside) else MAX_RANKS
    if not 2 <= q.ranks <= most:
        raise ScenarioError(f"ranks={q.ranks} must be between 2 and {most}")
    for other in q.beside:
        if other.ranks * other.stride > MAX_RANKS:
            raise ScenarioError(f"beside: {other.ranks} GPUs {other.stride} apart are more than {MAX_RANKS} in all")
    if q.oversubscription is not None and not 1.0 <= q.oversubscription < float("inf"):
        raise ScenarioError(f"oversubscription={q.oversubscription} must be 1 or more, for example 2 for 2:1")
    if q.routed:
        _check_routing(q)
        return
    if not 0 < q.size_bytes < float("inf"):
        raise ScenarioError(f"{q.op} needs bytes, for example --bytes 64MiB")
    idle = [name.replace("_", "-") for name, default in _ROUTING.items() if getattr(q, name) != default]
    if idle:
        raise ScenarioError(f"a {q.op} of bytes routes no tokens: drop {', '.join(idle)}, or give tokens")


def _check_routing(q: CommQuestion) -> None:
    if q.op not in ("all_to_all", *EXCHANGES):
        raise ScenarioError(f"{q.op} does not route tokens: give bytes, or use op all_to_all or moe_dispatch")
    if q.size_bytes:
        raise ScenarioError("bytes follow from tokens, hidden and dtype: give either bytes or tokens")
    for name, least in (
        ("tokens", 1),
        ("hidden", 1),
        ("top_k", 1),
        ("experts", 1),
        ("groups", 1),
        ("seed", 0),
        ("sms", 0),
    ):
        if not least <= getattr(q, name) <= _MOST:
            raise ScenarioError(f"{name.replace('_', '-')}={getattr(q, name)} must be between {least} and {_MOST}")
    if not 0.0 <= q.sigma <= _MAX_SIGMA:
        raise ScenarioError(f"skew={q.sigma} must be between 0 (experts alike) and {_MAX_SIGMA:g}")
    if q.dtype not in token_dtypes():
        raise ScenarioError(f"dtype={q.dtype!r} is not known; {did_you_mean(q.dtype, list(token_dtypes()))}")
    if not 0 <= q.top_groups <= q.groups:
        raise ScenarioError(f"top-groups={q.top_groups} must be between 1 and groups={q.groups}")
