"""The arms of `curation_helps.py`: which candidates each takes, its training, and its likelihoods, all kept and read back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from study import Machine

from humpback.engines import find_contract, find_model
from humpback.engines.base import ModelRef
from humpback.evaluation.deciding import direct_score
from humpback.evaluation.likelihood import Likelihoods, response_nll
from humpback.records import Example, Pair, Scored
from humpback.rooms import Rooms
from humpback.runner import Output
from humpback.stages.control import draw_control
from humpback.stages.curate import Decision, curate
from humpback.stages.finetune import finetune, train_spec
from humpback.stages.mix import mix
from humpback.store.shards import atomic_write, count_rows, shard_files
from humpback.training.schedule import schedule_for

__all__ = ["ARMS", "Measured", "Options", "measure_arms"]

ARMS = ("curated", "random", "worst", "seed")
"""`seed` has no candidates at all, and as many steps."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Sizes of the study."""

    machine: Machine
    candidates: int
    kept: int
    """Candidates that an arm trains on."""
    seed_pairs: int
    audit_pairs: int
    pairs: int
    """Pairs measured on."""
    seeds: int
    """Trainings of each arm."""
    signal: str
    """curate.signal."""
    method: str
    learning_rate: float
    epochs: float
    """Passes over seed and kept candidates together; all arms take as many steps."""
    train_batch_tokens: int | None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model on the pairs measured on."""

    given: Likelihoods
    """Of the responses after their instructions."""
    alone: Likelihoods
    """Of the responses after no instruction, under the same tags."""
    facts: Mapping[str, float]
    """steps, examples, label_tokens and chars (mean, of the candidates' responses) of its training."""


def measure_arms(
    rooms: Rooms, pool: Sequence[Scored], pairs: Sequence[Pair], decision: Decision, options: Options
) -> dict[str, list[Measured]]:
    """Train and measure each arm with each seed; what is finished is read back. `base` is the model before any training."""
    if 2 * options.kept > len(pool):
        raise SystemExit(
            f"best and worst {options.kept} of {len(pool)} candidates overlap; use --kept {len(pool) // 2}"
        )
    folder = options.machine.work / "arms"
    measured = {"base": [measure_model(rooms, rooms.base, pairs, folder / "base.json", {})]}
    for seed in range(options.seeds):
        for arm in ARMS:
            rows = choose_rows(arm, pool, decision, options.kept, seed)
            result = train_and_measure(rooms, rows, pairs, folder / f"{arm}-{seed}", seed, options)
            measured.setdefault(arm, []).append(result)
    counts = {(m.facts["steps"], m.facts["examples"]) for arm in ARMS if arm != "seed" for m in measured[arm]}
    if len(counts) > 1:
        raise AssertionError(f"the arms are not alike in steps and examples: {sorted(counts)}")
    return measured


def choose_rows(arm: str, pool: Sequence[Scored], decision: Decision, count: int, seed: int) -> list[Scored]:
    if arm == "seed":
        return []
    if arm == "random":
        drawn = draw_control(lambda: pool, count, random_seed=seed)
        return [row for row in drawn if isinstance(row, Scored)]
    if arm == "curated":
        kept = curate(lambda: pool, replace(decision, policy="top", value=count))
        return [row for row in kept if isinstance(row, Scored)]
    worst = sorted(pool, key=lambda row: (direct_score(decision.signal, row.scores[decision.signal]), row.id))
    return worst[:count]


def train_and_measure(
    rooms: Rooms, rows: Sequence[Scored], pairs: Sequence[Pair], folder: Path, seed: int, options: Options
) -> Measured:
    (folder / "mix").mkdir(parents=True, exist_ok=True)
    name = f"arms/{folder.name}"
    rooms.stream(name, mix(rooms.pairs("train"), rows, rooms.prompts), Output(folder / "mix", "mix", Example))
    data = tuple(shard_files(folder / "mix", "mix"))
    examples = count_rows(data)
    train = rooms.recipe.train
    steps = schedule_for(examples - len(rows) + options.kept, epochs=train.epochs, batch_size=train.batch_size).steps
    settings = train.model_copy(update={"steps": steps, "epochs": None})
    contract = find_contract(Path(rooms.base.path))
    spec = train_spec(
        name,
        folder,
        data,
        examples,
        rooms.base,
        settings,
        rooms.recipe.runtime,
        random_seed=seed,
        **(asdict(contract) if contract else {}),
    )
    done = folder / "measured.json"
    if (found := read_measured(done, spec.identity(), pairs)) is not None:
        return found
    rooms.engines.close()  # the trainer needs the memory
    with rooms.console.bar(name, spec.steps, "steps") as bar:
        result = finetune(spec, pick_trainer(options.machine), lambda step: bar.advance(1, step.tokens))
    chars = sum(len(row.response) for row in rows) / len(rows) if rows else 0.0
    facts = {
        "steps": float(result.steps),
        "examples": float(result.examples),
        "label_tokens": float(result.label_tokens),
        "chars": chars,
    }
    found = measure_model(rooms, find_model(spec.output), pairs, done, facts, spec.identity())
    shutil.rmtree(spec.output)  # twelve models would fill a disk, and each is measured
    return found


def pick_trainer(machine: Machine) -> Any:
    if machine.small:
        from humpback.training.fake import train_fake

        return lambda spec, on_step: train_fake(spec)
    from humpback.training.launch import train

    return lambda spec, on_step: train(spec, on_step=on_step)


def measure_model(
    rooms: Rooms, model: ModelRef, pairs: Sequence[Pair], done: Path, facts: Mapping[str, float], identity: str = ""
) -> Measured:
    """Return a model's likelihoods of the pairs' responses, after their instructions and after none; keep them in `done`."""
    engine, prompts = rooms.engine(model), rooms.prompts
    given = response_nll(pairs, engine, prompts, prompts.both_tags)
    alone = response_nll([replace(pair, instruction="") for pair in pairs], engine, prompts, prompts.both_tags)
    rooms.engines.close()
    measured = Measured(given=given, alone=alone, facts=facts)
    done.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(done, json.dumps({"identity": identity, **asdict(measured)}).encode())
    return measured


def read_measured(done: Path, identity: str, pairs: Sequence[Pair]) -> Measured | None:
    """Return what is finished already, unless it was made with other rows, settings or pairs."""
    if not done.exists():
        return None
    kept = json.loads(done.read_bytes())
    given, alone = (
        Likelihoods(**{field: tuple(values) for field, values in kept[side].items()}) for side in ("given", "alone")
    )
    if kept["identity"] != identity or given.pair_ids != tuple(pair.id for pair in pairs):
        return None
    return Measured(given=given, alone=alone, facts=kept["facts"])
