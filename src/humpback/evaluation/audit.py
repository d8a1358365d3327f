"""The audit: can a model's signals tell held-out seed pairs from corruptions of them? Measured before they are believed.

Every held-out pair gives one true pair and a corruption of each kind it can be spoilt in. A signal's AUC is the chance that it
ranks a true pair above a corrupted one: 0.5 is a coin, 1 is perfect. What is learnt from the pairs (the probe, P(good), a bag of
words) is judged on folds that it saw nothing of. Two baselines stand beside the signals: the length, and a bag of words.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from humpback.evaluation.calibration import P_GOOD, Reliability, measure_reliability, pick_columns
from humpback.evaluation.corruptions import KINDS, CorruptedPair, corrupt_pairs
from humpback.evaluation.folds import make_folds
from humpback.evaluation.judge import CLASSES, Evidence, Judge, choose_settings, cross_judge, fit_judge
from humpback.evaluation.learning import Floats, Projection, log_odds, word_counts
from humpback.evaluation.precision import OperatingPoint, measure_operating_points
from humpback.evaluation.probe import States, list_layers
from humpback.evaluation.raters import Missing, Raters
from humpback.evaluation.signals import SIGNALS, SignalScores, find_error, measure_pairs
from humpback.evaluation.stats import Interval, bootstrap_kinds, compare_all
from humpback.recipe import MIN_PAIRS
from humpback.records import Pair
from humpback.store.fingerprint import derive_seed

__all__ = ["BASELINES", "MIN_PAIRS", "Audit", "AuditRow", "Fitted", "SignalAudit", "audit_signals"]

BASELINES = ("length", "words")
"""Shown beside the signals, never selected by: what a corruption gives away by its length or by its words alone."""
LIKE_LENGTH = 0.25
"""Texts whose lengths differ by less than this much in log are of like length."""
WORDS_STRENGTH = 0.01


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """One pair of the audit: a held-out pair or a corruption of it, with its scores."""

    pair_id: str
    kind: str
    """`true` or the name of the corruption."""
    fold: int
    scores: Mapping[str, float]
    """What was learnt is read by models that saw nothing of this row's fold."""
    missing: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class SignalAudit:
    """How well one signal separates, per corruption and over all."""

    signal: str
    auc: Mapping[str, Interval]
    """By corruption; `all` is the mean over the kinds. Values are turned so that above 0.5 is better."""
    like_length: Mapping[str, float]
    """AUC where only pairs of like length are compared; kinds without any such are absent."""
    missing: int
    """Audit rows for which the signal had no value."""
    mean_true: float | None
    """Mean of the signal over true pairs."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What was learnt from the audit."""

    judge: Judge
    reliability: Reliability
    points: tuple[OperatingPoint, ...]
    """Cut-offs of P(good) and what passes them, for a promise of precision."""
    unseen: Mapping[str, Interval]
    """AUC of P(good) on each corruption when nothing was learnt from it."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The whole audit of one model."""

    rows: Sequence[AuditRow]
    signals: Sequence[SignalAudit]
    without: Mapping[str, Mapping[str, int]]
    """By corruption, why some pairs have none, counted."""
    fitted: Fitted | None
    """None where the pairs were too few, see `note`."""
    note: str = ""
    cost: Mapping[str, str] = field(default_factory=dict)
    """Tokens that each signal computes per pair, in words."""


