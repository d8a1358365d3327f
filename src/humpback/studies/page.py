"""A study's results for people: tables in a terminal, and one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from humpback.evaluation.stats import MIN_PAIRS
from humpback.report import figures, plots
from humpback.report.page import open_templates
from humpback.report.signs import sign_lines
from humpback.report.terminal import print_table
from humpback.store.shards import atomic_write

__all__ = [
    "COMPARED",
    "FITS",
    "PAGE",
    "Row",
    "compared_rows",
    "failure_lines",
    "fit_rows",
    "headers",
    "picture",
    "print_results",
    "setting_rows",
    "tell_metric",
    "write_page",
]

PAGE = "study.html"
Row = Mapping[str, Any]


def print_results(found: Row) -> None:
    """Print every setting, the fits and their comparison, what failed and what to bear in mind."""
    for metric, told in found["metrics"].items() if found["pairs"] else ():
        print_table(tell_metric(found, metric), headers(told), list(setting_rows(told)))
        for line in told.get("doubts", ()):
            print(figures.clean(line))
        if found["study"] == "scaling":
            print_table(f"{metric} = alpha * log(N) + C, log to base {told['log_base']}", FITS, list(fit_rows(told)))
            if told["comparisons"]:
                print_table("alpha of one kind minus another's", COMPARED, list(compared_rows(told)))
            for line in sign_lines(told["signs"]):
                print(figures.clean(line))
    for line in failure_lines(found):
        print(figures.clean(f"failed: {line}"))
    for note in found["notes"]:
        print(f"note: {note}")


def failure_lines(found: Row) -> Iterator[str]:
    """Yield each reason once, after the cells that it stopped: one gate ends all cells that share it."""
    cells: dict[str, list[str]] = {}
    for row in found["failed"]:
        cells.setdefault(row["why"], []).append(f"{row['name']}, seed {row['seed']}")
    for why, names in cells.items():
        yield f"{names[0]}: {why}" if len(names) == 1 else f"{len(names)} cells ({'; '.join(names)}): {why}"


def tell_metric(found: Row, metric: str) -> str:
    """Say what a metric is, on what it was measured and which way is better."""
    told = found["metrics"][metric]
    if metric != "win_rate":
        return f"{metric} per token on {found['pairs']} pairs, {told['better']} is better"
    kinds = ", ".join(f"{count} {kind}" for kind, count in told["rulings"].items()) or "none"
    place = "" if told["first_place"] is None else f", {told['first_place']:.0f} % for the answer that stands first"
    return (
        f"win rate in percent by {told['judge']} on {told['prompts']} of {told['asked']} prompts, {told['better']} is better; "
        f"its rulings: {kinds}{place}"
    )


FIGURES = ("pairs>", "steps>", "seeds>", "value>", "interval>", "minus first>", "interval>")
FITS = ("kind", "alpha>", "interval>", "C>", "r squared>", "why not")
COMPARED = ("kind", "against", "difference>", "interval>", "p>", "p, Holm>")


def headers(told: Row) -> list[str]:
    """Return the columns of the table of settings: what sets them apart, then figures; `>` marks one aligned to the right."""
    apart: dict[str, str] = next((row["setting"] for row in told["settings"]), {})
    return [*apart, *FIGURES, *(("judge",) if "judge" in told else ())]


def setting_rows(told: Row) -> Iterator[list[str]]:
    """Yield the cells of the table of settings, as text."""
    digits = _digits(told)
    for row in told["settings"]:
        apart = row["difference"]
        yield [
            *row["setting"].values(),
            figures.count(row["examples"]),
            figures.count(row["steps"]),
            str(row["seeds"]),
            _number(row["value"], digits),
            _bounds(row, digits),
            _signed(apart["value"], digits) if apart else figures.NOTHING,
            _bounds(apart, digits, signed=True) if apart else figures.NOTHING,
            *(("not believed" if row["doubt"] else "believed",) if "judge" in told else ()),
        ]


def fit_rows(told: Row) -> Iterator[list[str]]:
    """Yield the cells of the table of fits."""
    digits = _digits(told)
    for row in told["fits"]:
        if row["alpha"] is None:
            yield [row["kind"], *[figures.NOTHING] * 4, row["why"]]
            continue
        squared = figures.NOTHING if row["r_squared"] is None else f"{row['r_squared']:.3f}"
        alpha = row["alpha"]
        yield [
            row["kind"],
            _signed(alpha["value"], digits),
            _bounds(alpha, digits, signed=True),
            _number(row["intercept"], digits),
            squared,
            "",
        ]


def compared_rows(told: Row) -> Iterator[list[str]]:
    """Yield the cells of the table that compares slopes."""
    digits = _digits(told)
    for row in told["comparisons"]:
        p_values = [figures.NOTHING if row[key] is None else f"{row[key]:.4f}" for key in ("p_value", "p_holm")]
        yield [row["kind"], row["against"], _signed(row["value"], digits), _bounds(row, digits, signed=True), *p_values]


def write_page(path: Path, name: str, found: Row) -> None:
    """Write the page of a study's results."""
    sections = [_section(metric, told) for metric, told in found["metrics"].items()]
    for section in sections:
        section["title"] = tell_metric(found, section["metric"])
    template = open_templates().get_template("study.html.j2")
    html = template.render(name=name, found=found, plots=plots, sections=sections, failures=list(failure_lines(found)))
    atomic_write(path, html.encode("utf-8", "replace"))


def _section(metric: str, told: Row) -> dict[str, Any]:
    """Return what the page shows of one metric."""
    scaling = "fits" in told
    return {
        "metric": metric,
        "better": told["better"],
        "doubts": told.get("doubts", []),
        "settings": list(zip(told["settings"], setting_rows(told), strict=True)),
        "scale": plots.scale_of(told["settings"]),
        "apart_scale": plots.scale_of([row["difference"] for row in told["settings"] if row["difference"]], 0.0),
        "headers": headers(told),
        "fits": list(fit_rows(told)) if scaling else [],
        "fit_headers": FITS,
        "compared": list(compared_rows(told)) if scaling else [],
        "compared_headers": COMPARED,
        "signs": told["signs"] if scaling else [],
        "picture": picture(metric, told),
        "log_base": told.get("log_base"),
    }


def picture(metric: str, told: Row) -> str:
    """Return the plot of a scaling study's fits as SVG; empty where there is nothing to plot."""
    if "fits" not in told or not told["settings"]:
        return ""
    kinds = [
        plots.Fitted(
            name=fit["kind"],
            points=[(row["examples"], row) for row in told["settings"] if row["setting"]["kind"] == fit["kind"]],
            slope=fit["alpha"]["value"] if fit["alpha"] else None,
            intercept=fit["intercept"] if fit["alpha"] else None,
        )
        for fit in told["fits"]
    ]
    label = f"{metric} by pairs trained on, N on a logarithmic axis, with the fit of each kind"
    return plots.fitted_lines(kinds, told["log_base"], label)


def _digits(told: Row) -> int:
    """Return how many digits after the point are worth telling: nats have four, percent one."""
    return 1 if "judge" in told else 4


def _number(value: float | None, digits: int) -> str:
    return figures.NOTHING if value is None else f"{value:.{digits}f}"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}"


def _bounds(row: Row, digits: int, *, signed: bool = False) -> str:
    if row["low"] is None:
        return "too few" if row["n"] < MIN_PAIRS else "all alike"
    return " to ".join(_signed(row[key], digits) if signed else _number(row[key], digits) for key in ("low", "high"))
