from __future__ import annotations

import re
from pathlib import Path

import pytest

from humpback.errors import InputError
from humpback.recipe import load_recipe
from humpback.starter import write_starter


def test_the_starter_is_a_recipe_that_loads(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    write_starter(path)
    recipe = load_recipe(
        path, ["seed.inputs.0.path=pairs.jsonl", "corpus.inputs.0.path=texts", "model.base=models/mine"]
    )
    assert recipe.seed.inputs[0].path == "pairs.jsonl"
    assert recipe.model.base == "models/mine"
    assert recipe.iterations == 2


def test_every_commented_out_key_is_a_key_of_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    write_starter(path)
    text, found = re.subn(r"(?m)^( *)# ( *[a-z_]+:.*)$", r"\1\2", path.read_text(encoding="utf-8"))
    assert found > 15
    # steps and epochs exclude each other, and so do a trainer of one's own and rows held out for ours
    path.write_text(re.sub(r"(?m)^  (epochs:|command: python).*\n", "", text), encoding="utf-8")
    assert load_recipe(path).train.steps == 200


def test_every_setting_has_a_comment(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    write_starter(path)
    settings = [line for line in path.read_text(encoding="utf-8").splitlines() if re.match(r" +[\w -]*\w: \S", line)]
    assert settings
    assert [line for line in settings if "  # " not in line] == []


def test_lines_fit_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    write_starter(path)
    assert max(map(len, path.read_text(encoding="utf-8").splitlines())) <= 120


def test_an_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"recipe\.yaml exists.*--force"):
        write_starter(path)
    assert path.read_text(encoding="utf-8") == "mine"
    write_starter(path, force=True)
    assert load_recipe(path)


@pytest.mark.parametrize("name", ["no-such-folder/recipe.yaml", "."])
@pytest.mark.parametrize("force", [False, True])
def test_a_path_that_cannot_be_written_is_named(tmp_path: Path, name: str, force: bool) -> None:
    with pytest.raises(InputError, match=re.escape(str(tmp_path / name))):
        write_starter(tmp_path / name, force=force)


def test_a_folder_is_not_offered_to_be_overwritten(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; name the file to write") as told:
        write_starter(tmp_path)
    assert "--force" not in str(told.value)
