"""`humpback zero-shot`: multiple-choice tasks by likelihood. In: models, files of items. Out: accuracies with intervals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from humpback.benchmarking.alpacaeval import draw, write_json
from humpback.benchmarking.models import ModelOptions, opened
from humpback.benchmarking.zeroshot import (
    WAYS,
    Accuracy,
    Graded,
    Item,
    compare_graded,
    frame,
    grade,
    measure,
    read_items,
)
from humpback.errors import InputError, StageError

__all__ = ["run_zeroshot"]


def run_zeroshot(
    models: Sequence[str],
    tasks: Sequence[Path],
    folder: Path,
    options: ModelOptions,
    *,
    sample: int | None,
    prefix: str,
    seed: int,
    as_json: bool,
) -> None:
    """Grade every model on every task, and each model against the first, item by item."""
    if len(set(models)) < len(models):
        raise InputError("a model is named twice; name each once")
    items = {_name(path): draw(read_items(path), sample, seed) for path in tasks}
    if len(items) < len(tasks):
        raise InputError("two of the tasks have the same file name; rename one")
    graded: dict[str, dict[str, list[Graded]]] = {}
    for model in models:
        with opened(model, options, needs="loglikelihood") as engine:
            graded[model] = {task: grade(own, engine, prefix=prefix) for task, own in items.items()}
    rows = [_row(task, items[task], model, graded, seed) for task in items for model in models]
    report = {"prompt": {task: prefix + frame(own[0].query) for task, own in items.items()}, "results": rows}
    write_json(folder / "zero-shot.json", report)
    if not any(isinstance(row["n"], int) and row["n"] for row in rows):
        raise StageError(
            f"no item could be graded; the first reason: {next(iter(_errors(next(iter(graded.values())))))}"
        )
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print(rows)


def _name(path: Path) -> str:
    return path.name.split(".")[0]


def _errors(by_task: dict[str, list[Graded]]) -> Counter[str]:
    return Counter(item.error for own in by_task.values() for item in own if item.error)


def _row(
    task: str, items: Sequence[Item], model: str, graded: dict[str, dict[str, list[Graded]]], seed: int
) -> dict[str, object]:
    own, first = graded[model][task], next(iter(graded))
    errors = _errors({task: own})
    accuracies = {way: measure(own, way) for way in WAYS}
    against = {}
    if model != first:
        for way in WAYS:
            found = compare_graded(graded[first][task], own, way, seed=seed)
            against[way] = asdict(found) if found else None
    return {
        "task": task,
        "model": model,
        "n": accuracies["acc"].n,
        "failed": sum(errors.values()),
        "errors": dict(errors.most_common(3)),
        "chance": sum(1 / len(item.choices) for item in items) / len(items),
        **{way: asdict(accuracy) for way, accuracy in accuracies.items()},
        "against_first": against or None,
    }


def _print(rows: Sequence[dict[str, object]]) -> None:
    from humpback.benchmarking.reliability_print import shorten_models
    from humpback.report.terminal import print_table

    def tell(value: object) -> str:
        accuracy = Accuracy(**value) if isinstance(value, dict) else None
        if accuracy is None or accuracy.value is None:
            return "–"
        if accuracy.low is None or accuracy.high is None:
            return f"{100 * accuracy.value:.1f} (small n)"
        return f"{100 * accuracy.value:.1f} ({100 * accuracy.low:.1f}–{100 * accuracy.high:.1f})"

    def tell_difference(value: object) -> str:
        if not isinstance(value, dict) or not isinstance(value.get("acc_norm"), dict):
            return ""
        found = value["acc_norm"]
        bounds = "" if found["low"] is None else f" ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"
        return f"{100 * found['value']:+.1f}{bounds}"

    headers = ["task", "model", "n>", "failed>", "chance>", "accuracy>", "per character>", "per token>"]
    several = any(row["against_first"] for row in rows)
    cells = []
    names = shorten_models(list(dict.fromkeys(str(row["model"]) for row in rows)))
    rows = [{**row, "model": names[str(row["model"])]} for row in rows]
    for row in rows:
        told = [str(row[name]) for name in ("task", "model", "n", "failed")]
        told += [f"{100 * float(str(row['chance'])):.1f}", *(tell(row[way]) for way in WAYS)]
        cells.append([*told, tell_difference(row["against_first"])] if several else told)
    title = "accuracy in percent, Wilson's 95 %; a small n has no interval"
    print_table(
        f"{title}; differences per character, paired" if several else title,
        [*headers, "less the first's>"] if several else headers,
        cells,
    )
    for row in rows:
        errors = row["errors"]
        for reason, count in errors.items() if isinstance(errors, dict) else ():
            print(f"{row['task']}, {row['model']}: {count} failed: {reason}")
