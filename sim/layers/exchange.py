"""The one builder of an expert exchange: which kernel carries tokens to experts and back, and what each of them weighs.

Three callers ask for the same transfer by three sets of rules, kept as they grew so that no answer moves:

                      training                   serving                      one transfer by itself
    kernel            of the stack's dispatcher  of the phase and the place   few tokens: low latency, else normal
    copies of a token per expert: all_to_all     per expert: low_latency      per rank or domain, whatever the kernel
    8 bits weigh      with their block scales    1.03 bytes, 4 bits as well   with the scales of each format
    16 bits weigh     2 bytes, 4 in runs in fp32 2 bytes                      2 bytes
    results return    in 16 bits                 in 16 bits                   as the kernel sends them
    cost of scales    never counted              there and back               where the format that travels has them
    SMs               fitted, by dispatcher      as many as it needs          as asked, else the library's default
    experts in all    not told to the kernel     told                         told
    copies from       closed form, even choice   closed form, even choice     sampled routing
    imbalance         rows of the busiest rank   rows of the busiest rank     load of the busiest link

Measured rows follow those of one transfer, but count scales by the format of the dispatch. Wherever two columns differ
one of them is wrong, or both are: the clock, which runs all three as flows on links, has to settle them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from moesim.hwmodels.exchange_kernels import DEFAULT_SMS, sent_dtype
from moesim.hwmodels.gpu import bytes_per_element, token_bytes, token_dtypes
from moesim.hwmodels.work import ExpertExchange, Group
from moesim.sim.software.dispatchers import DISPATCHERS

Stage = Literal["prepare", "dispatch", "combine"]
STAGES: tuple[Stage, Stage] = ("dispatch", "combine")  # there and back; some kernels prepare first
_PLAIN = ("bf16", "fp16", "w8a16")  # tokens travel in 16 bits, without scales; w8a16: only weights are narrow
_HALF_BYTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeRules:
    """How one kind of caller turns tokens for experts into a transfer: a column of the table above."""

    kernels: Mapping[str, str]  # by the caller's own word; a word that is not here names the kernel itself
    per_expert: frozenset[str] = frozenset()  # kernels priced with a copy per expert, not one per rank or domain
    element_bytes: Mapping[str, float]  # of formats with scales; 16 bits weigh what the tokens say
    results: Literal["16 bits", "by kernel"]  # format of what travels back
    scales: Literal["ignored", "dispatched", "travelling"]  # the format that decides whether scales cost time
    sms: Mapping[str, int] = field(default_factory=dict)  # by kernel, where the caller gives none
    tell_experts: bool  # whether the kernel's form may depend on how many experts there are

    def kernel(self, word: str) -> str:
        """The kernel that this caller means by `word`."""
        return self.kernels.get(word, word)


TRAINING = ExchangeRules(
    kernels={word: dispatcher.kernel for word, dispatcher in DISPATCHERS.items()},
    per_expert=frozenset({"all_to_all"}),
    element_bytes={"fp8_block": bytes_per_element("fp8_block")},
    results="16 bits",
    scales="ignored",
    tell_experts=False,
)
SERVING = ExchangeRules(
    # "gather" is no exchange: all ranks receive all tokens
    kernels={"prompts": "normal", "tokens": "low_latency", "one host": "gather", "one domain": "one_sided"},
    per_expert=frozenset({"low_latency"}),
    element_bytes=dict.fromkeys(("fp8", "fp8_block", "mxfp8", "int8", "nvfp4", "mxfp4", "int4"), 1.03),
    results="16 bits",
    scales="dispatched",
    tell_experts=True,
)
ONE_TRANSFER = ExchangeRules(
    kernels={"few tokens": "low_latency", "many tokens": "normal"},
    element_bytes={dtype: token_bytes(1.0, dtype) for dtype in token_dtypes()},
    results="by kernel",
    scales="travelling",
    sms={"normal": DEFAULT_SMS},
    tell_experts=True,
)
MEASURED = replace(ONE_TRANSFER, scales="dispatched")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertTokens:
    """What one rank sends to the experts of its group: how many tokens, how wide, in which format, how far."""

    tokens: float
    top_k: int
    experts: int
    width: int  # elements of one token's vector
    dtype: str  # on the way to the experts
    plain_bytes: float = _HALF_BYTES  # of an element in the format called "bf16": 4 in a run in fp32
    group: Group
    kernel: str
    sms: int = 0  # given to the kernel; 0: as the rules say
    node_copies: float = 1.0  # distinct domains that one token reaches
    rank_copies: float = 1.0  # distinct ranks that one token reaches
    imbalance: float = 1.0  # busiest over mean
    low_precision: bool = False  # a combine that quantises what it sends
    host_call: bool = False  # the framework's call around the kernel is part of the time
    nic_share: float = 1.0  # what the library keeps of the kernel's own rate, on this fabric inside a step
    copy_s: float = 0.0  # of a CPU that posts messages, per copy that leaves a domain


def _sent_dtype(rules: ExchangeRules, stage: Stage, sent: ExpertTokens) -> str:
    if rules.results == "by kernel":
        return sent_dtype(stage, sent.kernel, sent.dtype, sent.low_precision)
    return "bf16" if stage == "combine" else sent.dtype


def payload_bytes(rules: ExchangeRules, stage: Stage, sent: ExpertTokens) -> float:
    """Bytes of one token's vector in this stage. KeyError for a format that the rules give no weight."""
    dtype = _sent_dtype(rules, stage, sent)
    return sent.width * (sent.plain_bytes if dtype in _PLAIN else rules.element_bytes[dtype])


