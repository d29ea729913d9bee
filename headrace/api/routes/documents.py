"""The routes of documents: put, list, get, delete."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Depends, Query, Request, Response
from python_multipart.multipart import parse_options_header
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.datastructures import UploadFile

from headrace.api.auth import Caller
from headrace.api.dependencies import InThread, Reading, Serving, Writing
from headrace.api.middleware import AuditNotes
from headrace.api.schemas import ApiResponse, TenantName
from headrace.api.service import Service
from headrace.api.threads import RequestThread
from headrace.documents.names import check_principals, existing_uri, new_uri
from headrace.documents.view import Document
from headrace.errors import WrongUsage
from headrace.storage.filters import check_attributes
from headrace.storage.metadata import AuditLine
from headrace.storage.records import NAME_BYTES

Uri = Annotated[str | None, Query(max_length=1_024, description="The document's name, where the path does not hold it.")]
Readers = Annotated[
    list[str] | None,
    Query(
        alias="reader",
        max_length=100,
        description="A user or group that may read it from now on; repeatable. If omitted, readers do not change.",
    ),
]
Everybody = Annotated[bool, Query(description="Open it to everybody in the tenant from now on.")]
Attributes = Annotated[
    list[str] | None,
    Query(
        alias="attribute",
        max_length=100,
        description="`key=value` to filter by; repeatable. The given ones replace all others; if omitted, they do not change.",
    ),
]
NoAttributes = Annotated[bool, Query(description="Remove all of its attributes.")]
OfTenant = Annotated[TenantName | None, Query(description="A tenant other than the key's; only with the scope `admin`.")]
_EXAMPLE = {
    "object": "document",
    "uri": "handbook/pump.md",
    "document_id": "4f1d6e8a90b2c37d",
    "version": "9b74c9897bac770ffc029102a200c5de6f2ab0a1b2c3d4e5f60718293a4b5c6d",
    "status": "indexed",
    "reason": "",
    "media": "text/markdown",
    "title": "The pump",
    "bytes": 1834,
    "ocr_confidence": None,
    "readers": ["maintenance"],
    "attributes": ["site=north"],
    "at": "2026-01-31T12:00:00+00:00",
}
_SHOWN: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {"example": _EXAMPLE}}}}
_TAKEN: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "Accepted; it is indexed soon.",
        "content": {"application/json": {"example": {**_EXAMPLE, "status": "put"}}},
    }
}
_CONTENT = {
    "requestBody": {
        "required": True,
        "description": "The document as it is, or a form with one file in it.",
        "content": {
            "application/octet-stream": {
                "schema": {"type": "string", "format": "binary"},
                "example": "# The pump\n\nIt pumps.\n",
            },
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file"], "properties": {"file": {"type": "string", "format": "binary"}}}
            },
        },
    }
}


# In a file's name in a form, browsers write these characters as %XX, other clients all control characters:
# https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#multipart-form-data
_IN_FORMS = re.compile("%(0[0-9A-F]|1[0-9A-F]|22|7F)", re.IGNORECASE)
_MOST_BORDERS = 20  # between the parts of a form
_KIND_CHARACTERS = 200  # of a Content-Type; a border has 70 at most (RFC 2046, 5.1.1)
_PUT_WITH = {"uri", "reader", "everybody", "attribute", "no_attributes", "tenant"}  # in the address


class DocumentResponse(ApiResponse):
    """A document's newest version; `status` is put, parsed, indexed, failed or deleting.

    `reason` says why it failed, what its text lacks, and which pages were read by OCR; `ocr_confidence` is the mean confidence in
    the letters of these, from 0 to 1.
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
    ocr_confidence: float | None
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
    """A part of a document's text (Markdown) from character `start` of `length`; `spans` are the characters of a passage.

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


class _Uri(PathConvertor):
    """A document's name in a path: like Starlette's `path`, but with line feeds, which file names may have."""

    regex = "(?s:.*)"


register_url_convertor("uri", _Uri())

router = APIRouter()


@dataclass(frozen=True)
class PutRequest:
    """What both routes that put a document have in common: whose it is, who may read it, its attributes; `None`: unchanged."""

    request: Request
    response: Response
    service: Service
    caller: Caller
    in_thread: RequestThread
    tenant: str | None
    readers: list[str] | None
    attributes: list[str] | None


async def _putting(
    request: Request,
    response: Response,
    service: Serving,
    caller: Writing,
    in_thread: InThread,
    tenant: OfTenant = None,
    readers: Readers = None,
    everybody: Everybody = False,
    attributes: Attributes = None,
    no_attributes: NoAttributes = False,
) -> PutRequest:
    # Whoever misspells who may read a document would open it to everybody.
    if unknown := set(request.query_params) - _PUT_WITH:
        raise WrongUsage(
            f"There is no parameter {min(unknown)!r} of a document that is put.",
            hint=f"There are {', '.join(sorted(_PUT_WITH))}.",
        )
    if attributes and no_attributes:
        raise WrongUsage("A document has either some attributes or none.", hint="Leave attribute or no_attributes out.")
    check_attributes(attributes or ())
    labelled = [] if no_attributes else attributes or None
    return PutRequest(request, response, service, caller, in_thread, tenant, _open_to(readers, everybody), labelled)


Putting = Annotated[PutRequest, Depends(_putting)]


async def _put(put: PutRequest, called: str | None) -> DocumentResponse:
    request, service, caller = put.request, put.service, put.caller
    whose = caller.tenant_for(put.tenant)
    name, data = await _document(request)
    uri = new_uri(called or name or "")
    noted: AuditNotes = request.scope["noted"]
    noted.resource = uri

    def work() -> tuple[Document, bool]:
        limits = caller.limits if whose == caller.tenant else service.limits_of(whose)
        done = service.documents.put(whose, uri, data, limits, put.readers, put.attributes, caller)
        service.audit.now(AuditLine(caller.by, "document.put", _resource(caller.tenant, whose, uri)))
        noted.audited = True
        return done

    document, changed = await put.in_thread(work)
    put.response.status_code = 202 if changed else 200
    return _shown(caller, document)


@router.put("/v1/documents", responses={**_SHOWN, **_TAKEN}, openapi_extra=_CONTENT)
async def put_document(put: Putting, uri: Uri = None) -> DocumentResponse:
    """Put a document; its name is `uri`, or that of the file in the form. 200 where nothing changed."""
    return await _put(put, uri)


@router.put("/v1/documents/{uri:uri}", responses={**_SHOWN, **_TAKEN}, openapi_extra=_CONTENT)
async def put_document_at(uri: str, put: Putting) -> DocumentResponse:
    """Put a document under this name, replacing one that has it. 200 where nothing changed."""
    return await _put(put, uri)


@router.get("/v1/documents")
async def list_documents(
    service: Serving,
    caller: Reading,
    in_thread: InThread,
    after: Annotated[str, Query(max_length=NAME_BYTES, description="The last uri of the page before.")] = "",
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    status: Literal["put", "parsed", "indexed", "failed", "deleting"] | None = None,
    tenant: OfTenant = None,
) -> DocumentList:
    """The tenant's documents by uri, with their status; for a key bound to readers, those they may read."""
    whose = caller.tenant_for(tenant)

    def work() -> DocumentList:
        found, more = service.documents.list(caller, whose, after=after, most=limit, status=status)
        count, size = service.documents.usage(caller, whose)
        data = [_shown(caller, document) for document in found]
        return DocumentList(data=data, has_more=more, stored=StoredResponse(documents=count, bytes=size))

    return await in_thread(work)


