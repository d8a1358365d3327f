"""What a manifest says of the machine a stage ran on."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import humpback

__all__ = ["cpu_model", "environment", "find_versions"]

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "numpy", "pyarrow")
"""Packages whose versions a manifest names."""


def environment() -> dict[str, Any]:
    """Return what a manifest says of the machine."""
    return {
        "humpback": humpback.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cpu": cpu_model(),
        "packages": find_versions(PACKAGES),
    }


@functools.cache
def cpu_model() -> str:
    """Return the name of the CPU, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def find_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the version of each package that is installed."""
    versions = {name: _version(name) for name in packages}
    return {name: version for name, version in versions.items() if version is not None}


@functools.cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
