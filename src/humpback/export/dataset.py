"""The dataset a run ends with: Parquet in the Hugging Face folder layout, one `messages` row per pair, and a card.

dataset/README.md  dataset/data/train-00000-of-00001.parquet
"""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from humpback.recipe import Recipe
from humpback.records import Pair, Rewritten, Scored
from humpback.store.rundir import Counts
from humpback.store.shards import atomic_write, storage_errors, sync_folder

__all__ = ["SCHEMA", "write_dataset"]

_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("messages", pa.list_(_MESSAGE)),
        ("origin", pa.string()),
        ("tag", pa.string()),
        ("iteration", pa.int64()),
        ("scores", pa.map_(pa.string(), pa.float64())),
        ("source_uri", pa.string()),
        ("header_path", pa.string()),
        ("licence", pa.string()),
        ("segment_id", pa.string()),
    ]
)
REWRITTEN_SCHEMA = SCHEMA.append(pa.field("document", pa.string()))
"""With `rewrite.enabled`."""
ROWS_PER_FILE = 50_000
_MAX_LICENCE = 120


def write_dataset(
    folder: Path,
    seed: Iterable[Pair],
    curated: Callable[[], Iterable[Scored]],
    recipe: Recipe,
    *,
    decision: Mapping[str, Any],
) -> Counts:
    """Write the training seed and the last iteration's curated pairs, and return the counts."""
    seed_pairs = list(seed)  # a few thousand at most
    licences = Counter(_licence(pair.licence) for pair in seed_pairs)
    web = 0
    for row in curated():
        web += 1
        licences[_licence(row.licence)] += 1
    total = len(seed_pairs) + web
    files = max(1, -(-total // ROWS_PER_FILE))
    rows = _rows(seed_pairs, curated(), recipe)
    schema = REWRITTEN_SCHEMA if recipe.rewrite.enabled else SCHEMA
    with storage_errors(folder):
        data = folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        for stale in (*data.glob("*.parquet"), *data.glob(".*.parquet.tmp")):
            stale.unlink()
        for index in range(files):
            path = data / f"train-{index:05d}-of-{files:05d}.parquet"
            _write_whole(path, schema, _batches(rows, min(ROWS_PER_FILE, total - index * ROWS_PER_FILE)))
        sync_folder(data)
    atomic_write(folder / "README.md", _card(recipe, len(seed_pairs), web, licences, decision).encode())
    return Counts(read=total, kept=total)


def _write_whole(path: Path, schema: pa.Schema, batches: Iterable[list[dict[str, Any]]]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)


def _rows(seed: Iterable[Pair], curated: Iterable[Scored], recipe: Recipe) -> Iterator[dict[str, Any]]:
    for pair in seed:
        yield {
            "id": pair.id,
            "messages": _messages(pair.instruction, pair.response),
            "origin": "seed",
            "tag": recipe.prompts.seed_tag,
            "iteration": None,
            "scores": {},
            "source_uri": pair.source_uri,
            "header_path": "",
            "licence": pair.licence,
            "segment_id": None,
            "document": None,
        }
    for row in curated:
        yield {
            "id": row.id,
            "messages": _messages(row.instruction, row.response),
            "origin": "web",
            "tag": recipe.prompts.web_tag,
            "iteration": row.iteration,
            "scores": dict(row.scores),
            "source_uri": row.source_uri,
            "header_path": row.header_path,
            "licence": row.licence,
            "segment_id": row.segment_id,
            "document": row.document if isinstance(row, Rewritten) and not row.fallback else None,
        }


def _messages(instruction: str, response: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": instruction}, {"role": "assistant", "content": response}]


def _batches(rows: Iterator[dict[str, Any]], count: int, size: int = 1000) -> Iterator[list[dict[str, Any]]]:
    while count > 0:
        batch = list(itertools.islice(rows, min(size, count)))
        yield batch
        count -= len(batch)


def _licence(text: str) -> str:
    """Return a stated licence as it can stand in a code span: documents say what they like."""
    shown = "".join(" " if char.isspace() else char for char in text if char.isspace() or _is_plain(char))
    return " ".join(shown.split())[:_MAX_LICENCE] or "not stated"


def _is_plain(char: str) -> bool:
    return char != "`" and unicodedata.category(char) not in ("Cc", "Cf", "Cs")


def _card(recipe: Recipe, seed: int, web: int, licences: Mapping[str, int], decision: Mapping[str, Any]) -> str:
    response, document = "a document's text, unchanged", ""
    if recipe.rewrite.enabled:
        response = "a document's text, written anew by a model of the run, or unchanged where that was unfit"
        document = "- `document`: the document's text where the response was written anew, else null\n"
    told = "\n".join(f"- `{name}`: {count}" for name, count in sorted(licences.items())) or "- none"
    return f"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
tags:
- instruction-backtranslation
---

# Instruction pairs by backtranslation

{seed} seed pairs and {web} curated pairs, made by humpback (method: arXiv 2308.06259). The response of a curated pair is {response};
a backward model wrote its instruction, and the model of the iteration before kept it by
`{decision["signal"]}` ({decision["policy"]} {decision["value"]:g}).

Base model: `{recipe.model.base}`. Iterations: {recipe.iterations}.

## Columns

- `messages`: user and assistant turn; `tag`: the sentence appended to the instruction in training
- `origin`: `seed` (human-written) or `web` (curated); `iteration`, `scores`: by which iteration's model, and its scores
{document}- `source_uri`, `header_path`, `licence`, `segment_id`: where the response comes from

## Licences of the seed pairs and documents, as stated by their sources

{told}

Texts keep the licence of their source. Check it before you publish or train on them.
"""
