"""Win rates between a run's models that are kept in its folder. In: `RUN/winrate/*/winrate.json`. Out: one row per comparison.

A run has no judge of its own. `humpback winrate MODEL BASELINE ... -o RUN/winrate/NAME` compares its models, and the next report of
the run tells what it found.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from humpback.errors import StorageError

__all__ = ["FOLDER", "read_win_rates"]

FOLDER = "winrate"


def read_win_rates(run: Path) -> list[dict[str, Any]]:
    """Return the comparisons of two of the run's models, the later model first; those of other sides are none of them."""
    found = []
    for path in sorted(run.glob(f"{FOLDER}/*/winrate.json")):
        try:
            told = json.loads(path.read_bytes())
            model, against = (_find_model(run, told[side]) for side in ("model", "baseline"))
            rate = {key: told["win_rate"][key] for key in ("value", "low", "high", "n", "reason")}
            judge = {key: told[key] for key in ("judge", "judge_is_a_side")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{path} is no result of `humpback winrate` ({error}); make it again, or move it out of {run}"
            ) from error
        if model is None or against is None or model == against:
            continue
        if model < against:
            model, against, rate = against, model, _turn(rate)
        folder = f"{FOLDER}/{path.parent.name}"
        found.append({"model": f"M_{model}", "against": f"M_{against}", "folder": folder, **judge, **rate})
    return found


def _turn(rate: dict[str, Any]) -> dict[str, Any]:
    """Return the other side's rate."""

    def other(value: float | None) -> float | None:
        return None if value is None else 100 - value

    return {**rate, "value": other(rate["value"]), "low": other(rate["high"]), "high": other(rate["low"])}


def _find_model(run: Path, named: str) -> int | None:
    """Return t of M_t when a side is this run's iteration-t/finetune/model, as it was named then."""
    parts = Path(named).parts[-4:]
    if len(parts) < 4 or parts[0] != run.resolve().name or parts[2:] != ("finetune", "model"):
        return None
    number = parts[1].removeprefix("iteration-")
    return int(number) if number.isdecimal() else None
