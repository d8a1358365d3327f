"""A study's results for people: tables in a terminal, and one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from humpback.report import figures, plots
from humpback.report.page import open_templates
from humpback.report.signs import sign_lines
from humpback.report.summary import print_table
from humpback.store.shards import atomic_write

__all__ = ["PAGE", "print_results", "write_page"]

PAGE = "study.html"
Row = Mapping[str, Any]


def print_results(found: Row) -> None:
    """Print every setting, the fits and their comparison, what failed and what to bear in mind."""
    told = f"{found['metric']} per token on {found['pairs']} pairs, {found['better']} is better"
    print_table(told, headers(found), list(setting_rows(found)))
    if found["study"] == "scaling":
        print_table(
            f"{found['metric']} = alpha * log(N) + C, log to base {found['log_base']}", FITS, list(fit_rows(found))
        )
        if found["comparisons"]:
            print_table("alpha of one kind minus another's", COMPARED, list(compared_rows(found)))
        for line in sign_lines(found["signs"]):
            print(figures.clean(line))
    for row in found["failed"]:
        print(figures.clean(f"failed: {row['name']}, seed {row['seed']}: {row['why']}"))
    for note in found["notes"]:
        print(f"note: {note}")


FIGURES = ("pairs>", "steps>", "seeds>", "value>", "interval>", "minus first>", "interval>")
FITS = ("kind", "alpha>", "interval>", "C>", "r squared>", "why not")
COMPARED = ("kind", "against", "difference>", "interval>", "p>", "p, Holm>")


def headers(found: Row) -> list[str]:
    """Return the columns of the table of settings: what sets them apart, then figures; `>` marks one aligned to the right."""
    apart: dict[str, str] = next((row["setting"] for row in found["settings"]), {})
    return [*apart, *FIGURES]


def setting_rows(found: Row) -> Iterator[list[str]]:
    """Yield the cells of the table of settings, as text."""
    for row in found["settings"]:
        apart = row["difference"]
        yield [
            *row["setting"].values(),
            figures.count(row["examples"]),
            figures.count(row["steps"]),
            str(row["seeds"]),
            _number(row["value"]),
            _bounds(row),
            _signed(apart["value"]) if apart else figures.NOTHING,
            _bounds(apart, signed=True) if apart else figures.NOTHING,
        ]


def fit_rows(found: Row) -> Iterator[list[str]]:
    """Yield the cells of the table of fits."""
    for row in found["fits"]:
        if row["alpha"] is None:
            yield [row["kind"], *[figures.NOTHING] * 4, row["why"]]
            continue
        squared = figures.NOTHING if row["r_squared"] is None else f"{row['r_squared']:.3f}"
        alpha = row["alpha"]
        yield [
            row["kind"],
            _signed(alpha["value"]),
            _bounds(alpha, signed=True),
            _number(row["intercept"]),
            squared,
            "",
        ]


def compared_rows(found: Row) -> Iterator[list[str]]:
    """Yield the cells of the table that compares slopes."""
    for row in found["comparisons"]:
        p_values = [figures.NOTHING if row[key] is None else f"{row[key]:.4f}" for key in ("p_value", "p_holm")]
        yield [row["kind"], row["against"], _signed(row["value"]), _bounds(row, signed=True), *p_values]


def write_page(path: Path, name: str, found: Row) -> None:
    """Write the page of a study's results."""
    apart = [row["difference"] for row in found["settings"] if row["difference"]]
    html = (
        open_templates()
        .get_template("study.html.j2")
        .render(
            name=name,
            found=found,
            plots=plots,
            settings=list(zip(found["settings"], setting_rows(found), strict=True)),
            scale=plots.scale_of(found["settings"]),
            apart_scale=plots.scale_of(apart, 0.0),
            headers=headers(found),
            fits=list(fit_rows(found)) if found["study"] == "scaling" else [],
            fit_headers=FITS,
            compared=list(compared_rows(found)) if found["study"] == "scaling" else [],
            compared_headers=COMPARED,
            picture=_picture(found),
        )
    )
    atomic_write(path, html.encode("utf-8", "replace"))


def _picture(found: Row) -> str:
    """Return the plot of a scaling study, the empty text for another."""
    if found["study"] != "scaling" or not found["settings"]:
        return ""
    kinds = [
        plots.Fitted(
            name=fit["kind"],
            points=[(row["examples"], row) for row in found["settings"] if row["setting"]["kind"] == fit["kind"]],
            slope=fit["alpha"]["value"] if fit["alpha"] else None,
            intercept=fit["intercept"] if fit["alpha"] else None,
        )
        for fit in found["fits"]
    ]
    label = f"{found['metric']} by pairs trained on, N on a logarithmic axis, with the fit of each kind"
    return plots.fitted_lines(kinds, found["log_base"], label)


def _number(value: float | None) -> str:
    return figures.NOTHING if value is None else f"{value:.4f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _bounds(row: Row, *, signed: bool = False) -> str:
    if row["low"] is None:
        return "too few pairs"
    return " to ".join((_signed if signed else _number)(row[key]) for key in ("low", "high"))
