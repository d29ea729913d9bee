"""Why an address cannot be used: one sentence that names it, and the setting to change."""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

_SECONDS = 4.0
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "postgres": 5432}
_CODE = re.compile(r"<Code>([A-Za-z0-9]+)</Code>")
_EXPECTED_REGION = re.compile(r"expecting '([\w-]+)'|<Region>([\w-]+)</Region>")
# How obstore's Rust libraries word what happened before a server answered; their own messages all say "error sending request".
_NO_ANSWER = (
    (re.compile(r"dns error|failed to lookup", re.IGNORECASE), "the name {host} is not known on this machine", "the host name"),
    (re.compile(r"connection refused", re.IGNORECASE), "nothing listens at {address}", "host and port, and that it runs"),
    (re.compile(r"no route to host|network is unreachable", re.IGNORECASE), "no route leads to {address}", "the address"),
    (re.compile(r"InvalidContentType|wrong version number", re.IGNORECASE), "{address} does not speak TLS", "use http://"),
    (re.compile(r"UnknownIssuer|self.signed|unable to get local issuer", re.IGNORECASE), "its certificate is not trusted", ""),
    (re.compile(r"NotValidForName|hostname mismatch", re.IGNORECASE), "its certificate is for another name", "the host name"),
    (re.compile(r"\bExpired|certificate has expired", re.IGNORECASE), "its certificate has expired", ""),
    (re.compile(r"timed out|TimedOut|kind: Timeout", re.IGNORECASE), "{address} does not answer", "host, port and firewall"),
)
_TRUST = "Have the server present a certificate of an authority this machine knows, or name that authority in SSL_CERT_FILE."


@dataclass(frozen=True)
class Fault(Exception):
    """What is wrong, as a sentence with the address in it, and what to change."""

    message: str
    hint: str
    denied: bool = False
    """The credentials are known, and do not allow it."""

    def __str__(self) -> str:
        return self.message


def reach(url: str, *, part: str) -> None:
    """Connect to a URL's host, with TLS for https. Raises `Fault`; `part` is the section of the settings that names it."""
    try:
        address = urlsplit(url if "//" in url else f"//{url}")
        host, port = address.hostname, address.port or _PORTS.get(address.scheme)
    except ValueError:
        address, host, port = urlsplit(""), None, None
    if not host or not port:
        raise Fault(f"{url!r} is not an address with a host and a port.", f"Check [{part}] in headrace.toml.")
    where = f"[{part}] in headrace.toml"
    try:
        with socket.create_connection((host, port), timeout=_SECONDS) as plain:
            if address.scheme != "https":
                return
            with ssl.create_default_context().wrap_socket(plain, server_hostname=host):
                return
    except OSError as error:  # ssl.SSLError and socket.gaierror are such, too
        if isinstance(error, socket.gaierror):
            raise Fault(f"The name {host} is not known on this machine.", f"Check the host name under {where}.") from None
        clause = no_answer(str(error), host, port) or (f"{host}:{port} cannot be used: {error.strerror or error}", "the address")
        raise Fault(f"{clause[0][0].upper()}{clause[0][1:]}.", _hint(clause[1], part)) from None


def no_answer(text: str, host: str, port: int) -> tuple[str, str] | None:
    """A clause that says why no answer came, and what to look at, from an error's text; `None` if it does not say."""
    for pattern, clause, look in _NO_ANSWER:
        if pattern.search(text):
            return clause.format(host=host, address=f"{host}:{port}"), look
    return None


def s3_fault(error: BaseException, *, endpoint: str, bucket: str, part: str = "objects") -> Fault | None:
    """Why an S3 endpoint could not be used with the settings in `part`; `None` if the error is about something else."""
    text = str(error)
    found = _CODE.search(text)
    match found[1] if found else "":
        case "NoSuchBucket":
            return Fault(f"There is no bucket {bucket} at {endpoint}.", f"Create it, or change bucket under [{part}].")
        case "InvalidAccessKeyId" | "InvalidAccessKey" | "NoSuchAccessKey":
            return Fault(f"{endpoint} does not know this access key.", f"Check access_key under [{part}].")
        case "SignatureDoesNotMatch":
            return Fault(
                f"{endpoint} rejects the signature: the secret key does not belong to this access key.",
                f"Check secret_key under [{part}]" + (" (or HEADRACE_OBJECTS__SECRET_KEY)." if part == "objects" else "."),
            )
        case "RequestTimeTooSkewed" | "RequestExpired":
            return Fault(f"{endpoint} and this machine disagree about the time.", "Set the clock of this machine (NTP).")
        case "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" | "PermanentRedirect" | "InvalidRegion":
            wanted = _EXPECTED_REGION.search(text)
            region = f": it expects {wanted[1] or wanted[2]}" if wanted else ""
            return Fault(f"The bucket {bucket} at {endpoint} is in another region{region}.", f"Change region under [{part}].")
        case "AccessDenied" | "AllAccessDisabled" | "AccountProblem":
            return Fault(
                f"{endpoint} does not let this access key do that in bucket {bucket}.",
                "Allow it s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject on that bucket."
                if part == "objects"
                else "Allow it s3:ListBucket and s3:GetObject on that bucket.",
                denied=True,
            )
    address = urlsplit(endpoint)
    if not found and address.hostname and "error sending request" in text:
        port = address.port or _PORTS.get(address.scheme, 0)
        if clause := no_answer(text, address.hostname, port):
            return Fault(f"The object store {endpoint} does not answer: {clause[0]}.", _hint(clause[1], part))
    return None


def _hint(look: str, part: str) -> str:
    if not look:
        return _TRUST
    return f"Check {look}: [{part}] in headrace.toml." if not look.startswith("use ") else f"Perhaps {look} under [{part}]."
