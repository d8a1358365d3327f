"""The template contract: one object renders every prompt, for training, generating, rating and serving.

In: content, and the tokenizer of an engine. Out: prompts, targets and training rows as tokens.

A rendered prompt is always `encode(chat text up to the answer)`, and a training row is that prompt's tokens followed by
`encode(target) + end of turn`. Prompt and target are tokenised apart, so the tokens a model was trained after are exactly
the tokens it is asked with. Content never becomes a special token: a document that holds `<|im_end|>` cannot end a turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from humpback.prompts.wording import (
    BACKWARD_PROMPT,
    QUESTION,
    RATING_PREFILL,
    REASONING_REQUEST,
    REWRITE_PROMPT,
    RUBRIC,
    SCORES,
    SEED_TAG,
    WEB_TAG,
)

__all__ = ["IGNORE", "Choice", "Continuation", "ProbePrompts", "Prompt", "Prompts", "Rendered", "Tokenizer"]

IGNORE = -100
"""Label of a token without loss, the value torch's cross entropy ignores."""


class Tokenizer(Protocol):
    """What this module needs of a tokenizer; an engine brings it."""

    @property
    def special_tokens(self) -> Sequence[str]:
        """Strings that `encode` turns into special tokens."""
        ...

    @property
    def end_of_turn(self) -> Sequence[int]:
        """Token ids that end an assistant's turn."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return token ids, special tokens recognised, none added."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def chat(self, user: str) -> str:
        """Return the chat text of one user turn up to and including the start of the assistant's answer."""
        ...


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A rendered prompt. `text` is what `token_ids` encode; `user` and `prefill` are what a chat endpoint would be sent."""

    user: str
    prefill: str
    """Start of the assistant's answer, already given."""
    text: str
    token_ids: tuple[int, ...]
    seed: int = 0
    """Seeds the row's draw; derived from (recipe seed, stage, record id)."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """A text whose likelihood is asked, and its tokens."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A single-token answer."""

    text: str
    token_id: int


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A training row: tokens, and labels of the same length with IGNORE where no loss is taken."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


class ProbePrompts(NamedTuple):
    """The two places where a probe reads a model's state; the second prompt starts with the first."""

    end: Prompt
    """The instruction and the whole answer: what comes next is the end of the turn, or should be."""
    question: Prompt
    """After it, whether the answer is good."""


