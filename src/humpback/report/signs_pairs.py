"""Signs of failure in instructions, scores and curation: is what is written to the point, and is what judges it to be believed?

In: the report's data. Out: a `Sign` each. Limits that a recipe may move (those of the gate) are looked at as they are by default: a
run that was let through by a moved limit still shows what it let through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from humpback.evaluation.candidates import COLLAPSED_BITS, SHIFTED
from humpback.evaluation.gate import MIN_JUDGED, is_beyond, limit_of
from humpback.evaluation.signals import SIGNALS
from humpback.evaluation.signs import Sign, State, worst_state
from humpback.recipe import GateSettings

__all__ = [
    "all_kept",
    "audit_unlike_candidates",
    "instructions_alike",
    "instructions_nonsense",
    "instructions_off_topic",
    "judge_worsens",
    "precision_falls",
    "ratings_unparsed",
    "scores_collapse",
    "signal_is_a_coin",
]

Row = Mapping[str, Any]
Look = tuple[State, str]

MAX_FALL = 0.05
"""Fall of AUC or of precision that has to be ruled out before a sign counts as not found: one more bad pair among twenty kept."""
COIN = 0.5
"""AUC of a signal that knows nothing."""
MIN_AUC = 0.6
"""Least AUC worth curating by. METHOD: a rubric that reached 0.55 was blind, a probe of 0.63 on a kind it never saw was not."""
MAX_UNPARSED = 0.1
"""Share of the candidates without a rating. A full replication lost 45 to 67 % of its ratings and got worse (METHOD); from a tenth on,
which pairs pass depends on whose rating could be read as much as on what it said."""
MAX_KEPT = 0.95
"""Share of the candidates kept. The paper's loosest curation, A_4, keeps 39 %; what keeps nearly all leaves the data uncurated, which
it found flat or worse with size."""


def _sign(name: str, what: str, looks: Sequence[Look], limit: str, cure: str, *, unchecked: str, get: str = "") -> Sign:
    """Return the sign that several looks come to; `get` is what to do to have it checked."""
    state = worst_state([state for state, _ in looks])
    return Sign(
        name=name,
        what=what,
        state=state,
        told="; ".join(told for _, told in looks) or unchecked,
        limit=limit,
        advice="" if state == "not found" else cure if state == "found" else get,
    )


# -- instructions ------------------------------------------------------------------------------------------------------


def instructions_off_topic(data: Row) -> Sign:
    """The backward model's instructions do not depend on their text, or are in another language."""
    return _gate_sign(
        data, "instructions_off_topic", "instructions are off the topic of their text", ("lift_auc", "other_language")
    )


def instructions_nonsense(data: Row) -> Sign:
    """They are no instructions."""
    names = ("echo", "copy", "empty", "cut", "duplicate", "no_request", "distinct")
    return _gate_sign(data, "instructions_nonsense", "instructions are nonsense, copied or all the same", names)


def _gate_sign(data: Row, name: str, what: str, measures: Sequence[str]) -> Sign:
    limits = [limit_of(measure, GateSettings()) for measure in measures]
    return _sign(
        name,
        what,
        [_look_at(row) for row in (data["gate"] or {"measures": []})["measures"] if row["name"] in measures],
        "the whole interval lies beyond the gate's default: " + ", ".join(f"{key} {value:g}" for key, value in limits),
        "train the backward model longer (train.epochs, train.learning_rate) or on more and more varied seed pairs; its drafts are in "
        "backward/gate/gate.json",
        unchecked="gate.segments=0 leaves the gate out",
        get="let the backward model write for more segments in its gate (gate.segments, a larger corpus)",
    )


def _look_at(measure: Row) -> Look:
    if measure["value"] is None or measure["n"] < MIN_JUDGED:
        return "not checked", f"{measure['name']}: {measure['n']} drafts can be judged, {MIN_JUDGED} are needed"
    _, limit = limit_of(measure["name"], GateSettings())
    bounds = "" if measure["low"] is None else f" ({measure['low']:.2f} to {measure['high']:.2f})"
    told = f"{measure['name']} {measure['value']:.2f}{bounds}"
    if is_beyond(measure, GateSettings()):
        return "found", f"{told} is beyond {limit:g}"
    over = measure["value"] < limit if measure["side"] == "at least" else measure["value"] > limit
    return ("cannot tell", f"{told} is beyond {limit:g}, though not surely") if over else ("not found", told)


