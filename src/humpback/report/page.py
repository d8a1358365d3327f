"""The report page: one HTML file that needs nothing else, no script, no network, and escapes every text it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from humpback.report import decay, figures, judged, plots, setplots, settables
from humpback.report.losses import tell_formats
from humpback.report.signs import count_states
from humpback.report.writings import tell_end
from humpback.store.shards import atomic_write

__all__ = ["open_templates", "write_report"]

Row = Mapping[str, Any]


def open_templates() -> jinja2.Environment:
    """Return the folder of page templates; a name that a template lacks is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("humpback", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_report(path: Path, data: dict[str, Any]) -> None:
    """Write the page for a report as `build_report` returns it."""
    environment = open_templates()
    environment.filters.update(
        auc=figures.auc,
        count=figures.count,
        difference=figures.difference,
        duration=figures.duration,
        judgement=figures.judgement,
        nll=figures.nll,
        rate=figures.rate,
        reasons=figures.reasons,
        replies=figures.replies,
        score=figures.score,
        total=lambda by_reason: sum(by_reason.values()),
    )
    tools = {"plots": plots, "figures": figures, "setplots": setplots, "settables": settables, "tell_end": tell_end}
    tools |= {"decay": decay, "judged": judged}
    html = environment.get_template("page.html.j2").render(data=data, **tools, **_view(data))
    atomic_write(path, html.encode("utf-8", "replace"))  # a lone surrogate in a text must not cost the report


def _view(data: Row) -> dict[str, Any]:
    """Return what the template shows beside the report's own figures."""
    answers = data["evaluation"]["response_nll"]
    return {
        "summary": _summary(data),
        "headline": figures.headline(data),
        "signs_told": count_states(data["signs"]),
        "verdict": [_verdict(line) for line in data["verdict"]],
        "formats_told": tell_formats(data["training"]),
        "scripted": data["recipe"]["model"]["base"] == "fake",
        "largest": max((row["read"] for row in data["funnel"]), default=0),
        # the mean first: what a table that is wider than the window shows of it
        "corruptions": sorted(figures.kinds(data["audits"]), key=lambda kind: kind != "all"),
        "nll_scale": plots.scale_of(row for table in answers.values() for row in table["models"]),
        "difference_scale": plots.scale_of((row for table in answers.values() for row in table["differences"]), 0.0),
        "missing": [row for curation in data["curation"] for row in _missing(curation)],
        "recipe_yaml": yaml.safe_dump(data["recipe"], sort_keys=False, allow_unicode=True, width=100),
    }


def _summary(data: Row) -> str:
    stages = {stage["name"]: stage for stage in data["stages"]}
    last, ran = data["iterations"]["published"], data["iterations"]["ran"]
    curated = stages[f"iteration-{last}/curate"]
    signal = data["curation"][last - 1]["decision"]["signal"]
    text = (
        f"From {figures.count(stages['iteration-0/mix']['read'])} human-written seed pairs and "
        f"{figures.count(stages['dedup']['kept'])} segments of text, this run wrote "
        f"{figures.count(stages['augment']['kept'])} candidate pairs with a backward model, curated them in {ran} "
        f"iteration{'s' if ran != 1 else ''} and fine-tuned every model from {data['recipe']['model']['base']}. "
    )
    which = "The last iteration" if last == ran else f"Iteration {last}, whose pairs are the dataset,"
    text += (
        f"{which} kept {figures.count(curated['kept'])} of {figures.count(curated['read'])} candidates by {signal}. "
    )
    working = sum(stage["seconds"] for stage in data["stages"])
    return text + (
        f"Everything was measured on {figures.count(data['evaluation']['pairs'])} held-out seed pairs that no model "
        f"was trained on. Working time: {figures.duration(working)}."
    )


def _verdict(line: str) -> dict[str, str]:
    """Split a verdict line into who, the word that judges, and the figures."""
    who, _, rest = line.partition(": ")
    word, comma, figure = rest.partition(", ")
    if " against " not in who:
        return {"who": who, "word": "same model", "figure": rest}
    if word not in ("better", "worse", "not told apart") or not comma:
        return {"who": who, "word": "too few pairs", "figure": rest}
    return {"who": who, "word": word, "figure": figure}


def _missing(curation: Row) -> Sequence[dict[str, Any]]:
    """One row per signal: how many candidates it has a value for, and why not for the others."""
    names = sorted({name for name in curation["histograms"] if not name.endswith("_mass")} | set(curation["missing"]))
    return [
        {
            "iteration": curation["iteration"],
            "scored_by": curation["scored_by"],
            "signal": name,
            "with_value": curation["histograms"].get(name, {}).get("n", 0),
            "missing": curation["missing"].get(name, {}),
        }
        for name in names
    ]
