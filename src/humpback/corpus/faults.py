"""What is wrong with an input, in words: a fault costs one `Rejected` row, an input wrong as a whole an InputError.

Every reader reports through here, so that each row says where, why and what to do, and keeps the beginning of what was
dropped.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from humpback.errors import InputError
from humpback.records import Rejected, content_id

__all__ = ["SHOWN_BYTES", "Fault", "UnreadableError", "input_errors", "printable_path", "rejected", "unreadable"]

_SHOWN = 2000
SHOWN_BYTES = 4 * _SHOWN
"""How much of a record that is dropped is looked at for its row."""


class UnreadableError(InputError):
    """The operating system does not give what is there: one file of several costs one row (`fault`)."""

    @property
    def fault(self) -> Fault:
        return Fault("unreadable", str(self).removeprefix("corpus input "))


class Fault(NamedTuple):
    reason: str
    """The word it is counted under."""
    detail: str
    """Where, what, and the fix."""


def rejected(where: str, fault: Fault, data: bytes = b"", *, source_uri: str = "") -> Rejected:
    """Return the row of a record at `where` that is dropped, with the beginning of its data; `kept_chars` says that there was more."""
    text = data[:SHOWN_BYTES].decode("utf-8", "replace")
    shown = text[:_SHOWN]
    kept: dict[str, object] = {"kept_chars": len(shown)} if len(data) > SHOWN_BYTES or len(text) > _SHOWN else {}
    # An address or a column may hold half a character, which UTF-8 and so Parquet cannot.
    fields = {"text": shown, "source_uri": source_uri or where}
    if source_uri:
        fields["location"] = where
    row = json.dumps({**{name: _whole(value) for name, value in fields.items()}, **kept}, ensure_ascii=False)
    return Rejected(id=content_id(where, fault.reason), reason=fault.reason, detail=_whole(fault.detail), row=row)


@contextlib.contextmanager
def input_errors(what: str, path: Path | str) -> Iterator[None]:
    """Turn the operating system's refusal to find or read what the user gave into an InputError; damage passes."""
    try:
        yield
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        raise unreadable(path, error, what) from error
    except RuntimeError as error:  # expanduser, of a user that is not there
        raise InputError(f"{what} {printable_path(path)} cannot be found: {error}") from error


def printable_path(path: Path | str) -> str:
    """Return a path as text that UTF-8 can hold: a byte of its name that is no UTF-8 becomes `\\xNN`."""
    return os.fsencode(Path(path).as_posix()).decode("utf-8", "backslashreplace")


def unreadable(path: Path | str, error: OSError, what: str = "corpus input") -> UnreadableError:
    name = printable_path(path)
    return UnreadableError(
        f"{what} {name} cannot be read: {error.strerror or error}; check its name, permissions and disk"
    )


def _whole(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