def instructions_alike(data: Row) -> Sign:
    """What is curated asks the same things over and over."""
    gate = GateSettings()

    def look(row: Row) -> Look:
        requests = row["as_gated"]
        if requests["distinct"] is None or requests["asking"] < MIN_JUDGED:
            return (
                "not checked",
                f"{row['model']}: {requests['asking']} instructions that ask for something, {MIN_JUDGED} are needed",
            )
        told = f"{requests['distinct']:.2f} of {requests['asking']} requests that {row['model']} learnt are different"
        return "found" if requests["distinct"] < gate.min_distinct else "not found", told

    return _sign(
        "instructions_alike",
        "curated instructions are all alike",
        [look(row) for row in data["decay"][1:]],
        f"distinct verb-object pairs are fewer than {gate.min_distinct:g} of those of at most {gate.segments} instructions, the "
        "gate's defaults",
        "curate.policy=diverse, a higher augment.temperature, or more varied documents and seed pairs",
        unchecked="nothing was curated",
        get="curate more pairs (curate.top, a larger corpus)",
    )


# -- what judges them --------------------------------------------------------------------------------------------------


def signal_is_a_coin(data: Row) -> Sign:
    """A curation went by a signal that does not tell good pairs from spoilt ones."""

    def look(curation: Row) -> Look:
        signal, audit = curation["decision"]["signal"], data["audits"][curation["iteration"] - 1]
        entry = next((entry for entry in audit["signals"] if entry["signal"] == signal), None)
        interval = entry["auc"].get("all") if entry else None
        where = f"{signal} of {curation['scored_by']}"
        if interval is None:
            return "not checked", f"{where} has no value on the held-out pairs"
        if interval["low"] is None:
            return "not checked", f"{where}: {interval['n']} held-out pairs are too few for an interval"
        told = f"{where} AUC {interval['value']:.2f} ({interval['low']:.2f} to {interval['high']:.2f})"
        if interval["low"] > COIN:
            return "not found", told
        if interval["high"] > MIN_AUC:
            return "cannot tell", f"{told}, which holds {COIN:g} and AUCs worth having"
        return "found", told

    return _sign(
        "signal_is_a_coin",
        "what curates tells good pairs from spoilt ones no better than a coin",
        [look(curation) for curation in data["curation"]],
        f"the interval of its audited AUC holds {COIN:g}, or lies below, and rules out more than {MIN_AUC:g}",
        "take another signal (curate.signal: auto takes the best), another rubric (prompts.rubric) or a larger base model",
        unchecked="nothing was curated",
        get="hold out more pairs (seed.holdout)",
    )


def judge_worsens(data: Row) -> Sign:
    """A later model tells good pairs from spoilt ones worse than M_0 by the same signal."""
    changes = data["changes"]
    return _sign(
        "judge_worsens",
        "later models judge worse",
        [_look_at_change(row["auc"], f"{row['signal']} of M_{row['iteration']} against M_0: AUC") for row in changes],
        "the whole interval of the paired change of audited AUC is below 0; all intervals hold at once",
        "end earlier (iterations: auto does so by itself), or curate by a signal that holds (curate.signal)",
        unchecked="there was no iteration",
        get="hold out more pairs (seed.holdout)",
    )


def precision_falls(data: Row) -> Sign:
    """A later curation is less precise, on the audit's pairs, than the first."""
    changes = data["changes"][1:]
    return _sign(
        "precision_falls",
        "audit precision falls over iterations",
        [_look_at_change(row["precision"], f"iteration {row['iteration']} against 1: precision") for row in changes],
        "the whole interval of the paired change of precision at the cut-off is below 0; all intervals hold at once",
        "keep fewer in later iterations (curate.top, curate.policy=precision), or end earlier (iterations: auto)",
        unchecked="one iteration has no later one",
        get="hold out more pairs (seed.holdout)" if changes else "iterations: 2, as the paper",
    )


