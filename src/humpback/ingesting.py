"""`humpback ingest`: a corpus stage that stands alone. In: inputs and settings, no recipe, no model. Out: a folder of segments.

    segments-*.parquet                        what is fit
    rejected-ingest-*, rejected-dedup-*       what is not, each row with its reason
    funnel.json, manifest.json                how many, and from what; the manifest comes last and makes the folder complete
    work/                                     while it works: finished units, from which a killed sitting goes on

A run (`rooms/candidates.py`) does the same two stages with the functions here.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from humpback.accounting import STEPS, first_detail, funnel_of, tell_advice
from humpback.corpus.columns import NO_COLUMN
from humpback.corpus.overlap import set_files
from humpback.corpus.readers import check_inputs, input_files
from humpback.corpus.units import HUB, Unit, entries, plan
from humpback.errors import GateError, InputError, StorageError
from humpback.executor import Executor, PoolExecutor, SerialExecutor
from humpback.machine import environment
from humpback.progress import Bar, Console, format_seconds, tell_reasons
from humpback.recipe import CorpusInput, CorpusRecipe, CorpusSettings, SeedInput, identity_of
from humpback.records import Marked, MarkedSegment, Segment
from humpback.runner import Output, Work, run_units, to_json
from humpback.stages.dedup import dedup
from humpback.stages.ingest import DOCUMENTS, UNREAD
from humpback.store.fingerprint import canonical, fingerprint, hash_file
from humpback.store.rundir import Manifest, RunDir, check_folder
from humpback.store.shards import atomic_write, count_rows, read_records, shard_files, storage_errors, sync_folder
from humpback.streaming import run_stream
from humpback.tasks import IngestTask

__all__ = [
    "CORPUS_VERSION",
    "dedup_identity",
    "dedup_segments",
    "hash_inputs",
    "ingest_documents",
    "ingest_identity",
    "run_ingest",
]

ROWS_PER_FILE = 50_000
"""Rows of one file of segments, and of one file of rejected duplicates."""
CORPUS_VERSION = 2
"""Part of both stages' identity here; raised when the same settings would give other rows."""

LISTED_FILES = 10_000
"""Input files up to which a manifest names each."""

AnyInput = TypeVar("AnyInput", SeedInput, CorpusInput)


# -- the two stages, for a run too -------------------------------------------------------------------------------------


def ingest_identity(settings: CorpusSettings) -> dict[str, Any]:
    """Return what the segments depend on: settings, and the content of every input and evaluation set."""
    corpus = {key: value for key, value in identity_of(settings).items() if key not in ("sample", "near_duplicates")}
    sets = [[path.name, _hash_input(path)] for path in set_files(settings.decontaminate)]
    files = [row for given in settings.inputs for row in _rows_of(given)]
    return {"corpus": corpus, "files": _shortened(files), "evaluation_sets": sets}


def _rows_of(given: CorpusInput) -> Iterator[list[str]]:
    """Yield each file's path inside its input with its SHA-256, or with the reason why it is passed over."""
    if given.path.startswith(("pydoc:", HUB)):
        yield from hash_inputs([given], input_files)
        return
    for entry in entries(given):
        try:
            told = entry.fault.reason if entry.fault else _hash_input(entry.path)
        except InputError:  # its row will say why
            told = "unreadable"
        yield [_inside(entry.path, given.path), told]


def _shortened(files: list[list[str]]) -> object:
    """Return the list, or of a very long one its fingerprint: an identity is written whole, and read by people."""
    return files if len(files) <= LISTED_FILES else {"files": len(files), "fingerprint": fingerprint(files)}


def dedup_identity(settings: CorpusSettings, random_seed: int) -> dict[str, Any]:
    return {"sample": settings.sample, "near_duplicates": settings.near_duplicates, "random_seed": random_seed}


