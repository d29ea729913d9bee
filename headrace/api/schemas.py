"""The bodies of requests and responses."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from headrace.answering.engine import NOT_STORED
from headrace.answering.record import CORRECTION_CHARACTERS, REASON_CHARACTERS, Answer
from headrace.answering.rerank import Passage
from headrace.answering.unrecorded import NOTE
from headrace.api.auth import Caller
from headrace.api.telemetry import tokens
from headrace.documents.names import check_principals
from headrace.errors import WrongUsage
from headrace.explain.sizing.sizing import Sizing
from headrace.settings import TenantLimits
from headrace.storage.filters import Filters
from headrace.storage.ledger import Row
from headrace.storage.vectors.search import RRF_K

QUESTION_CHARACTERS = 4_000
ANSWER_ID = r"^[0-9a-f]{16}$"
TENANT = r"^[a-z0-9][a-z0-9-]{0,62}$"
"""As in `Settings.tenant`."""
SIMULATED = r"^simulated-[a-z0-9-]{1,53}$"
"""Names of simulated users, which cannot be confused with people or keys."""
USER_CHARACTERS = 200
_NOT_A_USER = re.compile(r"simulated-.*|[0-9a-f]{16}|page", re.DOTALL)


def check_text(text: str, most: int) -> str:
    """A text of at most so many characters. Raises `ValueError`."""
    if len(text) > most:
        raise ValueError(f"it has {len(text):,} characters; shorten it to {most:,}")
    return _text(text)


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half a character (a lone surrogate); send whole characters") from None
    return text


def question_of(text: str) -> str:
    """A question, checked and trimmed. Raises `ValueError`."""
    if not text.strip():
        raise ValueError("it is empty; write a question")
    return check_text(text, QUESTION_CHARACTERS).strip()


def _tenant(name: str) -> str:
    if not re.fullmatch(TENANT, name) or name.endswith("\n"):
        raise ValueError("a tenant's name has at most 63 lower-case letters, digits and dashes")
    return name


Text = Annotated[str, AfterValidator(_text)]
Tenant = Annotated[str, AfterValidator(_tenant), Field(json_schema_extra={"pattern": TENANT})]
Question = Annotated[
    str, AfterValidator(question_of), Field(json_schema_extra={"minLength": 1, "maxLength": QUESTION_CHARACTERS})
]


def _reader(name: str) -> str:
    try:
        check_principals([name])
    except WrongUsage as error:
        raise ValueError(f"{error.message.rstrip('.')}; {error.hint.rstrip('.').lower()}") from None
    return name


Readers = Annotated[tuple[Annotated[str, AfterValidator(_reader)], ...], Field(max_length=100, examples=[["ann", "maintenance"]])]


def _filter(text: str) -> str:
    try:
        return Filters.parse([text]).said[0]
    except WrongUsage as error:
        raise ValueError(f"{error.message.rstrip('.')}; {error.hint.rstrip('.')}") from None


FilterTexts = Annotated[
    tuple[Annotated[str, AfterValidator(_filter)], ...], Field(max_length=50, examples=[["team=hydro", "document=handbook/"]])
]
SimulatedUser = Annotated[str, Field(pattern=SIMULATED, examples=["simulated-07"])]


def user_of(name: str) -> str:
    """The name of a user, checked not to look like a simulated user or a key. Raises `ValueError`."""
    if not name.strip() or len(name) > USER_CHARACTERS or not name.isprintable():
        raise ValueError(f"a user's name has 1 to {USER_CHARACTERS} printable characters")
    if _NOT_A_USER.fullmatch(name):
        raise ValueError("it looks like the id of a key or like a simulated user; use another id")
    return name


AnswerModeName = Literal["extractive", "generated"]
User = Annotated[str, AfterValidator(user_of), Field(examples=["ann"])]


TenantTraining = Literal["none", "shared"]


class ApiRequest(BaseModel):
    """A request body; an unknown key is an error, since ignoring a misspelt key costs its sender hours."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HistoryTurn(ApiRequest):
    """A question that was asked before, and its answer."""

    question: Annotated[Text, Field(max_length=QUESTION_CHARACTERS)]
    answer: Text = ""


