"""`humpback ingest` as a user meets it: exit statuses, one result however it is worked on, and nothing lost on the way."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from humpback import ingesting, tasks
from humpback.errors import DriftError
from humpback.progress import Console
from humpback.recipe import load_corpus

if TYPE_CHECKING:
    from tests.conftest import Command, Ended, Lab

COLUMNS = set("id text header_path source_uri offset title licence language document_id location time".split())
INPUTS = 6


@pytest.fixture
def command(command: Command) -> Command:
    return functools.partial(command, "ingest")


@pytest.fixture(scope="session")
def inputs(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One file per unit of work: the lab's documents, in six files, one of them damaged at its end."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = lab.documents()
    paths = [folder / f"part-{number}.jsonl" for number in range(INPUTS)]
    for number, path in enumerate(paths):
        lab.write_lines(path, rows[number::INPUTS])
    with paths[2].open("ab") as file:
        file.write(b'{"text": "torn off')
    return paths


@pytest.fixture(scope="session")
def whole(inputs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted sitting gives; to be read only."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert _ingest(inputs, folder)
    return folder


def _ingest(inputs: list[Path], folder: Path, *, workers: int = 1, **settings: object) -> bool:
    given = {"inputs": [{"path": str(path)} for path in inputs], "min_chars": 300, **settings}
    return ingesting.run_ingest(load_corpus(None, given), folder, workers=workers, console=Console(quiet=True))


def _rows(folder: Path, prefix: str) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob(f"{prefix}-*.parquet")) for row in pq.read_table(path).to_pylist()]


def _assert_refused(ended: Ended, *words: object, status: int = 2) -> None:
    assert ended.status == status, ended.err
    assert "Traceback" not in ended.err
    for word in words:
        assert str(word) in ended.err


# -- what is in the folder ---------------------------------------------------------------------------------------------


def test_folder_holds_segments_rejected_rows_the_funnel_and_the_manifest(whole: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    assert {"segments-00000.parquet", "rejected-dedup-00000.parquet", "funnel.json", "manifest.json"} <= names
    assert any(name.startswith("rejected-ingest-") for name in names)
    assert "work" not in names
    assert set(pq.read_table(whole / "segments-00000.parquet").column_names) == COLUMNS


def test_every_row_is_kept_or_has_a_reason(whole: Path, lab: Lab) -> None:
    funnel = json.loads((whole / "funnel.json").read_bytes())
    ingest, dedup = funnel["steps"]
    for step, prefix in ((ingest, "rejected-ingest"), (dedup, "rejected-dedup")):
        dropped = sum(step["rejected"].values()) + sum(step["failed"].values())
        assert step["read"] == step["kept"] + dropped
        assert dropped == len(_rows(whole, prefix))
    assert dedup["read"] == ingest["kept"]
    assert funnel["kept"] == dedup["kept"] == len(_rows(whole, "segments"))
    assert funnel["rows"] == ingest["read"]
    assert funnel["documents"] == len(lab.documents()) - 1  # one has no text
    assert funnel["unread"] == 2
    assert ingest["rejected"]["not_json"] == 1
    assert dedup["rejected"] == {"duplicate": 1}


def test_every_row_says_where_it_comes_from(whole: Path, inputs: list[Path]) -> None:
    for row in _rows(whole, "segments"):
        assert row["location"].startswith(str(inputs[0].parent))
        assert row["source_uri"].startswith("test:")
    for row in [*_rows(whole, "rejected-ingest"), *_rows(whole, "rejected-dedup")]:
        assert row["reason"]
        assert row["detail"]
        assert json.loads(row["row"])


def test_sample_and_threshold_of_likeness_are_applied(inputs: list[Path], tmp_path: Path) -> None:
    assert _ingest(inputs, tmp_path / "out", sample=3, near_duplicates=None)
    assert len(_rows(tmp_path / "out", "segments")) == 3
    assert json.loads((tmp_path / "out/funnel.json").read_bytes())["steps"][1]["rejected"]["not_sampled"] > 3


def test_texts_of_an_evaluation_set_are_kept_out(lab: Lab, inputs: list[Path], tmp_path: Path) -> None:
    known = lab.documents()[0]["text"]
    (tmp_path / "test-set.jsonl").write_text(json.dumps({"question": known[:250]}) + "\n", encoding="utf-8")
    sets = [{"path": str(tmp_path / "test-set.jsonl")}]
    for workers in (1, 2):
        folder = tmp_path / f"out-{workers}"
        assert _ingest(inputs, folder, decontaminate=sets, workers=workers)
        rejected = [row for row in _rows(folder, "rejected-ingest") if row["reason"] == "contaminated"]
        assert [json.loads(row["row"])["text"] for row in rejected] == [known]
        assert "test-set.jsonl" in rejected[0]["detail"]


# -- one result --------------------------------------------------------------------------------------------------------


def test_two_workers_write_the_bytes_that_one_writes(lab: Lab, whole: Path, inputs: list[Path], tmp_path: Path) -> None:
    assert _ingest(inputs, tmp_path / "out", workers=2)
    lab.assert_same_run(whole, tmp_path / "out")


def test_killed_and_started_again_it_goes_on_to_the_same_bytes(
    lab: Lab, whole: Path, inputs: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    real = tasks.read_unit

    def slowly(unit: Any, **more: Any) -> Any:
        time.sleep(0.05)
        return real(unit, **more)

    def work() -> None:
        tasks.read_unit = slowly  # type: ignore[assignment]  # in the child only
        _ingest(inputs, folder)

    for number in (0, 2, 4):
        with lab.start_child(work, tmp_path) as child:
            _wait_for(folder / "work" / "ingest" / f"segments-{number:05d}.parquet")
            assert child.kill().signal == signal.SIGKILL
    done = {path: path.stat().st_ino for path in (folder / "work/ingest").glob("segments-*.parquet")}
    assert len(done) >= 5
    read: list[int] = []

    def noting(unit: Any, **more: Any) -> Any:
        read.append(unit.index)
        return real(unit, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "read_unit", noting)
        assert _ingest(inputs, folder)
    assert len(read) == INPUTS - len(done)  # finished units are not read again
    lab.assert_same_run(whole, folder)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Killed(BaseException):
    pass


def test_interrupted_at_any_rename_it_goes_on_to_the_same_bytes(
    lab: Lab, whole: Path, inputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace
    for number in range(100):
        left = number

        def replace(source: Any, target: Any, **more: Any) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            real(source, target, **more)

        folder = tmp_path / f"out-{number}"
        monkeypatch.setattr(os, "replace", replace)
        with contextlib.suppress(Killed):
            _ingest(inputs, folder)
            break
        monkeypatch.setattr(os, "replace", real)
        assert _ingest(inputs, folder)
        lab.assert_same_run(whole, folder)
    assert 20 < number < 99


def test_complete_folder_is_left_alone(lab: Lab, whole: Path, inputs: list[Path]) -> None:
    before = lab.listing(whole)
    assert _ingest(inputs, whole) is False
    assert lab.listing(whole) == before


@pytest.mark.parametrize("name", ["segments-00000.parquet", "rejected-dedup-00000.parquet"])
def test_complete_folder_whose_files_are_gone_is_refused(
    command: Command, whole: Path, inputs: list[Path], tmp_path: Path, name: str
) -> None:
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    ended = command(*inputs, "-o", tmp_path / "out", "--min-chars", "300", "--quiet")
    _assert_refused(ended, f"{name.partition('-')[0]}-*.parquet", "and holds", "delete", status=1)
    assert "Nothing left to do" not in ended.out


def test_file_of_an_unknown_kind_given_by_name_is_a_row(command: Command, inputs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    ended = command(inputs[0], tmp_path / "a.bin", "-o", tmp_path / "out", "--min-chars", "300", "--json")
    assert (ended.status, json.loads(ended.out)["steps"][0]["rejected"]["unknown_kind"]) == (0, 1)
    _assert_refused(command(tmp_path / "a.bin", "-o", tmp_path / "other", "--quiet"), "a.bin", "unknown kind")
    assert not (tmp_path / "other").exists()


def test_other_settings_or_changed_inputs_are_refused_with_the_difference(
    lab: Lab, whole: Path, inputs: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(DriftError, match=r"min_chars: 300 -> 301[\s\S]*delete .* or name another folder"):
        _ingest(inputs, whole, min_chars=301)
    with pytest.raises(DriftError, match=r"sample: null -> 5"):
        _ingest(inputs, whole, sample=5)
    own = [tmp_path / path.name for path in inputs]
    for path, source in zip(own, inputs, strict=True):
        path.write_bytes(source.read_bytes())
    _ingest(own, tmp_path / "out")
    own[0].write_bytes(own[0].read_bytes().replace(b"river", b"brook"))
    with pytest.raises(DriftError, match=r"files\.0"):
        _ingest(own, tmp_path / "out")


def test_folder_where_nothing_was_fit_takes_other_settings(
    inputs: list[Path], tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "out"
    ended = command(inputs[0], "-o", out, "--min-chars", "2999", "--quiet")
    _assert_refused(ended, "no segment", "too_short", "min_chars", status=1)
    assert command(inputs[0], "-o", out, "--min-chars", "300", "--quiet").status == 0


# -- the command -------------------------------------------------------------------------------------------------------


def test_funnel_is_printed_and_a_second_run_says_that_nothing_is_left(
    command: Command, inputs: list[Path], tmp_path: Path
) -> None:
    arguments = (*inputs, "-o", tmp_path / "out", "--min-chars", "300", "--quiet")
    first, second = command(*arguments), command(*arguments)
    assert (first.status, second.status) == (0, 0)
    assert "too_short" in first.out
    assert "%" in first.out
    assert first.err == ""
    assert second.out == f"Nothing left to do: {tmp_path / 'out'} is complete.\n{first.out}"
    assert max(map(len, first.out.splitlines()[:-2])) <= 100


def test_json_is_all_that_is_printed(command: Command, inputs: list[Path], tmp_path: Path) -> None:
    ended = command(*inputs, "-o", tmp_path / "out", "--min-chars", "300", "--json")
    told = json.loads(ended.out)
    assert told.keys() == {"folder", "documents", "unread", "rows", "steps", "kept", "masked", "pages"}
    assert [step["name"] for step in told["steps"]] == ["ingest", "dedup"]
    assert json.loads(command(*inputs, "-o", tmp_path / "out", "--min-chars", "300", "--json").out) == told


def test_damaged_file_among_good_ones_ends_with_0_and_is_counted(command: Command, lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    lab.write_lines(folder / "good.jsonl", lab.documents())
    (folder / "bad.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00 this is no gzip")
    ended = command(folder, "-o", tmp_path / "out", "--min-chars", "300", "--json")
    assert ended.status == 0
    assert json.loads(ended.out)["steps"][0]["rejected"]["damaged_file"] == 1


def test_input_with_nothing_readable_ends_with_2_and_names_the_reasons(command: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(b"{torn\n\xff\xfe\n")
    ended = command(tmp_path / "bad.jsonl", "-o", tmp_path / "out", "--quiet")
    _assert_refused(ended, "bad.jsonl", "nothing that can be read", "not_json", "rejected-")


def test_wrong_column_is_told_on_the_terminal(command: Command, inputs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "wrong.jsonl").write_text('{"body": "one", "other": 1}\n')
    alone = command(tmp_path / "wrong.jsonl", "-o", tmp_path / "out", "--quiet")
    _assert_refused(alone, "no column 'text'", "--text-column", "body, other")
    beside = command(tmp_path / "wrong.jsonl", inputs[0], "-o", tmp_path / "both", "--min-chars", "300")
    assert beside.status == 0
    assert "no column 'text'; set corpus.inputs.text (--text-column) to one of: body, other" in beside.err


@pytest.mark.parametrize(
    ("option", "value", "key"),
    [
        ("--languages", "fi", "corpus.languages (--languages)"),
        ("--licences", "MIT", "corpus.licences (--licences)"),
        ("--min-chars", "2999", "corpus.min_chars (--min-chars)"),
    ],
)
def test_gate_names_the_key_to_change(
    command: Command, inputs: list[Path], tmp_path: Path, option: str, value: str, key: str
) -> None:
    given = {"--min-chars": "300", option: value}
    ended = command(inputs[0], "-o", tmp_path / "out", "--quiet", *(word for pair in given.items() for word in pair))
    _assert_refused(ended, "no segment of the corpus is fit", f"change {key}", status=1)


def test_recipe_gives_its_corpus_section_and_options_go_before_it(command: Command, lab: Lab, tmp_path: Path) -> None:
    recipe = lab.recipe_file(tmp_path / "r.yaml")
    ended = command("--recipe", recipe, "-o", tmp_path / "out", "--json", "--quiet", "--set", "corpus.sample=4")
    assert json.loads(ended.out)["kept"] == 4
    manifest = json.loads((tmp_path / "out/manifest.json").read_bytes())
    assert manifest["identity"]["ingest"]["corpus"]["min_chars"] == 300
    assert manifest["identity"]["dedup"]["random_seed"] == 7


def test_options_reach_the_settings(command: Command, inputs: list[Path], tmp_path: Path) -> None:
    options = (
        *("--min-chars", "200", "--max-chars", "2000", "--filters", "header_empty,symbols", "--languages", "en,de"),
        *("--pii", "keep", "--licences", "CC0-1.0, CC-BY-4.0", "--near-duplicates", "0", "--licence", "CC0-1.0"),
        *("--format", "markdown", "--text-column", "text", "--set", "corpus.min_language_score=0", "--sample", "9"),
    )
    command(*inputs, "-o", tmp_path / "out", *options, "--quiet")
    stage = (
        json.loads((tmp_path / "out" / "work" / "ingest" / "stage.json").read_bytes())
        if (tmp_path / "out/work").exists()
        else (json.loads((tmp_path / "out/manifest.json").read_bytes())["identity"]["ingest"])
    )
    corpus = stage["corpus"]
    assert (corpus["min_chars"], corpus["max_chars"]) == (200, 2000)
    assert corpus["filters"] == ["header_empty", "symbols"]
    assert corpus["languages"] == ["en", "de"]
    assert corpus["pii"] == "keep"
    assert corpus["licences"] == ["CC0-1.0", "CC-BY-4.0"]
    assert corpus["inputs"][0]["licence"] == "CC0-1.0"
    assert corpus["inputs"][0]["format"] == "markdown"
    assert corpus["min_language_score"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["-o FOLDER"]),
        (["-o", "out"], ["no INPUT"]),
        (["no/where", "-o", "out"], ["no/where", "does not exist"]),
        (["INPUT", "-o", "out", "--filters", "nonsense"], ["corpus.filters.0", "nonsense"]),
        (["INPUT", "-o", "out", "--pii", "hide"], ["corpus.pii=hide", "mask"]),
        (["INPUT", "-o", "out", "--near-duplicates", "7"], ["corpus.near_duplicates=7"]),
        (["INPUT", "-o", "out", "--set", "corpus.min_char=7"], ["did you mean min_chars"]),
        (["INPUT", "-o", "out", "--decontaminate", "no.jsonl"], ["no.jsonl"]),
        (["INPUT", "-o", "INPUT"], ["is a file"]),
    ],
)
def test_wrong_use_ends_with_2_and_says_what_is_right(
    command: Command,
    inputs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    _assert_refused(command(*(str(inputs[0]) if a == "INPUT" else a for a in arguments), "--quiet"), *words)


def test_folder_of_other_files_of_a_run_or_inside_the_input_is_refused(
    command: Command, lab: Lab, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    lab.write_lines(folder / "a.jsonl", lab.documents())
    _assert_refused(command(folder, "-o", folder / "out", "--quiet"), "lies inside")
    _assert_refused(command(lab.corpus, "-o", folder, "--quiet"), "holds files that are no run's")
    _assert_refused(command(lab.corpus, "-o", finished, "--quiet"), "is the folder of a run")
    assert [path.name for path in folder.iterdir()] == ["a.jsonl"]


def test_the_process_loads_no_model_library(inputs: list[Path], tmp_path: Path) -> None:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print([n for n in ('torch', 'transformers', 'trl') if n in sys.modules]))\n"
        "from humpback.cli import main\nmain()"
    )
    arguments = [*map(str, inputs), "-o", str(tmp_path / "out"), "--min-chars", "300", "--json"]
    done = subprocess.run([sys.executable, "-c", code, "ingest", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("}\n[]\n")
