"""A model folder's tokenizer as `prompts.Tokenizer`. In: a folder. Out: the template contract for that model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from humpback.errors import InputError

__all__ = ["HFTokenizer", "first_line"]

MARKER = "humpback-marker"
PLAIN_TEMPLATE = "{bos}### Instruction:\n{user}\n\n### Response:\n"
"""For a base model whose tokenizer brings no chat template."""
FIXED_DATE = "{% macro strftime_now(format) %}01 Jan 2024{% endmacro %}{{ '' }}"
"""Put before a template that writes today's date into the system message: a prompt must not change overnight."""


def first_line(error: Exception) -> str:
    """Return what a library's error says first: an error of ours is one line."""
    return (str(error).strip().splitlines() or ["no reason given"])[0]


class HFTokenizer:
    """The tokenizer of a model folder, with the folder's chat template or, for lack of one, `PLAIN_TEMPLATE`."""

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
        self._template = self._find_template()
        self._bos = self._find_bos()
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
        if not self._template:
            return PLAIN_TEMPLATE.format(bos=self._bos, user=user)
        text = self._render([{"role": "user", "content": user}], add_generation_prompt=True)
        return text if text.startswith(self._bos) else self._bos + text

    # -- inner -----------------------------------------------------------------------------------------------------

    def _decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
            )
        )

    def _render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    chat_template=self._template,
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
        try:
            template = str(self._tokenizer.get_chat_template()) if self._tokenizer.chat_template else ""
        except ValueError as error:  # several templates, and none is the default
            raise self._template_fault(error) from error
        return FIXED_DATE + template if "strftime_now" in template else template

    def _find_bos(self) -> str:
        """Return what must stand at the start of every chat text: the BOS if this model's texts begin with one."""
        bos = self._tokenizer.bos_token or ""
        if not self._template:
            return bos
        # a template may leave the BOS to the tokenizer, which `encode` keeps from adding any
        adds_bos = self._tokenizer.encode("a")[:1] == [self._tokenizer.bos_token_id]
        return bos if adds_bos else ""

    def _find_end_of_turn(self) -> tuple[int, ...]:
        """Return what the template writes after an answer, up to its first special token."""
        if self._template:
            turn = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": MARKER}]
            tail = self.encode(self._render(turn, add_generation_prompt=False).rpartition(MARKER)[2])
            for position, token_id in enumerate(tail):
                if token_id in self._special_ids:
                    return tuple(tail[: position + 1])
        return (self.eos_token_id,)