def audit_signals(
    pairs: Sequence[Pair],
    names: Sequence[str],
    raters: Raters,
    *,
    random_seed: int,
    resamples: int,
    confidence: float,
    corruptions: Collection[str] | None = None,
) -> Audit:
    """Score true and corrupted pairs, learn what can be learnt, and return it all measured."""
    folds = make_folds(pairs)
    corrupted, without = corrupt_pairs(folds, random_seed, corruptions)
    measured = _measure(corrupted, names, raters, with_states="probe" in names and len(pairs) >= MIN_PAIRS)
    draw = _Draw(resamples, confidence, derive_seed(random_seed, "audit-bootstrap"))
    if len(pairs) < MIN_PAIRS:
        note = f"{len(pairs)} held-out pairs are too few for P(good); hold out {MIN_PAIRS} or more (seed.holdout)"
        learnt = _Learnt([row.scores for row, _ in measured], None, note)
    else:
        learnt = _learn(corrupted, measured, list_layers(raters.model.model), draw)
    fitted = learnt.fitted
    rows = [
        AuditRow(
            pair_id=at.pair_id,
            kind=at.kind,
            fold=at.fold,
            scores=values,
            missing={k: m.reason for k, m in row.missing.items() if k not in values},
        )
        for at, (row, _), values in zip(corrupted, measured, learnt.scores, strict=True)
    ]
    shown = [*names, *([P_GOOD] if fitted else [])]
    tables = {name: _column(rows, name) for name in shown} | _baselines(corrupted)
    lengths = _table(rows, [float(np.log(max(len(at.text.response), 1))) for at in corrupted])
    return Audit(
        rows=rows,
        signals=[_audit_one(name, table, lengths, draw) for name, table in tables.items()],
        without=without,
        fitted=fitted,
        note=learnt.note,
        cost={name: SIGNALS[name].cost for name in names},
    )


Measured = tuple[SignalScores, States | None]
"""A row's scores, and its hidden states where they were read."""


def _measure(
    corrupted: Sequence[CorruptedPair], names: Sequence[str], raters: Raters, *, with_states: bool
) -> list[Measured]:
    """Return every row's scores, and the hidden states a probe will be fitted on where one will be."""
    texts = [row.text for row in corrupted]
    layers = list_layers(raters.model.model) if with_states else ()
    asked = [name for name in names if not SIGNALS[name].fitted]
    scored, states = measure_pairs(texts, asked, raters, layers=layers)
    for row, state in zip(scored, states, strict=True):
        if isinstance(state, Missing):
            row.missing["probe"] = state
        elif state is not None:
            row.scores["end_logprob"] = state.end_logprob
    return [(row, None if isinstance(state, Missing) else state) for row, state in zip(scored, states, strict=True)]


class _Learnt(NamedTuple):
    """What could be learnt from the rows, and their scores with what that says of them."""

    scores: Sequence[Mapping[str, float]]
    fitted: Fitted | None
    note: str = ""
    """Why nothing was learnt."""


def _learn(
    corrupted: Sequence[CorruptedPair], measured: Sequence[Measured], layers: Sequence[int], draw: _Draw
) -> _Learnt:
    """Learn probe and P(good) from the rows, and judge them on folds they saw nothing of."""
    plain = [row.scores for row, _ in measured]
    if not pick_columns(plain):
        return _Learnt(
            plain, None, "no signal has a value on any held-out pair, so there is nothing to learn P(good) from"
        )
    evidence = [
        Evidence(pair_id=at.pair_id, kind=at.kind, fold=at.fold, scores=row.scores, states=states)
        for at, (row, states) in zip(corrupted, measured, strict=True)
    ]
    settings = choose_settings(evidence)
    scores = _without_errors(cross_judge(evidence, settings), measured)
    known = {at.kind for at, values in zip(corrupted, scores, strict=True) if P_GOOD in values}
    if "true" not in known or len(known) == 1:
        return _Learnt(plain, None, "too few held-out pairs have a value of the signals to learn P(good) from them")
    unseen = {}
    kinds = [kind for kind in KINDS if kind in known]
    for kind in kinds if len(kinds) > 1 else []:  # of one kind alone nothing is left to learn from
        blind = _without_errors(cross_judge(evidence, settings, without=kind), measured)
        if interval := _judge_unseen(corrupted, blind, kind, draw):
            unseen[kind] = interval
    return _Learnt(scores, _fit(corrupted, evidence, scores, layers, unseen, draw.confidence))


def _without_errors(scores: Sequence[dict[str, float]], measured: Sequence[Measured]) -> list[dict[str, float]]:
    """Take P(good) from rows on which an engine failed, as the score stage does, and say why among what is missing."""
    columns = pick_columns(scores)
    kept = []
    for values, (row, _) in zip(scores, measured, strict=True):
        error = find_error(row.missing, columns)
        if error and P_GOOD in values:
            row.missing[P_GOOD] = error
        kept.append({name: value for name, value in values.items() if not (error and name == P_GOOD)})
    return kept


