"""The report of `humpback reliability` for people. In: the report's JSON. Out: tables on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from humpback.benchmarking.winrate_print import tell
from humpback.report.figures import NOTHING, clean, reasons
from humpback.report.terminal import print_table

__all__ = ["print_reliability", "shorten_models"]

Row = Mapping[str, Any]
AGREEMENT = ("weighted_kappa", "kappa", "spearman")


def print_reliability(report: Row, folder: Path) -> None:
    """Print what each model says, how far models agree, and how far they agree with people."""
    names = shorten_models([row["model"] for row in report["models"]])
    report = {
        **report,
        **{part: [_rename(row, names) for row in report[part]] for part in ("models", "between", "human")},
    }
    pairs = report["pairs"]
    left_out = f"; left out: {reasons(pairs['left_out'])}" if pairs["left_out"] else ""
    print(
        clean(
            f"{pairs['items']} items of {pairs['instructions']} instructions ({pairs['kind']}){left_out}; rubric {report['rubric']}, "
            f"{report['way']}; intervals 95 %, bootstrap over instructions"
        )
    )
    headers = ["model", "rated>", "missing", "mean>", "sd>", "quartiles>", "1 2 3 4 5>", "label mass>"]
    print_table("What each model says", headers, [_distribution(row) for row in report["models"]])
    if report["between"]:
        headers = ["model", "against", "n>", "weighted kappa>", "kappa>", "rank correlation>"]
        print_table("How far models agree", headers, [_between(row) for row in report["between"]])
        for reason in dict.fromkeys(reason for row in report["between"] for reason in _lacks(row)):
            print(clean(reason))
        icc = report["icc"]
        left_out = ", ".join(names[model] for model in icc["left_out"])
        without = f" (left out, as they rated fewer than two items: {left_out})" if left_out else ""
        told = f"{_tell(icc['agreement'])}, n = {icc['agreement']['n']}"
        print(clean(f"ICC(2,1), absolute agreement of {icc['models']} models{without}: {told}"))
        print(clean(f"ICC(3,1), consistency: {_tell(icc['consistency'])}"))
    else:
        print("one model was given: there is no other to agree with")
    for line in _people(report["human"]):
        print(clean(line))
    print(clean(f"\n{folder / 'reliability.json'}"))


def _rename(row: Row, names: Mapping[str, str]) -> Row:
    return {**row, **{side: names[row[side]] for side in ("model", "against") if side in row}}


def shorten_models(models: Sequence[str]) -> dict[str, str]:
    """Return `M_1 of demo` for a run's model, unless two would be called so."""
    short = {}
    for model in models:
        run, room, *rest = ("", "", "", *Path(model).parts)[-4:]
        told = f"M_{room[10:]} of {run}" if room.startswith("iteration-") and rest == ["finetune", "model"] else model
        short[model] = told
    counts = Counter(short.values())
    return {model: told if counts[told] == 1 else model for model, told in short.items()}


def _distribution(row: Row) -> list[str]:
    if not row["rated"]:
        return [row["model"], "0", reasons(row["missing"]), *[NOTHING] * 5]
    return [
        row["model"],
        str(row["rated"]),
        reasons(row["missing"]),
        f"{row['mean']:.2f}",
        NOTHING if row["sd"] is None else f"{row['sd']:.3f}",
        ", ".join(f"{value:.2f}" for value in row["quartiles"]),
        " ".join(str(count) for count in row["levels"].values()),
        NOTHING if row["label_mass"] is None else f"{row['label_mass']:.3f}",
    ]


def _between(row: Row) -> list[str]:
    figures = [row[name] for name in AGREEMENT]
    return [row["model"], row["against"], str(figures[0]["n"]), *map(_brief, figures)]


def _brief(figure: Row) -> str:
    """Return what fits a cell; why a figure or its interval is missing stands once, below the table."""
    if figure["value"] is None:
        return NOTHING
    return f"{figure['value']:.2f}" if figure["low"] is None else _tell(figure)


def _lacks(row: Row) -> Iterator[str]:
    for name, figure in ((name, row[name]) for name in AGREEMENT):
        if figure["value"] is None:
            yield f"no {name.replace('_', ' ')} of {row['model']} and {row['against']}: {figure['reason']}"
        elif figure["low"] is None and figure.get("reason"):
            yield f"no interval: {figure['reason']}"


def _tell(figure: Row) -> str:
    if figure["value"] is None:
        return f"none: {figure['reason']}"
    if figure["low"] is None:
        return f"{figure['value']:.2f}, no interval" + (f": {figure['reason']}" if figure.get("reason") else "")
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"


def _people(rows: list[Row]) -> Iterator[str]:
    if not any(row[name] for row in rows for name in ("preference", "auc", "weighted_kappa")):
        yield "agreement with people: not checked, the pairs have no human labels"
        return
    for row in rows:
        if preferred := row["preference"]:
            yield (
                f"{row['model']} rates the output that people prefer higher: {tell(preferred)}, n = {preferred['n']}, "
                f"{preferred['ties']} ties, {preferred['failed']} without both ratings; 50 % is a coin"
            )
        if row["auc"]:
            yield f"{row['model']} rates good pairs higher: AUC {_tell(row['auc'])}, n = {row['auc']['n']}"
        if row["weighted_kappa"]:
            yield (
                f"{row['model']} and human scores: weighted kappa {_tell(row['weighted_kappa'])}, rank correlation "
                f"{_tell(row['spearman'])}, n = {row['weighted_kappa']['n']}"
            )
