"""Win rates between a run's models that are kept in its folder. In: `RUN/winrate/*/winrate.json`. Out: one row per comparison.

They are beside what the recipe's own judge says (`evaluate.judge`): `humpback winrate MODEL BASELINE ... -o RUN/winrate/NAME` compares
the run's models with whatever one likes, and the next report of the run tells what it found.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from humpback.errors import StorageError
from humpback.store.rundir import RunDir

__all__ = ["FOLDER", "read_win_rates"]

FOLDER = "winrate"


def read_win_rates(run: Path) -> list[dict[str, Any]]:
    """Return the comparisons of two of the run's models as they are now, the later model first; other sides are passed over."""
    found, run_dir = [], RunDir(run)
    for path in sorted(run.glob(f"{FOLDER}/*/winrate.json")):
        try:
            told = json.loads(path.read_bytes())
            hashes = told["content_hashes"]
            model, against = (_find_model(run_dir, told[side], hashes[side]) for side in ("model", "baseline"))
            rate = {key: told["win_rate"][key] for key in ("value", "low", "high", "n", "reason")}
            judge = {key: told[key] for key in ("judge", "judge_is_a_side", "doubt")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{path} is no result of this version's `humpback winrate` ({error}); run that command again, which asks nothing "
                f"twice, or move it out of {run}"
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


def _find_model(run: RunDir, named: str, content_hash: str | None) -> int | None:
    """Return t of M_t when a side is this run's iteration-t/finetune/model, in its content as in its place.

    A run may be copied or renamed afterwards, and another may be called the same, so folders above are not asked about.
    """
    room, *rest = ("", *Path(named).parts)[-3:]
    number = room.removeprefix("iteration-")
    if rest != ["finetune", "model"] or not number.isdecimal() or content_hash is None:
        return None
    trained = run.manifest(f"{room}/finetune")
    return int(number) if trained and trained.result["content_hash"] == content_hash else None
