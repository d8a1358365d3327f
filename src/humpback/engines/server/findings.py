"""What a server was found able to do. In: a probe. Out: the capabilities an engine may claim, and the same in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from humpback.engines.base import Capability

__all__ = ["Findings"]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """One server and one of the models it serves."""

    url: str
    is_here: bool = False
    """Whether the address is this machine's own."""
    kind: Literal["vllm", "llama.cpp", "sglang", "other"]
    """By what the server says of itself."""
    models: tuple[str, ...]
    """Names it lists; empty from a server that lists none."""
    model: str
    """The name asked for."""
    answers_as: str | None = None
    """The name in its replies: hosted services put the revision here."""
    folder: str | None = None
    """Folder or file of the weights, as the server states it."""
    details: str = ""
    """What else the server states of the model: size, parameters, vocabulary."""
    context: int | None = None
    """Longest prompt and answer together, in tokens."""
    vocabulary: int | None = None
    """Number of tokens."""
    completions: bool = False
    """Whether it continues a text of ours (`/v1/completions`)."""
    chat: bool = False
    """Whether it answers messages (`/v1/chat/completions`)."""
    token_prompts: bool = False
    """Whether a prompt may be token ids, and arrives as such."""
    extensions: bool = False
    """Whether it takes sampling settings beyond OpenAI's: `top_k` and the like, whose defaults differ between servers."""
    drawn_tokens: bool = False
    """Whether it returns the ids of the tokens it draws, with their log-probabilities."""
    top_logprobs: int = 0
    """Most probable next tokens it tells, with log-probabilities."""
    chat_top_logprobs: int = 0
    """The same of its chat endpoint; not used, for a chat endpoint cannot be given the start of an answer."""
    choices: Literal["named", "biased", "each", "top"] | None = None
    """How log P of given tokens is had. named: `logprob_token_ids`, exact. biased: `logit_bias` on llama.cpp's own endpoint,
    exact. each: among the most probable ones, and each that is not there by a likelihood of its own, exact. top: among the most
    probable ones, where they are."""
    likelihood: Literal["prompt_logprobs", "echo"] | None = None
    """How the log-probabilities of a given text are had."""
    seeds: Literal["kept", "ignored", "unknown"] = "unknown"
    """Whether the same seed gives the same text."""
    length_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What its chat endpoint calls the most tokens to draw."""

    def capabilities(self, *, knows_tokenizer: bool) -> frozenset[Capability]:
        """Return what an engine may claim. Without the server's tokenizer it can be sent messages only."""
        found: set[Capability] = set()
        if (self.completions and knows_tokenizer) or self.chat:
            found.add("generate")
        if self.choices and knows_tokenizer and self.token_prompts:
            found.add("choice_logprobs")
        if self.likelihood and knows_tokenizer and self.token_prompts:
            found.add("loglikelihood")
        return frozenset(found)

    def lacks(self, capability: Capability, *, knows_tokenizer: bool) -> str:
        """Return why a capability is not claimed, and what would give it."""
        likelihoods = "serve the model with vLLM"
        needs = f"{likelihoods} (all signals but probe) or llama.cpp (rating)"
        if capability == "hidden_states":
            return "no server tells hidden states; use runtime.engine=hf"
        if not self.completions:
            return f"it is a chat endpoint, which cannot be given the start of an answer or a text to judge; {needs}"
        if not knows_tokenizer:
            return "its tokenizer is not known; name it as runtime.server.tokenizer"
        if not self.token_prompts:
            return f"it does not take token ids as a prompt, so that a text may be cut into other tokens than ours; {needs}"
        if capability == "choice_logprobs":
            return f"it tells no log-probabilities of the next token; {needs}"
        return f"it tells no log-probabilities of a prompt (neither prompt_logprobs nor echo); {likelihoods}"

    def describe(self) -> Iterator[str]:
        """Say in plain words what there is; one line each."""
        yield f"server {self.url}: {self.kind if self.kind != 'other' else 'of a kind not known by name'}"
        yield f"  model {self.model}" + (f", answers as {self.answers_as}" if self.answers_as != self.model else "")
        if len(self.models) > 1:
            yield f"  serves also: {', '.join(name for name in self.models if name != self.model)}"
        if self.details:
            yield f"  states: {self.details}"
        yield f"  longest prompt and answer: {f'{self.context} tokens' if self.context else 'not told'}"
        yield f"  continues a text (/v1/completions): {_yes(self.completions)}; answers messages (chat): {_yes(self.chat)}"
        yield f"  takes token ids as a prompt: {_yes(self.token_prompts)}; returns the ids drawn: {_yes(self.drawn_tokens)}"
        yield f"  most probable next tokens told: {self.top_logprobs} (completions), {self.chat_top_logprobs} (chat, not used)"
        yield f"  the same seed gives the same text: {_SEEDS[self.seeds]}"
        yield f"  rating by probabilities (choice_logprobs): {_CHOICES[self.choices]}"
        yield f"  likelihood signals (loglikelihood): {_LIKELIHOOD[self.likelihood]}"
        claimed = sorted(self.capabilities(knows_tokenizer=True))
        yield f"  so an engine can: {', '.join(claimed) or 'nothing'}"
        if not self.choices:
            yield "  it can still rate by sampled replies"


_SEEDS = {"kept": "yes", "ignored": "no: drawn anew each time", "unknown": "cannot be told"}
_CHOICES = {
    "named": "exact, by logprob_token_ids",
    "biased": "exact, by logit_bias on /completion",
    "each": "exact, by up to six requests for one rating (few log-probabilities, and the likelihood of each score)",
    "top": "where the five scores are among the most probable tokens; else the rating is missing",
    None: "no",
}
_LIKELIHOOD = {"prompt_logprobs": "yes, by prompt_logprobs", "echo": "yes, by echo", None: "no"}


def _yes(value: bool) -> str:
    return "yes" if value else "no"
