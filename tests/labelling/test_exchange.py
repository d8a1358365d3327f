"""Sheets out and labels in: nothing wrong is taken, nothing right is lost, and every line is counted."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from humpback.errors import InputError
from humpback.evaluation.labellog import FILE_NAME, read_events
from humpback.evaluation.labels import read_labels
from humpback.labelling.exchange import COLUMNS, Imported, export_labels, import_labels
from humpback.labelling.sample import Population, draw, load_population
from humpback.labelling.session import Session


@pytest.fixture
def population(copy_of_finished: Path) -> Population:
    return load_population(copy_of_finished)


@pytest.fixture
def ids(population: Population) -> list[str]:
    return [place.pair_id for place in draw(population)]


def _import(population: Population, path: Path, text: str) -> Imported:
    path.write_text(text, encoding="utf-8")
    return import_labels(population, path, labeller="ann")


def _said(population: Population) -> dict[str, tuple[float | None, bool]]:
    return {pair.pair_id: (pair.label, pair.good) for pair in read_labels(population.run).pairs}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_sheet_comes_back_with_what_was_filled_in(
    population: Population, ids: list[str], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"sheet{suffix}"
    assert export_labels(population, path, labeller="bob", count=5, show_scores=False) == (5, 0)
    if suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["id"] for row in rows] == ids[:5]
    assert {tuple(row) for row in rows} == {COLUMNS}
    rows[0]["label"], rows[1]["good"], rows[2]["label"] = "5", "no", "1"
    with path.open("w", encoding="utf-8", newline="") as file:
        if suffix == ".csv":
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    done = import_labels(population, path, labeller="somebody")
    assert (done.read, done.taken, done.empty, done.rejected) == (5, 3, 2, [])
    assert _said(population) == {ids[0]: (5, True), ids[1]: (None, False), ids[2]: (1, False)}
    assert {event.labeller for event in read_events(population.run / FILE_NAME)} == {"bob"}
    assert import_labels(population, path, labeller="x").unchanged == 3
    assert len(read_events(population.run / FILE_NAME)) == 3


def test_wrong_lines_are_named_and_counted_and_the_others_taken(
    population: Population, ids: list[str], tmp_path: Path
) -> None:
    text = f"id,label,good\n{ids[0]},5,\n{ids[1]},6,\n0000000000000000,3,\n{ids[2]},,maybe\n,3,\n{ids[3]},4.5,\n{ids[4]},2.0,\n"
    done = _import(population, tmp_path / "l.csv", text)
    assert (done.read, done.taken, done.empty) == (7, 2, 0)
    assert [line.partition(":")[0] for line in done.rejected] == [f"line {n}" for n in (3, 4, 5, 6, 7)]
    for line, words in zip(
        done.rejected, ("1 to 5", "no candidate", "neither true nor false", "no id", "1 to 5"), strict=True
    ):
        assert words in line
    assert done.read == done.taken + done.unchanged + done.empty + done.repeated + len(done.rejected)
    assert _said(population) == {ids[0]: (5, True), ids[4]: (2, False)}


def test_of_two_lines_on_a_pair_the_last_one_stands(population: Population, ids: list[str], tmp_path: Path) -> None:
    text = f"id,label,labeller\n{ids[0]},5,\n{ids[0]},1,\n{ids[0]},4,bob\n"
    done = _import(population, tmp_path / "l.csv", text)
    assert (done.read, done.taken, done.repeated) == (3, 2, 1)
    said = {event.labeller: event.label for event in read_events(population.run / FILE_NAME)}
    assert said == {"ann": 1, "bob": 4}


def test_what_spreadsheets_do_to_a_file_is_understood(population: Population, ids: list[str], tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"id;label;good\r\n{ids[0]};5;\r\n{ids[1]};;FALSE\r\n".encode())
    assert import_labels(population, path, labeller="ann").taken == 2
    assert _said(population) == {ids[0]: (5, True), ids[1]: (None, False)}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("l.txt", b"", r"neither \.csv nor \.jsonl"),
        ("l.csv", b"", "columns none; it needs `id`"),
        ("l.csv", b"pair,label\na,1\n", "columns pair, label; it needs `id`"),
        ("l.csv", b"id,verdict\na,1\n", "`label` or `good`"),
        ("l.csv", b"id,label\n\xff,1\n", "not UTF-8 at byte 10"),
        ("l.jsonl", b'{"id": "a", "label": 1}\n{oops\n', "line 2 is not JSON"),
        ("l.jsonl", b"[1]\n", "line 1 holds list"),
        ("l.jsonl", b'{"id": "a"}\n', "line 1 has the columns id"),
        ("none.csv", None, "cannot be read"),
    ],
)
def test_file_that_is_no_sheet_is_refused_and_nothing_taken(
    population: Population, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        import_labels(population, path, labeller="ann")
    assert not (population.run / FILE_NAME).exists()


def test_all_labels_of_everyone_are_exported_without_a_labeller(
    population: Population, ids: list[str], tmp_path: Path
) -> None:
    for name, label in (("ann", 5), ("bob", 2)):
        Session(population, name, 9).answer(label=label, note="so")
    path = tmp_path / "all.jsonl"
    assert export_labels(population, path, labeller=None, count=50, show_scores=True) == (2, 2)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["id"], row["labeller"], row["label"], row["good"], row["note"]) for row in rows] == [
        (ids[0], "ann", 5, True, "so"),
        (ids[0], "bob", 2, False, "so"),
    ]
    assert all("rating" in row for row in rows)


def test_a_sheet_to_fill_in_does_not_tell_the_verdict(population: Population, tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    export_labels(population, path, labeller="ann", count=8, show_scores=False)
    text = path.read_text()
    assert not any(word in text for word in ("curated", "rejected", "rating", "test:"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_filled_sheet_is_not_written_over_before_it_is_imported(
    population: Population, ids: list[str], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"sheet{suffix}"
    path.write_text(
        f"id,label\n{ids[0]},5\n{ids[1]},\n" if suffix == ".csv" else json.dumps({"id": ids[0], "label": 5}) + "\n"
    )
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"holds 1 labels that the run does not know; take them with --import"):
        export_labels(population, path, labeller="ann", count=5, show_scores=False)
    assert path.read_bytes() == before
    import_labels(population, path, labeller="ann")
    assert export_labels(population, path, labeller="ann", count=5, show_scores=False) == (5, 1)
    assert export_labels(population, path, labeller="ann", count=5, show_scores=False) == (5, 1)


def test_a_file_of_something_else_is_not_written_over(population: Population, tmp_path: Path) -> None:
    path = tmp_path / "accounts.csv"
    path.write_text("month,sum\nMay,3\n")
    with pytest.raises(InputError, match="exists and is no sheet of labels; name another file"):
        export_labels(population, path, labeller="ann", count=5, show_scores=False)
    assert path.read_text() == "month,sum\nMay,3\n"


def test_text_that_looks_like_a_formula_is_text_in_the_sheet(population: Population, tmp_path: Path) -> None:
    session = Session(population, "ann", 5)
    session.answer(label=4, note='=HYPERLINK("http://x")')
    export_labels(population, tmp_path / "l.csv", labeller=None, count=5, show_scores=False)
    with (tmp_path / "l.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["note"] == '\'=HYPERLINK("http://x")'
