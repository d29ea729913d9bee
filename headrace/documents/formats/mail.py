"""Mail and web archives (MIME): headers, the text of each message, the names of attachments."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterator
from email.message import EmailMessage

from headrace.documents.formats.contract import DocumentFile, Output, ParseRefused, clean, line, plain
from headrace.documents.formats.encoding import decoded
from headrace.documents.formats.html import write_page

_SHOWN = ("From", "To", "Cc", "Date")
_PARTS = 1_000  # of a message
_DEEP = 10  # messages within messages
_NAMED = 20  # attachments
_BETWEEN = re.compile(rb"(?m)^From \S[^\n]*\d\d:\d\d[^\n]*\n")


def write_mail(file: DocumentFile, out: Output) -> None:
    """Write a message, or the page of a web archive (MHTML)."""
    message = _parsed(file.data)
    if message.get_content_type() == "multipart/related" and "To" not in message:
        page = next((part for part in _leaves(message) if part.get_content_type() == "text/html"), None)
        if page is None:
            raise ParseRefused("it is a web archive without a page")
        write_page(_text(page), out)
        return
    _message(message, out, 1)


def write_mailbox(file: DocumentFile, out: Output) -> None:
    """Write each message of a mailbox (mbox) as a part of its own."""
    most = file.limits.document_pages
    starts = [match.end() for match in _BETWEEN.finditer(file.data)]
    if len(starts) > most:
        raise ParseRefused(f"it has {len(starts):,} messages, more than the limit of {most:,}")
    for number, start in enumerate(starts, 1):
        following = _BETWEEN.search(file.data, start)
        out.begin_part(f"message {number}")
        _message(_parsed(file.data[start : following.start() if following else len(file.data)]), out, 1)


def _parsed(data: bytes) -> EmailMessage:
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def _message(message: EmailMessage, out: Output, depth: int) -> None:
    if subject := _header(message, "Subject"):
        out.write(f"{'#' * min(depth, 6)} {subject}\n\n")
    for name in _SHOWN:
        if value := _header(message, name):
            out.write(f"{name}: {value}\n")
    out.write("\n")
    bodies, attachments, messages = _sorted(message)
    for part in bodies:
        if part.get_content_type() == "text/html":
            write_page(_text(part), out)
        else:
            out.write("\n".join(plain(one) for one in clean(_text(part)).splitlines()))
        out.write("\n\n")
    if attachments:
        named = [line(_filename(part)) or part.get_content_type() for part in attachments]
        out.write(f"Attachments: {', '.join(named[:_NAMED])}\n\n")
        first = f"{', '.join(named[:3])}{', …' if len(named) > 3 else ''}"
        if len(named) > 1:
            out.note(f"{len(named)} attachments are not read ({first}): index them as files of their own")
        else:
            out.note(f"its attachment is not read ({first}): index it as a file of its own")
    for inner in messages:
        if depth >= _DEEP:
            raise ParseRefused("it is nested too deeply")
        _message(inner, out, depth + 1)


def _sorted(message: EmailMessage) -> tuple[list[EmailMessage], list[EmailMessage], list[EmailMessage]]:
    """Parts that are read, attachments, and messages within the message; of alternatives the plain text, if it has any."""
    bodies, attachments, messages = [], [], []
    for part in _leaves(message):
        kind = part.get_content_type()
        if kind == "message/rfc822":
            messages += [inner for inner in part.iter_parts() if isinstance(inner, EmailMessage)]
        elif kind in ("text/plain", "text/html") and not part.is_attachment():
            bodies.append(part)
        elif part.get_content_maintype() != "multipart" and (part.is_attachment() or _filename(part)):
            attachments.append(part)
    return bodies, attachments, messages


def _leaves(message: EmailMessage) -> Iterator[EmailMessage]:
    """The parts that are not divided further, without those that say the same again."""
    waiting, seen = [message], 0
    while waiting:
        part = waiting.pop(0)
        seen += 1
        if seen > _PARTS:
            raise ParseRefused(f"it has more than the limit of {_PARTS:,} parts")
        if part.get_content_maintype() != "multipart" or not part.is_multipart():
            yield part
            continue
        inner = [one for one in part.iter_parts() if isinstance(one, EmailMessage)]
        if part.get_content_subtype() == "alternative":
            texts = [one for one in inner if one.get_content_type() == "text/plain" and _text(one).strip()]
            inner = texts[:1] or inner[-1:]
        waiting = inner + waiting


def _text(part: EmailMessage) -> str:
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes) or not data:
        return ""
    try:
        declared = part.get_content_charset("") or ""
    except (ValueError, LookupError, AttributeError):
        declared = ""
    return decoded(data, declared)


def _header(message: EmailMessage, name: str) -> str:
    try:
        return line(str(message[name] or ""))
    except Exception:  # Python's reader of headers raises anything for broken ones
        return ""


def _filename(part: EmailMessage) -> str:
    try:
        return part.get_filename() or ""
    except Exception:  # as for headers
        return ""
