"""What OpenAI's clients may send to the Responses API: each field is obeyed or refused in OpenAI's words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from headrace.answering.follow_up import Turn
from headrace.answering.options import INSTRUCTIONS_CHARACTERS, AnswerOptions
from headrace.api.openai import wrong
from headrace.api.responses import ResponseRequest

QUESTION = "How long are backups kept?"
TOOL = {"type": "function", "name": "f", "parameters": {}}


def body(**more: Any) -> dict[str, Any]:
    return {"model": "headrace", "input": QUESTION, **more}


def message(role: str, text: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "integer_above_max_value"),
        ({"max_output_tokens": 0}, "max_output_tokens", "integer_below_min_value"),
        ({"store": False}, "store", "unsupported_value"),
        ({"background": True}, "background", "unsupported_value"),
        ({"text": {"format": {"type": "json_object"}}}, "text", "unsupported_value"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_value"),
        ({"tools": [TOOL]}, "tools", "unsupported_parameter"),
        ({"reasoning": {"effort": "high"}}, "reasoning", "unsupported_parameter"),
        ({"include": ["message.output_text.logprobs"]}, "include", "unsupported_parameter"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options", "unsupported_value"),
        ({"previous_response_id": "chatcmpl-1"}, "previous_response_id", "invalid_value"),
        ({"metadata": {"run": 1}}, "metadata", "invalid_value"),
        ({"messages": []}, "messages", "unknown_parameter"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": []}, "input", "empty_array"),
        ({"input": [message("user", QUESTION), message("assistant", "35 days.")]}, "input", "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]}, "input", "invalid_value"),
        ({"input": [{"role": "narrator", "content": QUESTION}]}, "input[0]", "invalid_value"),
        ({"input": [{"type": "spell", "content": QUESTION}]}, "input[0]", "invalid_value"),
        ({"instructions": "x" * 20_000}, "instructions", "invalid_value"),
        ({"input": [message("system", "x" * 20_000), message("user", QUESTION)]}, "input", "invalid_value"),
    ],
)
def test_what_is_not_done_is_refused_as_openai_refuses_it(more: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ResponseRequest.model_validate(body(**more))
    error = json.loads(bytes(wrong([{**fault, "loc": ("body", *fault["loc"])} for fault in refused.value.errors()]).body))[
        "error"
    ]
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"


def test_what_is_wrong_only_together_is_refused() -> None:
    half = "x" * (INSTRUCTIONS_CHARACTERS - 10)
    together = {"instructions": half, "input": [message("developer", half), message("user", QUESTION)]}
    with pytest.raises(ValidationError, match="with the system messages"):
        ResponseRequest.model_validate(body(**together))
    history = [message("user", "Are backups kept?"), message("assistant", "Yes."), message("user", "How long?")]
    with pytest.raises(ValidationError, match="cannot be used with earlier messages"):
        ResponseRequest.model_validate(body(input=history, previous_response_id="resp_" + "0" * 16))


def test_what_asks_for_nothing_and_what_changes_nothing_is_taken() -> None:
    neutral = {
        "background": False,
        "include": [],
        "store": True,
        "text": {"format": {"type": "text"}},
        "tool_choice": "none",
        "tools": [TOOL],
        "truncation": "auto",
        "parallel_tool_calls": True,
        "service_tier": "default",
        "metadata": {"chat": "7"},
        "prompt_cache_key": "k",
        "top_logprobs": 0,
        "user": "ann",
    }
    assert ResponseRequest.model_validate(body(**neutral)).options == AnswerOptions()


def test_what_is_obeyed_reaches_the_answer() -> None:
    items = [
        message("developer", "In German."),
        message("user", "Are backups kept?"),
        {"type": "reasoning", "summary": []},
        message("assistant", "They are."),
        message("user", QUESTION),
    ]
    asked = ResponseRequest.model_validate(
        body(input=items, instructions="Be brief.", max_output_tokens=7, temperature=0.5, top_p=0)
    )
    assert (asked.question, asked.history) == (QUESTION, [Turn("Are backups kept?", "They are.")])
    options = asked.options
    assert (options.instructions, options.most_tokens) == ("Be brief.\n\nIn German.", 7)
    assert options.sampling == {"temperature": 0.5, "top_p": 1e-6}
    follows = ResponseRequest.model_validate(body(previous_response_id="resp_" + "1" * 16))
    assert (follows.after, follows.history) == ("1" * 16, [])
