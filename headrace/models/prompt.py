"""The generator's prompt, the same for answering and for training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

STOP = ("\n\n",)
"""Texts that end an answer besides the model's end token: after a blank line small models go on with unrelated text."""
# A line of a passage that begins as the question or the answer of this prompt does.
_FRAME = re.compile(
    r"((?:\A|(?<=[\n\r\v\f\x85\u2028\u2029]))[^\S\n\r\v\f\x85\u2028\u2029]*(?:question|answer))(?=\s*[:：])", re.IGNORECASE
)
# The first character of a chat template's speaker mark: <|name|> in most models, and Mistral's, Llama's and Gemma's.
_MARK = re.compile(r"[<\[](?=[|｜][^\s<>]{1,64}[|｜]>|/?INST\]|</?SYS>>|/?s>|(?:start|end)_of_turn>|(?:bos|eos)>)")


def messages(question: str, passages: Sequence[str], instructions: str = "") -> list[dict[str, str]]:
    """The chat messages. Passages come first, best first: questions about the same ones share that prefix and its KV.

    It has no instructions but a client's: of the prompts tried with the embedded 135M generator, those with instructions did
    worse (docs/explanation/decisions.md). Text of a passage that looks like part of the prompt or like another speaker is broken
    up by a space.
    """
    context = "\n\n".join(_MARK.sub(r"\g<0> ", _FRAME.sub(r"\1 ", passage)) for passage in passages)
    asked = {"role": "user", "content": f"{context}\n\nQuestion: {question}\nAnswer:"}
    return [{"role": "system", "content": instructions}, asked] if instructions else [asked]


class Ending:
    """Passes text on as it arrives, except what is or may become one of the texts that end an answer."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.reached = False

    def take(self, piece: str) -> str:
        """The part of the text so far that may be passed on now; nothing once an end was reached."""
        if self.reached:
            return ""
        text = self._held + piece
        ends = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.reached, self._held = True, ""
            return text[: min(ends)]
        may_be = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - may_be :]
        return text[: len(text) - may_be]

    def rest(self) -> str:
        """Text that was held back and did not become an end."""
        pending, self._held = self._held, ""
        return pending


def encode(tokenizer: Any, messages: Sequence[tuple[str, str]]) -> list[int]:
    """Token ids of a chat of (role, text) pairs, up to where the assistant's text begins.

    Special tokens inside a text are spelled out, so that a document cannot pose as another speaker.
    """
    marks = re.compile("|".join(map(re.escape, tokenizer.all_special_tokens)))
    chat = [{"role": role, "content": marks.sub(lambda mark: " ".join(mark[0]), text)} for role, text in messages]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def ends(model: Any, tokenizer: Any) -> set[int]:
    """Ids of the tokens that end the model's answer."""
    known = tokenizer.get_vocab()
    marks = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
    return {model.config.eos_token_id, *(known[mark] for mark in marks if mark in known)}
