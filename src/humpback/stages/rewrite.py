"""Rewrite: the model that scored writes each curated document anew as the answer to its instruction, or the document stays.

No pair is lost: one whose rewrite is unfit keeps its document, with the reason. The document stays beside every rewrite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from humpback.evaluation.raters import InstructionResponse, Raters
from humpback.evaluation.rewriting import FALLBACKS, Draft, find_fallback, measure_lifts, measure_rewrite, write_drafts
from humpback.recipe import RewriteSettings
from humpback.records import Rewritten, Scored

__all__ = ["CALLS", "rewrite", "sum_up"]

CALLS = 5
"""Engine requests per pair: a draft, and two lifts of two likelihoods."""
EXAMPLES = 3


def rewrite(
    rows: Sequence[Scored], raters: Raters, settings: RewriteSettings, *, random_seed: int
) -> Iterator[Rewritten]:
    """Yield every curated pair, rewritten or as it was."""
    drafts = write_drafts(rows, raters.model, raters, settings, random_seed=random_seed)
    written = [place for place, draft in enumerate(drafts) if draft.fallback is None]
    asked = [InstructionResponse(rows[place].instruction, rows[place].response) for place in written]
    new = [InstructionResponse(rows[place].instruction, drafts[place].text) for place in written]
    lifts = dict(zip(written, zip(measure_lifts(asked, raters), measure_lifts(new, raters), strict=True), strict=True))
    for place, (row, draft) in enumerate(zip(rows, drafts, strict=True)):
        yield _decide(row, draft, lifts.get(place), raters.model.model.content_hash, settings)


def _decide(
    row: Scored, draft: Draft, lifts: tuple[float | None, float | None] | None, model: str, settings: RewriteSettings
) -> Rewritten:
    measures: dict[str, float] = {}
    reason, detail = draft.fallback, draft.detail
    if reason is None and lifts is not None:
        measures = measure_rewrite(row, draft.text)
        named = zip(("document_lift", "lift"), lifts, strict=True)
        measures |= {name: value for name, value in named if value is not None}
        reason = find_fallback(row, draft.text, measures, settings)
        told = ", ".join(f"{name} {value:.2f}" for name, value in measures.items())
        detail = f"{FALLBACKS[reason]} ({told})" if reason else ""
    return Rewritten(
        **{**vars(row), "response": draft.text if reason is None else row.response},
        document=row.response,
        draft=draft.text,
        fallback=reason or "",
        detail=detail,
        measures=measures,
        rewritten_by=model,
    )


def sum_up(rows: Iterable[Rewritten]) -> dict[str, Any]:
    """Return how many were rewritten, why others were not, means before and after, and some to read."""
    reasons: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    examples: list[dict[str, str]] = []
    count = 0
    for row in rows:
        count += 1
        if row.fallback:
            reasons[row.fallback] += 1
            continue
        sums.update(
            {
                "rewritten": 1,
                "chars_before": len(row.document),
                "chars_after": len(row.response),
                "lift_before": row.measures["document_lift"],
                "lift_after": row.measures["lift"],
                **{name: row.measures[name] for name in ("copied", "shared")},
            }
        )
        if len(examples) < EXAMPLES:
            examples.append({name: getattr(row, name) for name in ("id", "instruction", "document", "response")})
    rewritten = int(sums.pop("rewritten", 0))
    return {
        "pairs": count,
        "rewritten": rewritten,
        "fallback": dict(sorted(reasons.items())),
        "means": {name: value / rewritten for name, value in sums.items()},
        "examples": examples,
        "told": _tell(count, rewritten, reasons, sums),
    }


def _tell(count: int, rewritten: int, reasons: Mapping[str, int], sums: Mapping[str, float]) -> str:
    told = f"{rewritten} of {count} curated pairs are rewritten"
    if rewritten:
        mean = {name: value / rewritten for name, value in sums.items()}
        told += (
            f" (characters {mean['chars_before']:,.0f} to {mean['chars_after']:,.0f}, lift {mean['lift_before']:.3f} to "
            f"{mean['lift_after']:.3f}, {mean['copied']:.0%} of the words copied in runs)"
        )
    kept = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items()))
    return f"{told}; {sum(reasons.values())} keep their document ({kept})" if kept else told
