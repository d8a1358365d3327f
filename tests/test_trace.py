from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from humpback.errors import InputError, StorageError
from humpback.trace import trace
from humpback.trace_print import list_lines, print_trace

if TYPE_CHECKING:
    from tests.conftest import Lab

Row = dict[str, Any]


@pytest.fixture(scope="module")
def run(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two iterations, to be read only; few enough curated that the iterations differ from all and from each other."""
    folder = tmp_path_factory.mktemp("traced") / "run"
    lab.run(folder, iterations=2)
    return folder


def _rooms(found: Row) -> list[str]:
    return [mix["room"] for mix in found["mixes"]]


def _hash(lab: Lab, run: Path, room: str) -> str:
    value: str = lab.manifest(run, f"{room}/finetune")["result"]["content_hash"]
    return value


def _twice_curated(lab: Lab, run: Path) -> str:
    first, second = ({row["id"] for row in lab.rows(run, f"iteration-{t}/curate", "curated")} for t in (1, 2))
    return str(min(first & second))


def test_a_curated_pair_is_traced_from_source_to_dataset(lab: Lab, run: Path) -> None:
    row_id = _twice_curated(lab, run)
    (candidate,) = (row for row in lab.rows(run, "augment", "candidates") if row["id"] == row_id)
    (segment,) = (row for row in lab.rows(run, "ingest", "segments") if row["id"] == candidate["segment_id"])
    found = trace(run, row_id)
    assert found["source"] == {
        name: segment[name]
        for name in ("source_uri", "location", "offset", "header_path", "title", "licence", "time", "document_id")
    }
    assert found["segment"]["text"] == segment["text"]
    assert found["candidate"]["instruction"] == candidate["instruction"]
    assert found["written_by"]["content_hash"] == _hash(lab, run, "backward")
    assert [entry["verdict"] for entry in found["iterations"]] == ["curated", "curated"]
    assert [entry["scored_by"]["content_hash"] for entry in found["iterations"]] == [
        _hash(lab, run, "iteration-0"),
        _hash(lab, run, "iteration-1"),
    ]
    assert {"iteration-1", "iteration-2"} <= set(_rooms(found))
    for model, room in zip(found["models"], _rooms(found), strict=True):
        assert model["content_hash"] == _hash(lab, run, room)
        assert model["folder"] == str(run / room / "finetune" / "model")
    assert found["dataset"]["id"] == row_id
    assert (run / found["dataset"]["file"]).is_file()
    assert found["run_complete"] is True


def test_segment_candidate_example_and_dataset_row_lead_to_the_same_trace(lab: Lab, run: Path) -> None:
    found = trace(run, _twice_curated(lab, run))
    example = next(mix["id"] for mix in found["mixes"])
    for row_id in (found["segment"]["id"], example, found["dataset"]["id"]):
        same = trace(run, row_id)
        assert {**same, "id": "", "found_in": []} == {**found, "id": "", "found_in": []}


def test_control_membership_is_the_draw(lab: Lab, run: Path) -> None:
    drawn = {row["id"] for row in lab.rows(run, "control/draw", "drawn")}
    rows = [row["id"] for row in lab.rows(run, "augment", "candidates")]
    assert drawn
    assert {row_id for row_id in rows if "control" in _rooms(trace(run, row_id))} == drawn


def test_an_uncurated_candidate_entered_no_iteration_and_says_why(lab: Lab, run: Path) -> None:
    rejected = lab.rows(run, "iteration-2/curate", "rejected")[0]
    found = trace(run, rejected["id"])
    last = found["iterations"][1]
    assert (last["verdict"], last["reason"], last["detail"]) == ("rejected", rejected["reason"], rejected["detail"])
    assert last["scores"]
    assert "iteration-2" not in _rooms(found)
    assert found["dataset"] is None


def test_a_training_seed_pair_enters_every_mix(lab: Lab, run: Path) -> None:
    pair = next(row for row in lab.rows(run, "seed", "pairs") if row["split"] == "train")
    found = trace(run, pair["id"])
    assert _rooms(found) == ["backward", "iteration-0", "iteration-1", "iteration-2", "control"]
    assert [model["name"] for model in found["models"]] == ["M_yx", "M_0", "M_1", "M_2", "control"]
    assert found["source"]["source_uri"] == pair["source_uri"]
    assert found["dataset"]["origin"] == "seed"
    assert found["iterations"] == []


def test_a_held_out_pair_enters_nothing(lab: Lab, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = next(row for row in lab.rows(run, "seed", "pairs") if row["split"] == "holdout")
    found = trace(run, pair["id"])
    assert (found["mixes"], found["dataset"]) == ([], None)
    print_trace(run, pair["id"], as_json=False)
    assert "never trained on" in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["seed", "ingest", "dedup", "augment", "iteration-1/curate", "control/draw"])
def test_a_rejected_row_is_found_with_its_reason_and_source(lab: Lab, run: Path, stage: str) -> None:
    rows = lab.rows(run, stage, "rejected")
    assert rows
    for row in rows:
        found = trace(run, row["id"])
        (entry,) = (entry for entry in found["rejections"] if entry["stage"] == stage and entry["id"] == row["id"])
        assert (entry["reason"], entry["detail"]) == (row["reason"], row["detail"])
        assert found["source"]["source_uri"]


def test_a_beginning_of_an_id_is_enough_when_it_is_one_rows(lab: Lab, run: Path) -> None:
    row_id = lab.rows(run, "augment", "candidates")[0]["id"]
    assert trace(run, row_id[:10])["id"] == row_id
    assert trace(run, f" {row_id.upper()} ")["id"] == row_id


def test_an_ambiguous_beginning_lists_the_matches(copy_of_finished: Path) -> None:
    path = next((copy_of_finished / "augment").glob("candidates-*.parquet"))
    table = pq.read_table(path)
    ids = [f"abcdef{number:010d}" for number in range(table.num_rows)]
    pq.write_table(table.set_column(0, table.schema.field("id"), pa.array(ids)), path)
    with pytest.raises(InputError, match=rf"begins {len(ids)} ids.*\n  {ids[0]}  candidate in augment\n  {ids[1]}"):
        trace(copy_of_finished, "abcdef")


@pytest.mark.parametrize("row_id", ["0123456789abcdef", "no such id \x1b[31m", "\udcff\udcfeabcdef"])
def test_an_unknown_id_names_the_id_the_run_and_where_ids_are(finished: Path, row_id: str) -> None:
    with pytest.raises(InputError) as caught:
        trace(finished, row_id)
    message = str(caught.value)
    assert "\x1b" not in message
    assert row_id[:5].encode("ascii", "ignore").decode() in message
    assert str(finished) in message
    assert "augment/candidates-" in message


def test_a_short_beginning_is_refused(finished: Path) -> None:
    with pytest.raises(InputError, match=r"'abc' is too short.*6 characters"):
        trace(finished, "abc")


@pytest.mark.parametrize(
    ("reason", "detail", "told"),
    [
        ("no_rating_too_long", "too_long: it exceeds 9 tokens", "no_rating_too_long: it exceeds 9 tokens"),
        ("too_long", "too_long: it exceeds 9 tokens", "too_long: it exceeds 9 tokens"),
        ("below_threshold", "rating 3.2: less than 4", "below_threshold: rating 3.2: less than 4"),
        ("too_short", "3 words", "too_short: 3 words"),
    ],
)
def test_no_word_of_a_reason_is_printed_twice(reason: str, detail: str, told: str, lab: Lab, run: Path) -> None:
    found = trace(run, _twice_curated(lab, run))
    found["rejections"] = [{"stage": "dedup", "failed": False, "reason": reason, "detail": detail}]
    assert ("rejected", f"by dedup: {told}") in list(list_lines(found))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no run folder.*humpback run"):
        trace(tmp_path, "0123456789abcdef")


def test_an_unfinished_run_is_traced_as_far_as_it_got(lab: Lab, copy_of_finished: Path) -> None:
    run = copy_of_finished
    row_id = lab.rows(run, "iteration-1/curate", "curated")[0]["id"]
    for stage in ("iteration-1/curate", "iteration-1/mix", "iteration-1/finetune", "control", "dataset", "report"):
        shutil.rmtree(run / stage)
    found = trace(run, row_id)
    (entry,) = found["iterations"]
    assert entry["verdict"] == "not judged yet"
    assert entry["scores"]
    assert (found["mixes"], found["dataset"], found["run_complete"]) == ([], None, False)


def test_a_mix_without_its_model_says_so(lab: Lab, copy_of_finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row_id = lab.rows(copy_of_finished, "iteration-1/curate", "curated")[0]["id"]
    shutil.rmtree(copy_of_finished / "iteration-1/finetune")
    print_trace(copy_of_finished, row_id, as_json=False)
    assert "M_1 (not trained yet)" in capsys.readouterr().out


def test_a_damaged_file_is_named_with_the_stage_to_rebuild(copy_of_finished: Path) -> None:
    next((copy_of_finished / "dedup").glob("segments-*.parquet")).write_bytes(b"no Parquet")
    with pytest.raises(StorageError, match="--rerun-from dedup"):
        trace(copy_of_finished, "0123456789abcdef")


def test_hostile_text_cannot_steer_a_terminal(own_lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = own_lab.documents()
    hostile = "\x1b]0;owned\x07\x1b[2J \u202eabc\u202c \x9b31m"
    rows[0] |= {"title": f"Title {hostile}", "text": f"{rows[0]['text']} {hostile} ends here."}
    own_lab.write_lines(own_lab.corpus, rows)
    own_lab.run(tmp_path / "run")
    segment = next(row for row in own_lab.rows(tmp_path / "run", "ingest", "segments") if "owned" in row["text"])
    for as_json in (False, True):
        print_trace(tmp_path / "run", segment["id"], as_json=as_json)
        out = capsys.readouterr().out
        assert "owned" in out
        assert not set("\x1b\x07\x9b\u202e\u202c") & set(out)


def test_json_is_the_trace(lab: Lab, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row_id = _twice_curated(lab, run)
    print_trace(run, row_id, as_json=True)
    assert json.loads(capsys.readouterr().out) == trace(run, row_id)


def test_a_person_is_told_source_scores_verdict_mix_model_and_dataset(
    lab: Lab, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row_id = _twice_curated(lab, run)
    print_trace(run, row_id, as_json=False)
    out = capsys.readouterr().out
    for word in (
        "test:",
        "licence:",
        "by M_yx",
        "scored by M_0",
        "curated by",
        "iteration-2/mix",
        "M_2",
        "train-00000",
    ):
        assert word in out


def test_a_run_folder_that_may_not_be_read_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(InputError, match=r"run cannot be read: Permission denied; .*permissions"):
        trace(run, "abcdef")


def test_what_is_printed_names_each_model_folder_once(lab: Lab, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_trace(run, _twice_curated(lab, run), as_json=False)
    printed = capsys.readouterr().out
    for room in ("backward", "iteration-0", "iteration-1", "iteration-2"):
        assert printed.count(str(run / room / "finetune" / "model")) == 1
    assert "in augment, iteration-1/score, iteration-1/curate" in printed


def test_where_a_row_was_rejected_is_printed(lab: Lab, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_trace(run, lab.rows(run, "iteration-2/curate", "rejected")[0]["id"], as_json=False)
    assert "rejected in" in capsys.readouterr().out.splitlines()[0]
