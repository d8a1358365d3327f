"""The probe: a linear model on hidden states of M_t that reads quality where the model's own rating is blind.

In: for each pair the states at two places of one text, the end of the answer and the end of a question about it
(`Prompts.probe`; `forward.py` reads them). Out: by a model fitted on the audit's pairs, the log-odds that a pair is as it should
be, against each way in which it may be spoilt. Refitted for each M_t: the states of one model mean nothing to another.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from humpback.engines.base import FloatArray, ModelRef
from humpback.evaluation.learning import Floats, Labels, LinearModel, Mask, Projection, log_odds
from humpback.evaluation.stats import auc

__all__ = [
    "PREFIX",
    "Probe",
    "Setting",
    "States",
    "choose_setting",
    "cross_read",
    "fit_probe",
    "list_layers",
]

PREFIX = "probe_"
"""Before a corruption's name: the log-odds of a true pair against that corruption."""
DEPTHS = (1 / 2, 2 / 3, 5 / 6, 1)
"""Where in the model states are read, as shares of its depth."""
STRENGTHS = (0.01, 0.003, 0.03)
"""Inverse penalties tried; layers are chosen with the first."""


class States(NamedTuple):
    """What one forward pass over a pair tells a probe."""

    hidden: FloatArray
    """[2 places, layers, width]."""
    end_logprob: float
    """log p(end of turn) after the answer, nats: low where an answer is cut."""


class Setting(NamedTuple):
    """What cross-validation chooses."""

    places: tuple[int, ...]
    """Layers, by their place among those read."""
    strength: float
    """Inverse penalty."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A fitted probe."""

    layers: tuple[int, ...]
    """The layers whose states it reads."""
    strength: float
    """Inverse penalty, chosen by cross-validation."""
    kinds: tuple[str, ...]
    """Names of the classes; the first is `true`."""
    model: LinearModel

    def read(self, states: Sequence[States]) -> list[dict[str, float]]:
        """Return for each pair `probe`, the log-odds of a true one, and its parts by kind. States hold this probe's layers."""
        outputs = self.model.outputs(_stack(states, range(len(self.layers)))) if states else np.zeros((0, 2))
        return _name(outputs, [self.kinds[label] for label in self.model.classes])


def list_layers(model: ModelRef) -> tuple[int, ...]:
    """Return the layers of a model whose states are read, by the depth in its config.json; a model without one has four."""
    config = Path(model.path) / "config.json"
    data = json.loads(config.read_bytes()) if config.exists() else {}
    depth = int(data.get("num_hidden_layers") or data.get("text_config", {}).get("num_hidden_layers") or 4)
    return tuple(dict.fromkeys(max(1, round(share * depth)) for share in DEPTHS))


def choose_setting(states: Sequence[States], classes: Labels, folds: Labels) -> Setting:
    """Choose layers, then strength, by the mean AUC over the kinds on folds held out."""
    layers = states[0].hidden.shape[1]
    half = layers // 2
    sets = dict.fromkeys([tuple(range(layers)), tuple(range(half, layers)), (half - 1, layers - 1)[half == 0 :]])
    by_layers = {places: Projection(_stack(states, places)) for places in sets}
    found = {places: _score(features, classes, folds, STRENGTHS[0]) for places, features in by_layers.items()}
    places = max(found, key=lambda key: found[key])
    by_strength = {s: _score(by_layers[places], classes, folds, s) for s in STRENGTHS[1:]} | {
        STRENGTHS[0]: found[places]
    }
    return Setting(places, max(by_strength, key=lambda s: by_strength[s]))


def _score(features: Projection, classes: Labels, folds: Labels, strength: float) -> float:
    margins = log_odds(_fill(features.cross(classes, folds, strength=strength)))
    kinds = [kind for kind in np.unique(classes) if kind]
    return float(np.mean([auc(margins[classes == 0], margins[classes == kind]) for kind in kinds]))


def cross_read(
    states: Sequence[States],
    classes: Labels,
    folds: Labels,
    setting: Setting,
    kinds: Sequence[str],
    taught: Mask | None = None,
) -> list[dict[str, float]]:
    """Return for each pair what a probe fitted on the other folds reads; `taught` says which rows may be learnt from."""
    features = Projection(_stack(states, setting.places), basis=taught)
    outputs = features.cross(classes, folds, strength=setting.strength, taught=taught)
    known = ~np.isnan(outputs).any(0)
    return _name(outputs[:, known], [kinds[label] for label in np.flatnonzero(known).tolist()])


def fit_probe(
    states: Sequence[States], classes: Labels, setting: Setting, layers: Sequence[int], kinds: Sequence[str]
) -> Probe:
    """Fit a probe on all rows."""
    return Probe(
        layers=tuple(layers[place] for place in setting.places),
        strength=setting.strength,
        kinds=tuple(kinds),
        model=Projection(_stack(states, setting.places)).fit(classes, strength=setting.strength),
    )


def _stack(states: Sequence[States], places: Sequence[int]) -> Floats:
    """Return the states of those of the layers read, one row of features per pair."""
    return np.stack([state.hidden[:, list(places)].reshape(-1) for state in states]).astype(np.float64)


def _fill(outputs: Floats) -> Floats:
    return np.where(np.isnan(outputs), -np.inf, outputs)


def _name(outputs_N_K: Floats, names: Sequence[str]) -> list[dict[str, float]]:
    whole, parts = log_odds(_fill(outputs_N_K)), outputs_N_K[:, :1] - outputs_N_K[:, 1:]
    return [
        {"probe": float(value), **{PREFIX + name: float(part) for name, part in zip(names[1:], row, strict=True)}}
        for value, row in zip(whole, parts, strict=True)
    ]