def _fit(
    corrupted: Sequence[CorruptedPair],
    evidence: Sequence[Evidence],
    scores: Sequence[Mapping[str, float]],
    layers: Sequence[int],
    unseen: Mapping[str, Interval],
    confidence: float,
) -> Fitted:
    known = [i for i, values in enumerate(scores) if P_GOOD in values]
    classes = np.array([CLASSES.index(corrupted[i].kind) for i in known])
    by_pair: dict[str, list[float]] = {row.pair_id: [] for row in corrupted}
    true = []
    for i in known:
        if corrupted[i].kind == "true":
            true.append(scores[i][P_GOOD])
        else:
            by_pair[corrupted[i].pair_id].append(scores[i][P_GOOD])
    return Fitted(
        judge=fit_judge(evidence, layers),
        reliability=measure_reliability([scores[i][P_GOOD] for i in known], classes),
        points=tuple(measure_operating_points(true, list(by_pair.values()), confidence=confidence)),
        unseen=unseen,
    )


# -- figures -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Draw:
    """How intervals are drawn."""

    resamples: int
    confidence: float
    seed: int

    def intervals(self, wins: Mapping[str, Floats]) -> dict[str, Interval]:
        return bootstrap_kinds(wins, resamples=self.resamples, confidence=self.confidence, seed=self.seed)


Table = dict[str, Floats]
"""By kind, `true` among them, one value per pair, NaN where it has none; pairs in one order."""


def _table(rows: Sequence[AuditRow | CorruptedPair], values: Sequence[float]) -> Table:
    place = {pair_id: i for i, pair_id in enumerate(dict.fromkeys(row.pair_id for row in rows))}
    table = {kind: np.full(len(place), np.nan) for kind in CLASSES}
    for row, value in zip(rows, values, strict=True):
        table[row.kind][place[row.pair_id]] = value
    return table


def _column(rows: Sequence[AuditRow], name: str) -> Table:
    return _table(rows, [row.scores.get(name, np.nan) for row in rows])


def _baselines(corrupted: Sequence[CorruptedPair]) -> dict[str, Table]:
    """Return what length and words tell: a model of the words of the response, each fold read by one that never saw it."""
    classes = np.array([CLASSES.index(row.kind) for row in corrupted])
    folds = np.array([row.fold for row in corrupted])
    counts = Projection(word_counts([row.text.response for row in corrupted]))
    outputs = counts.cross(classes, folds, strength=WORDS_STRENGTH)
    words = log_odds(np.where(np.isnan(outputs), -np.inf, outputs))
    length = [float(len(row.text.response)) for row in corrupted]
    return {"length": _table(corrupted, length), "words": _table(corrupted, words.tolist())}


def _audit_one(name: str, table: Table, lengths: Table, draw: _Draw) -> SignalAudit:
    direct = SIGNALS[name].direct if name in SIGNALS else float
    turned = {kind: np.array([direct(v) for v in values]) for kind, values in table.items()}
    wins = {kind: compare_all(turned["true"], turned[kind]) for kind in KINDS}
    alike = {kind: np.abs(lengths["true"][:, None] - lengths[kind][None, :]) < LIKE_LENGTH for kind in KINDS}
    like_length = {
        kind: float(np.nanmean(wins[kind][alike[kind]]))
        for kind in KINDS
        if not np.isnan(wins[kind][alike[kind]]).all()
    }
    present = {kind: ~np.isnan(lengths[kind]) for kind in CLASSES}
    true = table["true"][~np.isnan(table["true"])]
    return SignalAudit(
        signal=name,
        auc=draw.intervals(wins),
        like_length=like_length,
        missing=sum(int((np.isnan(table[kind]) & present[kind]).sum()) for kind in CLASSES),
        mean_true=float(true.mean()) if len(true) else None,
    )


def _judge_unseen(
    corrupted: Sequence[CorruptedPair], scores: Sequence[Mapping[str, float]], kind: str, draw: _Draw
) -> Interval | None:
    table = _table(corrupted, [values.get(P_GOOD, np.nan) for values in scores])
    return draw.intervals({kind: compare_all(table["true"], table[kind])}).get(kind)
