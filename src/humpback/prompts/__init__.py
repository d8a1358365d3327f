"""Every prompt of a run: what it says (`wording.py`), and how it becomes tokens (`rendering.py`).

In: content and a tokenizer. Out: prompts, targets and training rows. Other files import from here, not from the files beside.
"""

from humpback.prompts.rendering import IGNORE, Choice, Continuation, Prompt, Prompts, Rendered, Tokenizer
from humpback.prompts.wording import (
    ADDITIVE_RUBRIC,
    BACKWARD_PROMPT,
    RATING_PREFILL,
    REASONING_REQUEST,
    REWRITE_PROMPT,
    RUBRIC,
    RUBRICS,
    SEED_TAG,
    WEB_TAG,
)

__all__ = [
    "ADDITIVE_RUBRIC",
    "BACKWARD_PROMPT",
    "IGNORE",
    "RATING_PREFILL",
    "REASONING_REQUEST",
    "REWRITE_PROMPT",
    "RUBRIC",
    "RUBRICS",
    "SEED_TAG",
    "WEB_TAG",
    "Choice",
    "Continuation",
    "Prompt",
    "Prompts",
    "Rendered",
    "Tokenizer",
]
