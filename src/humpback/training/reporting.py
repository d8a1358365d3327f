"""Services that a training reports to as it runs (`report_to`). In: their names. Out: whether they can be had here.

transformers' own callbacks do the reporting; each service takes its address and key from the environment, as its manual says.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

from humpback.errors import MissingDependencyError
from humpback.recipe import Reporter

__all__ = ["check_reporters"]

MODULES: Mapping[Reporter, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}
"""The packages of which one must be installed."""


def check_reporters(names: Sequence[Reporter]) -> None:
    """Refuse a service whose package is not installed, before hours of training go unreported."""
    for name in names:
        if not any(importlib.util.find_spec(module) for module in MODULES[name]):
            raise MissingDependencyError(
                f"report_to={name} needs a package that is not installed: pip install {name}; or leave it out"
            )
