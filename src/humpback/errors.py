"""Every error a user can meet, and the exit status each one ends the command with.

HumpbackError
├── InputError (ValueError)          exit 2   a file, row or model the user gave is wrong
│   ├── RecipeError                  exit 2   the recipe is wrong
│   └── DriftError                   exit 2   the recipe no longer matches what the run folder holds
├── MissingDependencyError (ImportError)  exit 2   an optional package is not installed
└── StoppedError (RuntimeError)      exit 1   the run stopped and can be resumed
    ├── GateError                    exit 1   a gate refused to go on
    ├── StageError                   exit 1   a stage failed
    ├── StorageError (OSError)       exit 1   disk full, read-only, damaged file
    └── LockedError                  exit 1   another process works on the same run folder
"""

from __future__ import annotations

__all__ = [
    "DriftError",
    "GateError",
    "HumpbackError",
    "InputError",
    "LockedError",
    "MissingDependencyError",
    "RecipeError",
    "StageError",
    "StoppedError",
    "StorageError",
]


class HumpbackError(Exception):
    """Base of all errors of this package; the message says what, the value, and the fix."""

    exit_status: int = 1


class InputError(HumpbackError, ValueError):
    """Something the user gave is wrong: a file, a row, a model folder."""

    exit_status = 2


class RecipeError(InputError):
    """The recipe is not valid."""


class DriftError(InputError):
    """A stage on disk was made by a different recipe, input, prompt or model."""


class MissingDependencyError(HumpbackError, ImportError):
    """An optional package is needed and not installed; the message names the extra."""

    exit_status = 2


class StoppedError(HumpbackError, RuntimeError):
    """The run stopped before its end; finished work is kept and `humpback run` resumes it."""


class GateError(StoppedError):
    """A gate refused to go on, because going on would waste or spoil the run."""


class StageError(StoppedError):
    """A stage failed."""


class StorageError(HumpbackError, OSError):
    """The run folder cannot be written or read: disk full, read-only, damaged."""


class LockedError(StoppedError):
    """Another process holds the lock of this run folder."""