class Prompts:
    """Renders every prompt of a run for one tokenizer."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        instruction_tokens: int,
        rubric: str = RUBRIC,
        seed_tag: str = SEED_TAG,
        web_tag: str = WEB_TAG,
    ) -> None:
        """`max_tokens` bounds prompt and target together; `instruction_tokens` is kept free for the backward model's answer."""
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.instruction_tokens = instruction_tokens
        self.rubric = rubric
        self.seed_tag = seed_tag
        self.web_tag = web_tag
        self._rating_prefill_ids, self._rating_choices = self._split_choices(RATING_PREFILL, SCORES)

    @property
    def both_tags(self) -> str:
        """The tags given at inference: S_a, then S_w."""
        return " ".join(tag for tag in (self.seed_tag, self.web_tag) if tag)

    # -- prompts ---------------------------------------------------------------------------------------------------

    def answer(self, instruction: str, tag: str, *, seed: int = 0) -> Prompt:
        """Render the forward prompt: the instruction with its tag after it. An empty instruction gives p(y) its prompt."""
        return self._prompt("\n\n".join(part for part in (self.clean(instruction), tag) if part), seed=seed)

    def backward(self, document: str, *, seed: int = 0) -> Prompt:
        """Render the backward prompt. A long document loses its end, so that the instruction always fits."""
        most = self.max_tokens - self.instruction_tokens
        text = self.clean(document)
        room = most - len(self.tokenizer.encode(self.tokenizer.chat(BACKWARD_PROMPT.format(document="")))) - 8
        while True:
            prompt = self._prompt(BACKWARD_PROMPT.format(document=self._cut(text, room)), seed=seed)
            if len(prompt.token_ids) <= most or room <= 0:
                return prompt
            room -= len(prompt.token_ids) - most  # merges at the cut may re-tokenise longer; 8 is nearly always enough

    def rate(self, instruction: str, response: str) -> Prompt | None:
        """Render the rating prompt; its next token is the score. None for a pair that does not fit whole.

        A rating of a cut answer would be a rating of another answer.
        """
        user = self._fill_rubric(self.clean(instruction), self.clean(response))
        text = self.tokenizer.chat(user)
        ids = (*self.tokenizer.encode(text), *self._rating_prefill_ids)
        if len(ids) > self.max_tokens:
            return None
        return Prompt(user=user, prefill=RATING_PREFILL, text=text + RATING_PREFILL, token_ids=ids)

    def rate_sampled(self, instruction: str, response: str, *, reasoning_tokens: int, seed: int) -> Prompt | None:
        """Render the rating prompt that asks for reasoning first. None for a pair that does not fit whole beside the reply."""
        rubric = self._fill_rubric(self.clean(instruction), self.clean(response))
        prompt = self._prompt(f"{rubric}\n\n{REASONING_REQUEST}", seed=seed)
        room = self.max_tokens - reasoning_tokens - len(self._rating_prefill_ids)
        return prompt if len(prompt.token_ids) <= room else None

    def rewrite(self, instruction: str, document: str, *, answer_tokens: int, seed: int) -> Prompt | None:
        """Render the prompt for a new response. None where the whole document does not fit beside the answer."""
        user = REWRITE_PROMPT.format(instruction=self.clean(instruction), document=self.clean(document))
        prompt = self._prompt(user, seed=seed)
        return prompt if len(prompt.token_ids) + answer_tokens <= self.max_tokens else None

    def rate_after(self, prompt: Prompt, reasoning: str) -> Prompt:
        """Render `rate_sampled`'s prompt with a reply's reasoning already given; its next token is the score.

        Reasoning that has become too long, tokenised again, loses its end.
        """
        room = self.max_tokens - len(prompt.token_ids) - len(self._rating_prefill_ids)
        given = self.clean(reasoning)
        ids = self.tokenizer.encode(f"{given}\n\n" if given else "")[:room]
        prefill = self.tokenizer.decode(ids) + RATING_PREFILL
        token_ids = (*prompt.token_ids, *ids, *self._rating_prefill_ids)
        return Prompt(
            user=prompt.user, prefill=prefill, text=prompt.text + prefill, token_ids=token_ids, seed=prompt.seed
        )

    def probe(self, instruction: str, response: str) -> ProbePrompts | None:
        """Render the prompts at whose ends a probe reads the model; None for a pair that does not fit whole."""
        shell, target = self.answer(instruction, self.both_tags), self.target(response)
        asked = "\n" + self.tokenizer.chat(QUESTION)
        turn = len(self.tokenizer.end_of_turn)
        end = (*shell.token_ids, *target.token_ids[:-turn])
        question = (*shell.token_ids, *target.token_ids, *self.tokenizer.encode(asked))
        if len(question) > self.max_tokens:
            return None
        answer = self.clean(response)
        told = f"{shell.text}{answer}{self.tokenizer.decode(self.tokenizer.end_of_turn)}{asked}"
        return ProbePrompts(
            Prompt(user=shell.user, prefill=answer, text=shell.text + answer, token_ids=end),
            Prompt(user=shell.user, prefill=answer, text=told, token_ids=question),
        )

    @property
    def end_of_turn(self) -> Choice:
        """The token that ends an answer, as a choice whose probability can be asked."""
        return Choice(text="end of turn", token_id=self.tokenizer.end_of_turn[0])

    @property
    def rating_choices(self) -> tuple[Choice, ...]:
        """The five scores as tokens that can follow `rate`'s and `rate_after`'s prompt, 1 first."""
        return self._rating_choices

    # -- targets ---------------------------------------------------------------------------------------------------

    def target(self, text: str) -> Continuation:
        """Render a training target or a text whose likelihood is asked: its tokens and the end of the turn."""
        ids = (*self.tokenizer.encode(self.clean(text)), *self.tokenizer.end_of_turn)
        return Continuation(text=text, token_ids=ids)

    def render(self, prompt: Prompt, target: Continuation) -> Rendered | str:
        """Join prompt and target into a training row with loss on the target only, or say why the row cannot be used."""
        if not target.text.strip():
            return "target_empty"
        if len(prompt.token_ids) + len(target.token_ids) > self.max_tokens:
            return "target_cut"
        ids = prompt.token_ids + target.token_ids
        return Rendered(input_ids=ids, labels=(IGNORE,) * len(prompt.token_ids) + target.token_ids)

    def clean(self, text: str) -> str:
        """Break up special-token strings in content, so that text from the web cannot forge a turn."""
        for token in self.tokenizer.special_tokens:
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text.strip()

    # -- identity --------------------------------------------------------------------------------------------------

    def fingerprint(self) -> dict[str, str]:
        """Return a digest per prompt kind, for stage identity: a changed wording or chat template changes it."""
        kinds = {
            "answer": self.tokenizer.chat(f"{{instruction}}\n\n{self.seed_tag}\n\n{self.web_tag}"),
            "backward": self.tokenizer.chat(BACKWARD_PROMPT),
            "rate": self.tokenizer.chat(self.rubric) + RATING_PREFILL,
            "rate_sampled": self.tokenizer.chat(f"{self.rubric}\n\n{REASONING_REQUEST}") + RATING_PREFILL,
            "probe": self.tokenizer.chat(QUESTION),
            "rewrite": self.tokenizer.chat(REWRITE_PROMPT),
        }
        return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in kinds.items()}

    # -- inner -----------------------------------------------------------------------------------------------------

    def _prompt(self, user: str, *, seed: int) -> Prompt:
        text = self.tokenizer.chat(user)
        return Prompt(user=user, prefill="", text=text, token_ids=tuple(self.tokenizer.encode(text)), seed=seed)

    def _fill_rubric(self, instruction: str, response: str) -> str:
        # not str.format: a user's rubric may hold braces of its own
        head, _, rest = self.rubric.partition("{instruction}")
        middle, _, tail = rest.partition("{response}")
        return f"{head}{instruction}{middle}{response}{tail}"

    def _cut(self, text: str, room: int) -> str:
        ids = self.tokenizer.encode(text)
        if len(ids) <= room:
            return text
        return self.tokenizer.decode(ids[: max(room, 0)]).rstrip("\ufffd")  # the cut may fall inside a character

    def _split_choices(self, prefill: str, texts: Sequence[str]) -> tuple[tuple[int, ...], tuple[Choice, ...]]:
        """Split `prefill + choice` into the tokens all choices share and the one token that tells them apart.

        Tokenizers differ: "Score: 4" ends in " 4" for one and in " ", "4" for another.
        """
        encoded = [self.tokenizer.encode(prefill + text) for text in texts]
        shared = 0
        while all(len(ids) > shared and ids[shared] == encoded[0][shared] for ids in encoded):
            shared += 1
        if any(len(ids) != shared + 1 for ids in encoded):
            raise ValueError(f"the tokenizer does not write the scores {', '.join(texts)} as one token each")
        prefill_ids = tuple(encoded[0][:shared])
        return prefill_ids, tuple(Choice(text=t, token_id=ids[-1]) for t, ids in zip(texts, encoded, strict=True))