@router.get("/v1/text")
async def document_text(
    uri: Annotated[str, Query(max_length=NAME_BYTES, description="The document's name.")],
    request: Request,
    service: Serving,
    caller: Reading,
    in_thread: InThread,
    chunk_id: Annotated[
        str | None, Query(max_length=200, description="A passage of it, whose surroundings are returned.")
    ] = None,
    reader: Annotated[
        list[str] | None, Query(max_length=100, description="A reader on whose behalf it is read; repeatable.")
    ] = None,
    tenant: OfTenant = None,
) -> TextResponse:
    """The text of a document around one of its passages, or its beginning; at most 60,000 characters."""
    whose = caller.tenant_for(tenant)
    request.scope["noted"].resource = uri
    text = await in_thread(lambda: service.texts.text(caller, whose, uri, chunk_id=chunk_id, readers=reader or ()))
    return TextResponse(**vars(text))


@router.get("/v1/documents/{uri:uri}", responses=_SHOWN)
async def document(
    uri: str, request: Request, service: Serving, caller: Reading, in_thread: InThread, tenant: OfTenant = None
) -> DocumentResponse:
    """One document and its status: put, parsed, indexed, failed (and `reason` says why) or deleting."""
    whose = caller.tenant_for(tenant)
    request.scope["noted"].resource = _asked(request, uri)
    return _shown(caller, await in_thread(lambda: service.documents.visible(caller, whose, uri)))


