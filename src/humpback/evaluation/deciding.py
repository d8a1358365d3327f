"""By which signal, by which policy and how far down candidates are kept. In: recipe, audit, the candidates' scores. Out: a decision.

Nothing is decided in silence: why a signal was taken, what it cannot do and what a promise rests on is said in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from humpback.errors import GateError
from humpback.evaluation.calibration import P_GOOD
from humpback.evaluation.precision import OperatingPoint, Promise, promise_precision
from humpback.evaluation.signals import SIGNALS
from humpback.recipe import CurateSettings

__all__ = ["Decision", "advise_on_none", "decide", "direct_score"]

MOST_PREVALENT = 0.5
"""An estimated share of good candidates is taken to be this at most, the audit's own."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """By which signal and how far down candidates are kept, and why."""

    signal: str
    policy: Literal["threshold", "top", "precision", "diverse"]
    value: float
    """The lowest score kept (`threshold`, `precision`), or the share or count kept (`top`, `diverse`)."""
    why: str
    warnings: tuple[str, ...]
    promise: Promise | None = None
    """With policy precision, what the audit promises and on what assumption; None where people's labels promise."""
    by_people: Mapping[str, Any] | None = None
    """With policy precision and labels enough, the share of the candidates whose precision they promise (`LabelPoint`)."""
    max_per_source: int | None = None
    """With policy diverse."""
    alike: float | None = None
    """With policy diverse."""


def direct_score(signal: str, value: float) -> float:
    """Return a signal's value turned so that higher is better."""
    return SIGNALS[signal].direct(value) if signal in SIGNALS else value


def decide(
    settings: CurateSettings,
    audit: Mapping[str, Any],
    scores: Mapping[str, Any] | None = None,
    people: Mapping[str, Any] | None = None,
) -> Decision:
    """Choose signal, policy and cut-off.

    `audit` is the verdict on the model that scored, `scores` what `describe_scores` says of the candidates; without it no
    rating's share is checked, and no prevalence is known. `people` is what stage `correct` made of human labels, None without it.
    """
    corrected = people if people and people["correction"] else None
    signal, why = _choose_signal(settings, audit, corrected)
    warnings: list[str] = []
    if people and people["refused"]:
        warnings.append(f"human labels correct nothing: {people['refused']}")
    if scores and (told := _too_few_ratings(signal, settings, scores)):
        if settings.when_unparsed == "stop" or settings.policy == "threshold":
            raise GateError(f"{told}; {_advise_on_few_ratings(settings)}")
        signal, why = _switch(signal, settings, audit, scores, told)
        warnings.append(f"{told}, so {signal} is used instead")
    warnings += _warn(signal, audit)
    if corrected and signal == P_GOOD:
        warnings += _warn_of_people(corrected)
    has_scale = signal in SIGNALS and SIGNALS[signal].has_scale
    policy = settings.policy or ("threshold" if has_scale else "top")
    if policy == "threshold" and not has_scale:
        raise GateError(
            f"curate.policy=threshold cuts ratings of 1 to 5, and {signal} was chosen ({why}); "
            "set curate.signal=rating, or curate.policy=top"
        )
    if policy == "precision" and corrected:
        point = _promise_by_people(settings, corrected)
        return Decision(
            signal=signal,
            policy=policy,
            value=point["threshold"],
            why=f"{why}; {_tell_people(point, corrected)}",
            warnings=tuple(warnings),
            by_people=point,
        )
    if policy == "precision":
        promise, doubts = _promise(signal, settings, audit, scores)
        return Decision(
            signal=signal,
            policy=policy,
            value=promise.point.threshold,
            why=f"{why}; {_tell_promise(promise)}",
            warnings=(*warnings, *doubts),
            promise=promise,
        )
    return Decision(
        signal=signal,
        policy=policy,
        value=settings.threshold if policy == "threshold" else settings.top,
        why=why,
        warnings=tuple(warnings),
        max_per_source=settings.max_per_source if policy == "diverse" else None,
        alike=settings.alike if policy == "diverse" else None,
    )


