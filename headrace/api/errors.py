"""What a caller reads of an error. The mapping to statuses is in `models/http.py`, for both servers."""

from __future__ import annotations

import logging
from typing import Any

from fastapi.responses import JSONResponse

from headrace.api.auth import Caller
from headrace.errors import HeadraceError, Overloaded
from headrace.models.http import code_of, error_body, error_response, status_of

log = logging.getLogger("headrace.api")

_IN_GENERAL = {
    429: "The models are busy. Try again in a moment.",
    502: "A model refused the request. Ask its operator.",
    503: "A part of the service does not answer. Try again in a moment.",
    507: "No space is left in the service's storage. Ask its operator.",
}


def error_response_for(error: HeadraceError, caller: Caller | None) -> JSONResponse:
    """The HTTP answer for one of our errors, in words for this caller."""
    retry_s = error.retry_s if isinstance(error, Overloaded) else 2.0
    return error_response(status_of(error), words_for(error, caller), code_of(error), retry_s=retry_s)


def body_of(error: HeadraceError, caller: Caller | None) -> dict[str, Any]:
    """The JSON of an error, in words for this caller."""
    return error_body(status_of(error), words_for(error, caller), code_of(error))


def words_for(error: HeadraceError, caller: Caller | None) -> str:
    """An error's message: in full for an admin; for others without internals of the service.

    Errors of storage and models hold addresses, paths and libraries' messages. Those go to the log instead.
    """
    status = status_of(error)
    # A busy model's message holds its address; our own refusals never hold one.
    if (status < 500 and "://" not in str(error)) or (caller is not None and caller.admin):
        return str(error)
    log.warning("%s was answered in general words: %s", code_of(error), error)
    return _IN_GENERAL.get(status, "The service is not set up for this. Ask its operator.")