@router.delete("/v1/documents/{uri:uri}", responses=_TAKEN, status_code=202)
async def delete_document(
    uri: str, request: Request, service: Serving, caller: Writing, in_thread: InThread, tenant: OfTenant = None
) -> DocumentResponse:
    """Delete a document: the sources of all its versions now, and from the index within seconds."""
    whose = caller.tenant_for(tenant)
    noted: AuditNotes = request.scope["noted"]
    noted.resource = _asked(request, uri)

    def work() -> Document:
        gone = service.documents.delete(whose, uri, caller)
        service.audit.now(AuditLine(caller.by, "document.delete", _resource(caller.tenant, whose, uri)))
        noted.audited = True
        return gone

    return _shown(caller, await in_thread(work))


async def _document(request: Request) -> tuple[str | None, bytes]:
    """The name and bytes of the document in a request; a raw body has no name."""
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        return None, await request.body()
    # What follows is read on the event loop, and nothing else is answered meanwhile: a Content-Type of 60,000 semicolons took a
    # tenth of a second, 50 MB of borders half a minute.
    _, options = parse_options_header(kind[:_KIND_CHARACTERS])
    border = options.get(b"boundary")
    if len(kind) > _KIND_CHARACTERS or not border or (await request.body()).count(b"\r\n--" + border) > _MOST_BORDERS:
        raise WrongUsage(
            "The body is not a valid form, or has too many parts.", hint="Send the document as a file, or as the whole body."
        )
    async with request.form(max_files=1, max_fields=10) as form:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if len(files) != 1:
            raise WrongUsage(
                "The form does not hold exactly one file.", hint="Send the document as a file, or as the whole body."
            )
        if len(form.multi_items()) > 1:
            raise WrongUsage(
                "The form holds more than a file.", hint="Name readers and attributes in the address, as in ?reader=NAME."
            )
        name = _IN_FORMS.sub(lambda found: chr(int(found[1], 16)), files[0].filename or "")
        return name, await files[0].read()


def _asked(request: Request, uri: str) -> str:
    """The name of a document in a request's path. Raises `WrongUsage`."""
    try:
        unquote_to_bytes(request.scope["raw_path"]).decode()  # in the path, what is not UTF-8 has been replaced
    except UnicodeDecodeError:
        raise WrongUsage("A document's uri must be UTF-8.", hint="Write each byte of it as %XX.") from None
    return existing_uri(uri)


def _open_to(readers: list[str] | None, everybody: bool) -> list[str] | None:
    """Who may read a document from now on; `None` where the request does not say. Raises `WrongUsage`."""
    if readers and everybody:
        raise WrongUsage("A document is open either to some readers or to everybody.", hint="Leave reader or everybody out.")
    check_principals(readers or ())
    return [] if everybody else readers or None


def _shown(caller: Caller, document: Document) -> DocumentResponse:
    """A document as the caller may see it: a key bound to readers sees only those among its readers."""
    readers = [reader for reader in document.readers if caller.readers is None or reader in caller.readers]
    return DocumentResponse(**{**document.as_dict(), "readers": readers})


def _resource(own: str, whose: str, uri: str) -> str:
    """The document's name in the audit: with its tenant where that is not the key's."""
    return uri if own == whose else f"{whose}: {uri}"
