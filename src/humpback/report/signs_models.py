"""Signs of failure in what the models learnt: more augmented data that does not help, or curation that does not.

In: the report's data. Out: a `Sign` each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from humpback.evaluation.signs import MIN_GAIN, MIN_WIN_GAIN, Gain, Sign, State, judge_gain, worst_state
from humpback.evaluation.stats import Interval
from humpback.report.decay import find_turn

__all__ = [
    "backward_learnt_nothing",
    "curation_is_worth_nothing",
    "data_brings_nothing",
    "iterations_turn",
    "nothing_new_learnt",
    "win_rate_falls",
]

Row = Mapping[str, Any]

_MORE_PAIRS = "hold out more pairs (seed.holdout) for a narrower interval"
_NLL_LIMIT = (
    "the whole interval of the paired difference is above 0 (falls), or holds 0 and rules out a gain of "
    f"{MIN_GAIN:g} nats per token (stalls)"
)


def _change(row: Row) -> Interval:
    return Interval(value=row["value"], low=row["low"], high=row["high"], n=row["n"])


def _tell(row: Row) -> str:
    told = f"{row['model']} against {row['against']} {row['value']:+.4f} nats per token"
    return (
        told if row["low"] is None else f"{told} ({row['low']:+.4f} to {row['high']:+.4f}, {row['n']} held-out pairs)"
    )


def _told(gain: Gain, row: Row) -> str:
    return f"{gain.word}: {_tell(row)}" if gain.state != "not checked" else f"{_tell(row)}; {gain.word}"


def _advise(state: State, cure: str) -> str:
    return "" if state == "not found" else cure if state == "found" else _MORE_PAIRS


def _find(table: Row, model: str, against: str) -> Row | None:
    return next((row for row in table["differences"] if (row["model"], row["against"]) == (model, against)), None)


def data_brings_nothing(data: Row) -> Sign:
    """The augmented pairs, on top of the seed, bring nothing, or do harm."""
    row = _find(data["evaluation"]["response_nll"]["both tags"], f"M_{data['iterations']['published']}", "M_0")
    assert row is not None  # a run has M_0 and the model it publishes
    gain = judge_gain(_change(row), least=MIN_GAIN)
    cure = (
        "curate fewer and surer pairs (curate.policy=precision, a lower curate.top), read the best pairs below, judge some "
        "(humpback label), and let the seed count for more (mix.seed_weight)"
    )
    return Sign(
        name="data_brings_nothing",
        what="held-out likelihood stalls or falls with more augmented data",
        state=gain.state,
        told=_told(gain, row),
        limit=_NLL_LIMIT,
        advice=_advise(gain.state, cure),
    )


def iterations_turn(data: Row) -> Sign:
    """A later model is surely worse than an earlier one."""
    ran = data["iterations"]["ran"]
    plateau, worse, _ = find_turn(data["evaluation"], ran)
    state: State = "not checked" if ran == 1 or plateau is None else "found" if worse is not None else "not found"
    told = "one iteration has no later one" if ran == 1 else data["turn"]
    if state == "not found" and (row := _worst_later(data, plateau or 0)) is not None and row["high"] > MIN_GAIN:
        state, told = "cannot tell", f"{told}; a loss of {MIN_GAIN:g} is not ruled out: {_tell(row)}"
    cure = f"iterations: {max(plateau or 1, 1)}, or iterations: auto, which ends by itself"
    return Sign(
        name="iterations_turn",
        what="a later iteration is worse than an earlier one",
        state=state,
        told=told,
        limit="the whole interval of the paired difference to the first model that none surely betters is above 0; open unless a "
        f"loss of {MIN_GAIN:g} nats per token is ruled out",
        advice="iterations: 2, as the paper" if ran == 1 else _advise(state, cure),
    )


def _worst_later(data: Row, plateau: int) -> Row | None:
    """Return the difference of the model after the plateau that may be worst; None where there is none after it."""
    rows = data["evaluation"]["response_nll"]["both tags"]["differences"]
    later = [f"M_{t}" for t in range(plateau + 1, data["iterations"]["ran"] + 1)]
    found = [
        row for row in rows if row["against"] == f"M_{plateau}" and row["model"] in later and row["high"] is not None
    ]
    return max(found, key=lambda row: float(row["high"]), default=None)


def nothing_new_learnt(data: Row) -> Sign:
    """An iteration curated the very pairs of the one before."""
    stages = [row["stage"] for row in data["training"] if row["same_as"]]
    same = [stage.partition("/")[0] for stage in stages if stage.startswith("iteration-")]  # a control may be one too
    ran = data["iterations"]["ran"]
    state: State = "found" if same else "not found" if ran > 1 else "not checked"
    told = f"{', '.join(same)} trained on the rows of an earlier one" if same else "every model learnt rows of its own"
    return Sign(
        name="nothing_new_learnt",
        what="an iteration curates the same pairs again",
        state=state,
        told=told if ran > 1 or same else "one iteration has none to repeat",
        limit="the rows to train on are the same",
        advice="curate by a signal that changes with the model (curate.signal; backward_lift and text do not), or end earlier"
        if same
        else "",
    )


def curation_is_worth_nothing(data: Row) -> Sign:
    """As many uncurated pairs train as good a model."""
    last = f"M_{data['iterations']['published']}"
    row = _find(data["evaluation"]["response_nll"]["both tags"], "control", last)
    name, what = "curation_is_worth_nothing", "curated pairs are worth no more than as many random ones"
    if row is None:
        return Sign(
            name=name,
            what=what,
            state="not checked",
            told="the run trained no control",
            limit=_NLL_LIMIT,
            advice="set evaluate.control=true and run again with --rerun-from control/draw",
        )
    # the control stands first in the table: turned, so that below zero speaks for curation
    turned = {**row, "model": last, "against": "the control", **asdict(_change(row).negated())}
    gain = judge_gain(_change(turned), least=MIN_GAIN)
    cure = "see which corruptions the signal misses (audit), judge some pairs (humpback label), or curate fewer (curate.top)"
    return Sign(
        name=name,
        what=what,
        state=gain.state,
        told=_told(gain, turned),
        limit=_NLL_LIMIT,
        advice=_advise(gain.state, cure),
    )


def backward_learnt_nothing(data: Row) -> Sign:
    """The backward model writes instructions no better than the base model."""
    row = _find(data["evaluation"]["instruction_nll"], "M_yx", "base")
    assert row is not None  # every run trains a backward model
    gain = judge_gain(_change(row), least=MIN_GAIN)
    cure = "train it longer (train.epochs, train.learning_rate) or on more seed pairs; see that pairs fit into model.max_tokens"
    return Sign(
        name="backward_learnt_nothing",
        what="the backward model expects held-out instructions no better than the base model",
        state=gain.state,
        told=_told(gain, row),
        limit=_NLL_LIMIT,
        advice=_advise(gain.state, cure),
    )


def _own_judge(data: Row) -> tuple[list[State], list[str]]:
    """Return what the recipe's judge says of the published model and M_0; nothing where it names none."""
    published = f"M_{data['iterations']['published']}"
    judged = data["judged"] or {"rows": []}
    by_model = {row["model"]: row for row in judged["rows"]}
    if not by_model:
        return [], []
    if published == "M_0":
        return ["not checked"], ["the model that is published is M_0 itself"]
    row = by_model[published]
    # with outputs of others as the baseline, the change rests on the comparison of M_0 too
    for name in (published, "M_0"):
        if name in by_model and by_model[name]["doubt"]:
            told = f"the judge {judged['by']} is not believed on {name}: {by_model[name]['doubt']}"
            return ["not checked"], [told]
    change = next(change for change in row["changes"] if change["against"] == "M_0")
    if change["value"] is None:
        return ["not checked"], [f"{judged['by']} has no verdict on a prompt for both {published} and M_0"]
    gain = judge_gain(_change(change).negated(), least=MIN_WIN_GAIN)
    bounds = "" if change["low"] is None else f"{change['low']:+.1f} to {change['high']:+.1f}, "
    own = ", which is one of the two" if row["judge_is_a_side"] else ""
    return [gain.state], [
        f"{gain.word}: {published} {change['value']:+.1f} points of win rate against M_0 ({bounds}{change['n']} prompts, judge "
        f"{judged['by']}{own})"
    ]


