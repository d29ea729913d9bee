"""Personal data: what is replaced, what only looks like it, and that texts of any kind take no time."""

from __future__ import annotations

import random
import time

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.training.data.text import CLEANED, GIVEN, Clean, luhn, mod97, normal, refused, scrub


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("write to ann.lee+x@mail.example.co.uk.", "write to ⟨email⟩."),
        ("<müller@straße.example>", "<⟨email⟩>"),
        ("DE89 3704 0044 0532 0130 00 is mine", "⟨iban⟩ is mine"),
        ("pay GB82WEST12345698765432, please", "pay ⟨iban⟩, please"),
        ("NO9386011117947 THE END", "⟨iban⟩ THE END"),
        ("card 4111 1111 1111 1111 ok?", "card ⟨card⟩ ok?"),
        ("5500-0000-0000-0004", "⟨card⟩"),
        ("amex 378282246310005", "amex ⟨card⟩"),
        ("my ssn is 123-45-6789", "my ssn is ⟨ssn⟩"),
        ("SSN 123 45 6789.", "SSN ⟨ssn⟩."),
        ("from 203.0.113.77 or 2001:db8::8a2e:370:7334", "from ⟨ip⟩ or ⟨ip⟩"),
        ("host [fe80::1] at 2001:0db8:85a3:0000:0000:8a2e:0370:7334.", "host [⟨ip⟩] at ⟨ip⟩."),
        ("call +49 30 901820-12 or +1 (415) 555-2671", "call ⟨phone⟩ or ⟨phone⟩"),
        ("(415) 555-2671, 415-555-2671, 415.555.2671, 415 555 2671", "⟨phone⟩, ⟨phone⟩, ⟨phone⟩, ⟨phone⟩"),
        ("ring 030/901 820 or 0800 123 4567 today", "ring ⟨phone⟩ or ⟨phone⟩ today"),
        ("0044 20 7946 0958", "⟨phone⟩"),
        ("a@b.org and 4111111111111111", "⟨email⟩ and ⟨card⟩"),
    ],
)
def test_personal_data_is_replaced(text: str, scrubbed: str) -> None:
    assert scrub(text)[0] == scrubbed
    assert scrub(scrubbed) == (scrubbed, ())


@pytest.mark.parametrize(
    "text",
    [
        "Which @decorator does a@b use?",
        "DE89 3704 0044 0532 0130 01 has a wrong check digit",
        "order 4111 1111 1111 1112 has one too",
        "ISBN 978-3-16-148410-0 from 2019-2020",
        "on 2024-05-17 at 12:30:45, room 101-22-3333x",
        "bind 127.0.0.1 or ::1 or 0.0.0.0 or :: in std::vector::size",
        "version 10.2.3.4.5 and 999.1.1.1 and 1.2.3",
        "3,141,592,653 of 1 000 000 000 in 1815 and 1 234 567.89",
        "the years 1914 1918 1939 1945, pages 100-200, and 000-12-3456 or 987-65-4321",
        "between 05-12-2023 and 01/02/2024, π is 3.14159265358979",
        "a commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b, chunk 7b12e77fe7c341bf",
        "8:30-17:00 and 24/7, 0.0331 and 007",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert scrub(text) == (text, ())


def test_kinds_are_named_once_each_in_a_fixed_order() -> None:
    assert scrub("+1 415-555-2671 a@b.org c@d.org")[1] == ("email", "phone")


def test_checksums_are_those_of_their_standards() -> None:
    assert luhn("79927398713")  # the example of ISO/IEC 7812-1
    assert [digit for digit in "0123456789" if luhn(f"7992739871{digit}")] == ["3"]
    assert mod97("GB82WEST12345698765432")  # the example of ISO 13616
    assert not mod97("GB28WEST12345698765432")


@given(st.text(alphabet="ab1234567890.-+@:/() é⟨", max_size=60))
def test_scrubbing_twice_changes_nothing_more(text: str) -> None:
    once = scrub(text)[0]
    assert scrub(once)[0] == once


@pytest.mark.parametrize("piece", ["1", "1 ", "a", "a.", "1.", ":", "0-", "+1(", "a@a.", "DE89 ", "4111 ", "1:", "@", "%'"])
def test_a_text_of_any_kind_takes_little_time(piece: str) -> None:
    started = time.process_time()
    scrub(piece * 20_000 + "@")
    assert time.process_time() - started < 2


def test_texts_are_compared_without_case_punctuation_and_width() -> None:
    assert normal("  How—many ＴＩＭＥＳ, “Straße” is_it? ") == "how many times strasse is it"
    assert normal("?!") == ""


def test_cleaning_in_batches_of_any_size_gives_the_same_texts() -> None:
    chance = random.Random(3)
    texts = [" ".join(chance.choice(["Ann?", "a@b.org", "10.1.2.3", "", "é"]) for _ in range(3)) for _ in range(23)]
    rows = pa.RecordBatch.from_pylist([{"text": text} for text in texts], schema=GIVEN)
    whole = pa.Table.from_batches([Clean()(rows)])
    assert whole.schema == CLEANED
    assert pa.Table.from_batches([Clean()(rows.slice(n, 5)) for n in range(0, 23, 5)]).combine_chunks() == whole
    assert whole["personal"].to_pylist()[:1] == [list(scrub(texts[0])[1])]


@pytest.mark.parametrize(
    "text",
    [
        "I found nothing about that in these documents.",
        "I'm sorry, but I don't know.",
        "Sorry, I can’t help with that.",
        "As an AI language model, I",
        "Unfortunately, the document does not mention it.",
        "I am unable to say.",
        "The provided text doesn't contain that.",
    ],
)
def test_refusals_are_told(text: str) -> None:
    from headrace.answering.quotes import NOT_FOUND

    assert refused(text)
    assert refused(NOT_FOUND)


@pytest.mark.parametrize(
    "text",
    ["308", "I know: 308.", "The document does not expire.", "Sorry state of affairs.", "In an AI model", "No. It cannot."],
)
def test_answers_are_no_refusals(text: str) -> None:
    assert not refused(text)
