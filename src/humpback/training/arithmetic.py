"""What the last bits of a training depend on beside its spec. In: what computes it. Out: a record that its checkpoints keep.

Gone on with in another version, on another machine or with other threads, a training learns the same from the same rows, but rounds
otherwise and may draw other dropout, and nothing in its files would show it. So each checkpoint says what it was computed by, a resume
by something else tells the difference, and `training.json` keeps both. What would make the model of neither kind (another number
format, number of processes or sharding) is refused instead (`sft.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Arithmetic", "Sitting", "join_sitting", "tell_changes"]


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What computes a training."""

    device: str
    """The GPU's name, or the CPU's and its instruction set."""
    attention: str
    """The form of attention, as transformers calls it."""
    threads: int | None
    """CPU threads of each process, over which sums are split; None on a GPU."""
    batch_tokens: int
    """Tokens of one pass: a step's loss is summed, and dropout drawn, pass by pass."""
    packages: Mapping[str, str]
    """Versions of what computes, by name."""

    def values(self) -> dict[str, str | int | None]:
        """Return all of it by name."""
        own = {"device": self.device, "attention": self.attention, "threads": self.threads}
        return {**own, "batch_tokens": self.batch_tokens, **self.packages}


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """Steps of a training that were computed alike, over however many kills."""

    first_step: int
    arithmetic: Arithmetic | None
    """None where the checkpoint did not tell."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Sitting:
        """Make it from what JSON gives back of one."""
        told = values["arithmetic"]
        return cls(first_step=int(values["first_step"]), arithmetic=Arithmetic(**told) if told else None)


def join_sitting(before: Sequence[Sitting], now: Arithmetic, *, step: int) -> list[Sitting]:
    """Return the sittings of a training that goes on from `step`: the last one grows, or one is added."""
    sittings = list(before)
    if step and not sittings:
        sittings = [Sitting(first_step=1, arithmetic=None)]
    if not sittings or sittings[-1].arithmetic != now:
        sittings.append(Sitting(first_step=step + 1, arithmetic=now))
    return sittings


def tell_changes(sittings: Sequence[Sitting], checkpoint: str, *, step: int) -> str | None:
    """Return what a user must know of the sitting that begins after this step; None where nothing has changed."""
    if len(sittings) < 2 or sittings[-1].first_step != step + 1:
        return None
    before, now = sittings[-2].arithmetic, sittings[-1].arithmetic
    result = "the model will not be bit for bit that of a training left alone (machine.sittings in its training.json)"
    if before is None or now is None:
        unknown = "does not tell which attention, threads and versions computed it"
        return f"{checkpoint} {unknown}; if they were others than now, {result}"
    old, new = before.values(), now.values()
    changed = "; ".join(
        f"{name} {new.get(name, 'none')}, it had {old.get(name, 'none')}"
        for name in (*new, *(old.keys() - new.keys()))
        if old.get(name) != new.get(name)
    )
    return f"{checkpoint} is gone on from by other means ({changed}): the same is learnt, rounded otherwise; {result}"
