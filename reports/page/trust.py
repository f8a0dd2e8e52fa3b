"""How far to trust the answer: where every second comes from, and what was assumed."""

from __future__ import annotations

from collections.abc import Mapping

from moesim.hwmodels.interval import Sureness
from moesim.reports.figures.palette import PHASES
from moesim.reports.page.section import Section
from moesim.reports.text import seconds

# kinds of evidence, surest first, with a colour and what they mean
EVIDENCE = {
    "measured": (PHASES["F"], "fits to kernels or transfers measured on this GPU or network"),
    "derived": ("#56B4E9", "fits to measurements of the nearest relative, scaled by data sheets"),
    "roofline": (PHASES["B"], "data sheet only"),
    "assumed": ("#BDBDBD", "a guess, named as one"),
}


def kind_of(source: str) -> str:
    """Which kind of evidence a source of seconds is."""
    head = source.partition(":")[0].strip()
    if head.startswith("derived"):
        return "derived"
    if head in ("assumed", "roofline"):
        return head
    return "measured"


def sureness_section(sure: Mapping[str, Sureness]) -> Section:
    """How wide the 90 % interval of each number (by title) is, what makes it so, and what would narrow it."""
    rows = [
        {
            "title": title,
            "reach": of.width.reach(),
            "why": [(reason, share) for reason, share in sorted(of.parts.items(), key=lambda kv: -kv[1])],
            "note": of.note,
        }
        for title, of in sure.items()
    ]
    widest = max(sure.values(), key=lambda of: of.width.square)
    reaches = "; ".join(f"{row['title']} {row['reach']}" for row in rows)
    lead = f"Nine of ten measured values are meant to lie within: {reaches}. Narrower with {widest.narrower}."
    return Section(
        "sureness", "How sure it is", lead, {title: of.to_dict() for title, of in sure.items()}, {"rows": rows}
    )


def sources_section(sources: Mapping[str, float], unit_s: float | None) -> Section:
    """Everything priced by evidence. `sources`: share by source; `unit_s`: seconds that they share, where known."""
    shares = dict.fromkeys(EVIDENCE, 0.0)
    for name, share in sources.items():
        shares[kind_of(name)] += share
    rows = [
        {
            "title": name.partition(": ")[2] or name,
            "kind": kind_of(name),
            "colour": EVIDENCE[kind_of(name)][0],
            "width": share,
            "value": f"{share:.1%}" + (f", {seconds(share * unit_s)}" if unit_s else ""),
        }
        for name, share in sorted(sources.items(), key=lambda kv: -kv[1])
    ]
    strip = [(k, EVIDENCE[k][0], share) for k, share in shares.items() if share > 0.0]
    legend = [(f"{k}: {EVIDENCE[k][1]}", EVIDENCE[k][0]) for k, _, _ in strip]
    what = "the priced time" if unit_s else "the kernels and transfers that were priced"
    lead = (
        f"{shares['measured']:.0%} of {what} rests on kernels or transfers measured on such hardware, "
        f"{shares['derived']:.0%} on a relative's, {shares['roofline']:.0%} on data sheets, "
        f"{shares['assumed']:.0%} on guesses."
    )
    return Section("sources", "Where every second comes from", lead, {"sources": dict(sources), "kinds": shares},
                   {"rows": rows, "strip": strip, "legend": legend})  # fmt: skip


def assumptions_section(assumptions: tuple[str, ...]) -> Section:
    """What the question left open, and the constants that rest on a guess."""
    constants = [a for a in assumptions if a.startswith("constant ")]
    meant = [a for a in assumptions if "what auto means" in a]
    defaults = [a for a in assumptions if "(default of" in a]
    other = [a for a in assumptions if a not in (*constants, *meant, *defaults)]
    groups = [
        ("not stated, so decided here", [*other, *meant]),
        ("defaults of the software", defaults),
        ("constants without a fit", [a.removeprefix("constant ").removesuffix(" (assumed)") for a in constants]),
    ]
    lead = (
        f"{len(other) + len(meant)} things the scenario leaves open were decided here; {len(defaults)} settings are "
        f"the software's defaults, {len(constants)} constants are guesses."
    )
    return Section("assumptions", "What was assumed", lead, {"assumptions": list(assumptions)},
                   {"groups": [g for g in groups if g[1]]})  # fmt: skip
