"""How pairs are judged: the sections `score`, `curate` and `evaluate`.

In: plain values of the recipe. Out: which signals are computed, which of them selects, and what is measured of both. One file, as all
three speak of the same signals.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from humpback.recipe.comparing import RunJudge
from humpback.recipe.section import Section

__all__ = ["MIN_PAIRS", "Corruption", "CurateSettings", "EvaluateSettings", "ScoreSettings", "Signal"]

Signal = Literal["rating", "sampled_rating", "backward_lift", "forward_lift", "ifd", "probe", "text"]
Corruption = Literal[
    "mismatch_random",
    "mismatch_hard",
    "cut_end",
    "cut_start",
    "cut_sentences",
    "navigation",
    "advertising",
    "voice",
    "echo",
    "shuffled",
    "language",
    "facts",
]
"""How the audit spoils held-out pairs: the kinds of `evaluation/corruptions.py`."""
MIN_PAIRS = 24
"""Fewer held-out pairs give no probe and no P(good): three folds of eight are the least to choose, to fit and to judge on."""
USUAL_SIGNALS: tuple[Signal, ...] = ("rating", "backward_lift", "forward_lift", "ifd", "probe")


class ScoreSettings(Section):
    """Which signals are computed, and when a rating counts as given."""

    signals: list[Signal] | None = Field(None, min_length=1)
    """null: those of rating, backward_lift, forward_lift, ifd and probe that the engine can compute, chosen as the run starts.
    A list is computed whole, or refused as the run starts."""
    min_label_mass: float = Field(0.5, ge=0, le=1)
    """A rating whose five labels hold less probability than this is unparsed: it has no value, and is not low."""
    samples: int = Field(3, ge=1, le=64)
    """Replies drawn per pair for `sampled_rating`; its value is their mean."""
    sample_temperature: float = Field(0.7, ge=0)
    """Of those draws; 0 is greedy and gives one and the same reply, so it goes with `samples: 1`."""
    reasoning_tokens: int = Field(256, ge=16)
    """Longest reply for `sampled_rating`, in tokens; one that is cut before its score is asked for the score alone."""

    @property
    def wanted(self) -> list[Signal]:
        """The signals named, or all that null asks of an engine that can."""
        return list(USUAL_SIGNALS) if self.signals is None else self.signals

    @field_validator("signals")
    @classmethod
    def _distinct(cls, value: list[Signal] | None) -> list[Signal] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError(f"score.signals={value} names a signal twice; name each once")
        return value

    @model_validator(mode="after")
    def _different_samples(self) -> ScoreSettings:
        if self.samples > 1 and not self.sample_temperature:
            raise ValueError(
                f"samples={self.samples} with sample_temperature=0 draws the same reply each time; "
                "set samples=1, or a temperature such as 0.7"
            )
        return self


class CurateSettings(Section):
    """Which candidates become curated pairs."""

    signal: Literal["auto", "p_good", Signal] = "auto"
    """What to select by: a signal, or `p_good`, all signals combined and calibrated on the audit.

    auto takes `p_good` where the audit of the model that scored shows it to be as good as any single signal, else the signal with
    the best audited AUC.
    """
    policy: Literal["threshold", "top", "precision", "diverse"] | None = None
    """threshold: ratings from `threshold` on (the paper). top: the best `top`. precision: P(good) from the lowest cut-off on that
    promises `precision`. diverse: the best `top`, spread out. null: threshold where the signal is a rating, else top."""
    threshold: float = 4.5
    """Lowest rating kept (paper: 4 or 4.5)."""
    top: float = 0.4
    """Kept, best first: a share (0 to 1] or a count (above 1). The paper's A_4 is a share of 0.39."""
    precision: float = Field(0.9, gt=0.5, lt=1)
    """With policy precision: the share of good pairs among the kept that the lower end of the interval (evaluate.confidence) must
    reach. Where it cannot, the stage stops and names the best that can."""
    prevalence: float | Literal["estimate"] = "estimate"
    """With policy precision: the share of good pairs among all candidates, 0 to 1, which a precision depends on. `estimate` takes
    the one that explains the candidates' P(good) best, half at most."""
    max_per_source: int = Field(20, ge=1)
    """With policy diverse: most pairs of one source document."""
    alike: float = Field(0.7, gt=0, le=1)
    """With policy diverse: instructions whose words have at least this Jaccard similarity (by MinHash) are one."""
    min_parsed: float = Field(0.5, ge=0, le=1)
    """Least share of the candidates on which a rating must have been given; what is unparsed is not low, it is not known."""
    when_unparsed: Literal["stop", "switch"] = "switch"
    """With fewer: stop, or select by the best other signal and say so. Policy threshold cuts ratings only, so it always stops."""
    labels: bool = False
    """Let the run's human labels (`humpback label`) correct P(good) and what precision is promised, in a stage
    `iteration-t/correct` before `curate`; too few are refused with a reason, and P(good) stays as it was. With other labels than
    it was made with, that stage is refused as stale; M_yx, M_0 and the scores of iteration 1 stay."""

    @field_validator("threshold")
    @classmethod
    def _threshold(cls, value: float) -> float:
        if not 1 <= value <= 5:
            raise ValueError(f"{value:g} is outside 1 to 5; the paper uses 4 or 4.5")
        return value

    @field_validator("prevalence")
    @classmethod
    def _prevalence(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError(f"{value:g} is not between 0 and 1; give the share of good candidates, or estimate")
        return value

    @field_validator("top")
    @classmethod
    def _top(cls, value: float) -> float:
        if value <= 0 or (value > 1 and value != int(value)):
            raise ValueError(
                f"{value:g} is neither a share in (0, 1] nor a whole count above 1; for example 0.4 or 200"
            )
        return value

    @model_validator(mode="after")
    def _fitting(self) -> CurateSettings:
        if self.policy == "precision" and self.signal not in ("auto", "p_good"):
            raise ValueError(
                f"policy=precision promises with P(good), not with signal={self.signal}; use p_good or auto"
            )
        if self.policy == "threshold" and self.signal not in ("auto", "rating", "sampled_rating"):
            raise ValueError(f"policy=threshold cuts ratings of 1 to 5, not {self.signal}; use policy=top or precision")
        if self.labels and (self.signal not in ("auto", "p_good") or self.policy == "threshold"):
            chosen = "policy=threshold" if self.policy == "threshold" else f"signal={self.signal}"
            raise ValueError(
                f"labels=true corrects P(good), which {chosen} does not select by; use signal=auto or p_good"
            )
        return self


class EvaluateSettings(Section):
    """What is measured at the end."""

    resamples: int = Field(2000, ge=100)
    """Bootstrap resamples of every interval."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of every interval."""
    corruptions: list[Corruption] = Field(list(get_args(Corruption)), min_length=1)
    """Ways in which the audit spoils held-out pairs. Fewer cost less, and P(good) is learnt from these alone."""
    labels: bool = False
    """Audit by the human labels of the run too (`humpback label`), in the stage `human` at the end; made with other labels, that
    stage is refused as stale. Here they decide nothing, and P(good) is the audit's, uncorrected; `curate.labels`
    lets them decide."""
    control: bool = True
    """Also train a control: seed and as many uncurated candidates as the last iteration curated."""
    answers: int = Field(0, ge=0)
    """Held-out instructions that the kept model answers for the report, the first by id: each with both tags, the seed tag and none,
    so three answers of at most `answer_tokens` tokens. 0 asks for none."""
    answer_tokens: int = Field(256, ge=1)
    """Longest of these answers, in tokens."""
    judge: RunJudge | None = None
    """Who compares the models' answers; null asks nobody, and there is no win rate. With `iterations: auto` the loop also ends where
    the win rate falls or stalls, if the judge can be believed; else it decides nothing, and may be named when the run is done."""
