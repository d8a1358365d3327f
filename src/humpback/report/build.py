"""What a run found, as one JSON document: the report page, `status` and the run's closing tables all show it."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import humpback
from humpback.engines.base import EngineTotals
from humpback.evaluation.deciding import direct_score
from humpback.evaluation.gate import limit_of
from humpback.evaluation.probe import PREFIX
from humpback.evaluation.rating import REPLY_COUNTS
from humpback.recipe import Recipe
from humpback.records import Rejected, Rewritten, Scored
from humpback.report.changes import measure_changes
from humpback.report.decay import decay_rows, tell_course, tell_turn
from humpback.report.judged import read_judged
from humpback.report.losses import read_loss_points
from humpback.report.runsets import describe_run, measuring_of
from humpback.report.signs import find_signs
from humpback.report.winrates import read_win_rates
from humpback.report.writings import first_instructions, read_answers
from humpback.stages.correct import apply_correction
from humpback.stages.table import find_course
from humpback.store.rundir import Manifest, RunDir
from humpback.store.shards import read_records, shard_files

__all__ = ["build_report", "engine_row", "histogram", "stage_row"]

SHOWN_PAIRS = 10
BINS = 24


def build_report(run_dir: RunDir, recipe: Recipe, manifests: Sequence[Manifest]) -> dict[str, Any]:
    """Return the whole report; every figure in it comes from a manifest or a stage's files."""
    by_name = {manifest.name: manifest for manifest in manifests}
    course = find_course(recipe, run_dir)
    ran, last = course.iterations, course.published
    people = by_name["human"].result["models"] if "human" in by_name else None
    audits = [_audit(by_name[f"iteration-{t}/audit"], t, people[t] if people else None) for t in range(ran + 1)]
    curation = [_curation(by_name, run_dir, t) for t in range(1, ran + 1)]
    data = {
        "version": humpback.__version__,
        "run": run_dir.path.name,
        "recipe": recipe.model_dump(mode="json"),
        "environment": {**manifests[0].environment, **_attention(manifests)},
        "stages": [stage_row(manifest) for manifest in manifests if manifest.name != "report"],
        "iterations": tell_course(course, auto=recipe.iterations == "auto"),
        "decay": decay_rows(by_name, audits, curation, [_instructions(run_dir, t) for t in range(1, ran + 1)]),
        "changes": measure_changes(run_dir, by_name, recipe, ran),
        "statistics": describe_run(run_dir, recipe, measuring_of(recipe)),
        "turn": tell_turn(by_name["evaluate"].result, ran),
        "judged": read_judged(by_name, run_dir, ran),
        "win_rates": read_win_rates(run_dir.path),
        "funnel": _funnel(by_name, ran),
        "gate": _gate(by_name, recipe),
        "audits": audits,
        "curation": curation,
        "training": [_training(m, run_dir) for m in manifests if m.name.endswith("/finetune")],
        "evaluation": dict(by_name["evaluate"].result),
        "verdict": _verdict(by_name, ran, last, control=recipe.evaluate.control),
        "best": _best(run_dir, by_name, last),
        "rejected": _rejected(run_dir, last),
        "written": first_instructions(run_dir),
        "answers": read_answers(run_dir, by_name),
        "paths": {
            "dataset": "dataset",
            "models": [f"{m.name}/model" for m in manifests if m.name.endswith("/finetune")],
        },
    }
    return {**data, "signs": find_signs(data)}


def stage_row(manifest: Manifest) -> dict[str, Any]:
    """Return a complete stage as `status --json` shows it."""
    seconds = manifest.seconds
    return {
        "name": manifest.name,
        "iteration": manifest.iteration,
        "state": "done",
        "read": manifest.read,
        "kept": manifest.kept,
        "rejected": dict(manifest.rejected),
        "failed": dict(manifest.failed),
        "seconds": seconds,
        "rows_per_second": round(manifest.read / seconds, 3) if seconds and manifest.read else None,
        **engine_row(manifest.engine, seconds),
        "replies": dict(manifest.result.get("replies") or {}),
    }


