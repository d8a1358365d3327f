"""Does curation help? The same number of curated, random and worst-scored pairs, trained on with the seed for as many steps.

It writes a study file and its recipe, runs `humpback study ablation` over it, and keeps the figures: nats per token of held-out
responses, and how much the instruction helps with them (forward lift). Stopped, it goes on where it was.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from harness import ROOT, Goal, write_result
from study import Machine, machine_of, parser, seed_inputs

from humpback.recipe import Recipe
from humpback.records import content_id
from humpback.store.shards import atomic_write
from humpback.training.schedule import schedule_for

ARMS = {"curated": "seed+curated", "random": "seed+uncurated", "worst": "seed+worst", "seed": "seed", "base": "base"}
"""What each arm is called here, and what it is trained on. All are compared with the first."""
FACTS = ("steps", "examples", "label_tokens")
MAX_CHARS = 1500
SURPLUS = 4
"""Segments read per candidate wanted: filters, duplicates and unfit instructions take some."""
NOTE = (
    "{model}, {method}, learning rate {rate:g}; {seed} seed pairs (Dolly without context, Open Assistant) and, in every arm but "
    "`seed` and `base`, {kept} of {candidates} candidates from segments: curated (the best), worst, and at random (drawn anew with "
    "each of {seeds} training seeds), by {signal} ({why}). Every arm takes {steps} steps, but `base`, which is not trained. Measured "
    "on {pairs} pairs that the seed does not hold and no arm is trained on: nll, nats per token of the response under both tags; "
    "lift, nats per token that the instruction saves. `.low` and `.high` are the 95 % interval of a difference when pairs and seeds "
    "are resampled. For nll less is better, for lift more. The arms differ in the length of their responses (label_tokens): more "
    "tokens of loss per step are part of what is compared. What the study itself notes: {notes}."
)


def main() -> None:
    given = read_options()
    machine = machine_of(given, "curation_helps")
    file = write_study(given, machine)
    folder = machine.work / "study"
    done = subprocess.run(
        [sys.executable, "-m", "humpback", "study", "ablation", file, "-o", folder], cwd=ROOT, check=False
    )
    if done.returncode:
        raise SystemExit(f"the study in {folder} ended with status {done.returncode}; run this again to go on")
    found = json.loads((folder / "results.json").read_bytes())
    raw, goals = collect_figures(found)
    scored, curated = (read_manifest(folder, f"iteration-1/{stage}") for stage in ("score", "curate"))
    note = NOTE.format(
        model=machine.base,
        method=given.method,
        rate=given.learning_rate,
        seed=given.seed_pairs,
        kept=given.kept,
        candidates=scored["kept"],
        signal=curated["result"]["signal"],
        why=curated["result"]["why"],
        steps=f"{raw['steps.curated'][0]:.0f}",
        seeds=given.seeds,
        pairs=found["pairs"],
        notes="; ".join(found["notes"]) or "nothing",
    )
    write_result("curation_helps", raw=raw, goals=goals, note=note, folder=machine.folder)


def read_options() -> argparse.Namespace:
    asked = parser(__doc__, "curation_helps")
    asked.add_argument("--candidates", type=int, default=400, help="candidates that the arms choose from, about")
    asked.add_argument("--kept", type=int, default=None, help="candidates that an arm trains on (default: two fifths)")
    asked.add_argument("--seed-pairs", type=int, default=200, help="seed pairs trained on")
    asked.add_argument("--audit-pairs", type=int, default=120, help="held-out pairs that P(good) is learnt from")
    asked.add_argument("--pairs", type=int, default=200, help="pairs measured on")
    asked.add_argument("--seeds", type=int, default=3, help="trainings of each arm")
    asked.add_argument("--signal", default="auto", help="curate.signal: auto, p_good, probe, forward_lift ...")
    asked.add_argument("--method", choices=("lora", "full"), default="lora")
    asked.add_argument("--learning-rate", type=float, default=None, help="default: 1e-3 for lora, 1e-5 for full")
    asked.add_argument("--epochs", type=float, default=1.0, help="passes over seed and kept candidates together")
    asked.add_argument("--train-batch-tokens", type=int, default=None)
    given = asked.parse_args()
    if given.small:
        given.candidates, given.seed_pairs, given.audit_pairs, given.pairs, given.seeds = 24, 12, 24, 16, 2
    given.kept = given.kept or given.candidates * 2 // 5
    given.learning_rate = given.learning_rate or {"lora": 1e-3, "full": 1e-5}[given.method]
    return given


# -- the study ---------------------------------------------------------------------------------------------------------


def write_study(given: argparse.Namespace, machine: Machine) -> Path:
    """Write the study, its recipe and the segments that it reads; return the study's file."""
    segments = machine.work / "segments.jsonl"
    draw_segments(machine.data / "corpus" / "segments.jsonl.gz", SURPLUS * given.candidates, segments)
    recipe = build_recipe(given, machine, segments)
    batch = Recipe.model_validate(recipe).train.batch_size
    study = {
        "recipe": "recipe.yaml",
        "seeds": list(range(given.seeds)),
        "steps": schedule_for(given.seed_pairs + given.kept, epochs=given.epochs, batch_size=batch).steps,
        "measure": {"inputs": read_inputs(machine), "sample": given.pairs},
        "factors": {"data": list(ARMS.values())},
    }
    for name, content in (("recipe", recipe), ("study", study)):
        text = yaml.safe_dump(content, sort_keys=False)
        atomic_write(machine.work / f"{name}.yaml", text.encode())
    return machine.work / "study.yaml"


