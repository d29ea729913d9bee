"""OpenAI's shapes: models, chat completions whole and streamed, citations as annotations, and the errors of bad requests."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import urlencode

from fastapi.responses import JSONResponse

from headrace.answering.record import Answer
from headrace.api.answers import AnswerDetails, AnswerResponse, TokenUsage, answer_response
from headrace.api.auth import Caller
from headrace.api.errors import body_of
from headrace.api.schemas import ApiResponse
from headrace.api.telemetry import MODEL
from headrace.errors import HeadraceError, ModelNotFound
from headrace.models.citations import Support
from headrace.models.http import error_response

SEARCH = f"{MODEL}-search"
"""The model that returns passages and writes nothing."""
EMBEDDER = f"{MODEL}-embedder"
MODELS = (MODEL, SEARCH, EMBEDDER)
_LISTED = 10
"""Passages that the model `SEARCH` shows."""


class ModelResponse(ApiResponse):
    """A model, as OpenAI lists models."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str


class ModelList(ApiResponse):
    """The models."""

    object: Literal["list"] = "list"
    data: list[ModelResponse]


class ChatCompletion(ApiResponse):
    """OpenAI's chat completion; `headrace` has citations and versions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: TokenUsage
    headrace: AnswerDetails


def check_model(name: str, *known: str) -> None:
    """Raise `ModelNotFound` for an unknown model, or one that this route does not have."""
    if name not in (known or MODELS):
        raise ModelNotFound(
            f"The model `{name}` does not exist or you do not have access to it.",
            hint=f"Here: {', '.join(known or MODELS)}.",
        )


def model(name: str) -> ModelResponse:
    """A model as OpenAI lists it."""
    return ModelResponse(id=name, owned_by=MODEL)


def listing(found: Answer) -> Answer:
    """The best passages of a search as a text that cites each of them."""
    passages = found.passages[:_LISTED]
    texts = [
        f"[{number}] {' · '.join(filter(None, (hit.uri, hit.place)))}\n{hit.text}"
        for number, hit in enumerate((passage.hit for passage in passages), 1)
    ]
    supports = [
        Support(text, number, 0, len(passage.hit.text))
        for number, (text, passage) in enumerate(zip(texts, passages, strict=True), 1)
    ]
    return replace(found, text="\n\n".join(texts), passages=passages, supports=tuple(supports), mode="passages")


def url_citations(answer: AnswerResponse, base: str) -> list[dict[str, Any]]:
    """What OpenAI's `url_citation`s hold: where the cited sentence is, and the page's address of its document."""
    found = []
    for citation in answer.citations:
        address = f"{base}/#/documents?{urlencode({'uri': citation.document, 'chunk': citation.chunk_id})}"
        title = " · ".join(filter(None, (citation.document, citation.place)))
        for span in citation.spans:
            start = answer.answer.find(f"{span.sentence} [{citation.number}]")  # a few words may be elsewhere in it, too
            start = answer.answer.find(span.sentence) if start < 0 else start
            if start >= 0:
                end = start + len(span.sentence)
                found.append({"start_index": start, "end_index": end, "url": address, "title": title})
    return found


def _annotations(answer: AnswerResponse, base: str) -> list[dict[str, Any]]:
    return [{"type": "url_citation", "url_citation": where} for where in url_citations(answer, base)]


def whole(answer: AnswerResponse, base: str, name: str = MODEL) -> ChatCompletion:
    """An answer as one body; `base` is the service's address."""
    cited = _annotations(answer, base)
    message = {"role": "assistant", "content": answer.answer, "refusal": None, "annotations": cited}
    return ChatCompletion(
        id=f"chatcmpl-{answer.answer_id}",
        created=int(time.time()),
        model=name,
        choices=[{"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}],
        usage=answer.usage,
        headrace=details_of(answer),
    )


async def streamed(
    answer_id: str,
    first: str | Answer,
    rest: AsyncGenerator[str | Answer, None],
    caller: Caller,
    base: str,
    *,
    name: str = MODEL,
    usage: bool,
) -> AsyncIterator[str]:
    """An answer as server-sent events; the last chunk with a choice has `headrace`, and `usage` adds a chunk of its own."""
    common = {"id": f"chatcmpl-{answer_id}", "object": "chat.completion.chunk", "created": int(time.time()), "model": name}

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _data({**common, "choices": [choice], **more})

    def encoded(piece: str | Answer) -> str:
        if isinstance(piece, str):
            return chunk({"content": piece})
        answer = answer_response(piece, caller)
        cited = _annotations(answer, base)
        delta = {"annotations": cited} if cited else {}
        end = chunk(delta, answer.finish_reason, headrace=details_of(answer).model_dump(exclude_defaults=True))
        return end + _data({**common, "choices": [], "usage": answer.usage.model_dump()}) if usage else end

    async with aclosing(rest):
        yield chunk({"role": "assistant", "content": ""}) + encoded(first)
        try:
            async for piece in rest:
                yield encoded(piece)
        except HeadraceError as error:
            yield _data(body_of(error, caller))
        yield "data: [DONE]\n\n"


def wrong(faults: Sequence[Mapping[str, Any]]) -> JSONResponse:
    """The answer to a request with these faults of pydantic's, the first in OpenAI's words and codes."""
    first = _param(faults[0])
    if str(faults[0]["type"]).endswith("_type"):  # of what the field may be, that of which more was right is meant
        first = max((one for one in map(_param, faults) if one.startswith(f"{first}[")), key=len, default=first)
    same = [fault for fault in faults if _param(fault) == first]  # one for each type that the field may have
    fault = next((fault for fault in same if not fault["type"].endswith("_type")), same[0])
    kind, given, limits = str(fault["type"]), fault.get("input"), dict(fault.get("ctx") or {})
    param = first or None
    if param is None and kind == "value_error":
        return error_response(400, f"Invalid request: {fault['msg'].removeprefix('Value error, ')}.", "invalid_value")
    if param is None:
        return error_response(400, "We could not parse the JSON body of your request: it is no JSON object.", "invalid_json")
    message, code = f"Invalid '{param}': {fault['msg'].removeprefix('Value error, ')}.", "invalid_value"
    number = "integer" if isinstance(given, int) and not isinstance(given, bool) else "decimal"
    match kind:
        case "missing":
            message, code = f"Missing required parameter: '{param}'.", "missing_required_parameter"
        case "extra_forbidden":
            message, code = f"Unknown parameter: '{param}'.", "unknown_parameter"
        case "greater_than_equal" | "greater_than":
            least = limits.get("ge", limits.get("gt"))
            message = f"Invalid '{param}': {number} below minimum value. Expected a value >= {least}, but got {given} instead."
            code = f"{number}_below_min_value"
        case "less_than_equal" | "less_than":
            most = limits.get("le", limits.get("lt"))
            message = f"Invalid '{param}': {number} above maximum value. Expected a value <= {most}, but got {given} instead."
            code = f"{number}_above_max_value"
        case "too_long":
            most, length = limits["max_length"], limits["actual_length"]
            message = f"Invalid '{param}': array too long. Expected at most {most} elements, but got {length}."
            code = "array_above_max_length"
        case "too_short":
            message, code = f"Invalid '{param}': empty array. Expected at least {limits['min_length']}.", "empty_array"
        case "string_too_long":
            message = f"Invalid '{param}': string too long. Expected a string with maximum length {limits['max_length']}."
            code = "string_above_max_length"
        case "literal_error":
            message = f"Invalid value for '{param}'. Supported values are: {limits['expected']}."
        case "unsupported_parameter" | "unsupported_value" | "invalid_value":
            message, code = fault["msg"], kind
        case _ if kind.endswith(("_type", "_parsing")):
            wanted = kind.rpartition("_")[0].replace("float", "decimal").replace("int", "integer").replace("_", " ")
            message, code = f"Invalid type for '{param}': expected {wanted}.", "invalid_type"
    return error_response(400, message, code, param=param)


def _param(fault: Mapping[str, Any]) -> str:
    """The place of a fault as OpenAI writes it, like `messages[0].role`, without the names of alternatives pydantic tried."""
    if named := (fault.get("ctx") or {}).get("param"):
        return str(named)
    path = ""
    for part in fault["loc"][1:]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "list", "int"):
            path += f".{part}" if path else part
    return path


def details_of(answer: AnswerResponse) -> AnswerDetails:
    """What an answer has beyond OpenAI's fields."""
    return AnswerDetails.model_validate({name: getattr(answer, name) for name in AnswerDetails.model_fields})


def _data(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"