def win_rate_falls(data: Row) -> Sign:
    """A judge prefers an earlier model."""
    rows = data["win_rates"]
    states, told = _own_judge(data)
    asked = bool(rows or states)
    for row in rows:
        if row["doubt"]:
            states.append("not checked")
            wins = "" if row["value"] is None else f", where it gives {row['value']:.1f} %"
            told.append(
                f"the judge {row['judge']} is not believed on {row['model']} against {row['against']}{wins}: {row['doubt']}"
            )
            continue
        if row["value"] is None or row["low"] is None:
            states.append("not checked")
            told.append(f"{row['model']} against {row['against']}: {row['reason']}")
            continue
        lost = Interval(value=50 - row["value"], low=50 - row["high"], high=50 - row["low"], n=row["n"])
        gain = judge_gain(lost, least=MIN_WIN_GAIN)
        states.append(gain.state)
        own = ", which is one of the two" if row["judge_is_a_side"] else ""
        told.append(
            f"{gain.word}: {row['model']} wins {row['value']:.1f} % against {row['against']} ({row['low']:.1f} to {row['high']:.1f}, "
            f"{row['n']} prompts, judge {row['judge']}{own})"
        )
    last = data["iterations"]["published"]
    ask = (
        f"name a judge (evaluate.judge), or: humpback winrate RUN/iteration-{last}/finetune/model RUN/iteration-0/finetune/model "
        f"--prompts FILE --judge MODEL|URL -o RUN/winrate/m{last}-m0, then run again with --rerun-from report"
    )
    state = worst_state(states)
    return Sign(
        name="win_rate_falls",
        what="win rate stalls or falls with more augmented data",
        state=state,
        told="; ".join(told)
        or "the recipe names no judge, and the run's folder holds no win rate of two of its models",
        limit="the whole interval is below 50 % (falls), or holds 50 % and rules out a gain of "
        f"{MIN_WIN_GAIN:g} points (stalls)",
        advice=""
        if state == "not found"
        else ask
        if not asked
        else "read the prompts that were lost (annotations.json); curate fewer and surer pairs (curate.policy=precision)"
        if state == "found"
        else "give more prompts, or a judge that can tell these answers apart",
    )
