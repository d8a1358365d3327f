"""The dataset folder: its card, and that its files are whole or not there."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from humpback.export import dataset
from humpback.export.dataset import write_dataset
from humpback.recipe import Recipe
from humpback.records import Pair, Scored
from humpback.store.rundir import Counts

PAIR = Pair(id="p", instruction="Q", response="A", split="train", source_uri="seed#L1", licence="")
ROW = Scored(
    id="c",
    instruction="Q",
    response="A",
    segment_id="s",
    header_path="",
    source_uri="doc",
    title="",
    licence="MIT",
    scores={},
    missing={},
    scored_by="m",
    iteration=1,
)
DECISION = {"signal": "rating", "policy": "threshold", "value": 4.5}


def _write(folder: Path, recipe: Recipe, pairs: list[Pair], rows: list[Scored]) -> Counts:
    return write_dataset(folder, pairs, lambda: rows, recipe, decision=DECISION)


def test_card_counts_licences_of_pairs_and_documents_and_none_is_markup(tmp_path: Path, recipe: Recipe) -> None:
    evil = "MIT`\n\n# Heading\x1b[31m <script>"
    pairs = [PAIR, dataclasses.replace(PAIR, licence="MIT")]
    _write(tmp_path, recipe, pairs, [ROW, dataclasses.replace(ROW, licence=evil)])
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    told = card.split("## Licences")[1]
    assert "- `MIT`: 2\n" in told
    assert "- `not stated`: 1\n" in told
    assert "- `MIT # Heading[31m <script>`: 1\n" in told
    assert "\x1b" not in card


def test_files_are_on_disk_before_they_get_their_names(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "ROWS_PER_FILE", 2)
    calls: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append("sync")
        real_sync(descriptor)

    def replace(source: Path, target: Path) -> None:
        assert calls[-1] == "sync"
        calls.append(Path(target).name)
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    counts = _write(tmp_path, recipe, [PAIR], [ROW, ROW])
    first, second = (f"train-0000{index}-of-00002.parquet" for index in (0, 1))
    assert calls == ["sync", first, "sync", second, "sync", "sync", "README.md", "sync"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [first, second]
    assert sum(pq.read_metadata(path).num_rows for path in (tmp_path / "data").iterdir()) == counts.kept == 3


def test_a_write_that_dies_leaves_no_file_that_looks_whole(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "_batches", die)
        with pytest.raises(KeyboardInterrupt):
            _write(tmp_path, recipe, [PAIR], [ROW])
    (tmp_path / "data" / ".train-00007-of-00009.parquet.tmp").write_bytes(b"PAR1")
    assert not list((tmp_path / "data").glob("*.parquet"))
    _write(tmp_path, recipe, [PAIR], [ROW])
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["train-00000-of-00001.parquet"]