def build_recipe(given: argparse.Namespace, machine: Machine, segments: Path) -> dict[str, Any]:
    """Return the recipe that makes, scores and curates the candidates."""
    final = given.learning_rate / 10 if given.method == "lora" else 0.9 * given.learning_rate
    return {
        "iterations": 1,
        "model": {"base": machine.base, "max_tokens": 2048},
        "seed": {
            "inputs": read_inputs(machine),
            "sample": given.seed_pairs + given.audit_pairs,
            "holdout": given.audit_pairs,
            "max_response_chars": MAX_CHARS,
        },
        "corpus": {
            "inputs": [{"path": str(segments), "header_path": "heading_path", "source_uri": "id"}],
            "sample": given.candidates * 5 // 4,
            "max_chars": 2000,
        },
        "augment": {"max_tokens": 64},
        "gate": {"segments": 0},  # what is asked here is what curation makes of the candidates that there are
        "curate": {"signal": given.signal, "policy": "top", "top": given.kept},
        "train": {
            "method": given.method,
            "learning_rate": given.learning_rate,
            "final_learning_rate": final,
            "dropout": 0.0 if given.method == "lora" else 0.1,
            "epochs": given.epochs,
        },
        "runtime": {
            "engine": machine.engine,
            "device": machine.device,
            "batch_tokens": machine.batch_tokens,
            "train_batch_tokens": given.train_batch_tokens,
            "threads": machine.threads,
            "model_cache": str(ROOT / ".cache"),
        },
    }


def read_inputs(machine: Machine) -> list[dict[str, Any]]:
    return [given.model_dump() for given in seed_inputs(machine.data)]


def draw_segments(source: Path, count: int, target: Path) -> None:
    """Write `count` of the segments, by the hash of their id: reading all of them takes longer than what follows."""
    if target.exists() and sum(1 for _ in target.open("rb")) == count:
        return
    with gzip.open(source, "rt", encoding="utf-8") as file:
        lines = sorted(file, key=lambda line: content_id("study", json.loads(line)["id"]))[:count]
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, "".join(lines).encode())


# -- figures -----------------------------------------------------------------------------------------------------------


def collect_figures(found: dict[str, Any]) -> tuple[dict[str, list[float]], list[Goal]]:
    """Return every figure, one per training seed where there are several, and what is told of them in the page."""
    raw: dict[str, list[float]] = {}
    goals = []
    for metric, told in found["metrics"].items():
        rows = {arm: row for row in told["settings"] for arm, data in ARMS.items() if row["setting"]["data"] == data}
        for arm, row in rows.items():
            raw[f"{metric}.{arm}"] = list(row["by_seed"].values())
            raw |= {f"{fact}.{arm}": [row[fact]] for fact in FACTS}
        for arm in list(ARMS)[1:]:
            name, apart = f"{metric}.curated-{arm}", rows[arm]["difference"]  # the study's is the other way round
            pairs = zip(raw[f"{metric}.curated"], raw[f"{metric}.{arm}"], strict=True)
            raw[name] = [one - other for one, other in pairs]
            bounds = None if apart["low"] is None else (-apart["high"], -apart["low"])
            raw |= {} if bounds is None else {f"{name}.low": [bounds[0]], f"{name}.high": [bounds[1]]}
            told_bounds = "too few pairs" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"
            title = f"{metric} of curated minus {arm}, mean of {len(found['seeds'])} seeds ({told_bounds})"
            goals.append(Goal(name=title, value=-apart["value"]))
    return raw, goals


def read_manifest(folder: Path, stage: str) -> dict[str, Any]:
    """Return the manifest of a stage that the cells share."""
    return json.loads(next(folder.glob(f"cells/*/{stage}/manifest.json")).read_bytes())


if __name__ == "__main__":
    main()
