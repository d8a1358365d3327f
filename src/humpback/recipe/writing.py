"""What models write, how they are asked for it, and when it is good enough: `prompts`, `augment`, `gate` and `rewrite`.

In: plain values of the recipe, and the file of a rubric that it names. Out: settings of the stages that generate text, and the rubric.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from humpback.errors import InputError
from humpback.prompts import RUBRICS, SEED_TAG, WEB_TAG
from humpback.recipe.section import Section

__all__ = ["AugmentSettings", "GateSettings", "PromptSettings", "RewriteSettings", "read_rubric"]


class PromptSettings(Section):
    """Wording that users may replace."""

    rubric: str = "paper"
    """`paper` (five levels described), `additive` (points that add up), or a file with a rating prompt of your own for 1 to 5.

    Yours holds {instruction} and {response}; for `sampled_rating` the request for reasoning and a last line is put after it.
    """
    seed_tag: str = SEED_TAG
    """S_a, appended to instructions of seed pairs."""
    web_tag: str = WEB_TAG
    """S_w, appended to instructions of curated pairs."""


class AugmentSettings(Section):
    """How the backward model writes instructions."""

    temperature: float = Field(0.7, ge=0)
    """Paper: 0.7."""
    top_p: float = Field(0.9, gt=0, le=1)
    """Paper: 0.9."""
    max_tokens: int = Field(128, ge=8)
    """Longest instruction, in tokens; one that does not end in time is rejected as `instruction_cut`."""


class GateSettings(Section):
    """When the backward model is good enough to write for all segments: a share whose interval lies beyond its limit stops the run."""

    segments: int = Field(200, ge=0)
    """Segments it writes for before the big run, capped by the corpus; 0 leaves the gate out."""
    max_echo: float = Field(0.05, ge=0, le=1)
    """Instructions that repeat the prompt."""
    max_copy: float = Field(0.3, ge=0, le=1)
    """Instructions that are a passage of their text."""
    max_empty: float = Field(0.1, ge=0, le=1)
    max_cut: float = Field(0.3, ge=0, le=1)
    """Instructions that do not end within augment.max_tokens."""
    max_duplicate: float = Field(0.3, ge=0, le=1)
    """Instructions that are the same as another."""
    max_other_language: float = Field(0.2, ge=0, le=1)
    """Instructions in another language than their text, of those whose languages are sure."""
    max_no_request: float = Field(0.5, ge=0, le=1)
    """English instructions that ask for nothing."""
    min_distinct: float = Field(0.2, ge=0, le=1)
    """Distinct verb-object pairs, of the instructions that have one."""
    min_lift_auc: float = Field(0.7, ge=0, le=1)
    """AUC of the backward lift of an instruction with its own text against another's; 0.5 is a coin."""


class RewriteSettings(Section):
    """The model that scored writes each curated response anew from its document (arXiv 2408.04614; not in the paper).

    A pair whose rewrite breaks a limit keeps its document, with the reason.
    """

    enabled: bool = False
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)
    max_tokens: int = Field(768, ge=16)
    """Longest rewrite, in tokens; one that does not end in time is not taken."""
    min_length: float = Field(0.2, ge=0, le=1)
    """Least length of a rewrite, in characters, as a share of its document's."""
    max_length: float = Field(1.5, gt=0)
    """Greatest, likewise."""
    max_copied: float = Field(0.9, ge=0, le=1)
    """Greatest share of its words in runs of 8 words or more of the document: above it, it is the document again."""
    min_shared: float = Field(0.5, ge=0, le=1)
    """Least share of its different words that the document or the instruction holds: below it, it says other things."""
    min_lift_gain: float = 0.0
    """How much higher its forward lift under the model must be than the document's, nats per token; below 0 it may be lower."""


def read_rubric(settings: PromptSettings) -> str:
    """Return the rubric of that name or in that file; raise InputError when it lacks a placeholder."""
    if settings.rubric in RUBRICS:
        return RUBRICS[settings.rubric]
    path = Path(settings.rubric)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"prompts.rubric={path} cannot be read: {error}; give a UTF-8 text file, or {' or '.join(RUBRICS)}"
        ) from None
    for name in ("{instruction}", "{response}"):
        if text.count(name) != 1:
            raise InputError(f"prompts.rubric={path} holds {name} {text.count(name)} times; it must hold it once")
    if text.index("{instruction}") > text.index("{response}"):
        raise InputError(f"prompts.rubric={path} has {{response}} before {{instruction}}; put the instruction first")
    return text