class AskRequest(ApiRequest):
    """A question to the key's tenant; a key with the scope `admin` may name another.

    `readers` are those on whose behalf it is asked: a user and their groups, who may read documents that are closed to others.
    `filters` select documents, as `key=value`, `document=FOLDER/`, `kind=pdf`, `changed>=2026-01-31`: the same key again means
    any of its values, different keys mean all of them. A question may follow up on a `history`, of which the newest turns count,
    or on the answer `after`, of the same tenant and user: it is then asked so that it stands alone, as `asked_as` says.
    `user` is who asks, with the scope `users`; otherwise the key is recorded. `simulated_user` (scope `simulate`) says that a
    program asks, which plays a user: answers and verdicts are then recorded as simulated.
    """

    question: Annotated[Question, Field(examples=["How long are backups kept?"])]
    tenant: Tenant | None = None
    readers: Readers = ()
    filters: FilterTexts = ()
    history: Annotated[tuple[HistoryTurn, ...], Field(max_length=50)] = ()
    after: Annotated[str, Field(pattern=ANSWER_ID, examples=["7b12e77fe7c341bf"])] | None = None
    user: User | None = None
    simulated_user: SimulatedUser | None = None


class AskedFor(AskRequest):
    """A question whose answer may be streamed; `candidates` asks for all passages that were retrieved, too.

    `answers` says whether passages are quoted or the generator writes, where that is not to be as the settings say.
    """

    stream: bool = False
    candidates: bool = False
    answers: AnswerModeName | None = None


class FeedbackRequest(ApiRequest):
    """A verdict on an answer, or on one of its passages."""

    answer_id: Annotated[str, Field(pattern=ANSWER_ID, examples=["7b12e77fe7c341bf"])]
    up: Annotated[bool, Field(strict=True)]
    reason: Annotated[Text, Field(max_length=REASON_CHARACTERS)] = ""
    correction: Annotated[Text, Field(max_length=CORRECTION_CHARACTERS)] = ""
    chunk_id: Annotated[Text, Field(max_length=200)] = ""
    consent: Annotated[bool | None, Field(strict=True)] = None
    user: User | None = None
    simulated_user: SimulatedUser | None = None


Quota = Annotated[int, Field(strict=True)]


class NewTenant(ApiRequest):
    """A tenant to add, with quotas as under `[limits]` in the settings."""

    name: Annotated[Tenant, Field(examples=["acme"])]
    quotas: Annotated[dict[str, Quota], Field(examples=[{"requests_per_minute": 60}], max_length=20)] = {}
    training: TenantTraining = "none"


class NewTraining(ApiRequest):
    """Whether shared models may learn from a tenant's verdicts."""

    training: TenantTraining


class NewQuotas(ApiRequest):
    """A tenant's new quotas, which replace those it has."""

    quotas: Annotated[dict[str, Quota], Field(examples=[{"documents": 1000}], max_length=20)]


class NewKey(ApiRequest):
    """A key to create; with `readers` it asks only on their behalf, and sees only what they may read."""

    tenant: Annotated[Tenant, Field(examples=["acme"])]
    scopes: Annotated[
        list[Literal["read", "write", "users", "simulate", "tenant-admin", "admin"]], Field(min_length=1, max_length=6)
    ]
    label: Annotated[Text, Field(max_length=200)] = ""
    readers: Annotated[Readers, Field(min_length=1)] | None = None


class ApiResponse(BaseModel):
    """A response body."""

    model_config = ConfigDict(frozen=True)


class SourceResponse(ApiResponse):
    """A document that holds a passage, and the page, slide or sheet, if it has such parts."""

    document: str
    place: str


class CitedSpan(ApiResponse):
    """A sentence of the answer and the characters of the passage that support it."""

    start: int
    end: int
    quote: str
    sentence: str


class CitationResponse(ApiResponse):
    """A passage that the answer cites."""

    number: int
    document: str
    sources: list[SourceResponse]
    heading: str
    place: str
    chunk_id: str
    text: str
    spans: list[CitedSpan]


