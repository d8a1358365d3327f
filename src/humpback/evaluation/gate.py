"""The gate before the big run: is what the backward model writes on a few hundred segments worth writing a million times?

In: segments, what the model wrote for each, and how much likelier each text makes its own instruction than another text does. Out:
rates with intervals, limits and examples. The lift is of the model's own drafts under the model itself, so it flatters; it shows
whether the instruction depends on the text at all, not how well it fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from humpback.engines.base import Completion
from humpback.errors import GateError
from humpback.evaluation.agreement import weighted_share
from humpback.evaluation.instructions import copies, echoed_share, echoes_prompt
from humpback.evaluation.requests import find_verb_object
from humpback.evaluation.stats import Interval, bootstrap_auc
from humpback.evaluation.textsignals import TextPair, duplicates, empty, no_request, other_language
from humpback.recipe import GateSettings
from humpback.records import Segment

__all__ = [
    "MIN_JUDGED",
    "WORDS",
    "Draft",
    "Measure",
    "check_limits",
    "is_beyond",
    "limit_of",
    "measure_drafts",
    "tell_rates",
    "to_plain",
]

MIN_JUDGED = 20
"""Below this many drafts a measure without an interval stops nothing."""
CONFIDENCE = 0.95
RESAMPLES = 1000
"""Not the recipe's: another confidence of the report's intervals must not undo the run from here on."""
EXAMPLES = 3
EXAMPLE_CHARS = 160

_TRAIN = "train the backward model longer (train.epochs, train.learning_rate) or on more seed pairs"
_ADVICE = {
    "echo": _TRAIN,
    "copy": f"{_TRAIN}; look for seed pairs whose instruction repeats the response",
    "empty": _TRAIN,
    "cut": f"raise augment.max_tokens, or {_TRAIN}",
    "duplicate": "raise augment.temperature, or give more varied seed pairs and documents",
    "other_language": f"{_TRAIN}, in the language of the documents; or keep one with corpus.languages",
    "no_request": _TRAIN,
    "distinct": "raise augment.temperature, or give more varied seed pairs and documents",
    "lift_auc": f"the instructions hardly depend on the text: {_TRAIN}; see that segments fit into model.max_tokens",
}
WORDS = {
    "echo": "share of {} drafts that repeat the prompt",
    "copy": "share of {} drafts that are a passage of their text",
    "empty": "share of {} drafts that are empty",
    "cut": "share of {} drafts that do not end within augment.max_tokens",
    "duplicate": "share of {} drafts that are the same as another",
    "other_language": "share of {} drafts that are in another language than their text",
    "no_request": "share of {} drafts that ask for nothing",
    "distinct": "distinct verb-object pairs over {} drafts that have one",
    "lift_auc": "AUC of the backward lift of {} drafts with their own text against another's",
}
"""What each measure is."""
_LEAST = ("distinct", "lift_auc")
"""Measures whose limit is the least that passes."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What the backward model wrote for one segment."""

    segment: Segment
    answer: Completion
    lift: float | None
    """Backward lift with its own text, nats per token; None when it could not be computed."""
    lift_of_other: float | None
    """The same with another segment's text."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One figure of the gate."""

    name: str
    value: float | None
    """None when no draft can be judged."""
    low: float | None
    high: float | None
    n: int
    """Drafts judged."""
    examples: tuple[str, ...] = ()
    """Of what is wrong, or nearest to it."""


def measure_drafts(drafts: Sequence[Draft], *, seed: int) -> list[Measure]:
    """Return every measure of the drafts that the engine could answer."""
    texts = [draft.answer.text.strip() for draft in drafts]
    pairs = [TextPair(text, d.segment.text, d.segment.header_path) for text, d in zip(texts, drafts, strict=True)]
    written = [pair for pair in pairs if not empty(pair).value]
    repeated = [bool(reading.value) for reading in duplicates([pair.instruction for pair in written])]

    def rate(name: str, of: Sequence[TextPair], hits: Sequence[bool]) -> Measure:
        shown = [_example(pair) for pair, hit in zip(of, hits, strict=True) if hit]
        interval = weighted_share(hits, [1.0] * len(hits), confidence=CONFIDENCE) if hits else None
        return _measure(name, interval, shown)

    judged = [(pair, reading.value) for pair in written if (reading := other_language(pair)).value is not None]
    asked = [(pair, reading.value) for pair in written if (reading := no_request(pair)).value is not None]
    cut = [draft.answer.finish == "length" for draft in drafts]
    measures = [
        rate("echo", written, [_echoes(pair.instruction) for pair in written]),
        rate("copy", written, [copies(pair.instruction, pair.response) for pair in written]),
        rate("empty", pairs, [bool(empty(pair).value) for pair in pairs]),
        rate("cut", pairs, cut),
        rate("duplicate", written, repeated),
        rate("other_language", [p for p, _ in judged], [bool(value) for _, value in judged]),
        rate("no_request", [p for p, _ in asked], [bool(value) for _, value in asked]),
        _distinct(written),
    ]
    return [*measures, _lift_auc(drafts, seed)]


