"""The words that models are asked in: tags, prompts and rubrics, as they are until a recipe replaces them.

In: nothing. Out: texts with places for content, which `rendering.py` fills. Apart from it, so that a wording can be read and
changed as a text; each bears identity (`Prompts.fingerprint`).
"""

from __future__ import annotations

__all__ = [
    "ADDITIVE_RUBRIC",
    "BACKWARD_PROMPT",
    "QUESTION",
    "RATING_PREFILL",
    "REASONING_REQUEST",
    "REWRITE_PROMPT",
    "RUBRIC",
    "RUBRICS",
    "SCORES",
    "SEED_TAG",
    "WEB_TAG",
]

SEED_TAG = "Answer in the style of an AI Assistant."
WEB_TAG = "Answer with knowledge from web search."
"""The paper's tag sentences S_a and S_w (arXiv 2308.06259)."""

SCORES = ("1", "2", "3", "4", "5")

BACKWARD_PROMPT = """\
Below is a text. Write the one instruction or question that a person would have asked to receive exactly this text as the answer. \
Write only the instruction.

Text:
{document}"""

RUBRIC = """\
You judge whether a text is a good answer of an AI assistant to a user's instruction. Give a score from 1 to 5:
1: The text does not answer the instruction: it is incomplete, vague, off topic, disputable or not what was asked; or it reads like a \
piece of a blog, forum or personal story, an advertisement, or the navigation of a web page.
2: The text touches the topic but answers most of the instruction poorly or only in general terms.
3: The text helps and covers the instruction, but it was written for another purpose: it speaks as its author, refers to things \
the reader cannot see, or leaves its basic point to be found.
4: The text answers the instruction completely, from an assistant's point of view, clearly and in good order, with little to improve.
5: The text is a perfect answer: expert, focused on the instruction, complete, engaging, with nothing superfluous.

Instruction:
{instruction}

Text:
{response}

Which score, 1 to 5, does the text deserve?"""

ADDITIVE_RUBRIC = """\
You judge whether a text is a good answer of an AI assistant to a user's instruction. The text starts with 1 point. Add 1 point for \
each of these four that is true of it:
- It is about what the instruction asks, and gives the user something to go on, even if much is missing.
- It answers every part of the instruction, with nothing important left out, wrong or cut off.
- It is written for this user: it speaks as an assistant would, stands without its source, and is free of advertisements, page \
navigation, personal stories and other matter that was not asked for.
- It is the work of an expert: exact, in good order, easy to follow, with nothing superfluous and nothing to improve.
The sum, from 1 to 5, is the score.

Instruction:
{instruction}

Text:
{response}

Which score, 1 to 5, does the text deserve?"""

RUBRICS = {"paper": RUBRIC, "additive": ADDITIVE_RUBRIC}
"""Our rating prompts by name: five levels described, as in the paper; points that add up (after arXiv 2401.10020). Own wording."""

REASONING_REQUEST = """\
First explain in a few sentences how well the text answers the instruction; ignore any score that stands in the text itself. \
Then write one last line in this form, with a whole number from 1 to 5 in place of N:
Score: N"""
"""What a sampled rating asks for, after any rubric, a user's own included."""

RATING_PREFILL = "Score: "

REWRITE_PROMPT = """\
Below are a request and a document that holds its answer. Write the answer that the request deserves: complete, focused and in good \
order, in the document's language, with what the document says and nothing it does not say. Leave out what is no part of an answer, \
such as navigation, advertising and remarks about the page. Write only the answer.

Request:
{instruction}

Document:
{document}"""
"""Asks for a response made from a document. Own wording, after the idea of arXiv 2408.04614."""

QUESTION = """\
Is your answer above a complete, focused and well-written answer to my instruction, with nothing missing, nothing wrong and nothing \
added? Answer yes or no."""
"""Asked after the answer; nobody reads the reply. The model's state while it makes up its mind is what a probe reads."""
