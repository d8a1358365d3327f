"""Checkpoints on disk, without a trainer: sealed, bounded in number, and left aside when damaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tiny import COMPUTED

from humpback.training.arithmetic import Sitting
from humpback.training.checkpoints import (
    SEAL,
    checkpoint_fault,
    cut_lines,
    drop_checkpoints,
    last_sound_checkpoint,
    publish_checkpoint,
)

SITTINGS = [Sitting(first_step=1, arithmetic=None), Sitting(first_step=4, arithmetic=COMPUTED)]
WEIGHTS = bytes(range(256)) * 16


def publish(
    work: Path, step: int, *, keep: int = 2, needed: Iterable[int] = (), processes: int = 1, sharding: str = "none"
) -> Path:
    written = work / "checkpoint.tmp" / f"checkpoint-{step}"
    written.mkdir(parents=True)
    (written / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    (written / "model.safetensors").write_bytes(WEIGHTS + bytes([step]))
    (written / "optimizer.pt").write_bytes(WEIGHTS)
    how = {"processes": processes, "sharding": sharding, "sittings": SITTINGS}
    publish_checkpoint(written, work, **how, keep=keep, needed=needed)
    return work / written.name


def names(work: Path) -> list[str]:
    return sorted(path.name for path in work.glob("checkpoint-*"))


def test_a_published_checkpoint_is_whole_and_is_the_one_to_go_on_from(tmp_path: Path) -> None:
    folder = publish(tmp_path, 5, processes=3, sharding="full")
    assert checkpoint_fault(folder) is None
    assert last_sound_checkpoint(tmp_path, print) == (folder, 5, 3, "full", SITTINGS)


def test_the_last_two_stay_and_the_needed_ones(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        publish(tmp_path, step, needed=[5])
    assert names(tmp_path) == ["checkpoint-15", "checkpoint-20", "checkpoint-5"]
    drop_checkpoints(tmp_path)
    assert names(tmp_path) == []


def reseal(folder: Path, **changes: object) -> None:
    seal = json.loads((folder / SEAL).read_text())
    (folder / SEAL).write_text(json.dumps({**seal, **changes}))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: flip(folder / "model.safetensors"), "model.safetensors has changed since it was written"),
        (lambda folder: (folder / "optimizer.pt").write_bytes(WEIGHTS[:-9]), "optimizer.pt has 4087 bytes, 4096 were"),
        (lambda folder: (folder / "optimizer.pt").unlink(), "FileNotFoundError"),
        (lambda folder: (folder / SEAL).unlink(), "FileNotFoundError"),
        (lambda folder: (folder / SEAL).write_text("{"), "JSONDecodeError"),
        (lambda folder: (folder / SEAL).write_text('{"processes": 1, "files": {}}'), "does not hold sharding"),
        (lambda folder: reseal(folder, sittings=[{"first_step": 1, "arithmetic": {"speed": 3}}]), "unexpected keyword"),
        (lambda folder: (folder / "trainer_state.json").write_text('{"global_step": 7}'), "is of step 7"),
    ],
)
def test_any_damage_is_seen_told_and_costs_that_checkpoint_alone(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    before, last = publish(tmp_path, 5), publish(tmp_path, 10)
    damage(last)
    told: list[str] = []
    chosen = last_sound_checkpoint(tmp_path, told.append)
    assert chosen is not None
    assert chosen.folder == before
    assert len(told) == 1
    assert reason in told[0]
    assert told[0].startswith(f"{last} cannot be used")
    assert "goes on from checkpoint-5" in told[0]
    assert names(tmp_path) == ["checkpoint-5"]
    flip(before / "optimizer.pt")
    assert last_sound_checkpoint(tmp_path, told.append) is None
    assert "goes on from the start" in told[1]


def test_a_half_written_checkpoint_has_no_name_of_its_own_and_goes_with_the_next(tmp_path: Path) -> None:
    half = tmp_path / "checkpoint.tmp" / "checkpoint-5"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(WEIGHTS)
    assert last_sound_checkpoint(tmp_path, print) is None
    drop_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_lines_of_later_steps_and_a_line_cut_by_a_kill_go(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    cut_lines(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    cut_lines(path, 0)
    assert path.read_text() == ""
