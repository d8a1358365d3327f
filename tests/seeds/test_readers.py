from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from humpback.errors import InputError
from humpback.recipe import SeedInput, SeedSettings
from humpback.records import Pair, Rejected, content_id
from humpback.seeds import readers
from humpback.seeds.readers import check_inputs, input_files, read_pairs


def row(number: int, **more: object) -> dict[str, object]:
    return {"instruction": f"Question {number}?", "response": f"Answer {number}.", **more}


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    data = "".join(json.dumps(item) + "\n" for item in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path: Path, *, random_seed: int = 0, skip_if: str | None = None, **more: int) -> list[Pair | Rejected]:
    given = SeedInput(path=str(path), skip_if=skip_if, licence="MIT")
    settings = SeedSettings.model_validate({"inputs": [given], "holdout": 8, **more})
    return list(read_pairs(settings, random_seed=random_seed))


def ids(records: list[Pair | Rejected], split: str) -> set[str]:
    return {record.id for record in records if isinstance(record, Pair) and record.split == split}


def reasons(records: list[Pair | Rejected]) -> Counter[str]:
    return Counter(record.reason for record in records if isinstance(record, Rejected))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.NDJSON"])
def test_pairs_are_read_with_their_source_and_split(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [row(number) for number in range(30)])
    records = read(path)
    assert Counter(record.split for record in records if isinstance(record, Pair)) == {"train": 22, "holdout": 8}
    first = records[0]
    assert isinstance(first, Pair)
    assert (first.instruction, first.response, first.licence) == ("Question 0?", "Answer 0.", "MIT")
    assert first.source_uri == f"{path.as_posix()}#L1"
    assert first.id == content_id(first.instruction, first.response)


def test_a_row_s_own_licence_and_the_recipe_s_columns_are_used(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"q": f"Q{n}", "a": f"A{n}", "licence": "CC0-1.0"} for n in range(16)])
    settings = SeedSettings(inputs=[SeedInput(path=str(path), instruction="q", response="a")], holdout=8)
    records = list(read_pairs(settings, random_seed=0))
    assert {record.licence for record in records if isinstance(record, Pair)} == {"CC0-1.0"}


def test_rows_with_context_duplicates_and_long_responses_are_rejected_by_name(tmp_path: Path) -> None:
    odd: list[dict[str, object]] = [
        row(100, context="Given this …"),
        row(101, context=" "),
        {"instruction": " question  1 ", "response": "Another answer.", "context": None},
        {"instruction": "Tell me all.", "response": "a" * 201},
        {"instruction": "What is 2+2?", "response": "4"},
        {"instruction": "What is 2*2?", "response": "4"},
    ]
    records = read(
        write(tmp_path / "a.jsonl", [row(n) for n in range(20)] + odd), skip_if="context", max_response_chars=200
    )
    assert reasons(records) == {"has_context": 1, "duplicate": 1, "response_too_long": 1}
    assert len(records) == 26
    assert len({record.id for record in records}) == 26
    assert all("#L" in record.detail for record in records if isinstance(record, Rejected))


def test_the_sample_and_the_holdout_do_not_depend_on_file_order(tmp_path: Path) -> None:
    rows = [row(number) for number in range(60)]
    forward = read(write(tmp_path / "a.jsonl", rows), sample=30)
    backward = read(write(tmp_path / "b.jsonl", rows[::-1]), sample=30)
    assert reasons(forward) == {"not_sampled": 30}
    assert ids(forward, "holdout") == ids(backward, "holdout")
    assert ids(forward, "train") == ids(backward, "train")


def test_another_random_seed_gives_another_holdout(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row(number) for number in range(60)])
    assert ids(read(path), "holdout") != ids(read(path, random_seed=1), "holdout")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (b'{"instruction": "caf\xe9"}', "not UTF-8"),
        (b'{"instruction": "a", "response": "\\ud83d"}', "half a character"),
        (b'{"instruction": ', "not JSON"),
        (b"[]", "list"),
        (b'{"prompt": "a", "response": "b"}', "prompt"),
        (b'{"instruction": "a", "response": ""}', "is empty"),
        (b'{"instruction": 7, "response": "b"}', "int"),
        (b'{"instruction": "a", "response": "b", "licence": "\\ud83d"}', "'licence' holds half a character"),
        (b'{"instruction": "a", "response": "b", "licence": ["MIT"]}', "'licence' holds list"),
    ],
)
def test_a_faulty_row_stops_with_its_file_and_line(tmp_path: Path, line: bytes, hint: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(row(1)).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(InputError, match=hint) as caught:
        read(path)
    assert f"{path.as_posix()}:3" in str(caught.value)


def test_a_line_above_the_limit_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_LINE_BYTES", 100)
    with pytest.raises(InputError, match=r"a\.jsonl:2 is longer than 100 bytes"):
        read(write(tmp_path / "a.jsonl", [row(1), row(2, more="a" * 100)]))


def test_a_damaged_gz_stops_with_the_last_good_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", [row(number) for number in range(30)])
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="damaged after line 30"):
        read(path)


