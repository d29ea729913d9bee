"""Personal data in texts, found when they are parsed: patterns with checksums where there are any, and what the policy does.

What is found are forms, not meanings: names and addresses have none. Each search takes time in proportion to the text,
whatever that is; as `re` lets no other thread run meanwhile, the parser's process does it. Sources: Luhn, ISO/IEC 7812-1
annex B; IBAN, ISO 13616 with the lengths of its registry; SSN, the rules of the SSA since 2011; phone numbers, E.164.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

WARN, MASK, REFUSE = "warn", "mask", "refuse"
_BLOCK = "█"
_CALLED = {
    "card": ("card number", "card numbers"),
    "iban": ("IBAN", "IBANs"),
    "ssn": ("US social security number", "US social security numbers"),
    "phone": ("phone number", "phone numbers"),
    "email": ("e-mail address", "e-mail addresses"),
}
_CARD = re.compile(r"(?<![\d.,])(?<!\d[ -])\d(?:[ -]?\d){12,18}(?![ -]?\d)")
_SSN = re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_PHONE = re.compile(
    # A run of digits is read in one way alone: split into groups in every way, 40 digits take as long as 200,000 letters.
    r"(?<![\w+])\+\d{1,3}+(?:[ .\-/]?(?:\(\d{1,5}\)|\d{1,5}+)){0,7}(?!\w)"
    r"|(?<![\d.\-])(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .\-])[2-9]\d\d[ .\-]\d{4}(?![\d\-])"
)
_PHONE_DIGITS = range(8, 16)
_DOMAIN = re.compile(r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,6}[A-Za-z]{2,24}(?![A-Za-z0-9-])")
_LOCAL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]")
_LOCAL_CHARACTERS = 64
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?=[ ]?[A-Z0-9])")
_IBAN_CHARACTERS = {
    one[:2]: int(one[2:])
    for one in re.findall(
        r"\w+",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 "
        "FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LI21 LT20 LU20 "
        "LV21 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SE24 SI19 SK24 SM27 "
        "TN24 TR26 UA29 VA22 VG24 XK20 ",
    )
}


@dataclass(frozen=True)
class PiiMatch:
    """Personal data in a text, from character `start` up to `end`; `kind` as in the settings."""

    kind: str
    start: int
    end: int


def find_pii(text: str, kinds: frozenset[str]) -> list[PiiMatch]:
    """Personal data of these kinds, in their order, none within another: what has a checksum goes before what has none."""
    taken: list[PiiMatch] = []
    covered = bytearray(len(text)) if kinds else bytearray()
    for kind, search in _SEARCHES.items():
        for start, end in search(text) if kind in kinds else ():
            if not any(covered[start:end]):
                covered[start:end] = b"\1" * (end - start)
                taken.append(PiiMatch(kind, start, end))
    return sorted(taken, key=lambda match: match.start)


def screen(text: str, actions: Mapping[str, str]) -> tuple[str, Counter[str]]:
    """A text with what is to be masked replaced, and how many of each kind it holds; `actions` are those of the settings.

    Of letters and digits only, so the text is as long as it was: pages and headings stay where they are.
    """
    found = find_pii(text, frozenset(actions))
    masked = {kind for kind, action in actions.items() if action == MASK}
    return _masked(text, found, masked), Counter(match.kind for match in found)


def refusal_of(counts: Mapping[str, int], actions: Mapping[str, str]) -> str:
    """The reason why a document that holds so many of each kind is not taken in, as a clause; empty if it is."""
    refused = [kind for kind in counts if actions[kind] == REFUSE]
    return f"it holds {_listed(counts, refused)}, which this service does not take in" if refused else ""


def note_of(counts: Mapping[str, int], actions: Mapping[str, str]) -> str:
    """What is said of a document that holds so many of each kind, as a clause; empty if there is nothing to say."""
    masked = sorted(kind for kind in counts if actions[kind] == MASK)
    warned = [kind for kind in counts if kind not in masked]
    notes = [f"it holds {_listed(counts, warned)}"] if warned else []
    notes += [f"{_listed(counts, masked)} masked"] if masked else []
    return "; ".join(notes)


def _listed(counts: Mapping[str, int], kinds: list[str]) -> str:
    return ", ".join(f"{counts[kind]:,} {_CALLED[kind][counts[kind] > 1]}" for kind in kinds)


def _masked(text: str, found: list[PiiMatch], kinds: set[str]) -> str:
    pieces, at = [], 0
    for match in found:
        if match.kind in kinds:
            pieces += [text[at : match.start], re.sub(r"\w", _BLOCK, text[match.start : match.end])]
            at = match.end
    return "".join((*pieces, text[at:])) if pieces else text


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(text):
        digits = [int(letter) for letter in match[0] if letter.isdigit()]
        if digits[0] in (2, 3, 4, 5, 6) and len(set(digits)) > 1 and _luhn(digits):
            yield match.span()


def _luhn(digits: list[int]) -> bool:
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in _IBAN.finditer(text):
        length = _IBAN_CHARACTERS.get(match[0][:2])
        if length is None:
            continue
        end, compact = match.end(), match[0]
        while len(compact) < length and end < len(text):
            end += text[end] == " "
            letter = text[end : end + 1]
            if not (letter.isascii() and (letter.isdigit() or letter.isupper())):
                break
            compact, end = compact + letter, end + 1
        ends = not text[end : end + 1].isalnum()
        if len(compact) == length and ends and int("".join(str(int(one, 36)) for one in compact[4:] + compact[:4])) % 97 == 1:
            yield match.start(), end


def _phones(text: str) -> Iterator[tuple[int, int]]:
    for match in _PHONE.finditer(text):
        if sum(letter.isdigit() for letter in match[0]) in _PHONE_DIGITS:
            yield match.span()


def _emails(text: str) -> Iterator[tuple[int, int]]:
    for match in _DOMAIN.finditer(text):
        start = match.start()
        while start and match.start() - start <= _LOCAL_CHARACTERS and _LOCAL.match(text[start - 1]):
            start -= 1
        local = text[start : match.start()]
        if 0 < len(local) <= _LOCAL_CHARACTERS and local[-1] != "." and ".." not in local:
            yield start + len(local) - len(local.lstrip(".!#$%&'*+/=?^`{|}~-")), match.end()


def _ssns(text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in _SSN.finditer(text))


_SEARCHES = {"card": _cards, "iban": _ibans, "ssn": _ssns, "phone": _phones, "email": _emails}