class PassageResponse(ApiResponse):
    """A passage, with both scores and both ranks; `sources` are the documents that hold this text, `document` first.

    `retrieval_score` is what its rank is worth, 1 / (60 + rank): the fused score would tell how rare a word is in other tenants'
    documents.
    """

    number: int
    chunk_id: str
    document: str
    sources: list[SourceResponse]
    heading: str
    place: str
    text: str
    retrieval_score: float
    retrieval_rank: int
    rerank_score: float | None
    rerank_rank: int | None


class CitedPassage(PassageResponse):
    """A passage that the answer is based on, and whether the answer cites it."""

    cited: bool


class CandidatePassage(PassageResponse):
    """A retrieved passage in the order that stood; `used` is its number in the answer's passages, else `dropped` says why not."""

    used: int | None
    dropped: str


class TokenUsage(ApiResponse):
    """Tokens of an answer, as OpenAI counts them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]


class FoundResponse(ApiResponse):
    """What a search and an answer have in common; `note` says what was left out, if anything.

    `kind` is answer or search; small_talk or task for what is no question. `asked_as` is how a follow-up question was put.
    """

    answer_id: str
    model_version: str
    ranking_version: str
    index_version: str
    timings_ms: dict[str, float]
    bytes: dict[str, int]
    groundedness: float | None
    similarity: float | None
    refused: bool
    kind: str = "answer"
    asked_as: str = ""
    filters: list[str] = []
    note: str = ""


class SearchResponse(FoundResponse):
    """The passages for a question."""

    passages: list[PassageResponse]


class AnswerDetails(FoundResponse):
    """Details of an answer that OpenAI's shape does not have."""

    citations: list[CitationResponse]
    generator_version: str
    mode: str


class AnswerResponse(AnswerDetails):
    """The answer to a question."""

    answer: str
    passages: list[CitedPassage]
    usage: TokenUsage
    finish_reason: str
    candidates: list[CandidatePassage] = []


def search_response(found: Answer, caller: Caller) -> SearchResponse:
    """The result of a search, as this caller may see it."""
    passages = [{"number": number, **_shown(passage)} for number, passage in enumerate(found.passages, 1)]
    return SearchResponse.model_validate({**found.as_dict(), "note": note_for(found.note, caller), "passages": passages})


def answer_response(answer: Answer, caller: Caller, *, candidates: bool = False) -> AnswerResponse:
    """An answer, as this caller may see it, with all retrieved `candidates` where asked for."""
    passages = [
        {"number": number, "cited": number in answer.cited, **_shown(passage)}
        for number, passage in enumerate(answer.passages, 1)
    ]
    read, written, cached = tokens(answer)
    usage = TokenUsage(
        prompt_tokens=read,
        completion_tokens=written,
        total_tokens=read + written,
        prompt_tokens_details={"cached_tokens": cached},
    )
    note = note_for(answer.note, caller)
    return AnswerResponse.model_validate(
        {
            **answer.as_dict(),
            "note": note,
            "passages": passages,
            "usage": usage,
            "candidates": _candidates(answer) if candidates else [],
        }
    )


def _candidates(answer: Answer) -> list[dict[str, object]]:
    """Every retrieved passage, and why those were left out that the answer is not based on."""
    numbers = {passage.hit.chunk_id: number for number, passage in enumerate(answer.passages, 1)}
    quoted = answer.mode == "extractive"
    found = []
    for number, passage in enumerate(answer.candidates, 1):
        used = numbers.get(passage.hit.chunk_id)
        where = f"rank {number} of {len(answer.candidates)}"
        if used is not None:
            dropped = ""
        elif quoted:
            dropped = f"{where}, and nothing in it answers better than the quoted words"
        else:
            dropped = f"{where}, and the generator reads the first {len(numbers)} (inference.passages)"
        found.append({"number": number, **_shown(passage), "used": used, "dropped": dropped})
    return found


def note_for(note: str, caller: Caller) -> str:
    """An answer's note for this caller: the reason why a re-ranker did not answer holds addresses, for admins only."""
    return note if caller.admin else _INSIDE.sub(r"\1", note)


_INSIDE = re.compile(rf"((?:retrieval|re-ranker's) order is kept|{NOT_STORED}): .*?(?=; (?:{NOTE}|{NOT_STORED})|\Z)", re.DOTALL)


