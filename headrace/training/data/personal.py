"""Obvious personal data in a text, replaced by what it was: ⟨email⟩, ⟨phone⟩, ⟨card⟩, ⟨iban⟩, ⟨ssn⟩, ⟨ip⟩.

What has a checksum or a fixed form is told by it: payment cards by Luhn's (ISO/IEC 7812-1), IBANs by mod 97 (ISO 13616) and
their country's length, US social security numbers by the groups that are given out. Names are not told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address

KINDS = ("email", "iban", "card", "ssn", "ip", "phone")

# Each form holds a digit or an @; most texts hold neither.
_SUSPECT = re.compile(r"[0-9@]|::")
# Possessive or bounded throughout, and begun only where a run begins: the time is linear in the text, whatever it is.
_EMAIL = re.compile(r"(?<![\w.+%'-])[\w.+%'-]{1,64}+@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_IBAN = re.compile(r"(?<![0-9A-Za-z])[A-Za-z]{2}[0-9]{2}(?:[ -]?[0-9A-Za-z]){11,30}")
_CARD = re.compile(r"(?<![0-9A-Za-z])(?<![0-9][ .,-])[2-6][0-9]{3}(?:[ -]?[0-9]){9,15}(?![0-9A-Za-z]|[.,-][0-9])")
_SSN = re.compile(r"(?<![0-9A-Za-z-])(?!000|666|9)[0-9]{3}([- ])(?!00)[0-9]{2}\1(?!0000)[0-9]{4}(?![0-9A-Za-z]|-[0-9])")
_IPV4 = re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w]|\.[0-9])")
_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:])[0-9A-Fa-f:]{3,39}(?:\.[0-9]{1,3}){0,3}(?![\w:])")
_INTERNATIONAL = r"(?:\+|00(?=[1-9]))[0-9](?:[ ./()-]{0,3}[0-9]){7,14}"
_AMERICAN = r"(?:\([0-9]{3}\) ?|[0-9]{3}[.-])[0-9]{3}[.-][0-9]{4}|[2-9][0-9]{2} [2-9][0-9]{2} [0-9]{4}"
_NATIONAL = r"\(?0[1-9][0-9]{1,3}\)?[ /-]{1,2}[0-9]{2,4}(?:[ -]?[0-9]{2,4}){1,3}"
_PHONE = re.compile(rf"(?<![\w+(.,])(?<![0-9][ /-])(?:{_INTERNATIONAL}|{_AMERICAN}|{_NATIONAL})(?![0-9A-Za-z]|[.,/-][0-9])")

# Characters of an IBAN by country: SWIFT's IBAN registry, release 99.
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH CR HR LI LV",
        22: "BG BH DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}


def scrub(text: str) -> tuple[str, tuple[str, ...]]:
    """The text with personal data replaced, and the kinds that were found, each once, in the order of `KINDS`."""
    if not _SUSPECT.search(text):
        return text, ()
    found = []
    for kind, spans in _FORMS:
        if marked := list(spans(text)):
            found.append(kind)
            pieces, at = [], 0
            for start, end in marked:
                pieces += [text[at:start], f"⟨{kind}⟩"]
                at = end
            text = "".join([*pieces, text[at:]])
    return text, tuple(found)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others: Luhn's formula, ISO/IEC 7812-1 annex B."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def mod97(iban: str) -> bool:
    """Whether an IBAN without spaces, in capitals, has its check digits: ISO 7064 mod 97-10 over the rotated text is 1."""
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


Spans = Callable[[str], Iterator[tuple[int, int]]]


def _all(pattern: re.Pattern[str], needed: str = "") -> Spans:
    def spans(text: str) -> Iterator[tuple[int, int]]:
        if needed in text:
            yield from (match.span() for match in pattern.finditer(text))

    return spans


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2].upper())
        # What follows it may look like more of it: only as many characters count as the country has.
        places = [place for place, character in enumerate(match[0]) if character not in " -"]
        if length is None or len(places) < length:
            continue
        end = places[length - 1] + 1
        after = match.start() + end
        if after < len(text) and text[after].isalnum():
            continue
        if mod97("".join(match[0][place] for place in places[:length]).upper()):
            yield match.start(), after


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(text):
        if luhn(re.sub(r"[ -]", "", match[0])):
            yield match.span()


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    """IP addresses of machines: neither loopback nor unspecified, which stand in every manual and are nobody's."""
    matches = [*_IPV4.finditer(text), *(_IPV6.finditer(text) if "::" in text or text.count(":") >= 7 else ())]
    taken = 0
    for match in sorted(matches, key=lambda match: (match.start(), -match.end())):
        try:
            address = ip_address(match[0].rstrip("."))
        except ValueError:
            continue
        if match.start() >= taken and not (address.is_loopback or address.is_unspecified):
            yield match.span()
            taken = match.end()


_FORMS: tuple[tuple[str, Spans], ...] = (
    ("email", _all(_EMAIL, "@")),
    ("iban", _ibans),
    ("card", _cards),
    ("ssn", _all(_SSN)),
    ("ip", _addresses),
    ("phone", _all(_PHONE)),
)