def expert_exchange(rules: ExchangeRules, stage: Stage, sent: ExpertTokens) -> ExpertExchange:
    """The transfer of `sent` in one stage. KeyError for a format that the rules give no weight."""
    scaled = {
        "ignored": False,
        "dispatched": sent.dtype not in _PLAIN,
        "travelling": _sent_dtype(rules, stage, sent) not in _PLAIN,
    }
    return ExpertExchange(
        stage=stage,
        tokens=sent.tokens,
        top_k=sent.top_k,
        payload_bytes=payload_bytes(rules, stage, sent),
        group=sent.group,
        node_copies=sent.node_copies,
        rank_copies=sent.rank_copies,
        deduplicated=sent.kernel not in rules.per_expert,
        imbalance=sent.imbalance,
        kernel=sent.kernel,
        sms=sent.sms or rules.sms.get(sent.kernel, 0),
        experts=sent.experts if rules.tell_experts else 0,
        low_precision=sent.low_precision,
        scaled=scaled[rules.scales],
        host_call=sent.host_call,
        nic_share=sent.nic_share,
        copy_s=sent.copy_s,
    )


MOST_RANKS = 64  # up to which an exchange is shown rank by rank, beyond it domain by domain


def exchange_matrix(work: ExpertExchange, rank_rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Bytes of one stage from each rank of a group (row) to each other (column), for the rows that each computes.

    rank_rows [ranks]: token-expert pairs of the whole group, by the rank that computes them. A rank's tokens are a fair
    sample of its group's, so senders are alike and columns differ; what stays on its rank, or in its domain, is on the
    diagonal. Kernels that send a token once to a rank send as many copies as an even choice makes. [ranks, ranks], or
    [domains, domains] for more than 64 ranks that fill their domains evenly.
    """
    ranks, domains = len(rank_rows), work.group.domains
    copies = work.rank_copies / work.top_k if work.deduplicated else 1.0
    each = np.tile(rank_rows * copies * work.payload_bytes / ranks, (ranks, 1))
    return each if ranks <= MOST_RANKS or ranks % domains else by_domain(each, domains)


def by_domain(each: npt.NDArray[np.float64], domains: int) -> npt.NDArray[np.float64]:
    """A matrix between ranks as one between the domains that they fill evenly [domains, domains]."""
    per = len(each) // domains
    return np.asarray(each.reshape(domains, per, domains, per).sum(axis=(1, 3)))
