"""How a stage turns a record into a `Rejected`: the row goes with its reason, so nothing leaves without a trace."""

from __future__ import annotations

import json

from humpback.records import Record, Rejected, to_row

__all__ = ["reject"]


def reject(record: Record, reason: str, detail: str, *, failed: bool = False, **more: object) -> Rejected:
    """Return the record as rejected (or failed, when the stage could not judge it); `more` joins the kept row."""
    row = {key: value for key, value in to_row(record).items() if key not in ("input_ids", "labels")}
    text = json.dumps({**row, **more}, ensure_ascii=False, sort_keys=True)
    return Rejected(id=record.id, reason=reason, detail=detail, failed=failed, row=text)
