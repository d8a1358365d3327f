"""Stop: with `iterations: auto` the loop ends when M_t does not surely answer better, or surely judges worse, than M_(t-1).

Answering is held-out likelihood: M_t is kept only where the whole interval speaks for it. Judging is the audited AUC of what
curated: a model that tells good pairs from spoilt ones surely worse is kept for its answers, and curates no more.

Where the recipe names a judge there is a win rate besides, paired by prompt. It ends the loop where it falls, which also keeps
M_(t-1), or stalls: no gain is sure and one worth having is ruled out. Where it surely rises, a model whose likelihood is not surely
worse is kept too. A judge that cannot be believed has no say, and neither has an interval that leaves it open.

The requests are `evaluate`'s own (responses under both tags), so their answers are in the cache when it asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from humpback.engines.base import Engine, ModelRef
from humpback.errors import StageError
from humpback.evaluation.auditchange import AuditChange
from humpback.evaluation.likelihood import Likelihoods, compare, response_nll, without_errors
from humpback.evaluation.signs import MIN_WIN_GAIN, Gain, judge_gain
from humpback.evaluation.stats import MIN_PAIRS, Interval
from humpback.prompts import Prompts
from humpback.recipe import EvaluateSettings
from humpback.records import Pair

__all__ = ["Preferred", "judge_iteration"]


@dataclass(frozen=True, kw_only=True)
class Preferred:
    """What a judge says of M_t and M_(t-1)."""

    judge: str
    change: Interval | None
    """Win rate of M_t less that of M_(t-1), in points; None without a prompt that both have a verdict on."""
    doubt: str | None
    """Why the judge cannot be believed; None where it can."""
    doubted: str | None = None
    """The model on whose answers it cannot."""

    @property
    def gain(self) -> Gain | None:
        """Whether the win rate helps, falls or stalls; None where that has no say."""
        if self.doubt or self.change is None or self.change.low is None:
            return None
        found = judge_gain(self.change.negated(), least=MIN_WIN_GAIN)  # in a gain below zero is better
        return None if found.state == "cannot tell" else found


def judge_iteration(
    pairs: Sequence[Pair],
    models: Mapping[str, ModelRef],
    audited: AuditChange,
    open_engine: Callable[[ModelRef], Engine],
    prompts: Prompts,
    settings: EvaluateSettings,
    *,
    random_seed: int,
    free: Callable[[], None],
    preferred: Preferred | None = None,
) -> dict[str, Any]:
    """Compare two models, the earlier first: `improved` says whether the later one is kept, `goes_on` whether it curates too.

    `fired` names what ends the loop: `likelihood`, `win_rate`, `audit`, or None. `preferred` is None without a judge.
    """
    free()  # what the stage before has loaded
    table: dict[str, Likelihoods] = {}
    for name, model in models.items():
        table[name] = response_nll(pairs, open_engine(model), prompts, prompts.both_tags)
        free()
    (kept,), failed = without_errors([table])
    if len(failed) == len(pairs):
        raise StageError(f"no held-out pair has a likelihood ({next(iter(failed.values()))}); use shorter seed pairs")
    found = compare(kept, random_seed=random_seed, resamples=settings.resamples, confidence=settings.confidence)
    (difference,) = found["differences"]
    fits = difference["high"] is not None and difference["high"] < 0
    gain = preferred.gain.word if preferred and preferred.gain else None
    improved = (fits and gain != "falls") or (gain == "helps" and not _surely_worse(difference))
    ends = {"likelihood": not fits, "win_rate": gain in ("falls", "stalls"), "audit": audited.fell}
    fired = next((name for name, ended in ends.items() if ended), None)
    told = [_why(difference, improved=fits), *_tell_preferred(preferred, *models), _tell_audit(audited, *models)]
    return {
        "improved": improved,
        "goes_on": fired is None,
        "fired": fired,
        "why": "; ".join(told),
        "difference": difference,
        "audit": asdict(audited),
        **({"preferred": {**asdict(preferred), "gain": gain}} if preferred else {}),
        "failed": failed,
    }


def _why(row: Mapping[str, Any], *, improved: bool) -> str:
    model, against = row["model"], row["against"]
    bounds = "too few pairs for an interval" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
    change = f"{row['value']:+.4f} nats per token on {row['n']} held-out pairs ({bounds})"
    return f"{model} is {'' if improved else 'not surely '}better than {against}: {change}"


def _surely_worse(difference: Mapping[str, Any]) -> bool:
    return difference["low"] is not None and difference["low"] > 0


def _tell_preferred(preferred: Preferred | None, before: str, now: str) -> list[str]:
    if preferred is None:
        return []
    if preferred.doubt:
        return [
            f"the judge {preferred.judge} is not believed on {preferred.doubted} and decides nothing: {preferred.doubt}"
        ]
    change = preferred.change
    if change is None:
        return [f"{preferred.judge} has no verdict on a prompt for both, so there is no win rate to compare"]
    open_ = (
        "all came out alike, which gives no interval" if change.n >= MIN_PAIRS else "too few prompts for an interval"
    )
    bounds = open_ if change.low is None else f"{change.low:+.1f} to {change.high:+.1f}"
    words = {"helps": "surely wins more than", "falls": "surely wins less than", "stalls": "wins no more than"}
    word = words[preferred.gain.word] if preferred.gain else "may win more than"
    return [
        f"{now} {word} {before}: {change.value:+.1f} points of win rate by {preferred.judge} ({bounds}, {change.n} prompts)"
    ]


def _tell_audit(audited: AuditChange, before: str, now: str) -> str:
    change = audited.difference
    if change is None:
        return f"their audits of {audited.signal} cannot be compared: one has no value"
    bounds = "too few for an interval" if change.low is None else f"{change.low:+.3f} to {change.high:+.3f}"
    word = "tells good pairs from spoilt ones worse" if audited.fell else "is not surely the worse judge"
    return f"{now} {word} than {before}: {change.value:+.3f} AUC of {audited.signal} ({bounds})"
