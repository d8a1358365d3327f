"""AlpacaEval's files. In: annotations, model outputs and leaderboards, also packed with gzip. Out: comparisons, outputs, rows.

Annotations come as AlpacaEval writes them (JSON: instruction, output_1 and generator_1 of the baseline, output_2 and generator_2 of
the model, preference 1 to 2) or as a table (CSV: model, prompt_id, baseline, preference, len_baseline, len_model). The model's
share of a prompt is preference - 1. A preference of 0 is AlpacaEval's older way to write a tie; an
empty one is a judge that gave no verdict.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import random
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from humpback.benchmarking.comparisons import Comparison, Figures
from humpback.errors import InputError, StorageError

__all__ = [
    "Output",
    "draw",
    "read_annotations",
    "read_json_rows",
    "read_leaderboard",
    "read_outputs",
    "read_text",
    "write_json",
    "write_leaderboard",
]

LEADERBOARD = (
    *("win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate"),
    *("avg_length", "length_controlled_winrate"),
)
"""Columns of a leaderboard after the model's name, which has none, as in AlpacaEval's own files."""
T = TypeVar("T")
TABLE = ("model", "prompt_id", "baseline", "preference", "len_baseline", "len_model")


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a model answered to a prompt: an entry of `model_outputs.json`."""

    instruction: str
    output: str
    generator: str
    """The model's name."""
    dataset: str = ""
    """The prompt's category."""


def read_annotations(path: Path) -> list[Comparison]:
    """Return the comparisons of an annotations file, in its order; the same prompt of one model twice is refused."""
    text = read_text(path)
    rows = _from_json(path, text) if text.lstrip()[:1] == "[" else _from_table(path, text)
    if not rows:
        raise InputError(f"{path} holds no annotation; give an AlpacaEval annotations.json or a table of preferences")
    twice = [key for key, count in Counter((c.model, c.prompt) for c in rows).items() if count > 1]
    if twice:
        model, prompt = twice[0]
        raise InputError(
            f"{path}: {len(twice)} prompts are annotated more than once for one model, for example {prompt[:80]!r} for {model}; each "
            "prompt may count once: remove the others"
        )
    return rows


def _from_json(path: Path, text: str) -> list[Comparison]:
    found = []
    for number, row in enumerate(_json_rows(path, text), start=1):
        where = f"{path}: annotation {number}"
        told = {key: _string(row, key, where) for key in ("instruction", "output_1", "output_2")}
        names = {key: _string(row, key, where) for key in ("generator_1", "generator_2")}
        found.append(
            Comparison(
                model=names["generator_2"],
                baseline=names["generator_1"],
                prompt=told["instruction"],
                share=_share(row.get("preference"), where),
                model_chars=len(told["output_2"]),
                baseline_chars=len(told["output_1"]),
                category=str(row.get("dataset") or ""),
            )
        )
    return found


def _from_table(path: Path, text: str) -> list[Comparison]:
    reader = csv.DictReader(io.StringIO(text))
    lacking = [name for name in TABLE if name not in (reader.fieldnames or ())]
    if lacking:
        raise InputError(
            f"{path} is no AlpacaEval annotations.json, and as a table it lacks {', '.join(lacking)}; a table of preferences has the "
            f"columns {', '.join(TABLE)}"
        )
    found = []
    for number, row in enumerate(reader, start=2):
        where = f"{path}:{number}"
        found.append(
            Comparison(
                model=row["model"],
                baseline=row["baseline"],
                prompt=row["prompt_id"],
                share=_share(row["preference"], where),
                model_chars=_chars(row["len_model"], where),
                baseline_chars=_chars(row["len_baseline"], where),
                category=row.get("dataset") or "",
            )
        )
    return found


def _share(preference: object, where: str) -> float | None:
    if preference is None or preference in ("", "None"):
        return None
    try:
        known = isinstance(preference, str | int | float) and not isinstance(preference, bool)
        value = float(preference) if known else math.nan  # type: ignore[arg-type]
    except ValueError:
        value = math.nan
    if value == 0:
        return 0.5
    if not 1 <= value <= 2:  # NaN is neither
        raise InputError(
            f"{where}: preference {str(preference)[:40]!r} is none; 1 is the baseline, 2 the model, 0 or 1.5 a tie, empty no verdict"
        )
    return value - 1


def _chars(text: str | None, where: str) -> int:
    if text is None or not text.isdecimal():
        raise InputError(f"{where}: the length {str(text)[:40]!r} is no number of characters")
    return int(text)


# -- outputs -----------------------------------------------------------------------------------------------------------


