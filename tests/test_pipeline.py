"""The whole run with the scripted engine: the right stages in the right order, no row lost, and one result however it is cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from humpback.engines.base import Completion
from humpback.engines.fake import FakeEngine, FakeTokenizer
from humpback.errors import InputError
from humpback.evaluation.audit import BASELINES
from humpback.prompts import IGNORE, SEED_TAG, WEB_TAG, Prompt
from humpback.recipe import load_recipe
from humpback.rooms import training
from humpback.stages.table import stage_names
from humpback.store.rundir import RunDir
from humpback.training.spec import TrainSpec

if TYPE_CHECKING:
    from tests.conftest import Lab

MIXES = {
    "backward/mix": None,
    "iteration-0/mix": None,
    "iteration-1/mix": "iteration-1/curate",
    "control/mix": "control/draw",
}
"""Every mix and the stage that its web rows come from."""
KEPT = {
    "seed": "pairs",
    "ingest": "segments",
    "dedup": "segments",
    "augment": "candidates",
    "iteration-1/score": "scored",
    "iteration-1/curate": "curated",
    "control/draw": "drawn",
    **dict.fromkeys(MIXES, "mix"),
}
"""Every stage that writes records, and the prefix of its shards."""


def _train_and_holdout(lab: Lab, run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    pairs = lab.rows(run, "seed", "pairs")
    return [p for p in pairs if p["split"] == "train"], [p for p in pairs if p["split"] == "holdout"]


# -- stages --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("iterations", "control"), [(1, True), (3, False)])
def test_stages_run_in_the_order_of_the_table(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, iterations: int, control: bool
) -> None:
    finished: list[tuple[str, int | None]] = []
    real = RunDir.finish

    def finish(self: RunDir, stage: str, iteration: int | None, *args: Any, **more: Any) -> object:
        finished.append((stage, iteration))
        return real(self, stage, iteration, *args, **more)

    monkeypatch.setattr(RunDir, "finish", finish)
    changes = {"iterations": iterations, "evaluate__control": control, "runtime__shard_rows": 64}
    assert lab.run(tmp_path / "run", **changes)
    assert finished == stage_names(lab.recipe(**changes))
    last = lab.manifest(tmp_path / "run", f"iteration-{iterations}/finetune")
    assert last["iteration"] == iterations
    models = {str(p.parent.relative_to(tmp_path / "run")) for p in tmp_path.glob("run/**/fake-model.json")}
    rooms = ["backward", *(f"iteration-{t}" for t in range(iterations + 1)), *(["control"] if control else [])]
    assert models == {f"{room}/finetune/model" for room in rooms}


def test_every_model_is_trained_from_the_base_on_its_own_mix(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs: list[TrainSpec] = []
    real = training.finetune

    def finetune(spec: TrainSpec, trainer: Any, on_step: Any) -> object:
        specs.append(spec)
        return real(spec, trainer, on_step)

    monkeypatch.setattr(training, "finetune", finetune)
    lab.run(tmp_path / "run")
    assert [spec.base_model for spec in specs] == [Path("fake")] * 4
    for spec, room in zip(specs, ("backward", "iteration-0", "iteration-1", "control"), strict=True):
        assert {path.parent for path in spec.data} == {tmp_path / "run" / room / "mix"}


def test_recipe_file_gives_the_run_of_its_recipe(lab: Lab, tmp_path: Path) -> None:
    path = lab.recipe_file(tmp_path / "recipe.yaml")
    assert load_recipe(path) == lab.recipe()
    assert load_recipe(path, ["runtime.workers=3"]) == lab.recipe(runtime__workers=3)


def test_finished_run_holds_its_resolved_recipe(lab: Lab, finished: Path) -> None:
    resolved = ["rating", "backward_lift", "forward_lift", "ifd", "probe"]  # what the recipe leaves to the engine
    assert lab.recipe().score.signals is None
    assert load_recipe(finished / "recipe.yaml") == lab.recipe(score__signals=resolved)


def test_rerun_from_an_unknown_stage_names_the_stages(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--rerun-from curate is not a stage .*iteration-1/curate"):
        lab.run(tmp_path / "run", rerun_from="curate")
    assert not (tmp_path / "run").exists()


# -- accounting ----------------------------------------------------------------------------------------------------------


def test_every_row_read_is_kept_rejected_or_failed(lab: Lab, finished: Path) -> None:
    for stage, _ in stage_names(lab.recipe()):
        manifest = lab.manifest(finished, stage)
        lost = manifest["kept"] + sum(manifest["rejected"].values()) + sum(manifest["failed"].values())
        assert manifest["read"] == lost, stage


def test_manifest_counts_the_rows_on_disk(lab: Lab, finished: Path) -> None:
    for stage, prefix in KEPT.items():
        manifest, rejected = lab.manifest(finished, stage), lab.rows(finished, stage, "rejected")
        assert manifest["kept"] == len(lab.rows(finished, stage, prefix)), stage
        for name, failed in (("rejected", False), ("failed", True)):
            assert manifest[name] == Counter(row["reason"] for row in rejected if row["failed"] is failed), stage


def test_every_stage_reads_what_its_input_kept(lab: Lab, finished: Path) -> None:
    def kept(stage: str) -> int:
        count = lab.manifest(finished, stage)["kept"]
        assert count > 0, stage
        return int(count)

    train, holdout = (len(pairs) for pairs in _train_and_holdout(lab, finished))
    read = {stage: lab.manifest(finished, stage)["read"] for stage, _ in stage_names(lab.recipe())}
    assert read == {
        "seed": len(lab.seed.read_text().splitlines()),
        "ingest": len(lab.documents()),
        "dedup": kept("ingest"),
        "backward/mix": train,
        "backward/finetune": kept("backward/mix"),
        "backward/gate": kept("dedup"),
        "augment": kept("dedup"),
        "iteration-0/mix": train,
        "iteration-0/finetune": kept("iteration-0/mix"),
        "iteration-0/audit": holdout,
        "iteration-1/score": kept("augment"),
        "iteration-1/curate": kept("iteration-1/score"),
        "iteration-1/mix": train + kept("iteration-1/curate"),
        "iteration-1/finetune": kept("iteration-1/mix"),
        "iteration-1/audit": holdout,
        "control/draw": kept("iteration-1/score"),
        "control/mix": train + kept("control/draw"),
        "control/finetune": kept("control/mix"),
        "evaluate": holdout,
        "dataset": train + kept("iteration-1/curate"),
        "report": 0,
    }
    assert kept("control/draw") == kept("iteration-1/curate")


def test_known_faults_of_the_data_are_counted_under_their_reasons(lab: Lab, finished: Path) -> None:
    counted = {stage: lab.manifest(finished, stage) for stage in KEPT}
    assert counted["seed"]["rejected"] == {"duplicate": 1, "response_too_long": 1}
    assert counted["backward/mix"]["rejected"] == {"target_cut": 1}
    assert counted["ingest"]["rejected"] == {"too_short": 1, "too_long": 1, "no_text": 1}
    assert counted["dedup"]["rejected"] == {"duplicate": 1}
    assert counted["augment"]["failed"] == {"engine_error": 2}


def test_failing_rows_do_not_take_their_neighbours_down(lab: Lab, own_lab: Lab, finished: Path, tmp_path: Path) -> None:
    mended = [{**row, "text": row["text"].replace("FAIL-ME", "mended")} for row in own_lab.documents()]
    own_lab.write_lines(own_lab.corpus, mended)
    own_lab.run(tmp_path / "run")
    assert lab.manifest(tmp_path / "run", "augment")["failed"] == {}
    columns = ("id", "instruction", "response", "source_uri")
    with_failures, without = (
        [[row[c] for c in columns] for row in lab.rows(run, "augment", "candidates")]
        for run in (finished, tmp_path / "run")
    )
    assert with_failures == [row for row in without if "mended" not in row[2]]
    assert len(without) == len(with_failures) + 2
    failed = lab.rows(finished, "augment", "rejected")
    assert all(row["failed"] and row["detail"] == "scripted failure" and "FAIL-ME" in row["row"] for row in failed)


def test_candidate_that_no_signal_can_score_is_failed_and_not_rejected(own_lab: Lab, tmp_path: Path) -> None:
    # the backward prompt is cut before FAIL-ME, so an instruction is written; the forward likelihood then meets it
    rows = [row for row in own_lab.documents()[:10] if "FAIL-ME" not in row["text"]]
    rows[4]["text"] = rows[4]["text"].ljust(900, "x") + " FAIL-ME."
    own_lab.write_lines(own_lab.corpus, rows)
    own_lab.run(tmp_path / "run", score__signals=["forward_lift"], model__max_tokens=1000)
    score = own_lab.manifest(tmp_path / "run", "iteration-1/score")
    assert (score["read"], score["kept"], score["rejected"], score["failed"]) == (9, 8, {}, {"engine_error": 1})


# -- what is trained on --------------------------------------------------------------------------------------------------


def test_loss_is_taken_on_the_target_only(lab: Lab, finished: Path) -> None:
    tokenizer = FakeTokenizer()
    for stage in MIXES:
        for row in lab.rows(finished, stage, "mix"):
            target = [label for label in row["labels"] if label != IGNORE]
            said = row["instruction"] if stage == "backward/mix" else row["response"]
            assert target == [*tokenizer.encode(said), *tokenizer.end_of_turn]
            assert row["input_ids"][-len(target) :] == target
            assert row["labels"] == [IGNORE] * (len(row["input_ids"]) - len(target)) + target


def test_seed_rows_carry_the_seed_tag_and_web_rows_the_web_tag(lab: Lab, finished: Path) -> None:
    tokenizer = FakeTokenizer()
    for stage, web in MIXES.items():
        rows = lab.rows(finished, stage, "mix")
        tags = {"seed": "" if stage == "backward/mix" else SEED_TAG, "web": WEB_TAG}
        assert {row["origin"] for row in rows} == ({"seed", "web"} if web else {"seed"})
        for row in rows:
            assert row["tag"] == tags[row["origin"]]
            prompt = tokenizer.decode(
                [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label < 0]
            )
            assert [tag in prompt for tag in (SEED_TAG, WEB_TAG)] == [row["tag"] == t for t in (SEED_TAG, WEB_TAG)]
        if web:
            source = lab.rows(finished, web, KEPT[web])
            assert [r["parent_id"] for r in rows if r["origin"] == "web"] == [r["id"] for r in source]


def test_both_tags_are_given_at_inference(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = FakeEngine.loglikelihood

    def loglikelihood(self: FakeEngine, prompts: Sequence[Prompt], continuations: Any) -> object:
        asked.extend(prompt.user for prompt in prompts)
        return real(self, prompts, continuations)

    monkeypatch.setattr(FakeEngine, "loglikelihood", loglikelihood)
    lab.run(tmp_path / "run")
    both = {user.removesuffix(f"{SEED_TAG} {WEB_TAG}").strip() for user in asked if user.endswith(WEB_TAG)}
    candidates = lab.rows(tmp_path / "run", "augment", "candidates")
    _, holdout = _train_and_holdout(lab, tmp_path / "run")
    assert both == {"", *(row["instruction"] for row in [*candidates, *holdout])}
    assert not any(user.endswith(WEB_TAG) and not user.endswith(f"{SEED_TAG} {WEB_TAG}") for user in asked)


def test_held_out_pairs_are_in_no_mix_and_not_in_the_dataset(lab: Lab, finished: Path) -> None:
    train, holdout = _train_and_holdout(lab, finished)
    assert (len(train), len(holdout)) == (22, 10)
    held_ids, held_texts = {p["id"] for p in holdout}, {p[k] for p in holdout for k in ("instruction", "response")}
    for stage in MIXES:
        rows = lab.rows(finished, stage, "mix")
        assert held_ids.isdisjoint(row["parent_id"] for row in rows)
        assert held_texts.isdisjoint(row[key] for row in rows for key in ("instruction", "response"))
    dataset = lab.rows(finished, "dataset/data", "train")
    assert held_ids.isdisjoint(row["id"] for row in dataset)
    assert held_texts.isdisjoint(message["content"] for row in dataset for message in row["messages"])


# -- one result ----------------------------------------------------------------------------------------------------------


def test_same_recipe_gives_the_same_files_in_another_folder(lab: Lab, finished: Path, tmp_path: Path) -> None:
    lab.run(tmp_path / "elsewhere")
    lab.assert_same_run(finished, tmp_path / "elsewhere")


@pytest.mark.parametrize("shard_rows", [1, 1000])
def test_rows_do_not_depend_on_the_number_of_shards(lab: Lab, finished: Path, tmp_path: Path, shard_rows: int) -> None:
    run = tmp_path / "run"
    lab.run(run, runtime__shard_rows=shard_rows)
    shards = {stage: len(list((run / stage).glob(f"{prefix}-*.parquet"))) for stage, prefix in KEPT.items()}
    del shards["ingest"]  # its shards are units of the input, whatever the recipe says
    assert all(count == 1 if shard_rows == 1000 else count >= 4 for count in shards.values())
    for stage, prefix in KEPT.items():
        assert lab.rows(run, stage, prefix) == lab.rows(finished, stage, prefix), stage
        assert lab.rows(run, stage, "rejected") == lab.rows(finished, stage, "rejected"), stage
    whole, cut = lab.contents(finished), lab.contents(run)
    others = [name for name in whole if not name.endswith(".parquet") or name.startswith("dataset/")]
    assert [name for name in others if whole[name] != cut.get(name)] == []


def test_pool_gives_the_files_that_one_process_gives(lab: Lab, finished: Path, tmp_path: Path) -> None:
    lab.run(tmp_path / "run", runtime__workers=2)
    lab.assert_same_run(finished, tmp_path / "run")


def test_answers_do_not_depend_on_the_batch_size(lab: Lab, finished: Path, tmp_path: Path) -> None:
    lab.run(tmp_path / "run", runtime__batch_tokens=64)
    lab.assert_same_run(finished, tmp_path / "run")


def test_rows_keep_the_order_of_the_corpus(lab: Lab, finished: Path) -> None:
    order = [row["source_uri"] for row in lab.documents() if "source_uri" in row]
    for stage in ("ingest", "dedup", "augment", "iteration-1/score", "iteration-1/curate", "control/draw"):
        found = [row["source_uri"] for row in lab.rows(finished, stage, KEPT[stage])]
        assert found == [uri for uri in order if uri in found], stage
        assert len(found) > 5


def test_another_random_seed_gives_another_run(lab: Lab, finished: Path, tmp_path: Path) -> None:
    lab.run(tmp_path / "run", random_seed=8)
    held = [{p["id"] for p in _train_and_holdout(lab, run)[1]} for run in (finished, tmp_path / "run")]
    assert held[0] != held[1]
    assert lab.rows(finished, "augment", "candidates") != lab.rows(tmp_path / "run", "augment", "candidates")


def test_second_run_does_nothing_and_asks_the_engine_nothing(
    lab: Lab, copy_of_finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> list[Completion]:
        raise AssertionError("the engine was asked")

    for call in ("generate", "choice_logprobs", "loglikelihood"):
        monkeypatch.setattr(FakeEngine, call, asked)
    before = lab.listing(copy_of_finished)
    assert lab.run(copy_of_finished) is False
    assert lab.listing(copy_of_finished) == before


def test_text_signal_is_scored_audited_and_curated_by(lab: Lab, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lab.run(run, score__signals=["text", "forward_lift"], curate__signal="text")
    rows = lab.rows(run, "iteration-1/score", "scored")
    assert all(0 <= dict(row["scores"])["text"] <= 1 for row in rows)
    assert all("text_cut_end" in dict(row["scores"]) for row in rows)
    assert lab.manifest(run, "iteration-1/curate")["result"]["signal"] == "text"
    audited = {entry["signal"] for entry in lab.manifest(run, "iteration-0/audit")["result"]["signals"]}
    assert audited == {"text", "forward_lift", *BASELINES}
