"""What OpenAI's clients may ask: each field is obeyed or refused in OpenAI's words, and an unread history kills no chat."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from headrace.answering.options import AnswerOptions, Limit, limited
from headrace.answering.record import Answer
from headrace.api.chat import ChatCompletionRequest
from headrace.api.openai import check_model, wrong
from headrace.api.routes.openai import EmbeddingRequest
from headrace.errors import ModelNotFound
from headrace.models.citations import Support
from headrace.models.http import code_of, error_body, status_of

ASK = [{"role": "user", "content": "How long are backups kept?"}]


def body(**more: Any) -> dict[str, Any]:
    return {"model": "headrace", "messages": ASK, **more}


def error_of(kind: Any, given: Any) -> dict[str, Any]:
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(given)
    faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in refused.value.errors()]
    error: dict[str, Any] = json.loads(bytes(wrong(faults).body))["error"]
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"temperature": 9}, "temperature", "integer_above_max_value"),
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"top_p": 1.5}, "top_p", "decimal_above_max_value"),
        ({"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens", "invalid_type"),
        ({"presence_penalty": 3}, "presence_penalty", "integer_above_max_value"),
        ({"frequency_penalty": -2.5}, "frequency_penalty", "decimal_below_min_value"),
        ({"seed": "x"}, "seed", "invalid_type"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "array_above_max_length"),
        ({"n": 2}, "n", "unsupported_value"),
        ({"n": True}, "n", "unsupported_value"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_value"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "unsupported_value"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_value"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format", "unsupported_value"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"top_logprobs": 3}, "top_logprobs", "unsupported_parameter"),
        ({"logit_bias": {"50256": -100}}, "logit_bias", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_value"),
        ({"audio": {"voice": "alloy"}}, "audio", "unsupported_parameter"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"top_k": 5}, "top_k", "unknown_parameter"),
        ({"headrace": {"reader": ["ann"]}}, "headrace.reader", "unknown_parameter"),
        ({"headrace": {"answers": "spoken"}}, "headrace.answers", "invalid_value"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": None}, "messages", "invalid_type"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [*ASK, {"role": "assistant", "content": "35 d"}]}, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages", "invalid_value"),
        ({"messages": [{"role": "system", "content": "x" * 20_000}, *ASK]}, "messages", "invalid_value"),
    ],
)
def test_what_is_not_done_is_refused_as_openai_refuses_it(more: dict[str, Any], param: str, code: str) -> None:
    error = error_of(ChatCompletionRequest, body(**more))
    assert (error["param"], error["code"]) == (param, code)
    assert param.rpartition(".")[2] in error["message"]


def test_a_missing_model_and_a_body_that_is_no_object_are_said() -> None:
    assert error_of(ChatCompletionRequest, {"messages": ASK})["message"] == "Missing required parameter: 'model'."
    assert error_of(ChatCompletionRequest, [1])["code"] == "invalid_json"
    with pytest.raises(ModelNotFound) as unknown:
        check_model("gpt-4o")
    assert (status_of(unknown.value), code_of(unknown.value)) == (404, "model_not_found")
    assert error_body(404, "x", "model_not_found")["error"]["type"] == "invalid_request_error"


def test_what_asks_for_nothing_and_what_changes_nothing_is_taken() -> None:
    """As clients send it: their defaults, written out."""
    neutral = {
        "n": 1,
        "tools": None,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "logprobs": False,
        "top_logprobs": 0,
        "logit_bias": {},
        "modalities": ["text"],
        "service_tier": "auto",
        "store": False,
        "metadata": {"chat": "7"},
        "user": "ann",
        "stream": True,
        "stream_options": {"include_usage": True},
        "stop": None,
        "seed": None,
    }
    assert ChatCompletionRequest.model_validate(body(**neutral)).options == AnswerOptions()
    tools = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"}
    assert ChatCompletionRequest.model_validate(body(**tools)).options == AnswerOptions(), (
        "no tool is called, which is what none says"
    )


def test_what_is_obeyed_reaches_the_answer() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "In German."}]},
    ]
    options = ChatCompletionRequest.model_validate(
        body(
            messages=[*messages, *ASK],
            max_tokens=7,
            max_completion_tokens=9,
            temperature=0.5,
            top_p=0,
            seed=3,
            frequency_penalty=1,
            presence_penalty=-1,
            stop="END",
            headrace={"answers": "generated"},
        )
    ).options
    assert (options.mode, options.instructions, options.most_tokens) == ("generated", "Be brief.\n\nIn German.", 7)
    assert options.stop == ("END",)
    penalties = {"frequency_penalty": 1, "presence_penalty": -1}
    assert options.sampling == {"temperature": 0.5, "top_p": 1e-6, "seed": 3, **penalties}
    assert options.unused.startswith(
        "the system message and temperature and frequency_penalty and presence_penalty had no effect"
    )


def test_what_a_history_holds_besides_text_is_not_read_and_kills_no_chat() -> None:
    unread = [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text", "text": "And this?"}],
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]},
        {"role": "tool", "tool_call_id": "1", "content": {"odd": 1}},
        {"role": "user", "content": 7},
    ]
    asked = ChatCompletionRequest.model_validate(body(messages=unread * 400 + ASK))
    assert asked.question == ASK[0]["content"]
    assert {turn.question for turn in asked.history} == {"And this?"}


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"input": []}, "input", "empty_array"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": ["a", " "]}, "input", "invalid_value"),
        ({"input": [1, 2]}, "input", "unsupported_value"),
        ({"input": [[1, 2]]}, "input", "unsupported_value"),
        ({"input": ["a"] * 2_049}, "input", "array_above_max_length"),
        ({}, "input", "missing_required_parameter"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"input": "a", "dimensions": 0}, "dimensions", "integer_below_min_value"),
    ],
)
def test_embeddings_that_cannot_be_made_are_refused(given: dict[str, Any], param: str, code: str) -> None:
    error = error_of(EmbeddingRequest, {"model": "headrace-embedder", **given})
    assert (error["param"], error["code"]) == (param, code)


def shown(pieces: list[str], options: AnswerOptions, *, counted: bool = True) -> tuple[list[str], Answer]:
    supports = tuple(Support(piece.strip(), number) for number, piece in enumerate(pieces, 1))

    def told() -> Any:
        yield from pieces
        return Answer("?", "acme", "ann", (), "none", "g1", text="".join(pieces).strip(), supports=supports)

    out: list[str] = []
    running = limited(told(), options, counted=counted)
    while True:
        try:
            out.append(next(running))
        except StopIteration as ended:
            return out, ended.value


def test_a_text_ends_where_its_client_says() -> None:
    pieces = ["Kept for 35 days. [1]\n", "Then END gone. [2]"]
    out, answer = shown(pieces, AnswerOptions())
    assert (out, answer.finish_reason, len(answer.supports)) == (pieces, "stop", 2)
    out, answer = shown(pieces, AnswerOptions(stop=("END",)))
    assert ("".join(out), answer.text) == ("Kept for 35 days. [1]\nThen ", "Kept for 35 days. [1]\nThen")
    assert (answer.finish_reason, [support.number for support in answer.supports]) == ("stop", [1])
    out, answer = shown(pieces, AnswerOptions(most_tokens=3))
    assert (answer.text, answer.finish_reason, answer.supports) == ("Kept for 35", "length", ())
    assert shown(pieces, AnswerOptions(most_tokens=3), counted=False)[1].text == "".join(pieces), "a generator counts its own"
    assert shown(pieces, AnswerOptions(most_tokens=1_000))[1].finish_reason == "stop"


def test_a_stop_is_found_however_the_text_was_split() -> None:
    limit = Limit(("END",), None)
    assert "".join(limit.take(piece) for piece in ["a E", "N", "x EN", "D b"]) + limit.rest() == "a ENx "
    assert limit.ended == "stop"
