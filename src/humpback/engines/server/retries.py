"""What a reply that is no answer means, and how long to wait. In: status, headers, body. Out: a failure and its kind. No I/O."""

from __future__ import annotations

import email.utils
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

__all__ = [
    "BadAnswerError",
    "Failure",
    "GaveUpError",
    "ServerDiedError",
    "backoff_s",
    "judge_status",
    "parse_retry_after",
]

Kind = Literal["busy", "broken", "absent", "row", "key", "place", "quota"]
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 30.0
SHOWN = 300
"""Characters of a server's own words that an error repeats."""


class BadAnswerError(ValueError):
    """A reply that came whole and is not what was asked for; asked again, it may be."""


class GaveUpError(Exception):
    """One row ends without an answer; the message is the reason."""


class ServerDiedError(Exception):
    """The server that was started for this engine has ended."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why one try came to nothing."""

    kind: Kind
    """busy: later, and fewer at once. broken: again. absent: nothing answers there. row: no use asking again.
    key, place, quota: no use asking anything."""
    reason: str
    retry_after_s: float | None = None
    """What the server asks to wait."""


def judge_status(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Return what a status other than 2xx means."""
    code, said = read_error(body)
    reason = f"HTTP {status}: {said}" if said else f"HTTP {status}"
    kind: Kind
    if status in (401, 403, 407):
        kind = "key"
    elif status == 402 or code == "insufficient_quota":
        kind = "quota"
    elif status == 404 or 300 <= status < 400:
        kind = "place"
        reason += f", to {headers['location']}" if headers.get("location") else ""
    elif status in (408, 409, 425, 429) or (status >= 500 and status != 501):
        kind = "busy"
    else:
        kind = "row"
    wait = parse_retry_after(headers.get("retry-after", ""), datetime.now(UTC)) if kind == "busy" else None
    return Failure(kind=kind, reason=reason, retry_after_s=wait)


def read_error(body: bytes) -> tuple[str, str]:
    """Return the code and the message of an error's body; a page of HTML says nothing that helps."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        text = body[: 4 * SHOWN].decode("utf-8", "replace").strip()
        return "", "" if text.startswith("<") else _shorten(text)
    inner = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(inner, dict):
        return "", _shorten(str(inner))
    message = inner.get("message") or inner.get("detail") or ""
    return str(inner.get("code") or inner.get("type") or ""), _shorten(str(message))


def parse_retry_after(value: str, now: datetime) -> float | None:
    """Return the seconds of a Retry-After header, which is a number of seconds or a date; None for neither."""
    value = value.strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()
    return max(seconds, 0.0) if seconds < 1e9 else None  # also refuses NaN and infinity


def backoff_s(tries: int, dice: random.Random) -> float:
    """Return how long to wait after `tries` failed tries: full jitter, so that many rows do not come back together."""
    return dice.uniform(0.0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(tries, 20)))


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