def ingest_documents(settings: CorpusSettings, folder: Path, *, executor: Executor, console: Console) -> Work:
    """Cut every document of the inputs into segments, in `folder`; raise when there is none to read, or none is fit."""
    kilobytes = sum(unit.size // 1000 for unit in plan(settings.inputs))
    with console.bar("ingest", kilobytes or None, "kB") as bar:
        progress = _Progress(bar, pooled=isinstance(executor, PoolExecutor))
        work = run_units(
            IngestTask(settings=settings, on_document=progress.on_document),
            plan(settings.inputs),
            Output(folder, "segments", MarkedSegment),
            executor=executor,
            on_unit=progress.on_unit,
        )
    if not work.tally[DOCUMENTS]:
        raise InputError(
            f"corpus inputs {', '.join(given.path for given in settings.inputs)} hold nothing that can be read "
            f"({tell_reasons(work.counts)}); see {folder}/rejected-*.parquet.{first_detail(folder)}"
        )
    if not work.counts.kept:
        raise GateError(
            f"no segment of the corpus is fit ({tell_reasons(work.counts)}); see {folder}/rejected-*.parquet, "
            f"and change {tell_advice(work.counts)}"
        )
    if columns := work.counts.rejected.get(NO_COLUMN):
        console.say(f"ingest: {columns} rows or files lack the column of the text.{first_detail(folder, NO_COLUMN)}")
    return work


def dedup_segments(
    settings: CorpusSettings, random_seed: int, source: Path, folder: Path, *, shard_rows: int, bar: Bar
) -> Work:
    """Keep each text of `source` once, and the sample."""
    rows = dedup(
        lambda: read_records(shard_files(source, "segments"), Segment),
        lambda: read_records(shard_files(source, "segments"), Marked),
        sample=settings.sample,
        near=settings.near_duplicates,
        scratch=folder / "work",
        random_seed=random_seed,
    )
    return run_stream(rows, Output(folder, "segments", Segment), shard_rows=shard_rows, bar=bar)


def hash_inputs(inputs: Sequence[AnyInput], find: Callable[[Sequence[AnyInput]], list[Path]]) -> list[list[str]]:
    """Return each file's path inside its input and its SHA-256: where the input itself lies is the recipe's word."""
    return [[_inside(path, given.path), _hash_input(path)] for given in inputs for path in find([given])]


def _inside(path: Path, given: str) -> str:
    root = Path(given)
    if given.startswith("~"):
        root = root.expanduser()
    return path.relative_to(root).as_posix() if path != root and path.is_relative_to(root) else path.name


def _hash_input(path: Path) -> str:
    try:
        return hash_file(path.expanduser())
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}; check that it is there and its permissions"
        ) from None


