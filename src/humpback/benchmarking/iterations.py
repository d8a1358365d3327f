"""What a judge says of one of a run's models. In: a row per prompt, and the shares of the models before. Out: plain values.

A prompt without an answer or without a verdict in both orders is counted and is no loss. Models are compared prompt by prompt: each
has met the same baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from humpback.benchmarking.comparisons import Comparison
from humpback.benchmarking.judging import Rulings
from humpback.benchmarking.trust import Asked, doubt_judge
from humpback.benchmarking.winrates import control_length, examine_judge, rate, sign_test
from humpback.evaluation.stats import bootstrap_ratio_difference
from humpback.recipe import EvaluateSettings
from humpback.store.fingerprint import derive_seed

__all__ = ["JudgedPrompt", "Met", "find_met", "measure_model"]


class Met(NamedTuple):
    """How a model met the baseline on a prompt."""

    share: float
    """0 to 1."""
    output: str | None
    """Its answer."""


@dataclass(frozen=True, kw_only=True)
class JudgedPrompt:
    """One prompt, two answers, and what the judge rules."""

    prompt: str
    category: str
    output: str | None
    """The model's answer; None where it gave none."""
    baseline: str | None
    rulings: Rulings | None
    """None where an answer is missing."""
    again: Rulings | None = None
    """The same judge asked a second time, on some prompts."""

    @property
    def share(self) -> float | None:
        """The model's share, 0 to 1; None unless both orders have a verdict."""
        return self.rulings.share if self.rulings else None

    def as_row(self, *, rechecked: bool) -> dict[str, Any]:
        """Return it ready to be written as JSON, with the second ruling where some were asked for."""
        row = {
            "prompt": self.prompt,
            "category": self.category,
            "output": self.output,
            "baseline": self.baseline,
            "share": self.share,
            "orders": asdict(self.rulings) if self.rulings else None,
        }
        return {**row, "again": asdict(self.again) if self.again else None} if rechecked else row


def find_met(rows: Sequence[Mapping[str, Any]]) -> dict[str, Met]:
    """Return share and answer of each prompt that has a share, out of written rows."""
    return {row["prompt"]: Met(row["share"], row["output"]) for row in rows if row["share"] is not None}


def measure_model(
    judged: Sequence[JudgedPrompt],
    before: Mapping[str, Mapping[str, Met]],
    settings: EvaluateSettings,
    *,
    model: str,
    baseline: str,
    random_seed: int,
) -> dict[str, Any]:
    """Return the win rate, its change from each model `before` in points, what the judge is worth, and why not to believe it."""
    seed = derive_seed(random_seed, "winrate-bootstrap")
    draw: dict[str, Any] = {"resamples": settings.resamples, "confidence": settings.confidence, "seed": seed}
    met = {one.prompt: Met(one.share, one.output) for one in judged if one.share is not None}
    own = [one.share for one in met.values()]
    given = [one for one in judged if one.rulings is not None]
    again = {place: one.again for place, one in enumerate(given) if one.again is not None}
    by_reply = settings.judge is not None and settings.judge.verdicts == "reply"
    comparisons = [_compare(one, model, baseline) for one in judged]
    asked = [Asked(one.output or "", one.baseline or "", one.rulings, one.again) for one in judged if one.rulings]
    return {
        "model": model,
        "against": baseline,
        "prompts": len(judged),
        "judged": len(own),
        "without_output": sum(one.rulings is None for one in judged),
        "without_verdict": sum(one.rulings is not None and one.share is None for one in judged),
        "same_answers": sum(one.model == one.baseline for one in asked),
        "wins": sum(share > 0.5 for share in own),
        "losses": sum(share < 0.5 for share in own),
        "ties": sum(share == 0.5 for share in own),
        "win_rate": asdict(rate(own, **draw)),
        "sign_test_p": sign_test(own),
        "length_controlled": asdict(control_length(comparisons, seed=seed, confidence=settings.confidence)),
        "changes": [_change(met, name, earlier, draw) for name, earlier in before.items()],
        "judge": asdict(
            examine_judge([one.rulings for one in given if one.rulings], again if by_reply else None, **draw)
        ),
        "doubt": doubt_judge(asked, rechecked=by_reply, **draw),
    }


def _compare(one: JudgedPrompt, model: str, baseline: str) -> Comparison:
    return Comparison(
        model=model,
        baseline=baseline,
        prompt=one.prompt,
        share=one.share,
        model_chars=len(one.output or ""),
        baseline_chars=len(one.baseline or ""),
        category=one.category,
    )


def _change(own: Mapping[str, Met], name: str, before: Mapping[str, Met], draw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's win rate less that of an earlier one, in points, over the prompts that both have a verdict on."""
    both = [prompt for prompt in own if prompt in before]
    row: dict[str, Any] = {"against": name, "value": None, "low": None, "high": None, "n": len(both)}
    if not both:
        return row
    first, second = ([100 * met[prompt].share for prompt in both] for met in (own, before))
    row |= asdict(bootstrap_ratio_difference(first, second, [1] * len(both), **draw))
    twins = all(own[prompt].output == before[prompt].output for prompt in both)
    if first == second and not twins:
        # resampling differences of zero gives nothing but zero, however few they are: it rules out no gain
        row |= {"low": None, "high": None}
    return row
