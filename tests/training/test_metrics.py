"""The file of a line per step: given once while it grows, read when it is done, summed the same for every trainer."""

from __future__ import annotations

from pathlib import Path

import pytest

from humpback.errors import StageError
from humpback.report.losses import read_loss_points
from humpback.training.metrics import Follower, read_metrics, sum_steps
from humpback.training.spec import METRICS


def test_a_growing_file_gives_each_whole_line_once(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    follower = Follower(path)
    assert follower.new_lines() == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [line["step"] for line in follower.new_lines()] == [1, 2]
    assert follower.new_lines() == []
    with path.open("a") as file:
        file.write('ep": 3}\n\n{"step": 4}\n')
    assert [line["step"] for line in follower.new_lines()] == [3, 4]


def test_of_a_file_that_is_done_the_last_line_counts_without_its_end_unless_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    assert read_metrics(path) == []
    path.write_text('{"step": 1}\n{"step": 2}')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"st')
    assert read_metrics(path) == [{"step": 1}]


@pytest.mark.parametrize("line", ["[1]", "null", "step 2"])
def test_a_line_that_is_no_object_is_refused_with_its_file_by_every_reader(tmp_path: Path, line: str) -> None:
    path = tmp_path / METRICS
    path.write_text(f'{{"step": 1, "loss": 2.0}}\n{line}\n')
    for read in (lambda: read_metrics(path), Follower(path).new_lines, lambda: read_loss_points(tmp_path)):
        with pytest.raises(StageError, match=r"metrics\.jsonl has a line that is no JSON object"):
            read()


def test_the_sum_is_over_lines_with_a_loss_and_none_is_no_loss() -> None:
    lines = [{"step": i, "loss": float(i), "tokens": 10, "seconds": 0.5} for i in range(1, 21)]
    done = sum_steps([*lines, {"step": 21}], steps=30, examples=7)
    assert (done.steps, done.tokens, done.label_tokens, done.seconds) == (20, 200, 0, 10.0)
    assert (done.first_loss, done.last_loss, done.first_tenth_loss, done.last_tenth_loss) == (1.0, 20.0, 1.5, 19.5)
    none = sum_steps([], steps=30, examples=7, seconds=4.0)
    assert (none.steps, none.first_loss, none.last_tenth_loss, none.seconds) == (30, None, None, 4.0)