def test_a_skip_column_that_no_row_has_stops(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row(number, context="") for number in range(20)])
    with pytest.raises(InputError, match="its columns are instruction, response, context"):
        read(path, skip_if="contxt")


def test_too_few_pairs_stop_with_the_figures_and_the_fix(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row(number) for number in range(20)])
    assert len(read(path, holdout=12)) == 20
    with pytest.raises(InputError, match=r"20 pairs, and seed\.holdout=13 .* until there are 21"):
        read(path, holdout=13)
    with pytest.raises(InputError, match=r"seed\.sample=15 takes 15 of 20 pairs.*raise seed\.sample to 16"):
        read(path, sample=15)


@pytest.mark.parametrize("rows", [[], [row(1, context="some")]])
def test_no_pair_at_all_is_an_empty_seed(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    with pytest.raises(InputError, match="empty seed"):
        read(write(tmp_path / "a.jsonl", rows), skip_if="context")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("missing.jsonl", "does not exist"), ("a.csv", "convert it"), ("package:other", "package:seed")],
)
def test_a_wrong_input_stops_with_its_name_and_the_fix(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / "a.csv").write_text("a,b")
    path = name if name.startswith("package:") else str(tmp_path / name)
    with pytest.raises(InputError, match=hint) as caught:
        check_inputs([SeedInput(path=path)])
    assert path in str(caught.value)


def test_the_packaged_seed_is_read_whole() -> None:
    settings = SeedSettings(inputs=[SeedInput(path="package:seed")], holdout=20)
    records = list(read_pairs(settings, random_seed=0))
    assert not reasons(records)
    assert {record.licence for record in records if isinstance(record, Pair)} == {"CC0-1.0"}
    assert all(path.is_file() for path in input_files(settings.inputs))


def test_a_name_that_is_not_utf8_is_written_out(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl"))
    records = read(write(path, [row(number) for number in range(16)]))
    assert {record.source_uri.rpartition("/")[2] for record in records if isinstance(record, Pair)} == {
        f"caf\\xe9.jsonl#L{number}" for number in range(1, 17)
    }


@pytest.mark.parametrize("method", ["open", "is_file", "exists"])
def test_a_seed_that_may_not_be_read_stops_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "a.jsonl", [row(number) for number in range(16)])
    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(InputError, match=r"seed input .*a\.jsonl cannot be read: Permission denied"):
        read(path)


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(InputError, match=r"seed input a+\.jsonl cannot be read: File name too long"):
        check_inputs([SeedInput(path="a" * 300 + ".jsonl")])


@pytest.mark.parametrize("random_seed", range(6))
def test_pairs_with_the_same_response_are_in_one_split(tmp_path: Path, random_seed: int) -> None:
    rows = [{"instruction": f"Question {n}?", "response": f"Answer {n // 3}" + ".!"[n % 2]} for n in range(60)]
    records = read(write(tmp_path / "a.jsonl", rows), random_seed=random_seed, holdout=9)
    splits: dict[str, set[str]] = {}
    for record in records:
        assert isinstance(record, Pair)
        splits.setdefault(record.response[:-1], set()).add(record.split)
    assert all(len(found) == 1 for found in splits.values())
    assert len(ids(records, "holdout")) == 9
    assert len(ids(records, "train")) == 51


def test_a_holdout_that_equal_responses_do_not_allow_is_refused_with_what_they_allow(tmp_path: Path) -> None:
    rows = [row(number) for number in range(9)] + [
        {"instruction": f"Is it {n}?", "response": "Yes."} for n in range(30)
    ]
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError, match=r"seed\.holdout=20 cannot be met.*only 10 responses differ.*lower .* to 9"):
        read(path, holdout=20)
    assert len(ids(read(path, holdout=9), "holdout")) == 9