def read_outputs(path: Path) -> list[Output]:
    """Return a model's outputs in the order of the file, which is `model_outputs.json` or JSON lines of the same entries."""
    rows = read_json_rows(path)
    found = [
        Output(
            instruction=_string(row, "instruction", f"{path}: output {number}"),
            output=_string(row, "output", f"{path}: output {number}"),
            generator=str(row.get("generator") or path.name.split(".")[0]),
            dataset=str(row.get("dataset") or ""),
        )
        for number, row in enumerate(rows, start=1)
    ]
    if not found:
        raise InputError(f"{path} holds no output; give entries with instruction, output and generator")
    names = sorted({output.generator for output in found})
    if len(names) > 1:
        raise InputError(f"{path} holds outputs of {len(names)} models ({', '.join(names[:3])}); give a file per model")
    twice = [text for text, count in Counter(output.instruction for output in found).items() if count > 1]
    if twice:
        raise InputError(
            f"{path} answers {len(twice)} prompts more than once, for example {twice[0][:80]!r}; keep one output of each"
        )
    return found


# -- leaderboards ------------------------------------------------------------------------------------------------------


def read_leaderboard(path: Path) -> dict[str, dict[str, float]]:
    """Return the figures of each model of a leaderboard; those it does not state are left out."""
    rows = list(csv.DictReader(io.StringIO(read_text(path))))
    if not rows or "win_rate" not in rows[0]:
        raise InputError(f"{path} is no leaderboard: a CSV file with the models' names first and a column win_rate")
    first = next(iter(rows[0]))
    try:
        return {row[first]: {name: float(row[name]) for name in LEADERBOARD if row.get(name)} for row in rows}
    except ValueError as error:
        raise InputError(f"{path} holds a figure that is no number: {error}") from error


def write_leaderboard(path: Path, rows: Mapping[str, tuple[Figures, float | None]]) -> None:
    """Write figures and length-controlled win rates as AlpacaEval does, the best model first."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["", *LEADERBOARD])
    for name, (figures, controlled) in sorted(rows.items(), key=lambda row: -row[1][0].win_rate):
        told = {**asdict(figures), "length_controlled_winrate": controlled}
        writer.writerow([name, *("" if told[column] is None else told[column] for column in LEADERBOARD)])
    _write(path, out.getvalue())


def draw(entries: Sequence[T], count: int | None, seed: int) -> list[T]:
    """Return as many entries as asked for, in their order and chosen by the seed; all for None."""
    if count is None:
        return list(entries)
    if count > len(entries):
        raise InputError(f"--sample {count} is more than the {len(entries)} there are; leave it out to take all")
    return [entries[place] for place in sorted(random.Random(seed).sample(range(len(entries)), count))]


# -- files -------------------------------------------------------------------------------------------------------------


def read_json_rows(path: Path) -> list[dict[str, object]]:
    """Return the objects of a file that holds a JSON list, or one object per line."""
    return _json_rows(path, read_text(path))


def _json_rows(path: Path, text: str) -> list[dict[str, object]]:
    listed = text.lstrip()[:1] == "["
    rows: list[dict[str, object]] = []
    # lines end in \n alone: a text may hold U+2028 as it is
    for number, part in enumerate([text] if listed else text.split("\n"), start=1):
        if not part.strip():
            continue
        try:
            found = json.loads(part)
        except (ValueError, RecursionError) as error:
            where = f"{path}" if listed else f"{path}:{number}"
            raise InputError(f"{where} is not JSON: {_tell_fault(error, listed=listed)}") from error
        rows += found if listed else [found]
    wrong = next((number for number, row in enumerate(rows, start=1) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise InputError(f"{path}: entry {wrong} is no JSON object with names")
    return list(rows)


def _tell_fault(error: Exception, *, listed: bool) -> str:
    """Say what is wrong; a line's own `line 1` would send its reader to the first of the file."""
    if isinstance(error, json.JSONDecodeError) and not listed:
        return f"{error.msg} (column {error.colno}); write one object per line, or one list of them"
    return str(error)[:200]


def read_text(path: Path) -> str:
    """Return a file's text, unpacked when it ends in .gz."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        told = error.strerror if isinstance(error, OSError) else None  # what is damaged, a BadGzipFile too, has none
        fix = "check its name and permissions" if told else "copy or fetch it again"
        raise InputError(f"{path} cannot be read: {told or error}; {fix}") from error


def write_json(path: Path, content: Sequence[object] | Mapping[str, object]) -> None:
    """Write JSON as people read it."""
    _write(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}; give a file that can") from error


def _string(row: Mapping[str, object], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise InputError(f"{where} has no text {key!r}; it has {', '.join(list(row)[:10]) or 'nothing'}")
    return value
