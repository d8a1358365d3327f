"""The README is true: its tree, its commands and its recipe; the example recipes load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from humpback.cli import app
from humpback.recipe import Recipe, load_recipe
from humpback.studies.grid import AblationStudy, ScalingStudy, load_study

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _tree_files() -> list[str]:
    block = README.split("<!-- tree -->", 1)[1].split("```")[1]
    found, folder = [], ""
    for line in block.strip().splitlines()[1:]:
        name = line.split()[0]
        if line.startswith("    "):
            found.append(folder + name)
        elif name.endswith("/"):
            folder = name
        else:
            found.append(name)
    return found


def test_tree_names_every_module_once_and_no_other() -> None:
    package = ROOT / "src" / "humpback"
    modules = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    modules = {name for name in modules if not name.endswith(("__init__.py", "__main__.py"))}
    assert sorted(_tree_files()) == sorted(modules)


def test_commands_of_the_readme_exist_with_their_options() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"^(?:`)?humpback ([\w-]+)(.*?)(?:#.*)?$", README, flags=re.MULTILINE)
    assert {name for name, _ in lines} >= {"doctor", "init", "run", "status", "trace"}
    for name, rest in lines:
        command = commands[name]
        if nested := getattr(command, "commands", None):
            command = nested[rest.split()[0]]
        options = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE)) <= targets


def test_recipe_of_the_readme_is_valid() -> None:
    recipe = README.split("```yaml", 1)[1].split("```", 1)[0]
    assert Recipe.model_validate(yaml.safe_load(recipe)).seed.holdout == 100


def test_example_studies_are_valid_and_as_large_as_they_say() -> None:
    _, ablation = load_study(ROOT / "examples" / "ablation.yaml", AblationStudy)
    _, scaling = load_study(ROOT / "examples" / "scaling.yaml", ScalingStudy)
    assert [cell.fault for cell in (*ablation, *scaling)] == [None] * 32
    assert (len(ablation), len(scaling)) == (14, 18)


@pytest.mark.parametrize(("name", "iterations"), [("demo.yaml", 2), ("everyday.yaml", 2), ("backward.yaml", 1)])
def test_example_recipes_are_valid(name: str, iterations: int) -> None:
    assert load_recipe(ROOT / "examples" / name).iterations == iterations
