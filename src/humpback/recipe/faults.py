"""What is wrong with plain values, in words: pydantic's faults as lines that name the key, the value and the fix.

In: a kind of section and values for it. Out: the section, or a RecipeError with every fault, so that none is found after another.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel

from humpback.errors import RecipeError
from humpback.recipe.section import Section

__all__ = ["check_section"]

S = TypeVar("S", bound=Section)


def check_section(kind: type[S], data: Mapping[str, Any], what: str) -> S:
    """Return a section from plain values; raise RecipeError with every fault and its fix."""
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as error:
        faults = "\n".join(f"  {line}" for line in _explain(error, kind))
        raise RecipeError(f"{what} is not valid:\n{faults}") from None


def _explain(error: pydantic.ValidationError, kind: type[Section]) -> Iterator[str]:
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"])
        value = fault["input"]
        told = "empty" if value is None else value
        shown = f"{where}={told}" if isinstance(told, str | int | float) and where else where or "recipe"
        if fault["type"] == "extra_forbidden":
            yield f"{where} is not a key of the {_noun(kind)}{_nearest(fault['loc'], kind)}"
        elif fault["type"] == "missing":
            fix = " (`humpback init` shows how)" if _noun(kind) == "recipe" else ""
            yield f"{where} is missing; every {_noun(kind)} needs it{fix}"
        elif fault["type"] == "value_error":
            message = str(fault["msg"]).removeprefix("Value error, ")
            yield f"{where}={message}" if (fault["loc"] and message[:1].isdigit()) or message[:1] == "-" else message
        else:
            yield f"{shown}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _noun(kind: type[Section]) -> str:
    return "study" if kind.__name__.endswith("Study") else "recipe"


def _nearest(loc: tuple[int | str, ...], kind: type[Section]) -> str:
    section: Any = kind
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        inner = getattr(annotation, "__args__", (annotation,))[0]
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return ""
        section = inner
    valid = list(section.model_fields)
    close = difflib.get_close_matches(str(loc[-1]), valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; valid keys here: {', '.join(valid)}"