def advise_on_none(decision: Decision, reasons: Mapping[str, int]) -> str:
    """Return what to change where no candidate passed; `reasons` are those of the rejected and failed candidates."""
    unscored = f"no_{decision.signal}_"
    if not reasons or not all(reason.startswith(unscored) for reason in reasons):
        return "lower curate.threshold, or choose curate.signal and curate.top"
    advice = f"{decision.signal} has no value on any of them, so no other cut-off helps; choose another curate.signal"
    return f"{advice}, or raise model.max_tokens" if f"{unscored}too_long" in reasons else advice


# -- the signal --------------------------------------------------------------------------------------------------------


def _choose_signal(
    settings: CurateSettings, audit: Mapping[str, Any], corrected: Mapping[str, Any] | None
) -> tuple[str, str]:
    calibrated = audit.get("calibration") is not None
    needs_p_good = settings.signal == P_GOOD or settings.policy == "precision"
    if needs_p_good and not calibrated:
        wanted = "curate.policy=precision" if settings.policy == "precision" else f"curate.signal={P_GOOD}"
        raise GateError(f"{wanted} needs P(good), and there is none: {audit.get('note') or 'the audit fitted none'}")
    if settings.policy == "precision":
        return P_GOOD, "what a precision is promised with"
    if settings.signal != "auto":
        return settings.signal, "set in the recipe"
    if corrected and settings.policy != "threshold":
        return P_GOOD, f"the one that people have corrected: {corrected['told']}"
    if settings.policy == "threshold":
        rated = [e for e in audit["signals"] if e["signal"] in SIGNALS and SIGNALS[e["signal"]].has_scale]
        if not rated:
            raise GateError("curate.policy=threshold needs a rating; add rating to score.signals")
        return _best(rated)["signal"], "the best audited rating, which is what a threshold cuts"
    if audit["best"] is None:
        raise GateError(
            "no signal has a value on the held-out pairs, so nothing can be curated; see the audit's notes: "
            + "; ".join(audit["notes"])
        )
    told = f"best audited AUC, {audit['best_auc']:.2f} over all corruptions"
    if audit["best"] == P_GOOD:
        return P_GOOD, f"{told}: all signals combined, calibrated on the audit"
    reason = "no single P(good) is as good" if calibrated else audit.get("note") or "P(good) was not fitted"
    return audit["best"], f"{told}; {reason}"


def _best(entries: list[Any]) -> Any:
    return max(entries, key=lambda entry: entry["auc"]["all"]["value"] if "all" in entry["auc"] else -1.0)


def _too_few_ratings(signal: str, settings: CurateSettings, scores: Mapping[str, Any]) -> str | None:
    """Return how few of the candidates have a rating, or None; a row on which the engine failed is left out of the share."""
    if signal not in SIGNALS or not SIGNALS[signal].has_scale:
        return None
    given, unparsed = scores["with_value"].get(signal, 0), scores["unparsed"].get(signal, 0)
    share = given / (given + unparsed) if given + unparsed else 1.0
    if share >= settings.min_parsed:
        return None
    return f"{signal} was given on {share:.0%} of the candidates, below curate.min_parsed={settings.min_parsed:g}"


def _advise_on_few_ratings(settings: CurateSettings) -> str:
    advice = (
        "take another rubric (prompts.rubric) or signal (curate.signal), raise model.max_tokens where pairs are too long to be "
        "rated, lower curate.min_parsed, or "
    )
    if settings.policy == "threshold":
        return (
            advice
            + "leave out curate.policy=threshold, which cuts ratings and so keeps when_unparsed=switch from taking another"
        )
    return advice + "let curate.when_unparsed=switch take the best other signal"


def _switch(
    signal: str, settings: CurateSettings, audit: Mapping[str, Any], scores: Mapping[str, Any], told: str
) -> tuple[str, str]:
    others = [
        entry
        for entry in audit["signals"]
        if "all" in entry["auc"]
        and (entry["signal"] == P_GOOD or entry["signal"] in SIGNALS)
        and entry["signal"] != signal
        and not _too_few_ratings(entry["signal"], settings, scores)
    ]
    if not others:
        raise GateError(
            f"{told}, and curate.when_unparsed=switch finds no other audited signal; add one to score.signals, or take another "
            "rubric (prompts.rubric)"
        )
    best = _best(others)
    return best["signal"], f"best other audited AUC, {best['auc']['all']['value']:.2f}"


