"""One method per stage: which part of the recipe, which inputs and which models it depends on, and what it reads and writes.

The methods hold no method of the paper (that is in `stages/`) and no bookkeeping (that is in `sitting.py`, `runner.py` and
`store/`); they connect the two.
"""

from __future__ import annotations

from humpback.rooms.candidates import CandidateRooms
from humpback.rooms.comparing import ComparingRooms
from humpback.rooms.deciding import DecidingRooms
from humpback.rooms.judging import JudgingRooms
from humpback.rooms.results import ResultRooms
from humpback.rooms.training import TrainingRooms

__all__ = ["Rooms"]


class Rooms(CandidateRooms, TrainingRooms, JudgingRooms, ComparingRooms, DecidingRooms, ResultRooms):
    """The stages of one run."""