class DocumentResponse(ApiResponse):
    """A document's newest version; `status` is put, parsed, indexed, failed or deleting.

    `reason` says why it failed, or what of it is not in its text.
    """

    object: Literal["document"] = "document"
    uri: str
    document_id: str
    version: str
    status: str
    reason: str
    media: str
    title: str
    bytes: int
    readers: list[str]
    attributes: list[str]
    at: str


class StoredResponse(ApiResponse):
    """How many documents are stored, and their bytes."""

    documents: int
    bytes: int


class DocumentList(ApiResponse):
    """A page of documents."""

    object: Literal["list"] = "list"
    data: list[DocumentResponse]
    has_more: bool
    stored: StoredResponse


class TextResponse(ApiResponse):
    """A part of a document's text (Markdown) from character `start` of `length`, and the characters of it that a passage is.

    `found` says whether the document still has the passage, `newest` whether this version is the document's newest.
    """

    uri: str
    title: str
    media: str
    version: str
    newest: bool
    length: int
    start: int
    text: str
    heading: str
    place: str
    found: bool
    spans: list[tuple[int, int]]


class QuotasResponse(ApiResponse):
    """A tenant's quotas, and the resulting limits."""

    tenant: str
    quotas: dict[str, Any]
    limits: TenantLimits


class TrainingResponse(ApiResponse):
    """Whether shared models may learn from a tenant's verdicts."""

    tenant: str
    training: str


class TenantResponse(QuotasResponse):
    """A tenant."""

    created_at: str
    training: str


class TenantList(ApiResponse):
    """Tenants."""

    object: Literal["list"] = "list"
    data: list[TenantResponse]


class KeyResponse(ApiResponse):
    """A key, without its secret."""

    id: str
    tenant: str
    scopes: list[str]
    label: str
    readers: list[str] | None
    created_at: str
    revoked_at: str | None
    last_used_at: str | None


class NewKeyResponse(KeyResponse):
    """A new key with its text, which is shown only now."""

    key: str


class KeyList(ApiResponse):
    """Keys."""

    object: Literal["list"] = "list"
    data: list[KeyResponse]


class RevokedKey(ApiResponse):
    """A revoked key."""

    id: str
    revoked: Literal[True] = True


class AuditLineResponse(ApiResponse):
    """One line of the audit: who did what, and how it ended."""

    at: datetime
    tenant: str
    key_id: str
    action: str
    resource: str
    outcome: str
    address: str


class AuditList(ApiResponse):
    """Lines of the audit, newest first."""

    object: Literal["list"] = "list"
    data: list[AuditLineResponse]


class LedgerResponse(ApiResponse):
    """The ledger of a run."""

    run: str
    state: str
    command: str
    started: str
    ended: str | None
    rows: list[Row]


class RunSummary(ApiResponse):
    """A recorded run without its ledger; `seconds` is null while it runs and if it was killed."""

    run: str
    command: str
    state: str
    started: str
    ended: str | None
    seconds: float | None
    bytes: int
    pipelines: list[str]


class SceneGroup(ApiResponse):
    """One element of a diagram: `items` are SVG's elements (`is`) with their attributes; `alt` describes it in words.

    `name` says which stage, bar (tier/store) or flow (stage|direction|tier/store) it is.
    """

    kind: str
    name: str
    alt: str
    items: list[dict[str, Any]]


class SceneResponse(ApiResponse):
    """A pipeline's diagram as its parts, in the order in which they are painted; `live` says that its run is under way here.

    `stages` and `stores` say which stages of the ledger, and which store, stand behind the names at slide level.
    """

    pipeline: str
    run: str
    measured: bool
    live: bool
    width: float
    height: float
    ground: str
    title: str
    description: str
    notes: list[str]
    stages: dict[str, list[str]]
    stores: dict[str, str]
    groups: list[SceneGroup]


class RunList(ApiResponse):
    """Recorded runs, newest first."""

    runs: list[RunSummary]


class IndexedResponse(ApiResponse):
    """How many passages of a tenant are indexed, and in which version of the index."""

    run: str
    tenant: str
    default_tenant: str
    index_version: str
    passages: int