def _measure(name: str, interval: Interval | None, examples: Sequence[str]) -> Measure:
    return Measure(
        name=name,
        value=interval.value if interval else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        n=interval.n if interval else 0,
        examples=tuple(list(dict.fromkeys(examples))[:EXAMPLES]),
    )


def _echoes(instruction: str) -> bool:
    return echoes_prompt(instruction) or (echoed_share(instruction) or 0.0) >= 0.5


def _distinct(written: Sequence[TextPair]) -> Measure:
    found = [(pair, asked) for pair in written if (asked := find_verb_object(pair.instruction)) is not None]
    if not found:
        return _measure("distinct", None, ())
    kinds = [asked for _, asked in found]
    common = max(kinds, key=kinds.count)
    value = len(set(kinds)) / len(kinds)
    interval = Interval(
        value=value, low=None, high=None, n=len(kinds)
    )  # a share of distinct ones has no simple interval
    return _measure("distinct", interval, [_example(pair) for pair, asked in found if asked == common])


def _lift_auc(drafts: Sequence[Draft], seed: int) -> Measure:
    both = [d for d in drafts if d.lift is not None and d.lift_of_other is not None]
    own, other = [d.lift or 0.0 for d in both], [d.lift_of_other or 0.0 for d in both]
    interval = bootstrap_auc(own, [other], resamples=RESAMPLES, confidence=CONFIDENCE, seed=seed) if both else None
    worst = sorted(both, key=lambda d: (d.lift or 0.0) - (d.lift_of_other or 0.0))
    shown = [_example(TextPair(d.answer.text.strip(), d.segment.text)) for d in worst[:EXAMPLES]]
    return _measure("lift_auc", interval, shown)


def _example(pair: TextPair) -> str:
    """Return one line: the instruction, then the beginning of its text."""
    asked, text = (" ".join(part.split()) for part in (pair.instruction, pair.response))
    return f"{asked[:EXAMPLE_CHARS]!r} for {text[:60]!r}"


def to_plain(measure: Measure) -> dict[str, Any]:
    """Return a measure as a stage's result holds it."""
    return {**asdict(measure), "examples": list(measure.examples), "words": WORDS[measure.name].format(measure.n)}


def limit_of(name: str, settings: GateSettings) -> tuple[str, float]:
    """Return the recipe's key and value of a measure's limit."""
    key = f"{'min' if name in _LEAST else 'max'}_{name}"
    return key, float(getattr(settings, key))


def is_beyond(measure: Mapping[str, Any], settings: GateSettings) -> bool:
    """Tell whether a measure stops the run: its whole interval lies beyond the limit, so that chance alone stops none."""
    least, (_, limit) = measure["name"] in _LEAST, limit_of(measure["name"], settings)
    bound = measure["high" if least else "low"]
    if bound is None:
        if measure["value"] is None or measure["n"] < MIN_JUDGED:
            return False
        bound = measure["value"]
    return bool(bound < limit if least else bound > limit)


def check_limits(result: Mapping[str, Any], settings: GateSettings) -> None:
    """Raise GateError with each rate beyond its limit, three examples of it and what to try."""
    beyond = [measure for measure in result["measures"] if is_beyond(measure, settings)]
    if not beyond:
        return
    lines = []
    for measure in beyond:
        name, (key, limit) = measure["name"], limit_of(measure["name"], settings)
        sure = "" if measure["low"] is None else f" ({measure['low']:.2f} to {measure['high']:.2f})"
        lines.append(
            f"  {name} {measure['value']:.2f}{sure}: {WORDS[name].format(measure['n'])}; gate.{key} is {limit:g}"
        )
        lines += [f"    {example}" for example in measure["examples"]]
        lines.append(f"    try: {_ADVICE[name]}")
    raise GateError(
        "the backward model is not good enough to write for all segments:\n"
        + "\n".join(lines)
        + "\nAll its drafts are in backward/gate/gate.json. To go on as it is, raise or lower the limits named; gate.segments=0 "
        "leaves the gate out."
    )


def tell_rates(result: Mapping[str, Any]) -> str:
    """Return every measure in one line."""
    told = [f"{m['name']} {m['value']:.2f}" if m["value"] is not None else f"{m['name']} -" for m in result["measures"]]
    return ", ".join(told)