class _Progress:
    """Shows finished units by their bytes, and documents as they are read, or with their unit where a pool reads them."""

    def __init__(self, bar: Bar, *, pooled: bool) -> None:
        self._bar, self._pooled = bar, pooled
        self._records, self._started = 0, time.monotonic()

    def on_document(self) -> None:
        self._records += 1
        if self._records % 100 == 0:
            self._bar.advance(0, note=self._note())

    def on_unit(self, unit: Unit, work: Work, fresh: bool) -> None:
        if not fresh:
            self._bar.skip(unit.size // 1000)
            return
        if self._pooled:
            self._records += work.tally[DOCUMENTS] + work.tally[UNREAD]
        self._bar.advance(unit.size // 1000, note=self._note())

    def _note(self) -> str:
        speed = self._records / max(time.monotonic() - self._started, 1e-6)
        return f"{self._records:,} records, {speed:,.0f}/s"


# -- the command -------------------------------------------------------------------------------------------------------


def run_ingest(recipe: CorpusRecipe, folder: Path, *, workers: int, console: Console) -> bool:
    """Make or complete the folder; return False when there was nothing left to do."""
    settings = recipe.corpus
    check_inputs(settings.inputs)
    if (folder / "recipe.yaml").exists():
        raise InputError(f"{folder} is the folder of a run; name a new or an empty folder (-o FOLDER)")
    sources = [given.path for given in settings.inputs]
    check_folder(folder, sources, what="output folder", inputs="input", fix="-o FOLDER")
    rebuild = f"Either delete {folder} and run again, which makes it anew, or name another folder (-o FOLDER)."
    payload = {
        "ingest": {"version": CORPUS_VERSION, **ingest_identity(settings)},
        "dedup": {"version": CORPUS_VERSION, **dedup_identity(settings, recipe.random_seed)},
    }
    with RunDir(folder, what="output folder", rebuild=rebuild) as run_dir:
        done = run_dir.manifest(".")
        if done is not None:
            if done.identity != canonical(payload):
                run_dir.refuse_drift("ingest", done.identity, canonical(payload))
            _check_rows(folder, done, rebuild)
            shutil.rmtree(folder / "work", ignore_errors=True)  # what a kill after the manifest left
            return False
        _work(run_dir, recipe, payload, workers, console)
        _publish(run_dir, payload)
    return True


def _check_rows(folder: Path, done: Manifest, rebuild: str) -> None:
    """Raise StorageError when files of a complete folder are gone."""
    dropped = sum(done.rejected.values()) + sum(done.failed.values())
    for name, promised in (("segments", done.kept), ("rejected", dropped)):
        found = count_rows(shard_files(folder, name))
        if found != promised:
            raise StorageError(
                f"{folder} is complete by its manifest, which promises {promised:,} rows in {name}-*.parquet, and holds "
                f"{found:,}: files were taken away or added. {rebuild}"
            )


def _work(run_dir: RunDir, recipe: CorpusRecipe, payload: Mapping[str, Any], workers: int, console: Console) -> None:
    settings, work = recipe.corpus, run_dir.path / "work"
    executor = PoolExecutor(workers) if workers > 1 else SerialExecutor()

    def ingest(folder: Path) -> Work:
        return ingest_documents(settings, folder, executor=executor, console=console)

    def dedup(folder: Path) -> Work:
        with console.bar("dedup", None, "rows") as bar:
            given = (settings, recipe.random_seed, work / "ingest", folder)
            return dedup_segments(*given, shard_rows=ROWS_PER_FILE, bar=bar)

    for name, do in (("ingest", ingest), ("dedup", dedup)):
        stage = f"work/{name}"
        if not run_dir.begin(stage, payload[name]):
            continue
        started = time.monotonic()
        console.say(f"{name} ...")
        try:
            done = do(run_dir.folder(stage))
        except (InputError, GateError) as error:
            run_dir.refuse(stage, str(error))
            raise
        seconds = done.seconds or time.monotonic() - started
        told = {"tally": dict(sorted(done.tally.items()))}
        run_dir.finish(stage, None, done.counts, seconds=seconds, result=told, engine={}, environment=environment())
        console.say(f"{name}: {done.counts.kept} of {done.counts.read} kept in {format_seconds(seconds)}")


def _publish(run_dir: RunDir, payload: Mapping[str, Any]) -> None:
    """Move the rows to their places, then say how many there are, then that they are complete. A kill anywhere in it is safe."""
    folder, work = run_dir.path, run_dir.path / "work"
    steps = [manifest for name in STEPS if (manifest := run_dir.manifest(f"work/{name}")) is not None]
    funnel = funnel_of(*steps)
    with storage_errors(folder):
        for path in shard_files(work / "dedup", "segments"):
            path.replace(folder / path.name)
        for name in STEPS:
            for path in shard_files(work / name, "rejected"):
                path.replace(folder / path.name.replace("rejected-", f"rejected-{name}-"))
        sync_folder(folder)
    atomic_write(folder / "funnel.json", to_json(funnel))
    identity = canonical(payload)
    manifest = Manifest(
        name="ingest",
        iteration=None,
        fingerprint=fingerprint(identity),
        identity=identity,
        read=funnel["rows"],
        kept=funnel["kept"],
        rejected=_sum(step.rejected for step in steps),
        failed=_sum(step.failed for step in steps),
        seconds=round(sum(step.seconds for step in steps), 3),
        result={},
        engine={},
        environment=environment(),
    )
    atomic_write(folder / "manifest.json", to_json(dataclasses.asdict(manifest)))
    with storage_errors(work):
        shutil.rmtree(work)


def _sum(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(sorted(total.items()))
