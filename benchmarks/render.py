"""Write docs/benchmarks.md from every JSON file in benchmarks/results. In: the results. Out: the page; no figure is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness import RESULTS, ROOT

__all__ = ["main", "render"]

PAGE = ROOT / "docs" / "benchmarks.md"
HEAD = """\
# Benchmarks

`benchmarks/render.py` writes this page from `benchmarks/results/*.json`; `make bench` runs all of them and then it. The files also
hold the figure of every repetition. Each alternative is timed in the same run as ours, in alternating order.
"""


def main() -> None:
    documents = [json.loads(path.read_bytes()) for path in sorted(RESULTS.glob("*.json"))]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render(documents), encoding="utf-8")
    print(f"{PAGE} is written")


def render(documents: Sequence[Mapping[str, Any]]) -> str:
    """Return the page for results as `harness.write_result` keeps them."""
    if not documents:
        return HEAD + "\nNothing has been measured yet.\n"
    return "\n".join([HEAD, *(_section(document) for document in documents)])


def _section(document: Mapping[str, Any]) -> str:
    parts = [f"## {document['name']}", document["note"], _series(document["summary"])]
    if document["goals"]:
        parts.append(_goals(document["goals"]))
    return "\n\n".join([*parts, _machine(document["environment"])]) + "\n"


def _series(summary: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        [f"`{name}`", *(_figure(figures[key]) for key in ("median", "min", "max")), str(figures["n"])]
        for name, figures in summary.items()
    ]
    return _table(["series", "median", "least", "most", "repetitions"], rows)


def _goals(goals: Sequence[Mapping[str, Any]]) -> str:
    words = {True: "yes", False: "**no**", None: "no goal set"}
    rows = [
        [
            goal["name"],
            _figure(goal["value"]),
            "" if goal["goal"] is None else _figure(goal["goal"]),
            words[goal["met"]],
        ]
        for goal in goals
    ]
    return _table(["figure", "value", "goal", "met"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _figure(value: float) -> str:
    """Return four digits, thousands apart; a whole number stays whole."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _machine(environment: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    commit = (environment["commit"] or "unknown")[:12]
    changed = " with uncommitted changes" if environment["dirty"] else ""
    gpu = f"{environment['accelerator']}; " if environment.get("accelerator") else ""
    return (
        f"Machine: {gpu}{environment['cpu']}, {environment['cores']} cores, {environment['memory_gib']} GiB; "
        f"{environment['os']}; load {environment['load_1min']} at the end. "
        f"Python {environment['python']}; {packages}. Commit {commit}{changed}."
    )


if __name__ == "__main__":
    main()
