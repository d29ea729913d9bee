"""VAST DB's SDK and the translation of its errors."""

from __future__ import annotations

from typing import Any

import requests
import urllib3

from headrace.errors import BadSettings, HeadraceError, LostRace, MissingPart, Overloaded, StorageFull, Unavailable
from headrace.storage.endpoints import VastEndpoint
from headrace.storage.reason import reason


def sdk() -> Any:
    """The imported package. Raises `MissingPart`."""
    try:
        import vastdb
        import vastdb.errors
        import vastdb.table_metadata
    except ModuleNotFoundError as error:
        raise MissingPart(
            f"[tables] names VAST DB, but the package {error.name} is not installed.",
            hint="Run make install-vast, or pip install --no-deps --require-hashes -r locks/vast.txt.",
        ) from None
    return vastdb


def fault(error: Exception, table: str, endpoint: VastEndpoint) -> Exception | None:
    """Translate an error of the SDK; `None` if it is one of ours or not the SDK's."""
    if isinstance(error, HeadraceError):
        return None
    errors = sdk().errors
    where = f"VAST DB at {endpoint.endpoint}"
    if isinstance(error, errors.InsufficientCapacity):
        return StorageFull(
            f"No space left for table {table} in {where}: {_message(error)}.", hint="Free some space and run again."
        )
    if isinstance(error, errors.ServiceUnavailable):
        return Overloaded(f"{where} is overloaded: {_message(error)}.", hint="Run the command again later.")
    if isinstance(error, errors.Conflict):
        return LostRace(f"Another writer changed table {table} first: {_message(error)}.", hint="Run the command again.")
    if passing(error):
        return Unavailable(
            f"Table {table} cannot be reached through {where}: {_message(error)}.",
            hint="Check that the cluster answers there, and run the command again.",
        )
    if isinstance(error, errors.MissingBucket):
        return BadSettings(
            f"{where} has no bucket {endpoint.bucket}.",
            hint="Create it as a view with the S3 and database protocols, or name another under [tables].",
        )
    if isinstance(error, errors.Forbidden):
        return BadSettings(
            f"{where} rejects these keys: {_message(error)}.",
            hint="Check access_key, secret_key and the identity policy: it must allow tabular reads and writes.",
        )
    if isinstance(error, (errors.HttpError, errors.NotSupported, errors.InvalidArgument, errors.ApiResponseError)):
        return BadSettings(
            f"{where} rejected a request: {_message(error)}.",
            hint="Check the cluster's release; see docs/how-to/connect-vast-db.md.",
        )
    if isinstance(error, NotImplementedError):  # raised by the SDK for a server that is not VAST DB or too old
        return BadSettings(f"{where}: {_message(error)}.", hint="Check endpoint under [tables]; docs/how-to/connect-vast-db.md.")
    return None


def passing(error: Exception) -> bool:
    """Whether an error is transient. For an unknown HTTP status the SDK raises ValueError."""
    module = sdk()
    errors = module.errors
    return isinstance(
        error,
        (
            errors.ConnectionError,
            errors.InternalServerError,
            errors.RequestTimeout,
            errors.ServiceUnavailable,
            errors.UnexpectedError,
            errors.NotFound,
            errors.MissingTransaction,
            module._internal.QueryDataInternalError,
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            EOFError,
        ),
    ) or (isinstance(error, ValueError) and "HttpStatus" in str(error))


def _message(error: Exception) -> str:
    """The SDK's error as one clause; it hides the server's message in fields and nested causes."""
    cause = getattr(error, "cause", None) or getattr(error.args[0] if error.args else None, "reason", None)
    if isinstance(cause, Exception):
        return _message(cause)
    if text := getattr(error, "err_msg", None):
        return str(text)
    code, message = getattr(error, "code", None), getattr(error, "message", None)
    if code or message:
        return ": ".join(part for part in (code, message) if part)
    status = getattr(error, "status", None)
    return f"HTTP {status}" if status else reason(error)
