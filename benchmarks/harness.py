"""What every benchmark shares: the machine's description, timing of repetitions, and the one form in which results are kept.

A benchmark is a script with a `main` that ends in `write_result` under the script's own name. The JSON holds the figures of
every repetition, so that a median can be checked and a noisy run be seen; `render.py` turns all of them into a page.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

__all__ = [
    "RESULTS",
    "ROOT",
    "Goal",
    "Options",
    "Repetition",
    "environment",
    "median",
    "options",
    "series_of",
    "write_result",
]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    "humpback-lm",
    "numpy",
    "pyarrow",
    "torch",
    "transformers",
    "trl",
    "peft",
    "selectolax",
    "fastwarc",
    "resiliparse",
    "trafilatura",
)
WRITTEN = (":(exclude)benchmarks/results", ":(exclude)docs/benchmarks.md")
"""What benchmarks write themselves; it makes no tree dirty."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a benchmark was called."""

    small: bool
    """A few rows and one repetition: tells that the script works, and nothing else."""
    folder: Path
    """Where the result goes; a small run never replaces a real one."""
    device: str = "cpu"
    """What models run on: cpu or cuda. Most benchmarks know the first only."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A figure that was promised, or one that is only told."""

    name: str
    """What is measured, and which way is better."""
    value: float
    goal: float | None = None
    """None for a figure without a promise."""
    met: bool | None = None

    @classmethod
    def at_least(cls, name: str, value: float, goal: float) -> Goal:
        return cls(name=name, value=value, goal=goal, met=value >= goal)

    @classmethod
    def at_most(cls, name: str, value: float, goal: float) -> Goal:
        return cls(name=name, value=value, goal=goal, met=value <= goal)


class Repetition:
    """One repetition: times its variants and keeps their figures by series. Every other one goes in reverse order."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.figures: dict[str, float] = {}

    def order(self, *variants: str) -> tuple[str, ...]:
        """Return the variants in this repetition's order, so that none always comes first on a cold machine."""
        return variants if self.number % 2 == 0 else variants[::-1]

    @contextmanager
    def time(self, series: str) -> Iterator[None]:
        """Keep the seconds that the block takes; garbage of the variant before is collected first."""
        gc.collect()
        started = time.perf_counter()
        yield
        self.add(series, time.perf_counter() - started)

    def add(self, series: str, value: float) -> None:
        """Keep a figure; a series has one per repetition."""
        if series in self.figures:
            raise ValueError(f"series {series} has a figure in repetition {self.number} already")
        self.figures[series] = float(value)


def options(description: str | None, *, devices: Sequence[str] = ("cpu",)) -> Options:
    """Read the command line; `devices` are those that the benchmark can be run on."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="a few rows, one repetition, result in a temporary folder")
    if len(devices) > 1:
        parser.add_argument(
            "--device", choices=devices, default=devices[0], help="what the model runs on (%(default)s)"
        )
    asked = parser.parse_args()
    return Options(
        small=asked.small,
        folder=Path(tempfile.mkdtemp(prefix="humpback-bench-")) if asked.small else RESULTS,
        device=getattr(asked, "device", devices[0]),
    )


def series_of(repetitions: Sequence[Repetition]) -> dict[str, list[float]]:
    """Return each series with its figures in the order of the repetitions."""
    names = list(repetitions[0].figures)
    return {name: [repetition.figures[name] for repetition in repetitions] for name in names}


def median(raw: Mapping[str, Sequence[float]], series: str) -> float:
    return statistics.median(raw[series])


def write_result(
    name: str,
    *,
    raw: Mapping[str, Sequence[float]],
    goals: Sequence[Goal],
    note: str,
    folder: Path = RESULTS,
    device: str = "cpu",
    part: str = "",
) -> Path:
    """Write NAME.json with the machine, the raw figures, their summary and the goals; return its path.

    NAME_PART.json for a part that is of other sizes, NAME_cuda.json of a GPU.
    """
    name = "_".join(word for word in (name, part, "" if device == "cpu" else device) if word)
    document = {
        "name": name,
        "note": note,
        "environment": environment(),
        "raw": {series: list(figures) for series, figures in raw.items()},
        "summary": {series: _summary(figures) for series, figures in raw.items()},
        "goals": [asdict(goal) for goal in goals],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
    print(f"{path} is written")
    return path


def _summary(figures: Sequence[float]) -> dict[str, float]:
    return {
        "median": statistics.median(figures),
        "min": min(figures),
        "max": max(figures),
        "n": len(figures),
    }


def environment() -> dict[str, Any]:
    """Return what a reader needs to judge or repeat the figures."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "accelerator": _accelerator(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
        "commit": _git("rev-parse", "HEAD"),
        "dirty": _dirty(),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _accelerator() -> str | None:
    """Return the names of the GPUs, None without any. The driver's own tool is asked: this file imports no torch."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return "; ".join(done.stdout.strip().splitlines()) or None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _dirty() -> bool | None:
    changes = _git("status", "--porcelain", "--", ".", *WRITTEN)
    return None if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    """Return what git says, or None where there is no git or no repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