def _look_at_change(change: Row | None, what: str) -> Look:
    if change is None:
        return "not checked", f"{what} has no value on the held-out pairs on one of both sides"
    told = f"{what} {change['value']:+.3f}"
    if change["low"] is None:
        return "not checked", f"{told}; {change['n']} held-out pairs are too few for an interval"
    told = f"{told} ({change['low']:+.3f} to {change['high']:+.3f})"
    if change["high"] < 0:
        return "found", told
    if change["low"] < -MAX_FALL:
        return "cannot tell", f"{told}; a fall of {MAX_FALL:g} is not ruled out"
    return "not found", told


def ratings_unparsed(data: Row) -> Sign:
    """The model gives no rating that can be read."""
    return _sign(
        "ratings_unparsed",
        "ratings cannot be read",
        [look for curation in data["curation"] for look in _look_at_ratings(curation)],
        f"more than {MAX_UNPARSED:.0%} of the candidates have none, engine failures aside",
        "take another rubric (prompts.rubric), raise model.max_tokens where pairs are too long, or curate by another signal",
        unchecked="no rating is among score.signals",
    )


def _look_at_ratings(curation: Row) -> Iterator[Look]:
    scores = curation["scores"]
    for name, given in scores["with_value"].items():
        if not SIGNALS[name].has_scale:
            continue
        asked = given + scores["unparsed"][name]
        where = f"{name} of {curation['scored_by']}"
        if asked < MIN_JUDGED:
            yield "not checked", f"{where}: {asked} candidates were asked about, {MIN_JUDGED} are needed"
            continue
        share = scores["unparsed"][name] / asked
        why = scores.get("not_given", {}).get(
            name, {}
        )  # candidates that were scored before reasons were counted have none
        reasons = ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in why.items() if n)
        told = f"{where}: {share:.1%} of {asked:,} without a rating" + (f" ({reasons})" if reasons else "")
        yield "found" if share > MAX_UNPARSED else "not found", told


def scores_collapse(data: Row) -> Sign:
    """A signal says the same of nearly all candidates."""

    def look(curation: Row, name: str, entropy: Row) -> Look:
        where = f"{name} of {curation['scored_by']}" + (
            ", which curates" if name == curation["decision"]["signal"] else ""
        )
        if entropy["n"] < MIN_JUDGED:
            return "not checked", f"{where}: {entropy['n']} scores, {MIN_JUDGED} are needed"
        return "found" if entropy["collapsed"] else "not found", f"{where}: {entropy['bits']:.2f} bits"

    return _sign(
        "scores_collapse",
        "scores collapse into one value",
        [look(c, name, entropy) for c in data["curation"] for name, entropy in c["scores"]["entropy"].items()],
        f"less than {COLLAPSED_BITS:g} bits over ten bins that hold the audit's scores evenly (3.3 bits)",
        "take another rubric (prompts.rubric), curate by a signal that has not collapsed, or use a larger base model",
        unchecked="no candidate has a score",
        get="score more candidates",
    )


def audit_unlike_candidates(data: Row) -> Sign:
    """What was measured on seed-like pairs need not hold for the candidates."""

    def look(curation: Row) -> Look:
        shift, where = curation["scores"]["shift"], f"iteration {curation['iteration']}"
        if shift is None:
            return "not checked", f"{where}: there is no P(good)"
        if shift["auc"] is None:
            return "not checked", f"{where}: too few rows"
        return "found" if shift["auc"] >= SHIFTED else "not found", f"{where}: AUC {shift['auc']:.2f}"

    return _sign(
        "audit_unlike_candidates",
        "candidates are unlike the pairs of the audit",
        [look(curation) for curation in data["curation"]],
        f"a classifier by the scores tells candidates from audit pairs with an AUC of {SHIFTED:g} or more",
        "judge some candidates (humpback label) and let that correct P(good) (curate.labels); take seed pairs more like the documents",
        unchecked="nothing was curated",
        get="hold out more pairs (seed.holdout), so that P(good) can be learnt",
    )


def all_kept(data: Row) -> Sign:
    """Curation that curates nothing."""

    def look(row: Row) -> Look:
        return "found" if row["kept"] > MAX_KEPT else "not found", f"{row['kept']:.1%} kept for {row['model']}"

    return _sign(
        "all_kept",
        "curation keeps nearly everything",
        [look(row) for row in data["decay"][1:]],
        f"more than {MAX_KEPT:.0%} of the candidates are kept",
        "raise curate.threshold, lower curate.top, or promise a precision (curate.policy=precision)",
        unchecked="nothing was curated",
    )
