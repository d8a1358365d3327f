"""`humpback label`: which of its ways is asked for, and what it prints."""

from __future__ import annotations

import getpass
import json
from pathlib import Path

from humpback.errors import InputError
from humpback.labelling.exchange import Imported, export_labels, import_labels
from humpback.labelling.sample import load_population
from humpback.labelling.session import Session
from humpback.labelling.stats import measure, stat_lines
from humpback.report.figures import clean

__all__ = ["run_label"]

LISTED = 20
"""Rejected lines of an import that are shown."""


def run_label(
    run: Path,
    *,
    count: int,
    labeller: str | None,
    show_scores: bool,
    export_to: Path | None,
    import_from: Path | None,
    stats: bool,
    as_json: bool,
) -> None:
    """Label in the terminal, or export, import or count the labels of a run."""
    if sum((export_to is not None, import_from is not None, stats)) > 1:
        raise InputError("--export, --import and --stats are each a task of their own; give one at a time")
    if labeller is not None and not labeller.strip():
        raise InputError("--labeller is empty; give a name that tells you from the other labellers")
    population = load_population(run)
    name = labeller.strip() if labeller else _user()
    if export_to is not None:
        rows, filled = export_labels(population, export_to, labeller=labeller, count=count, show_scores=show_scores)
        print(f"{export_to}: {rows} pairs, {filled} of them labelled")
    elif import_from is not None:
        _tell_import(import_from, import_labels(population, import_from, labeller=name))
    elif stats:
        found = measure(population)
        print(json.dumps(found, indent=2) if as_json else clean("\n".join(stat_lines(found))))
    else:
        _label(Session(population, name, count), show_scores=show_scores)


def _label(session: Session, *, show_scores: bool) -> None:
    from humpback.labelling.screen import Screen, has_terminal

    run = session.population.run
    if not has_terminal():
        raise InputError(
            f"`humpback label {run}` asks in a terminal and there is none; start it in one, or use --export FILE.csv "
            "--labeller NAME, fill the file in, and --import FILE.csv"
        )
    Screen(session, show_scores=show_scores).run()
    print(f"{session.labelled} of {session.count} pairs are labelled by {clean(session.labeller)}: {session.path}")
    if session.current is not None:
        print("The same command goes on from here.")


def _tell_import(path: Path, done: Imported) -> None:
    parts = [f"{done.read} lines", f"{done.taken} labels taken"]
    parts += [f"{done.unchanged} known already"] if done.unchanged else []
    parts += [f"{done.empty} without a label"] if done.empty else []
    parts += [f"{done.repeated} replaced by a later line on the same pair"] if done.repeated else []
    parts += [f"{len(done.rejected)} rejected"] if done.rejected else []
    print(f"{path}: {', '.join(parts)}")
    for line in done.rejected[:LISTED]:
        print(f"  {line}")
    if len(done.rejected) > LISTED:
        print(f"  and {len(done.rejected) - LISTED} more")
    if done.rejected and not done.taken and not done.unchanged:
        raise InputError(f"{path}: no label could be taken; mend the lines above")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        raise InputError("this user has no name here; say who labels: --labeller NAME") from None