def engine_row(engine: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return what a stage's engines did, with zeros for what manifests of earlier versions do not count."""
    totals = EngineTotals(**engine)
    tokens = totals.tokens_in + totals.tokens_out
    return {
        "engine": asdict(totals),
        "tokens_per_second": round(tokens / seconds, 1) if seconds and tokens else None,
    }


def _attention(manifests: Sequence[Manifest]) -> dict[str, str]:
    """Return each way in which the run's engines attended; a stage that asks no model tells none."""
    ways = sorted({way for m in manifests if (way := m.environment.get("attention"))})
    return {"attention": "; ".join(ways)} if ways else {}


def _funnel(by_name: Mapping[str, Manifest], last: int) -> list[dict[str, Any]]:
    names = ["seed", "ingest", "dedup", "backward/mix", "augment", "iteration-0/mix"]
    for t in range(1, last + 1):
        names += [f"iteration-{t}/score", f"iteration-{t}/curate", f"iteration-{t}/mix"]
    return [stage_row(by_name[name]) for name in [*names, "dataset"]]


def _gate(by_name: Mapping[str, Manifest], recipe: Recipe) -> dict[str, Any] | None:
    """The backward model's gate with the limits it passed; None when the recipe has none."""
    if "backward/gate" not in by_name:
        return None
    result = by_name["backward/gate"].result
    measures = []
    for measure in result["measures"]:
        key, limit = limit_of(measure["name"], recipe.gate)
        measures.append({**measure, "limit": limit, "side": "at least" if key.startswith("min") else "at most"})
    return {**result, "measures": measures, "judged": by_name["backward/gate"].read}


def _audit(manifest: Manifest, t: int, human: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return one model's audit, with what people's labels say of its signals where the run has them."""
    audit = {"iteration": t, **manifest.result}
    return {**audit, "human": dict(human), "notes": [*audit["notes"], *human["notes"]]} if human else audit


def _curation(by_name: Mapping[str, Manifest], run_dir: RunDir, t: int) -> dict[str, Any]:
    decision = by_name[f"iteration-{t}/curate"].result
    people = by_name[f"iteration-{t}/correct"].result if f"iteration-{t}/correct" in by_name else None
    scored = read_records(shard_files(run_dir.folder(f"iteration-{t}/score"), "scored"), Scored)
    if people and people["correction"]:
        scored = apply_correction(scored, people["correction"])  # by what candidates were curated
    curated = read_records(shard_files(run_dir.folder(f"iteration-{t}/curate"), "curated"), Scored)
    values: dict[str, list[float]] = {}
    missing: dict[str, dict[str, int]] = {}
    for row in scored:
        for name, value in _without_counts(row.scores).items():
            if not name.startswith((PREFIX, "text_")):  # the probe's parts, and the faults that `text` sums up
                values.setdefault(name, []).append(value)
        for name, reason in row.missing.items():
            word = reason.split(" ", 1)[0].rstrip(":")
            missing.setdefault(name, {})[word] = missing.setdefault(name, {}).get(word, 0) + 1
    return {
        "iteration": t,
        "scored_by": f"M_{t - 1}",
        "decision": dict(decision),
        "people": dict(people) if people else None,
        "rewrite": dict(by_name[f"iteration-{t}/rewrite"].result) if f"iteration-{t}/rewrite" in by_name else None,
        "lowest_kept": min(
            (row.scores[decision["signal"]] for row in curated),
            key=lambda value: direct_score(decision["signal"], value),
            default=None,
        ),
        "scores": by_name[f"iteration-{t}/score"].result["scores"],
        "agreement": by_name[f"iteration-{t}/score"].result["agreement"],
        "histograms": {name: histogram(numbers) for name, numbers in sorted(values.items())},
        "missing": missing,
    }


def _instructions(run_dir: RunDir, t: int) -> list[str]:
    """Return the instructions of an iteration's curated pairs, by ids: hashes, so that any part of them is a fair sample."""
    rows = read_records(shard_files(run_dir.folder(f"iteration-{t}/curate"), "curated"), Scored)
    return [text for _, text in sorted((row.id, row.instruction) for row in rows)]


def _without_counts(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the scores that say how good a pair is, without those that count a sampled rating's replies."""
    counts = {f"sampled_rating_{name}" for name in REPLY_COUNTS}
    return {name: value for name, value in scores.items() if name not in counts}


def histogram(values: Sequence[float], bins: int = BINS) -> dict[str, Any]:
    """Return counts over equal bins from the smallest to the largest value, with mean and quartiles."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    width = (high - low) / bins
    counts = [0] * bins
    for value in ordered:
        counts[min(int((value - low) / width), bins - 1) if width else 0] += 1
    quartiles = [ordered[round(share * (len(ordered) - 1))] for share in (0.25, 0.5, 0.75)]
    return {
        "low": low,
        "high": high,
        "counts": counts,
        "n": len(ordered),
        "mean": sum(ordered) / len(ordered),
        "quartiles": quartiles,
    }


def _training(manifest: Manifest, run_dir: RunDir) -> dict[str, Any]:
    result = manifest.result
    return {
        "stage": manifest.name,
        "curves": read_loss_points(run_dir.folder(manifest.name)),
        **result["training"],
        "model": result["content_hash"],
        "same_as": result.get("same_as"),
    }


def _verdict(by_name: Mapping[str, Manifest], ran: int, last: int, *, control: bool) -> list[str]:
    """Say in words whether it worked, from the paired differences only."""
    evaluation = by_name["evaluate"].result
    told = [
        f"M_{t} is M_{same.removeprefix('iteration-')}: iteration {t} curated the same pairs, so nothing new was learnt"
        for t in range(1, ran + 1)
        if (same := by_name[f"iteration-{t}/finetune"].result.get("same_as"))
    ]
    questions = [("M_yx", "base", "instruction_nll", "the backward model against the base, at writing instructions")]
    questions += [(f"M_{t}", "base" if t == 0 else f"M_{t - 1}", "response", "") for t in range(ran + 1)]
    questions += [(f"M_{last}", "M_0", "response", "")] if last > 1 else []
    questions += [("control", f"M_{last}", "response", "the same number of uncurated pairs")] if control else []
    for model, against, where, what in questions:
        table = evaluation["instruction_nll"] if where == "instruction_nll" else evaluation["response_nll"]["both tags"]
        row = next(d for d in table["differences"] if d["model"] == model and d["against"] == against)
        told.append(_tell(model, against, row, what))
    return told


def _tell(model: str, against: str, row: Mapping[str, Any], what: str) -> str:
    change = f"{row['value']:+.4f} nats per token"
    if row["low"] is None:
        return f"{model} against {against}: {change}; {row['n']} pairs are too few for an interval"
    change += f" ({row['low']:+.4f} to {row['high']:+.4f}, {row['n']} held-out pairs)"
    word = "better" if row["high"] < 0 else "worse" if row["low"] > 0 else "not told apart"
    return f"{model} against {against}: {word}, {change}" + (f"; {what}" if what else "")


def _best(run_dir: RunDir, by_name: Mapping[str, Manifest], last: int) -> list[dict[str, Any]]:
    signal = by_name[f"iteration-{last}/curate"].result["signal"]
    rows: Iterable[Scored] = read_records(shard_files(run_dir.folder(f"iteration-{last}/curate"), "curated"), Scored)
    if f"iteration-{last}/rewrite" in by_name:
        rows = read_records(shard_files(run_dir.folder(f"iteration-{last}/rewrite"), "rewritten"), Rewritten)
    best = heapq.nlargest(SHOWN_PAIRS, rows, key=lambda row: (direct_score(signal, row.scores[signal]), row.id))
    return [
        {
            "id": row.id,
            "instruction": row.instruction,
            "response": row.response,
            "scores": _without_counts(row.scores),
            "source_uri": row.source_uri,
        }
        for row in best
    ]


def _rejected(run_dir: RunDir, last: int) -> list[dict[str, Any]]:
    """Ten rejected pairs of the last curation, by the smallest ids: hashes, so no kind of pair is favoured."""
    rows = _rejected_rows(run_dir.folder(f"iteration-{last}/curate"))
    return [_rejected_row(row) for row in heapq.nsmallest(SHOWN_PAIRS, rows, key=lambda row: row.id)]


def _rejected_rows(folder: Path) -> Iterable[Rejected]:
    return read_records(shard_files(folder, "rejected"), Rejected)


def _rejected_row(row: Rejected) -> dict[str, Any]:
    content = json.loads(row.row)
    return {
        "id": row.id,
        "reason": row.reason,
        "detail": row.detail,
        "instruction": content["instruction"],
        "response": content["response"],
        "scores": _without_counts(content["scores"]),
        "source_uri": content["source_uri"],
    }
