"""The study file: one YAML file in, the cells of its grid out.

A cell is a recipe, what its last model is trained on (its arm) and a training seed. Cells that differ in the seed alone are one
setting, measured several times.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import Field, field_validator, model_validator

from humpback.errors import RecipeError
from humpback.recipe import (
    Judge,
    Recipe,
    Section,
    SeedInput,
    apply_override,
    check_section,
    identify_judge,
    identity_of,
    lacks_room,
    read_yaml,
)
from humpback.store.fingerprint import fingerprint
from humpback.studies.judgefiles import FILES, place_file

__all__ = ["AblationStudy", "Arm", "Cell", "Data", "Measured", "ScalingStudy", "Study", "load_study"]

Data = Literal["base", "seed", "curated", "uncurated", "worst", "seed+curated", "seed+uncurated", "seed+worst"]
Candidates = Literal["curated", "uncurated", "worst"]
Tags = Literal["both", "seed", "web", "none"]
Value = str | int | float | bool | None | list[Any]


class Arm(Section):
    """What the last model of a cell is trained on and how it is asked; all that comes before is the recipe's."""

    data: Data = "seed+curated"
    """base: the base model as it is. seed: seed pairs only. Candidates: curated, those that the last iteration keeps; uncurated, any,
    drawn at random; worst, as many of the worst scored as were curated. With `seed+` the seed pairs too."""
    size: int | None = Field(None, ge=0)
    """Candidates drawn, or seed pairs with data=seed; null takes all seed pairs, all that are curated, and as many
    uncurated or worst. Fewer are drawn at random, of the worst too."""
    train_tags: Tags = "both"
    """Tags while training: both (S_a with seed pairs, S_w with candidates), or one of them or none with every row."""
    infer_tags: Tags = "both"
    """Tags while measuring."""
    start: Literal["base", "continued"] = "base"
    """What it is trained from: the base model (the paper), or M_(T-1), the model that curated."""

    @property
    def uses_seed(self) -> bool:
        return self.data.startswith("seed")

    @property
    def candidates(self) -> Candidates | None:
        """Which candidates it learns from, or None; of size 0 all kinds are the seed alone, trained once."""
        if self.size == 0:
            return None
        kinds: tuple[Candidates, ...] = get_args(Candidates)
        return next((kind for kind in kinds if self.data.rpartition("+")[2] == kind), None)


class Measured(Section):
    """Pairs to measure on, none of which a cell may be trained on. Without them the run's held-out pairs are measured on, which the
    audit, and so the curation, has seen."""

    inputs: list[SeedInput] = Field(min_length=1)
    sample: int | None = Field(None, ge=16)
    """Take this many, chosen by content hash."""


class Study(Section):
    """What every study says."""

    recipe: str
    """The recipe that all cells start from; a path from the study's folder."""
    set: dict[str, Value] = Field({})
    """Keys of the recipe, dotted, that are other than in its file."""
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    """Each cell is drawn and trained with each. M_yx and the models that score are the recipe's, the same for all."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps of every cell's last training, so that cells are compared at equal steps; null: as the recipe says."""
    measure: Measured | None = None
    judge: Judge | None = None
    """With one, the win rate is told beside nll and lift."""
    resamples: int = Field(2000, ge=100)
    """Bootstrap resamples of pairs and of seeds."""
    confidence: float = Field(0.95, gt=0.5, lt=1)

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value) or min(value) < 0:
            raise ValueError(f"seeds={value} must be different whole numbers from 0 on")
        return value


class Kind(Arm):
    """One kind of data whose scaling is measured."""

    set: dict[str, Value] = Field({})
    """Keys of the recipe that this kind changes, for example curate.threshold."""
    size: None = None


class ScalingStudy(Study):
    """Trains on growing numbers of pairs of several kinds, and fits metric = alpha * log(N) + C."""

    kinds: dict[str, Kind] = Field(min_length=1)
    sizes: list[int] = Field(min_length=2)
    """Candidates drawn (seed pairs with data=seed). N of the fit is the pairs trained on, seed pairs among them."""
    log_base: Literal["e", 2, 10] = "e"
    """The paper does not state its own."""

    @field_validator("sizes")
    @classmethod
    def _growing(cls, value: list[int]) -> list[int]:
        if sorted(set(value)) != value or value[0] < 0:
            raise ValueError(f"sizes={value} must grow, from 0 at least")
        return value


