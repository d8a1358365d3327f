"""What a stage of training asks for, from the recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from humpback.engines.base import ModelRef
from humpback.errors import InputError
from humpback.recipe import RuntimeSettings, TrainSettings
from humpback.stages.finetune import train_spec
from humpback.training.spec import TrainSpec


def spec_of(examples: int, processes: int) -> TrainSpec:
    return train_spec(
        "backward/finetune",
        Path("backward/finetune"),
        (Path("mix-00000.parquet"),),
        examples,
        ModelRef(path="base", content_hash="hash"),
        TrainSettings(),
        RuntimeSettings.model_validate({"training": {"processes": processes}}),
        random_seed=1,
    )


def test_more_processes_than_rows_of_a_batch_are_refused_by_the_stages_name() -> None:
    assert spec_of(100, 8).batch_size == 8
    with pytest.raises(InputError, match=r"backward/finetune: the training is not valid: processes=9 for batch_size=8"):
        spec_of(100, 9)
    assert spec_of(3000, 9).batch_size == 32