def _warn(signal: str, audit: Mapping[str, Any]) -> list[str]:
    entry = next((entry for entry in audit["signals"] if entry["signal"] == signal), None)
    interval = entry["auc"].get("all") if entry else None
    warnings = []
    if interval is None:
        warnings.append(f"{signal} has no value on the held-out pairs: it is not audited")
    elif (interval["low"] if interval["low"] is not None else interval["value"]) <= 0.5:
        warnings.append(
            f"{signal} is no better than a coin on held-out pairs (AUC {interval['value']:.2f}): this curation is close to random"
        )
    if signal in SIGNALS and not SIGNALS[signal].iterates:
        warnings.append(
            f"{signal} does not change with the model that scores: an iteration that curates by it again keeps the same pairs"
        )
    return warnings


# -- the promise -------------------------------------------------------------------------------------------------------


def _promise(
    signal: str, settings: CurateSettings, audit: Mapping[str, Any], scores: Mapping[str, Any] | None
) -> tuple[Promise, list[str]]:
    points = [OperatingPoint(**point) for point in audit["calibration"]["points"]]
    estimate = (scores or {}).get("prevalence")
    doubts = []
    if settings.prevalence == "estimate":
        if estimate is None:
            raise GateError(
                "no candidate has P(good), so the share of good ones cannot be estimated; set curate.prevalence"
            )
        prevalence = min(estimate, MOST_PREVALENT)
    else:
        prevalence = settings.prevalence
        if estimate is not None and estimate < prevalence / 2:
            doubts.append(f"curate.prevalence={prevalence:g}, but the candidates' P(good) speaks for {estimate:.2f}")
    promise = promise_precision(points, settings.precision, prevalence) if points else None
    if promise is None or not promise.kept_promise:
        best = f"the best that can be promised is {promise.precision_low:.2f}" if promise else "nothing can be promised"
        raise GateError(
            f"curate.precision={settings.precision:g} cannot be promised where {prevalence:.0%} of the candidates are good: {best}; "
            "lower it to that, hold out more pairs (seed.holdout) for a narrower interval, or use curate.policy=top"
        )
    shift = (scores or {}).get("shift")
    if shift and shift["auc"] is not None and shift["auc"] >= 0.75:
        doubts.append(shift["meaning"])
    return promise, doubts


def _tell_promise(promise: Promise) -> str:
    point = promise.point
    return (
        f"of the pairs kept at least {promise.precision_low:.2f} are good, {promise.precision:.2f} by the best estimate, where "
        f"{promise.prevalence:.0%} of the candidates are good and the rest are spoilt in the audit's ways; "
        f"{point.kept:.0%} of good pairs are kept"
    )


def _promise_by_people(settings: CurateSettings, corrected: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the largest share of the candidates whose labels promise the precision; no prevalence has to be assumed."""
    points: list[Mapping[str, Any]] = list(corrected["worth"]["points"])
    enough = [point for point in points if point["precision_low"] >= settings.precision]
    if enough:
        return max(enough, key=lambda point: float(point["share"]))
    best = max(points, key=lambda point: float(point["precision_low"]))
    raise GateError(
        f"curate.precision={settings.precision:g} cannot be promised by {corrected['labels']} human labels: the best that can be "
        f"promised is {best['precision_low']:.2f}, of the best {best['share']:.0%} of the candidates, by {best['labels']} labels in "
        "it; lower it to that, label more (humpback label), or use curate.policy=top"
    )


def _tell_people(point: Mapping[str, Any], corrected: Mapping[str, Any]) -> str:
    return (
        f"of the best {point['share']:.0%} of the candidates at least {point['precision_low']:.2f} are good, "
        f"{point['precision']:.2f} by the best estimate, by {point['labels']} of {corrected['labels']} human labels, "
        "each judged by a correction that did not see it"
    )


def _warn_of_people(corrected: Mapping[str, Any]) -> list[str]:
    interval = corrected["worth"]["auc_after"]
    if interval is None or (interval["value"] if interval["low"] is None else interval["low"]) > 0.5:
        return []
    return [f"p_good is no better than a coin by {corrected['labels']} human labels (AUC {interval['value']:.2f})"]
