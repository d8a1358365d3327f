"""The picture of a training: few points, whatever its length, and every curve under its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from humpback.report import plots
from humpback.report.losses import POINTS, read_loss_points, tell_formats


def write(path: Path, lines: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_long_training_is_thinned_to_means_that_lose_no_step(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", [{"step": i + 1, "loss": float(i)} for i in range(601)])
    points = read_loss_points(tmp_path)["training"]
    assert len(points) <= POINTS
    assert points[0] == [11, 5.0]
    assert points[-1][0] == 601


def test_held_out_losses_are_curves_of_their_own_and_by_origin(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])
    write(
        tmp_path / "held-out.jsonl",
        [{"step": s, "nll": 3.0 - s, "by_origin": {"seed": 2.5, "web": 3.5}} for s in (0, 2)],
    )
    points = read_loss_points(tmp_path)
    assert list(points) == ["training", "held out", "held out, seed", "held out, web"]
    assert points["held out"] == [[0, 3.0], [2, 1.0]]
    picture = plots.lines(points, "Loss of <M_1>")
    assert picture.count("<polyline") == 4
    assert "held out, seed" in picture
    assert "<M_1>" not in picture


def test_trainings_in_two_number_formats_are_told_apart() -> None:
    rows = [{"stage": "backward", "precision": "float32 (a)"}, {"stage": "M_0", "precision": "bfloat16 (b)"}]
    assert tell_formats([rows[0], {**rows[0], "stage": "M_1"}]) == "Computed in float32 (a)."
    assert tell_formats(rows).endswith("too: backward in float32 (a); M_0 in bfloat16 (b).")
    named = {"stage": "M_1", "precision": "float32 (as it was named)"}
    assert tell_formats([rows[0], named]) == "Computed in float32 (a)."
    assert tell_formats([*rows, named]).endswith("too: backward, M_1 in float32 (a); M_0 in bfloat16 (b).")
    assert tell_formats([{"stage": "backward"}]) == "Computed in a format that is not known."


def test_a_training_without_losses_has_no_picture(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", [{"step": 3, "steps": 3}])
    assert read_loss_points(tmp_path) == {}


def test_a_curve_of_one_step_is_drawn() -> None:
    assert "<polyline" in plots.lines({"training": [[1, 2.0]]}, "one step")


def test_the_page_shows_the_picture_of_each_training(tmp_path: Path, data: dict[str, Any]) -> None:
    from humpback.report.page import write_report

    data["training"][0]["curves"] = {"training": [[1, 2.0], [2, 1.5]], "held out": [[0, 3.0], [2, 2.0]]}
    write_report(tmp_path / "report.html", data)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<polyline") == 2
    assert "<b>backward/finetune</b>, nats per label token by step" in page
