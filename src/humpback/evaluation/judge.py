"""The judge of one model's pairs: its probe and its calibration, fitted on the audit's rows. In: rows. Out: scores and P(good).

`cross_judge` is for reporting: every score it gives a row comes from models that saw no pair of the row's fold, the choice of
layers and the calibration included. `fit_judge` is for use: it learns from all rows, and is what the score stage applies.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from humpback.errors import StorageError
from humpback.evaluation.calibration import P_GOOD, Calibration, fit_calibration, pick_columns
from humpback.evaluation.corruptions import KINDS
from humpback.evaluation.learning import Labels, LinearModel, Mask
from humpback.evaluation.probe import Probe, Setting, States, choose_setting, cross_read, fit_probe

__all__ = ["CLASSES", "Evidence", "Judge", "choose_settings", "cross_judge", "fit_judge", "load_judge"]

CLASSES = ("true", *KINDS)
"""What a row may be; the place of a name is its class."""
MODEL_FIELDS = ("center_F", "scale_F", "weights_F_K", "intercept_K")
CALIBRATION_FIELDS = ("columns", "low", "high", "mean", "marked")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One row of the audit, as far as it is measured."""

    pair_id: str
    kind: str
    fold: int
    scores: Mapping[str, float]
    states: States | None
    """None where no probe is asked for, or where the model could not be read."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What turns a row's scores and states into `probe` and P(good)."""

    probe: Probe | None
    calibration: Calibration

    def to_bytes(self) -> bytes:
        """Return it as an .npz file that holds numbers and one JSON text, and nothing that runs when it is read."""
        arrays: dict[str, Any] = {f"calibration.{name}": getattr(self.calibration.model, name) for name in MODEL_FIELDS}
        told: dict[str, Any] = {
            "calibration": {name: list(getattr(self.calibration, name)) for name in CALIBRATION_FIELDS},
            "bends": {name: list(bends) for name, bends in self.calibration.bends.items()},
            "calibration_classes": list(self.calibration.model.classes),
        }
        if self.probe:
            arrays |= {f"probe.{name}": getattr(self.probe.model, name) for name in MODEL_FIELDS}
            told["probe_classes"] = list(self.probe.model.classes)
            told["probe"] = {
                "layers": list(self.probe.layers),
                "strength": self.probe.strength,
                "kinds": list(self.probe.kinds),
            }
        arrays["told"] = np.frombuffer(json.dumps(told).encode(), dtype=np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()


def load_judge(path: Path) -> Judge:
    """Read what `to_bytes` wrote."""
    try:
        # from memory: numpy leaves a damaged file open
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        told = json.loads(arrays["told"].tobytes())
        calibration = Calibration(
            **{name: tuple(values) for name, values in told["calibration"].items()},
            bends={name: tuple(bends) for name, bends in told["bends"].items()},
            model=_read_model(arrays, "calibration", told),
        )
        probe = None
        if given := told.get("probe"):
            probe = Probe(
                layers=tuple(given["layers"]),
                strength=given["strength"],
                kinds=tuple(given["kinds"]),
                model=_read_model(arrays, "probe", told),
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise StorageError(f"{path} is damaged ({error}); run again with --rerun-from that audit") from error
    return Judge(probe=probe, calibration=calibration)


def _read_model(arrays: Mapping[str, Any], name: str, told: Mapping[str, Any]) -> LinearModel:
    parts = {field: arrays[f"{name}.{field}"].astype(np.float64) for field in MODEL_FIELDS}
    return LinearModel(classes=tuple(told[f"{name}_classes"]), **parts)


# -- fitting -----------------------------------------------------------------------------------------------------------


def fit_judge(rows: Sequence[Evidence], layers: Sequence[int]) -> Judge:
    """Fit probe and calibration on all rows. The calibration learns from what probes read that did not know the row."""
    everything = np.ones(len(rows), dtype=bool)
    setting = _choose(rows, everything)
    known = _with_probe(rows, everything, setting)
    probe = None
    if setting:
        seen = [row for row in rows if row.states is not None]
        probe = fit_probe([row.states for row in seen if row.states], _classes(seen), setting, layers, CLASSES)
    return Judge(probe=probe, calibration=fit_calibration(known, _classes(rows)))


def choose_settings(rows: Sequence[Evidence]) -> dict[int, Setting | None]:
    """Return the probe's layers and strength for each fold, chosen without looking at it."""
    folds = _folds(rows)
    return {int(fold): _choose(rows, folds != fold) for fold in np.unique(folds)}


def cross_judge(
    rows: Sequence[Evidence], settings: Mapping[int, Setting | None], *, without: str | None = None
) -> list[dict[str, float]]:
    """Return each row's scores with `probe`, its parts and P(good), by models that saw nothing of the row's fold.

    `without` names a corruption that nothing is learnt from either; the layers were chosen with it.
    """
    classes, folds = _classes(rows), _folds(rows)
    teach = classes != CLASSES.index(without) if without else np.ones(len(rows), dtype=bool)
    result: list[dict[str, float]] = [{} for _ in rows]
    for fold, setting in settings.items():
        learn, held_out = teach & (folds != fold), np.flatnonzero(folds == fold)
        known = _with_probe(rows, learn, setting)
        taught = [known[i] for i in np.flatnonzero(learn)]
        if not pick_columns(taught):  # no signal has a value outside this fold
            for i in held_out:
                result[i] = known[i]
            continue
        calibration = fit_calibration(taught, classes[learn])
        for i, p_good in zip(held_out, calibration.p_good([known[i] for i in held_out]), strict=True):
            result[i] = known[i] | ({P_GOOD: p_good} if p_good is not None else {})
    return result


def _with_probe(rows: Sequence[Evidence], learn: Mask, setting: Setting | None) -> list[dict[str, float]]:
    """Return every row's scores with what a probe reads that did not learn from the row's fold, and from `learn` only."""
    known = [dict(row.scores) for row in rows]
    if setting is None:
        return known
    seen = [i for i, row in enumerate(rows) if row.states is not None]
    states = [state for state in (rows[i].states for i in seen) if state is not None]
    classes, folds = _classes(rows)[seen], _folds(rows)[seen]
    read = cross_read(states, classes, folds, setting, CLASSES, taught=learn[seen])
    for i, state, values in zip(seen, states, read, strict=True):
        known[i] |= {**values, "end_logprob": state.end_logprob}
    return known


def _choose(rows: Sequence[Evidence], learn: Mask) -> Setting | None:
    """Choose the probe's layers and strength on those rows; None where there are no states."""
    seen = [row for row, may in zip(rows, learn, strict=True) if may and row.states is not None]
    if not seen:
        return None
    return choose_setting([row.states for row in seen if row.states], _classes(seen), _folds(seen))


def _classes(rows: Sequence[Evidence]) -> Labels:
    return np.array([CLASSES.index(row.kind) for row in rows], dtype=np.int64)


def _folds(rows: Sequence[Evidence]) -> Labels:
    return np.array([row.fold for row in rows], dtype=np.int64)
