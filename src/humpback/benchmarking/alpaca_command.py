"""`humpback alpaca-eval`: AlpacaEval's figures, computed anew from annotations. In: its files. Out: a table, JSON, a leaderboard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from humpback.benchmarking.alpacaeval import (
    read_annotations,
    read_json_rows,
    read_leaderboard,
    read_outputs,
    write_leaderboard,
)
from humpback.benchmarking.comparisons import Comparison, Figures, figure
from humpback.benchmarking.lengthcontrol import Difficulty, control_lengths, fit_difficulty
from humpback.benchmarking.winrates import MIN_BOOTSTRAP
from humpback.errors import InputError

__all__ = ["run_alpaca_eval"]


def run_alpaca_eval(
    annotations: Sequence[Path],
    *,
    outputs: Sequence[Path],
    difficulty_from: Sequence[Path],
    prompts: Path | None,
    compare: Path | None,
    leaderboard: Path | None,
    as_json: bool,
) -> None:
    """Print the figures of every model in the annotations."""
    ids = _number(prompts) if prompts else {}
    comparisons = _load(annotations, ids)
    for path in outputs:
        comparisons = _take_outputs(comparisons, path, ids)
    by_model: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        by_model.setdefault(comparison.model, []).append(comparison)
    figures = {model: figure(own) for model, own in by_model.items()}
    difficulty, reason = _difficulty(comparisons, [_load(difficulty_from, ids)] if difficulty_from else [])
    controlled = control_lengths(comparisons, difficulty) if difficulty else {}
    if leaderboard:
        write_leaderboard(leaderboard, {m: (f, controlled.get(m)) for m, f in figures.items()})
    told = {
        "baseline": comparisons[0].baseline,
        "models": [
            {"model": m, **asdict(f), "length_controlled_winrate": controlled.get(m)} for m, f in figures.items()
        ],
        "length_control": {"difficulty_models": difficulty.models if difficulty else None, "reason": reason},
        "compared": _compare(figures, controlled, read_leaderboard(compare)) if compare else None,
    }
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        _print(told["baseline"], figures, controlled, difficulty, reason, told["compared"])


def _number(path: Path) -> dict[str, str]:
    """Return the ids of an evaluation set's prompts by their text: what joins annotations.json with a table."""
    rows = read_json_rows(path)
    if not all("id" in row and isinstance(row.get("instruction"), str) for row in rows):
        raise InputError(f"{path} is no evaluation set: a JSON list of entries with id and instruction")
    return {str(row["instruction"]): str(row["id"]) for row in rows}


def _load(paths: Sequence[Path], ids: Mapping[str, str]) -> list[Comparison]:
    found: list[Comparison] = []
    for path in paths:
        found += [replace(c, prompt=ids.get(c.prompt, c.prompt)) for c in read_annotations(path)]
    baselines = sorted({c.baseline for c in found})
    if len(baselines) != 1:
        raise InputError(
            f"the annotations compare with {len(baselines)} baselines ({', '.join(baselines[:4])}); rates against different ones "
            "cannot stand in one table: give them apart"
        )
    if len({(c.model, c.prompt) for c in found}) < len(found):
        raise InputError("two of the files annotate the same prompts of the same model; give each annotation once")
    return found


def _take_outputs(comparisons: Sequence[Comparison], path: Path, ids: Mapping[str, str]) -> list[Comparison]:
    """Take the lengths of a model's outputs from its file, which must hold what was annotated."""
    outputs = read_outputs(path)
    name, by_prompt = outputs[0].generator, {output.instruction: output for output in outputs}
    own = [c for c in comparisons if c.model == name]
    if not own:
        models = ", ".join(sorted({c.model for c in comparisons})[:5])
        raise InputError(
            f"{path} holds outputs of {name}, which no annotation is about; the annotations are of {models}"
        )
    by_prompt |= {ids[text]: output for text, output in by_prompt.items() if text in ids}
    if all(c.prompt.isdecimal() for c in own) and not ids:
        # by their place in the file they would be joined wrongly where it is in another order, and nothing would show it
        raise InputError(
            f"the annotations of {name} number the prompts, and {path} has their texts: "
            "give the evaluation set as --prompts, which has both"
        )
    missing = [c.prompt for c in own if c.prompt not in by_prompt]
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of {len(own)} annotated prompts of {name} have no output there, for example {missing[0][:80]!r}; "
            "outputs and annotations must be of the same evaluation set"
        )

    def measure(comparison: Comparison) -> Comparison:
        return replace(comparison, model_chars=len(by_prompt[comparison.prompt].output))

    return [measure(c) if c.model == name else c for c in comparisons]


def _difficulty(
    comparisons: Sequence[Comparison], others: Sequence[Sequence[Comparison]]
) -> tuple[Difficulty | None, str | None]:
    """Return the prompts' difficulty, or why it cannot be fitted."""
    if others:
        return fit_difficulty(others[0]), None
    try:
        return fit_difficulty(comparisons), None
    except InputError as error:
        return None, str(error)


def _compare(
    figures: dict[str, Figures], controlled: dict[str, float], board: dict[str, dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Return, for each model of the leaderboard, our figures less its own."""
    differences = {}
    for model in figures.keys() & board.keys():
        own = {**asdict(figures[model]), "length_controlled_winrate": controlled.get(model)}
        differences[model] = {name: own[name] - value for name, value in board[model].items() if own[name] is not None}
    if not differences:
        raise InputError(
            "the leaderboard of --compare has none of the annotated models; give the judge's own leaderboard"
        )
    return dict(sorted(differences.items()))


def _print(
    baseline: object,
    figures: dict[str, Figures],
    controlled: dict[str, float],
    difficulty: Difficulty | None,
    reason: str | None,
    compared: object,
) -> None:
    from humpback.report.terminal import print_table

    rows = sorted(figures.items(), key=lambda row: -row[1].win_rate)
    headers = [
        "model",
        "win rate>",
        "± s.e.>",
        "length-controlled>",
        "wins>",
        "losses>",
        "draws>",
        "n>",
        "no verdict>",
        "length>",
    ]
    cells = [
        [
            model,
            f"{f.win_rate:.2f}",
            "–" if f.standard_error is None else f"{f.standard_error:.2f}",
            f"{controlled[model]:.2f}" if model in controlled else "–",
            *map(str, (f.n_wins, f.n_wins_base, f.n_draws, f.n_total, f.n_unjudged, f.avg_length)),
        ]
        for model, f in rows
    ]
    print_table(f"against {baseline}, percent", headers, cells)
    few = [model for model, f in rows if f.n_total < MIN_BOOTSTRAP]
    if few:
        print(
            f"fewer than {MIN_BOOTSTRAP} prompts say nothing of how far chance goes, nor do their s.e.: {', '.join(few)}"
        )
    if reason:
        print(f"no length-controlled win rate: {reason}")
    if difficulty:
        print(
            f"length-controlled by our own fit; how hard the prompts are, from the preferences of {difficulty.models} models"
        )
    if isinstance(compared, dict):
        for name in next(iter(compared.values())):
            off = {model: row[name] for model, row in compared.items() if name in row}
            worst = max(off, key=lambda model: abs(off[model]))
            print(f"{name}: {len(off)} models of the leaderboard, furthest off {off[worst]:+.4g} ({worst})")
