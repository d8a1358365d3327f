"""`humpback train SPEC`: one training that stands alone. In: a spec file, rows of a mix. Out: a model folder.

The spec is the `spec.json` that a run writes for each of its trainings, or a few lines of YAML: `base_model`, `data`, `output`; every
other key of `training/spec.py: TrainSpec` has a default. The same spec again resumes, or finds the training done.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from humpback.engines import find_contract, resolve_model
from humpback.errors import InputError
from humpback.progress import Console, format_seconds
from humpback.recipe import PRESETS, apply_override
from humpback.store.shards import shard_files
from humpback.training.plan import PROBE_STEPS, RowCounts, count_data, follow_steps, tell_plan
from humpback.training.probe import probe
from humpback.training.sampling import trained_rows
from humpback.training.schedule import schedule_for
from humpback.training.spec import METRICS, TrainResult, TrainSpec, check_spec

__all__ = ["load_spec", "run_train"]

MODEL_CACHE = Path.home() / ".cache" / "humpback"
EXTRA = ("preset", "epochs")
"""Keys that decide others, and are no part of a spec."""
WHOLE, NUMBERS = ("steps", "batch_size"), ("epochs", "held_out_share")
"""Keys that decide the schedule, which is reckoned before the spec is checked."""


def run_train(
    path: Path, overrides: Sequence[str], *, console: Console, as_json: bool = False, plan_only: bool = False
) -> None:
    """Train what the spec file says, and tell what came of it; or try some steps, and tell how long it would take."""
    spec, counts = load_spec(path, overrides)
    plan = tell_plan(spec, counts)
    if plan_only:
        found = probe(spec.model_copy(update={"report_to": ()}))  # a trial is nothing to report
        pace = f"{found.tokens_per_s:,.0f} tokens/s in {min(PROBE_STEPS, spec.steps)} steps on trial"
        told = [*plan, f"about {format_seconds(found.seconds)} ({pace})"]
        print(json.dumps({"steps": spec.steps, **dataclasses.asdict(found)}) if as_json else "\n".join(told))
        return
    for line in plan:
        console.say(line)
    result = _train(spec, console)
    if as_json:
        print(json.dumps({"model": str(spec.output), **dataclasses.asdict(result)}))
        return
    print(f"{spec.output}: {_summary(spec, result)}")


def load_spec(path: Path, overrides: Sequence[str] = ()) -> tuple[TrainSpec, RowCounts]:
    """Read a spec, fill in what it leaves out, and count its rows."""
    given = _read(path)
    for override in overrides:
        apply_override(given, override)
    for key in ("base_model", "data", "output"):
        if not given.get(key):
            raise InputError(f"the training spec {path} lacks {key}; it needs base_model, data and output")
    data = _data_files(given["data"], path, "data")
    counts = count_data(data)
    if not counts.examples:
        raise InputError(f"no training rows in {', '.join(map(str, data))}")
    return check_spec(_complete(given, data, counts, path), f"the training spec {path}"), counts


def _complete(given: Mapping[str, Any], data: Sequence[Path], counts: RowCounts, path: Path) -> dict[str, Any]:
    preset, epochs = given.get("preset", "paper"), given.get("epochs")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InputError(f"the training spec {path}: preset={preset} is not one of {', '.join(PRESETS)}")
    values = {**PRESETS[preset], **{key: value for key, value in given.items() if key not in EXTRA}}
    epochs = epochs if epochs is not None else values.pop("epochs", None)
    values.pop("epochs", None)
    if given.get("steps") is not None:
        if given.get("epochs") is not None:
            raise InputError(f"the training spec {path} has steps and epochs; keep one of them")
        epochs = None
    _check_numbers(given, path)
    try:
        trained = trained_rows(counts.draws, given.get("held_out_share") or 0)
        schedule = schedule_for(trained, steps=given.get("steps"), epochs=epochs, batch_size=given.get("batch_size"))
    except ValueError as error:
        raise InputError(f"the training spec {path}: {error}") from error
    output = Path(str(given["output"])).expanduser()
    work = Path(str(given.get("work") or output.with_name(output.name + ".work"))).expanduser()
    values |= {"data": [str(file) for file in data], "output": str(output), "work": str(work)}
    values |= {"steps": schedule.steps, "batch_size": schedule.batch_size}
    if given.get("held_out"):
        values["held_out"] = [str(file) for file in _data_files(given["held_out"], path, "held_out")]
    values.setdefault("metrics", str(work / METRICS))
    if not given.get("base_hash"):
        base = resolve_model(str(given["base_model"]), MODEL_CACHE)
        values |= {"base_model": base.path, "base_hash": base.content_hash}
    if not given.get("chat_template"):
        contract = find_contract(Path(str(values["base_model"])))
        if contract is None:  # where `base_hash` is given nobody has looked yet
            raise InputError(f"the training spec {path}: base_model={values['base_model']} holds no config.json")
        values |= {"chat_template": contract.chat_template, "stop_ids": list(contract.stop_ids)}
    return values


def _check_numbers(given: Mapping[str, Any], path: Path) -> None:
    for key in (*WHOLE, *NUMBERS):
        value = given.get(key)
        number = type(value) is int or (key in NUMBERS and isinstance(value, float) and math.isfinite(value))
        if value is not None and not number:
            wanted = "a whole number" if key in WHOLE else "a number"
            raise InputError(
                f"the training spec {path}: {key}={value} is not {wanted} (YAML takes 1e3 for text; write 1000)"
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except FileNotFoundError:
        raise InputError(
            f"the training spec {path} does not exist; give a file with base_model, data and output"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"the training spec {path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise InputError(f"the training spec {path} holds {found}; give keys and values: base_model, data and output")
    return data


def _data_files(given: object, path: Path, key: str) -> list[Path]:
    """Return the files of a mix: those named under a key of the spec, or the shards of the folders named."""
    files: list[Path] = []
    for name in given if isinstance(given, list) else [given]:
        place = Path(str(name)).expanduser()
        if place.is_dir():
            shards = shard_files(place, "mix") or [
                file for file in sorted(place.glob("*.parquet")) if not file.name.startswith("rejected-")
            ]
            if not shards:
                raise InputError(f"the training spec {path}: {key}={place} holds no Parquet file; give a folder `mix`")
            files += shards
        elif place.is_file():
            files.append(place)
        else:
            raise InputError(
                f"the training spec {path}: {key}={place} is not there; give a folder `mix` or Parquet files"
            )
    return files


def _train(spec: TrainSpec, console: Console) -> TrainResult:
    from humpback.training.launch import train

    with console.bar("train", spec.steps, "steps") as bar:
        return train(spec, on_step=follow_steps(bar, console), tell=console.say)


def _summary(spec: TrainSpec, result: TrainResult) -> str:
    early = f" of {spec.steps:,}, ended early" if result.steps < spec.steps else ""
    parts = [f"{result.steps:,} steps{early}", f"{result.tokens:,} tokens in {format_seconds(result.seconds)}"]
    if result.first_tenth_loss is not None and result.last_tenth_loss is not None:
        parts.append(f"loss {result.first_tenth_loss:.3f} -> {result.last_tenth_loss:.3f} (first and last tenth)")
    if result.held_out:
        first, kept = result.held_out[0], next(loss for loss in result.held_out if loss.step == result.kept_step)
        worse = ", worse than the base model" if kept.nll > first.nll else ""
        parts.append(f"held-out loss {first.nll:.3f} -> {kept.nll:.3f} (step {kept.step:,} is kept{worse})")
    if (spec.output / "adapter").is_dir():
        parts.append(f"the adapter alone is in {spec.output / 'adapter'}")
    return "; ".join(parts)
