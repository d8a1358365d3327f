"""A model folder's tokenizer as `prompts.Tokenizer`. In: a folder. Out: the template contract for that model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from humpback.errors import InputError

__all__ = ["MARKER", "HFTokenizer", "first_line"]

MARKER = "humpback-marker"
"""A message that a template leaves as it is, to find out what stands around it."""
BOS = "{{ bos_token }}"
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}"
    "{% else %}{{ message['content'] + '\\n\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
)
"""For a base model whose tokenizer brings no chat template; a system message stands above, without a header."""
FIXED_DATE = "{% macro strftime_now(format) %}01 Jan 2024{% endmacro %}{{ '' }}"
"""Put before a template that writes today's date into the system message: a prompt must not change overnight."""


def first_line(error: Exception) -> str:
    """Return what a library's error says first: an error of ours is one line."""
    return (str(error).strip().splitlines() or ["no reason given"])[0]


class HFTokenizer:
    """The tokenizer of a model folder, with the folder's chat template or, for lack of one, `PLAIN_TEMPLATE`.

    `template` is the whole of the contract as a chat template: whoever renders it (transformers, vLLM, llama.cpp) has the text of
    `chat`, BOS included, which every one of them then encodes without adding another. A trained model carries it.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        auto: Any = AutoTokenizer
        self._folder = folder
        try:
            self._tokenizer = auto.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # a damaged file fails anywhere in the readers, with any error
            raise InputError(
                f"the tokenizer in {folder} cannot be read ({type(error).__name__}: {first_line(error)}); "
                "copy or fetch the folder again, or save it again with save_pretrained"
            ) from error
        if self._tokenizer.eos_token_id is None:
            raise InputError(f"the tokenizer in {folder} has no eos_token; name one in its tokenizer_config.json")
        added = (token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special)
        self._special_tokens = tuple(dict.fromkeys((*self._tokenizer.all_special_tokens, *added)))
        self._special_ids = frozenset(self._tokenizer.convert_tokens_to_ids(list(self._special_tokens)))
        self.template = self._find_template()
        self._end_of_turn = self._find_end_of_turn()

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Strings that `encode` turns into special tokens."""
        return self._special_tokens

    @property
    def end_of_turn(self) -> tuple[int, ...]:
        """Token ids that end an assistant's turn."""
        return self._end_of_turn

    @property
    def bos(self) -> str:
        """The token that texts may begin with; empty where the tokenizer has none."""
        return str(self._tokenizer.bos_token or "")

    @property
    def eos_token_id(self) -> int:
        """The tokenizer's own end token, which a chat template may use or not."""
        return int(self._tokenizer.eos_token_id)

    def encode(self, text: str) -> list[int]:
        """Return token ids, special tokens recognised, none added. A lone surrogate becomes `?`."""
        valid = text.encode("utf-8", "replace").decode("utf-8")  # tokenizers refuse a lone surrogate
        # verbose: no warning about a text longer than the model takes; the engine answers those with an error
        return list(self._tokenizer.encode(valid, add_special_tokens=False, verbose=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the tokens, special tokens written out."""
        return self._decode(ids, skip_special_tokens=False)

    def decode_plain(self, ids: Sequence[int]) -> str:
        """Return the text of the tokens without special tokens."""
        return self._decode(ids, skip_special_tokens=True)

    def chat(self, user: str) -> str:
        """Return the chat text of one user turn up to and including the start of the assistant's answer."""
        return self._render([{"role": "user", "content": user}], self.template, add_generation_prompt=True)

    # -- inner -----------------------------------------------------------------------------------------------------

    def _decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
            )
        )

    def _render(self, messages: list[dict[str, str]], template: str, *, add_generation_prompt: bool) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    chat_template=template,
                )
            )
        except Exception as error:  # a template is a program: it may raise what it likes
            raise self._template_fault(error) from error

    def _template_fault(self, error: Exception) -> InputError:
        return InputError(
            f"the chat template in {self._folder} fails on a plain turn ({type(error).__name__}: {first_line(error)}); "
            "correct it in chat_template.jinja or tokenizer_config.json, or take it out to use the plain one"
        )

    def _find_template(self) -> str:
        """Return the folder's template, or the plain one, with the BOS at its start if this model's texts begin with one."""
        bos = self._tokenizer.bos_token or ""
        try:
            own = str(self._tokenizer.get_chat_template()) if self._tokenizer.chat_template else ""
        except ValueError as error:  # several templates, and none is the default
            raise self._template_fault(error) from error
        if not own:
            return (BOS if bos else "") + PLAIN_TEMPLATE
        template = FIXED_DATE + own if "strftime_now" in own else own
        # a template may leave the BOS to the tokenizer, which `encode` keeps from adding any
        adds_bos = bos and self._tokenizer.encode("a")[:1] == [self._tokenizer.bos_token_id]
        text = self._render([{"role": "user", "content": MARKER}], template, add_generation_prompt=True)
        return BOS + template if adds_bos and not text.startswith(bos) else template

    def _find_end_of_turn(self) -> tuple[int, ...]:
        """Return what the template writes after an answer, up to its first special token."""
        turn = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": MARKER}]
        tail = self.encode(self._render(turn, self.template, add_generation_prompt=False).rpartition(MARKER)[2])
        for position, token_id in enumerate(tail):
            if token_id in self._special_ids:
                return tuple(tail[: position + 1])
        return (self.eos_token_id,)
