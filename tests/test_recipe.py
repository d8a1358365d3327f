"""The recipe as a file: what YAML lets pass and a run must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from humpback.errors import RecipeError
from humpback.recipe import dump_recipe, load_recipe

WHOLE = (
    "model: {base: fake}\nseed: {inputs: [{path: a.jsonl}]}\ncorpus: {inputs: [{path: b}]}\nruntime: {engine: fake}\n"
)


def test_a_key_that_stands_twice_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE + "curate:\n  signal: rating\n  top: 0.4\n  signal: auto\n")
    with pytest.raises(RecipeError, match=r"signal stands twice(.|\n)*line 8"):
        load_recipe(path)


def test_the_same_key_in_two_sections_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE + "augment: {top_p: 0.9, max_tokens: 64}\n")
    assert load_recipe(path).augment.max_tokens == 64


def test_a_preset_fills_in_what_is_not_given(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE + "train: {preset: lora, learning_rate: 2.0e-4}\n")
    train = load_recipe(path).train
    assert (train.method, train.learning_rate, train.final_learning_rate) == ("lora", 2e-4, 1e-4)
    assert (train.dropout, train.epochs, train.weight_decay) == (0.0, 1.0, 0.1)
    assert load_recipe(path, ["train.steps=7"]).train.epochs is None
    assert load_recipe(path, ["train.epochs=null"]).train.epochs is None  # the paper's table
    path.write_text(WHOLE)
    assert (load_recipe(path).train.learning_rate, load_recipe(path).train.dropout) == (1e-5, 0.1)


@pytest.mark.parametrize("preset", ["[lora]", "{lora: 1}", "larger"])
def test_a_preset_that_is_none_is_refused_and_named(tmp_path: Path, preset: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE + f"train: {{preset: {preset}}}\n")
    with pytest.raises(RecipeError, match=r"train\.preset.*: input should be 'paper', 'small' or 'lora'"):
        load_recipe(path)


def test_a_recipe_that_is_written_out_with_a_preset_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE + "train: {preset: small, epochs: 3}\n")
    recipe = load_recipe(path)
    path.write_text(dump_recipe(recipe))
    assert load_recipe(path) == recipe


def test_a_trainer_of_ones_own_must_be_given_the_spec(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE + "train: {command: python mine.py}\n")
    with pytest.raises(RecipeError, match=r"lacks \{spec\}"):
        load_recipe(path)


def test_a_share_is_held_out_by_our_trainer_alone(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE + "train: {command: 'python mine.py {spec}', held_out_share: 0.1}\n")
    with pytest.raises(RecipeError, match=r"held_out_share=0\.1 is for our own trainer"):
        load_recipe(path)


def test_weights_in_4_bits_are_not_split_over_gpus(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    split = WHOLE.replace("engine: fake", "engine: fake, training: {processes: 2, sharding: full}")
    path.write_text(split + "train: {method: qlora}\n")
    with pytest.raises(
        RecipeError, match=r"sharding=full does not split weights held in 4 bits \(train\.method=qlora\)"
    ):
        load_recipe(path)
    assert load_recipe(path, ["train.method=lora"]).runtime.training.sharding == "full"


def test_processes_that_no_training_could_use_are_refused_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE)
    with pytest.raises(RecipeError, match=r"sharding=full splits a model over processes, .*processes=1; set as many"):
        load_recipe(path, ["runtime.training.sharding=full"])
    with pytest.raises(
        RecipeError, match=r"processes=9 for train\.batch_size=8: some would have no row; use at most 8"
    ):
        load_recipe(path, ["runtime.training.processes=9", "train.batch_size=8"])


def test_weighing_by_p_good_needs_pairs_to_learn_it_from(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE.replace("]}\ncorpus", "], holdout: 10}\ncorpus", 1) + "mix: {loss_weight: p_good}\n")
    with pytest.raises(RecipeError, match=r"mix\.loss_weight=p_good is learnt from the held-out pairs"):
        load_recipe(path)


def test_an_empty_recipe_is_said_to_hold_nothing(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("# nothing yet\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="holds nothing, not sections"):
        load_recipe(path)