class LandingResponse(ApiResponse):
    """What has landed since the start, and what does not land, and why."""

    landed: dict[str, int]
    dead_letters: int
    troubles: list[str]


class LoopResponse(ApiResponse):
    """The training loop, as in `headrace loop --json`, and what has landed."""

    model_config = ConfigDict(frozen=True, extra="allow")

    state: str
    running: bool
    landing: LandingResponse | None


class VerdictResponse(ApiResponse):
    """How far a verdict is: on the head, in its table (`landed`), within reach of a round of training (`round`, for admins)."""

    partition: int
    offset: int
    landed: bool
    verdict_id: str | None = None
    answer_id: str | None = None
    up: bool | None = None
    at: datetime | None = None
    round: int | None = None


class BacklogResponse(ApiResponse):
    """A partition of the head: where it begins and ends, how far it has landed, and what only Kafka has."""

    topic: str
    partition: int
    low: int
    end: int
    landed: int
    lag: int
    bytes: int
    estimated: bool
    oldest_s: float | None
    retention_s: float | None
    trouble: str


class DivergenceResponse(ApiResponse):
    """A partition stopped landing since the head and its table disagree, or somebody let it go on (`action`, `who`)."""

    topic: str
    partition: int
    kind: str
    action: str
    landed: int
    low: int
    end: int
    seen: str
    who: str
    at: datetime


class HeadResponse(ApiResponse):
    """The head: its partitions, and what stopped them lately."""

    partitions: list[BacklogResponse]
    divergences: list[DivergenceResponse]


class ReleasedResponse(ApiResponse):
    """A released version of a model, and the share of the answers it gives now (0 to 1)."""

    version: str
    round: int
    recipe: str
    bytes: int
    share: float


class TrainedModelResponse(ApiResponse):
    """A model that is trained: its pointer, as in `headrace models --json`, and its newest released versions, newest first."""

    pointer: dict[str, Any]
    versions: list[ReleasedResponse]


class MoveResponse(ApiResponse):
    """A move of a model's pointer; `kind` is promote, rollback, canary or canary_ended."""

    model: str
    version: str
    previous: str
    kind: str
    round: int
    who: str
    why: str
    at: datetime


class RegistryResponse(ApiResponse):
    """The models that are trained, and the newest moves of their pointers, newest first."""

    models: list[TrainedModelResponse]
    moves: list[MoveResponse]


class RoundResponse(ApiResponse):
    """A committed round; `evaluation` and `power` are as in its manifest."""

    round: int
    recipe: str
    model: str
    begun: str
    committed: str
    run: str
    promoted: bool
    why: str
    alarms: list[str]
    version: str | None
    champion: str
    dataset: str
    evaluation: dict[str, Any]
    power: dict[str, Any] | None
    timings: dict[str, float]
    feedback_to_served: float | None


class RoundList(ApiResponse):
    """Committed rounds, newest first."""

    object: Literal["list"] = "list"
    data: list[RoundResponse]
    has_more: bool


class MoveRequest(ApiRequest):
    """Why a model's pointer is moved; it is kept in the history."""

    why: Annotated[Text, Field(max_length=REASON_CHARACTERS)] = "asked over the API"


class PromoteRequest(MoveRequest):
    """Which released version of a model to serve, and why."""

    version: Annotated[str, Field(pattern=r"^v\d{6,12}$", examples=["v000001"])]


class PointerResponse(ApiResponse):
    """A model's pointer after a move."""

    pointer: dict[str, Any]


class CheckResponse(ApiResponse):
    """The last report of `headrace check` (docs/reference/json.md); null before the first."""

    report: dict[str, Any] | None


class SizingResponse(ApiResponse):
    """A sizing, and the presets and precision recipes that can be chosen."""

    sizing: Sizing
    models: list[str]
    recipes: list[str]


class LiveResponse(ApiResponse):
    """Whether the server answers."""

    status: str
    version: str


class ReadyResponse(ApiResponse):
    """Whether each part that the service needs answers."""

    status: str
    parts: list[dict[str, Any]]
    unrecorded_answers: int


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


def _shown(passage: Passage) -> dict[str, object]:
    return {**passage.as_dict(), "retrieval_score": 1.0 / (RRF_K + passage.retrieval_rank)}
