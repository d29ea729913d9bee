"""The generator's prompt: the one that answering sends and training learns on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

STOP = ("\n\n",)
"""What ends an answer besides the model's own mark: small models go on with something of their own behind a blank line."""
# A line of a passage that begins as the question or the answer of this prompt does.
_FRAME = re.compile(
    r"((?:\A|(?<=[\n\r\v\f\x85\u2028\u2029]))[^\S\n\r\v\f\x85\u2028\u2029]*(?:question|answer))(?=\s*[:：])", re.IGNORECASE
)
# The first character of what means another speaker to a chat template: <|name|> of most models, Mistral's, Llama's and Gemma's.
_MARK = re.compile(r"[<\[](?=[|｜][^\s<>]{1,64}[|｜]>|/?INST\]|</?SYS>>|/?s>|(?:start|end)_of_turn>|(?:bos|eos)>)")


def messages(question: str, passages: Sequence[str]) -> list[dict[str, str]]:
    """The chat message. Passages come first, best first: questions about the same ones share that prefix and its KV.

    Plain on purpose: of the prompts tried with the embedded 135M generator, those with instructions did worse
    (docs/explanation/decisions.md). In a passage, what would pose as part of the prompt or as another speaker gets a space.
    """
    context = "\n\n".join(_MARK.sub(r"\g<0> ", _FRAME.sub(r"\1 ", passage)) for passage in passages)
    return [{"role": "user", "content": f"{context}\n\nQuestion: {question}\nAnswer:"}]


def encode(tokenizer: Any, messages: Sequence[tuple[str, str]]) -> list[int]:
    """Token ids of a chat, given as (role, text), up to where the assistant speaks.

    Marks of the template inside a text are spelled out, so that a document cannot pose as another speaker.
    """
    marks = re.compile("|".join(map(re.escape, tokenizer.all_special_tokens)))
    chat = [{"role": role, "content": marks.sub(lambda mark: " ".join(mark[0]), text)} for role, text in messages]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def ends(model: Any, tokenizer: Any) -> set[int]:
    """Tokens with which the model says that it has said all."""
    known = tokenizer.get_vocab()
    marks = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
    return {model.config.eos_token_id, *(known[mark] for mark in marks if mark in known)}
