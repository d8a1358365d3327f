"""The command as a user meets it: exit statuses, and messages that name the place, the value and the fix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from humpback import __version__, pipeline

if TYPE_CHECKING:
    from tests.conftest import Command, Ended, Lab

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "pyarrow", "scipy", "numpy", "pydantic", "rich")


@pytest.fixture
def recipe(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return lab.recipe_file(tmp_path / "small.yaml")


def _assert_refused(ended: Ended, *words: object, status: int = 2) -> None:
    assert ended.status == status, ended.err
    assert sum(line.startswith("error: ") for line in ended.err.splitlines()) == 1
    assert "Traceback" not in ended.err
    for word in words:
        assert str(word) in ended.err


# -- done --------------------------------------------------------------------------------------------------------------


def test_a_run_ends_with_0_and_so_does_a_run_with_nothing_left_to_do(command: Command, recipe: Path) -> None:
    assert command("run", recipe, "--quiet").status == 0
    assert (recipe.parent / "runs/small/dataset/README.md").is_file()
    again = command("run", recipe, "--quiet")
    assert again.status == 0
    assert "Nothing left to do" in again.out


def test_set_and_run_change_one_run(command: Command, recipe: Path) -> None:
    assert command("run", recipe, "--set", "random_seed=3", "--run", "other", "--quiet").status == 0
    assert "random_seed: 3" in (recipe.parent / "other/recipe.yaml").read_text(encoding="utf-8")


def test_init_writes_a_recipe_once(command: Command, recipe: Path) -> None:
    assert command("init", "new.yaml").status == 0
    _assert_refused(command("init", "new.yaml"), "new.yaml exists", "--force")
    assert command("init", "new.yaml", "--force").status == 0


def test_status_trace_doctor_and_version_end_with_0(command: Command, lab: Lab, finished: Path) -> None:
    row_id = lab.rows(finished, "augment", "candidates")[0]["id"]
    assert command("status", finished).status == 0
    assert json.loads(command("trace", finished, row_id, "--json").out)["id"] == row_id
    assert json.loads(command("doctor", "--json").out)["engines"]["fake"]["ready"] is True
    assert command("version").out == command("--version").out == f"{__version__}\n"


# -- stopped -----------------------------------------------------------------------------------------------------------


def test_a_gate_ends_with_1_and_says_what_to_change(command: Command, recipe: Path) -> None:
    strict = ("--set", "curate.signal=rating", "--set", "curate.threshold=5")
    _assert_refused(command("run", recipe, *strict, "--quiet"), "no candidate passes", "curate.threshold", status=1)


def test_an_interrupted_run_ends_with_1_and_says_how_to_go_on(
    command: Command, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", interrupted)
    _assert_refused(command("run", recipe), "interrupted", "the same command", status=1)


def test_an_interrupt_before_a_run_has_begun_ends_alike(
    command: Command, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("humpback.recipe.load_recipe", interrupted)
    _assert_refused(command("run", recipe), "interrupted", "the same command", status=1)


# -- wrong recipe ------------------------------------------------------------------------------------------------------


def test_what_is_no_run_folder_is_told_by_every_command_in_the_same_words(command: Command, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photo.jpg").touch()
    for folder, why in (
        ("photos", "is no run folder: it has no recipe.yaml"),
        ("nowhere", "does not exist"),
        ("photo.jpg", "photo.jpg is a file; give the folder of a run"),
    ):
        asked = [("status",), ("trace",), ("label",), ("cache", "stats") if folder == "photos" else ("results",)]
        more = {"trace": ["0123456789"]}
        told = {command(*words, tmp_path / folder, *more.get(words[0], [])).err for words in asked}
        assert len(told) == 1, told
        assert why in told.pop()


def test_status_names_a_refused_stage_once(command: Command, recipe: Path) -> None:
    command("run", recipe, "--set", "curate.signal=rating", "--set", "curate.threshold=5")
    told = " ".join(command("status", "runs/small").out.split())
    assert "iteration-1/curate was refused: no candidate passes" in told


def test_a_missing_recipe_is_named_with_the_command_that_writes_one(command: Command, tmp_path: Path) -> None:
    _assert_refused(command("run", tmp_path / "no.yaml"), tmp_path / "no.yaml", "humpback init")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"model: [", ["not valid YAML", "line 1"]),
        (b"- a\n- b\n", ["list", "humpback init"]),
        (b"", ["humpback init"]),
        (b"model: 2024-13-01\n", ["not valid YAML", "month"]),
        (b"model: {base: \xff}\n", ["not UTF-8"]),
        (b"model: {base: fake}\n", ["seed is missing", "corpus is missing"]),
    ],
)
def test_a_file_that_is_no_recipe_is_named(command: Command, tmp_path: Path, text: bytes, words: list[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text)
    _assert_refused(command("run", path), path, *words)


def test_a_folder_is_no_recipe(command: Command, tmp_path: Path) -> None:
    _assert_refused(command("run", tmp_path), tmp_path, "YAML file")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("curate.treshold=4", ["curate.treshold", "did you mean threshold"]),
        ("modle.base=fake", ["modle", "did you mean model"]),
        ("seed.inputs.0.pth=x", ["seed.inputs.0.pth", "did you mean path"]),
        ("curate.threshold=6", ["curate.threshold=6", "1 to 5", "4 or 4.5"]),
        ("curate.top=-1", ["curate.top=-1", "0.4 or 200"]),
        ("iterations=0", ["iterations=0", "1 or more", "2"]),
        ("train.learning_rate=fast", ["train.learning_rate=fast"]),
        ("runtime.engine=hf", ["model.base=fake", "runtime.engine=hf"]),
        ("seed.inputs=[]", ["seed.inputs"]),
        ("curate.signal=p_good", ["curate.signal=p_good", "seed.holdout=10", "24 or more"]),
        ("curate.signal=probe", ["curate.signal=probe", "seed.holdout=10", "24 or more"]),
        ("curate.policy=precision", ["curate.policy=precision", "seed.holdout=10", "24 or more"]),
        ("train.learning_rate=2024-13-01", ["train.learning_rate=2024-13-01"]),
    ],
)
def test_a_wrong_value_names_its_key_and_what_is_right(
    command: Command, recipe: Path, override: str, words: list[str]
) -> None:
    _assert_refused(command("run", recipe, "--set", override), recipe, *words)
    assert not (recipe.parent / "runs").exists()


@pytest.mark.parametrize("override", ["malformed", "=3", "seed.inputs.7.path=x", "curate.threshold.deep=1"])
def test_a_malformed_override_is_named(command: Command, recipe: Path, override: str) -> None:
    _assert_refused(command("run", recipe, "--set", override), override.partition("=")[0].removesuffix(".deep"))


def test_an_unknown_stage_is_answered_with_the_stages_there_are(command: Command, recipe: Path) -> None:
    _assert_refused(command("run", recipe, "--rerun-from", "scoer"), "scoer", "iteration-1/score", "dataset")


# -- wrong seed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (b'{"instruction": "What is missing here?"}\n', ["seed.jsonl:35", "'response'", "seed.inputs.response"]),
        (b'{"instruction": "What?", "response": " "}\n', ["seed.jsonl:35", "'response'", "empty"]),
        (b'{"instruction": "What?", "response": 5}\n', ["seed.jsonl:35", "int", "string"]),
        (b'{"instruction": "W\xff", "response": "r"}\n', ["seed.jsonl:35", "not UTF-8", "byte 19"]),
        (b"not json\n", ["seed.jsonl:35", "not JSON"]),
    ],
)
def test_a_faulty_seed_row_is_named_by_file_and_line(
    command: Command, own_lab: Lab, tmp_path: Path, extra: bytes, words: list[str]
) -> None:
    with own_lab.seed.open("ab") as file:
        file.write(extra)
    recipe = own_lab.recipe_file(tmp_path / "r.yaml")
    _assert_refused(command("run", recipe, "--run", tmp_path / "run", "--quiet"), *words)


def test_an_empty_seed_is_refused(command: Command, own_lab: Lab, tmp_path: Path) -> None:
    own_lab.seed.write_bytes(b"")
    recipe = own_lab.recipe_file(tmp_path / "r.yaml")
    _assert_refused(command("run", recipe, "--run", tmp_path / "run", "--quiet"), "empty seed", own_lab.seed.name)


def test_a_missing_seed_file_is_named(command: Command, recipe: Path) -> None:
    _assert_refused(command("run", recipe, "--set", "seed.inputs.0.path=no.jsonl", "--quiet"), "no.jsonl", "JSONL")


def test_a_seed_smaller_than_the_holdout_is_refused_with_numbers(command: Command, recipe: Path) -> None:
    ended = command("run", recipe, "--set", "seed.holdout=500", "--quiet")
    _assert_refused(ended, "32 pairs", "seed.holdout=500", "508")


# -- wrong documents and models ----------------------------------------------------------------------------------------


def test_a_missing_corpus_is_named(command: Command, recipe: Path) -> None:
    _assert_refused(command("run", recipe, "--set", "corpus.inputs.0.path=no/docs", "--quiet"), "no/docs", "folder")


def test_a_bad_document_costs_one_row_and_the_run_goes_on(command: Command, own_lab: Lab, tmp_path: Path) -> None:
    with own_lab.corpus.open("ab") as file:
        file.write(b'{"text": "not UTF-8: \xff"}\n')
        file.write(b'{"text": "' + b"long " * 10_000_000 + b'"}\n')
        file.write(b"{broken\n")
    recipe, run = own_lab.recipe_file(tmp_path / "r.yaml"), tmp_path / "run"
    assert command("run", recipe, "--run", run, "--quiet").status == 0
    rejected = {row["reason"]: row["detail"] for row in own_lab.rows(run, "ingest", "rejected")}
    assert f"{own_lab.corpus}:" in rejected["not_utf8"]
    assert "50,000,0" in rejected["line_too_long"]
    assert "not_json" in rejected
    counts = own_lab.manifest(run, "ingest")
    assert [counts["rejected"][reason] for reason in ("not_utf8", "line_too_long", "not_json")] == [1, 1, 1]


@pytest.mark.parametrize(("files", "lacking"), [([], "config.json"), (["config.json"], "tokenizer")])
def test_an_incomplete_model_folder_is_named_with_what_it_lacks(
    command: Command, recipe: Path, tmp_path: Path, files: list[str], lacking: str
) -> None:
    pytest.importorskip("transformers")
    folder = tmp_path / "model"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("{}", encoding="utf-8")
    ended = command("run", recipe, "--set", f"model.base={folder}", "--set", "runtime.engine=hf", "--quiet")
    _assert_refused(ended, folder, lacking, "save")


def test_a_model_that_is_nowhere_is_named(command: Command, recipe: Path) -> None:
    pytest.importorskip("transformers")
    ended = command("run", recipe, "--set", "model.base=./no-model", "--set", "runtime.engine=hf", "--quiet")
    _assert_refused(ended, "./no-model", "does not exist")


def test_a_run_folder_that_is_a_file_is_named(command: Command, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    _assert_refused(command("run", recipe, "--run", "taken"), "taken", "another folder")


@pytest.mark.parametrize("key", ["seed.inputs.0.path", "corpus.inputs.0.path", "model.base"])
def test_a_name_that_no_file_can_have_is_refused(command: Command, recipe: Path, key: str) -> None:
    hf = ("--set", "runtime.engine=hf") if key == "model.base" else ()
    name = "a" * 300 + ".jsonl"
    _assert_refused(command("run", recipe, "--set", f"{key}={name}", *hf, "--quiet"), name, "File name too long")


def test_files_whose_names_are_not_utf8_are_read(command: Command, own_lab: Lab, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    own_lab.corpus.rename(os.fsdecode(os.fsencode(docs) + b"/caf\xe9.jsonl"))
    (docs / "notes.docx").write_bytes(b"PK")
    recipe, run = (
        own_lab.recipe_file(tmp_path / "r.yaml", corpus__inputs=[{"path": str(docs), "source_uri": "none"}]),
        tmp_path / "run",
    )
    # draws follow the segments' ids, these the folder's name: by chance the scripted model does not pass its gate
    assert command("run", recipe, "--run", run, "--set", "gate.segments=0", "--quiet").status == 0
    rejected = {row["reason"]: row["detail"] for row in own_lab.rows(run, "ingest", "rejected")}
    assert "notes.docx" in rejected["unknown_kind"]
    assert "caf\\xe9.jsonl" in own_lab.rows(run, "ingest", "segments")[0]["source_uri"]


def test_results_that_cannot_be_written_are_one_line(command: Command, finished: Path, tmp_path: Path) -> None:
    _assert_refused(command("results", finished, "-o", tmp_path / "no/x.md"), tmp_path / "no/x.md", "-o")
    assert command("results", finished, "-o", tmp_path / "x.md").status == 0


def test_an_error_cannot_steer_the_terminal(command: Command, own_lab: Lab, tmp_path: Path) -> None:
    own_lab.seed.write_text(json.dumps({"\x1b]0;owned\x07\u202e": "a", "response": "b"}) + "\n", encoding="utf-8")
    recipe = own_lab.recipe_file(tmp_path / "r.yaml", seed__inputs=[{"path": str(own_lab.seed), "skip_if": None}])
    ended = command("run", recipe, "--run", tmp_path / "run", "--set", "curate.treshold=\x1b[31mred", "--quiet")
    _assert_refused(ended, "treshold")
    assert "\x1b" not in ended.err
    ended = command("run", recipe, "--run", tmp_path / "run", "--quiet")
    _assert_refused(ended, "owned", "response")
    assert not {"\x1b", "\x07", "\u202e"} & set(ended.err)


# -- the real command --------------------------------------------------------------------------------------------------


def test_the_process_ends_with_2_and_one_error_line(process: Command, recipe: Path, lab: Lab, finished: Path) -> None:
    _assert_refused(process("run", "no.yaml"), "no.yaml")
    _assert_refused(process("run", recipe, "--set", "curate.treshold=4"), "did you mean threshold")
    _assert_refused(process("run", recipe, "--set", "seed.inputs.0.path=no.jsonl"), "no.jsonl")
    _assert_refused(process("trace", finished, "0123456789abcdef"), "0123456789abcdef", finished)


def test_the_process_ends_with_1_at_a_gate(process: Command, recipe: Path) -> None:
    strict = ("--set", "curate.signal=rating", "--set", "curate.threshold=5")
    _assert_refused(process("run", recipe, *strict), "no candidate passes", status=1)


@pytest.mark.parametrize("arguments", [["no-such-command"], ["run"], ["run", "r.yaml", "--no-such-option"]])
def test_wrong_usage_ends_with_2_and_no_traceback(process: Command, arguments: list[str]) -> None:
    ended = process(*arguments)
    assert ended.status == 2
    assert "Error:" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("start", ["import humpback", "from humpback.cli import main; main()"])
def test_help_and_import_load_nothing_heavy(start: str) -> None:
    code = (
        f"import atexit, sys; sys.argv = ['humpback', '--help']\n"
        f"atexit.register(lambda: print('HEAVY', [name for name in {HEAVY} if name in sys.modules]))\n{start}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "HEAVY []"