class AblationStudy(Study):
    """Changes one thing, or several in all combinations, and compares each setting with the first."""

    factors: dict[str, list[Value]] = Field(min_length=1)
    """Keys of an arm (data, size, train_tags, infer_tags, start) or of the recipe, dotted, each with its values."""
    design: Literal["grid", "single"] = "grid"
    """grid: all combinations. single: the first values together, and each other value in place of its first."""
    size: int | None = Field(None, ge=0)
    """Candidates drawn in every cell, unless it is a factor; null as in an arm."""

    @model_validator(mode="after")
    def _filled(self) -> AblationStudy:
        for name, values in self.factors.items():
            if not values or len({str(value) for value in values}) < len(values):
                raise ValueError(f"factors.{name}={values} needs values, each of them once")
        return self


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model of a study."""

    setting: Mapping[str, str]
    """What sets its setting apart: factor or `kind` and `size`, each with its value as text."""
    seed: int
    """Of its draw and its last training."""
    arm: Arm | None
    recipe: Recipe | None
    """None where the changes give no valid recipe."""
    steps: int | None
    measure: Measured | None
    judge: Judge | None = None
    fault: str | None = None
    """Why there is no valid recipe or arm."""

    @property
    def name(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.setting.items())

    @property
    def judging(self) -> str | None:
        """The stage that asks the judge, named by all that is asked, so that another judge finds nothing of this one's.

        Of files their names alone: where they lie depends on the folder that the study is started from, and what they hold is in
        the stage's identity.
        """
        if self.judge is None:
            return None
        files = {key: Path(named).name for key in FILES if (named := getattr(self.judge, key)) is not None}
        return f"judge-{fingerprint({**identify_judge(self.judge), **files})[:8]}"

    @property
    def folder(self) -> str:
        """A name for its folder: what it is, in short, and a digest of everything that it is."""
        assert self.recipe is not None
        assert self.arm is not None
        digest = fingerprint(
            {
                "recipe": {key: value for key, value in identity_of(self.recipe).items() if key != "runtime"},
                "arm": identity_of(self.arm),
                "seed": self.seed,
                "steps": self.steps,
                "measure": identity_of(self.measure) if self.measure else None,
            }
        )
        size = "" if self.arm.size is None else f"-{self.arm.size}"
        return (
            f"{self.arm.data}{size}-seed{self.seed}-{digest[:8]}"  # not by its factors: a study may be extended by more
        )


S = TypeVar("S", bound=Study)


def load_study(path: Path, kind: type[S]) -> tuple[S, list[Cell]]:
    """Read a study; return it and its cells, those of one setting after another. Raise RecipeError where no cell is valid."""
    data = read_yaml(path, "study", "docs/studies.md shows one")
    study = check_section(kind, data, f"study {path}")
    if study.judge:
        baseline = study.judge.baseline
        placed = {
            "prompts": place_file(study.judge.prompts, path.parent),
            "baseline": place_file(baseline, path.parent) if baseline else None,
        }
        study = study.model_copy(update={"judge": study.judge.model_copy(update=placed)})
    recipe = read_yaml(path.parent / study.recipe)
    cells = list(_list_cells(study, recipe))
    if all(cell.fault for cell in cells):
        raise RecipeError(f"study {path}: no cell is valid; the first, {cells[0].name}: {cells[0].fault}")
    return study, cells


def _list_cells(study: Study, recipe: Mapping[str, Any]) -> Iterator[Cell]:
    for setting, changes in _settings(study):
        for seed in study.seeds:
            yield _cell(study, recipe, setting, {**study.set, **changes}, seed)


def _settings(study: Study) -> Iterator[tuple[dict[str, str], dict[str, Value]]]:
    """Yield what each setting is called and the keys that it changes, an arm's among them."""
    if isinstance(study, ScalingStudy):
        for name, kind in study.kinds.items():
            arm = {key: value for key, value in identity_of(kind).items() if key not in ("set", "size")}
            for size in study.sizes:
                yield {"kind": name, "size": str(size)}, {**kind.set, **arm, "size": size}
    elif isinstance(study, AblationStudy):
        names, sized = list(study.factors), {"size": study.size}
        for values in _combine(study):
            chosen = dict(zip(names, values, strict=True))
            yield {name: _tell(value) for name, value in chosen.items()}, {**sized, **chosen}


def _combine(study: AblationStudy) -> Iterator[tuple[Value, ...]]:
    lists = list(study.factors.values())
    if study.design == "grid":
        yield from itertools.product(*lists)
        return
    first = tuple(values[0] for values in lists)
    yield first
    for place, values in enumerate(lists):
        yield from ((*first[:place], value, *first[place + 1 :]) for value in values[1:])


def _cell(
    study: Study, recipe: Mapping[str, Any], setting: Mapping[str, str], changes: Mapping[str, Value], seed: int
) -> Cell:
    values = deepcopy(dict(recipe))
    arm = {key: value for key, value in changes.items() if key in Arm.model_fields}
    common: dict[str, Any] = {
        "setting": setting,
        "seed": seed,
        "steps": study.steps,
        "measure": study.measure,
        "judge": study.judge,
    }
    try:
        for key, value in changes.items():
            if key not in arm:
                apply_override(values, f"{key}=null")
                _put(values, key, value)
        loaded = check_section(Recipe, values, f"the recipe with {dict(setting)}")
        if loaded.iterations == "auto":
            raise RecipeError("a study needs a number of iterations; set iterations: 1")
        if study.judge and (why := lacks_room(study.judge, loaded.model.max_tokens, "judge")) is not None:
            raise RecipeError(why)
        return Cell(recipe=loaded, arm=check_section(Arm, arm, f"the arm {arm}"), **common)
    except RecipeError as error:
        return Cell(recipe=None, arm=None, fault=str(error), **common)


def _put(values: dict[str, Any], key: str, value: Value) -> None:
    """Set a dotted key whose sections are there already."""
    *parents, last = key.split(".")
    node: Any = values
    for parent in parents:
        node = node[int(parent)] if isinstance(node, list) else node[parent]
    node[int(last) if isinstance(node, list) else last] = value


def _tell(value: Value) -> str:
    return "null" if value is None else str(value)
