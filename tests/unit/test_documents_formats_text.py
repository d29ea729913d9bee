"""Text, Markdown, CSV and JSON as other programs write them: any common encoding, every kind of heading, every dialect."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.documents.formats.contract import DocumentFile, Output, ParseLimits, ParseRefused, clean
from headrace.documents.formats.detection import detect
from headrace.documents.formats.encoding import NOT_KNOWN, NOT_TEXT, decoded
from headrace.documents.formats.plain_text import markdown_headings, write_code
from headrace.documents.formats.table import write_csv
from headrace.settings import Settings

LIMITS = ParseLimits.from_settings(Settings.model_fields["inference"].default)
TEXTS = {
    "Russian": "Резервное копирование выполняется ночью. Журнал хранится сорок дней.",
    "Ukrainian": "Журнал зберігається сорок днів, його перевіряє інженер.",
    "Polish": "Dziennik jest przechowywany przez czterdzieści dni, później się go usuwa. Źródło: łącze.",
    "Czech": "Deník se uchovává čtyřicet dní, poté se smaže. Žádná výjimka neplatí.",
    "Hungarian": "A naplót negyven napig őrzik, utána törlik. Nincs kivétel, csak írásban kérhető.",
    "Romanian": "Jurnalul se păstrează patruzeci de zile, apoi se şterge. Fără excepţii.",
    "French": "Le journal est gardé quarante jours, puis effacé à l’aube. Déjà vérifié.",
    "German": "Das Protokoll wird vierzig Tage aufbewahrt, danach gelöscht. Größe: groß.",
    "Spanish": "El registro se guarda cuarenta días. ¿Y después? Mañana se borra.",
    "Turkish": "Günlük kırk gün saklanır, sonra silinir. Değişiklik olmaz, ışık söner.",
    "Greek": "Το ημερολόγιο φυλάσσεται σαράντα ημέρες και μετά διαγράφεται.",
    "Hebrew": "היומן נשמר ארבעים יום ולאחר מכן נמחק.",
    "Arabic": "يحفظ السجل أربعين يوما ثم يحذف.",
    "Thai": "บันทึกจะถูกเก็บไว้สี่สิบวันแล้วจึงลบออก",
    "Chinese": "日志保存四十天，之后删除。值班工程师每周检查一次。",
    "Taiwanese": "日誌保存四十天，之後刪除。值班工程師每週檢查一次。",
    "Japanese": "ログは40日間保存され、その後削除されます。当番の技術者が毎週確認します。",
    "Korean": "로그는 사십 일 동안 보관된 후 삭제됩니다. 당직 기술자가 매주 확인합니다.",
}
WRITTEN = [
    ("Russian", ("cp1251", "koi8-r", "cp866", "iso8859-5")),
    ("Ukrainian", ("cp1251", "koi8-u")),
    ("Polish", ("cp1250", "iso8859-2")),
    ("Czech", ("cp1250", "iso8859-2")),
    ("Hungarian", ("cp1250", "iso8859-2")),
    ("Romanian", ("cp1250", "iso8859-2")),
    ("French", ("cp1252",)),
    ("German", ("cp1252", "iso8859-15", "cp850", "mac-roman")),
    ("Spanish", ("cp1252",)),
    ("Turkish", ("cp1254",)),
    ("Greek", ("cp1253", "iso8859-7")),
    ("Hebrew", ("cp1255",)),
    ("Arabic", ("cp1256",)),
    ("Thai", ("cp874",)),
    ("Chinese", ("gbk", "gb18030", "utf-16-le", "utf-16-be")),
    ("Taiwanese", ("big5",)),
    ("Japanese", ("cp932", "euc-jp", "iso2022-jp")),
    ("Korean", ("cp949", "euc-kr", "iso2022-kr")),
]


@pytest.mark.parametrize(("language", "encoding"), [(language, one) for language, all_ in WRITTEN for one in all_])
def test_the_encoding_of_a_text_is_detected(language: str, encoding: str) -> None:
    text = f"# 7\n{TEXTS[language]}\n"
    assert decoded(text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Prüfung", "cp1252"),
        ("nazwa;ilość\nzawór;4\n", "iso8859-2"),
        ("nazwa;ilość\nzawór;4\n", "cp1250"),
        ("Сорок дней", "koi8-r"),
        ("журнал,дни\nночной,40\n", "cp1251"),
        ("日志保存", "gbk"),
        ("ﾛｸﾞ の ほぞん", "cp932"),
        ("25 °C ± 2 µm, § 7\n", "cp1252"),
    ],
)
def test_a_few_letters_show_an_encoding(text: str, encoding: str) -> None:
    assert decoded(text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ('<?xml version="1.0" encoding="windows-1251"?>', "cp1251"),
        ("<html><head><meta charset=shift_jis>", "cp932"),
        ("# -*- coding: koi8-r -*-", "koi8-r"),
        ("#!/usr/bin/env python\n# vim: set fileencoding=gbk :", "gbk"),
        ('@charset "iso-8859-5";', "iso8859-5"),
    ],
)
def test_the_encoding_that_a_text_declares_is_used(head: str, encoding: str) -> None:
    text = f"{head}\n{'ひ' if encoding == 'cp932' else 'ж'}\n"  # too little to detect
    assert decoded(text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Öl\n".encode() * 9 + b"cut \xc3", "Öl\n" * 9 + "cut \ufffd"),
        (b"\xa4 half\n" + "Öl\n".encode() * 9, "Öl\n" * 9),
        ("Öl und Maß\n".encode() * 5 + b"\xff\n" + "日志\n".encode() * 5, "日志\n" * 5),
        (b"plain text of a log, line after line\n" * 20 + b"\xff\xfe\n", "plain text of a log"),
    ],
)
def test_a_text_that_is_mostly_utf8_is_utf8(data: bytes, text: str) -> None:
    read = decoded(data)
    assert text in read
    assert read.encode().count("\ufffd".encode()) <= 2


def test_bytes_of_no_encoding_are_refused_with_what_to_do() -> None:
    for data, said in ((bytes(range(0x80, 0x100)) * 40, NOT_KNOWN), (bytes(range(256)) * 20, NOT_TEXT)):
        with pytest.raises(ParseRefused) as caught:
            decoded(data)
        assert caught.value.reason == said


def test_marks_that_show_nothing_and_colours_of_a_terminal_are_left_out() -> None:
    assert clean("Kraft\u00adfahr\u200bzeug\u2060s \ufeffteil") == "Kraftfahrzeugs teil"
    assert clean("\x1b[1;31mERROR\x1b[0m pump \x1b]0;title\x07P-7\x1b[K") == "ERROR pump P-7"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Manual\n======\n\nBackups\n-------\nDaily.", "# Manual\n\n\n## Backups\n\nDaily."),
        ("Two\nlines\n===", "# Two lines\n\n"),
        ("- item\n---", "- item\n---"),
        ("text\n\n---\nmore", "text\n\n---\nmore"),
        ("---\ntitle: a\n---\nText", "---\ntitle: a\n---\nText"),
        ("| a |\n|---|\n| b |\n---", "| a |\n|---|\n| b |\n---"),
        ("```\nTitle\n===\n# not\n```", "```\nTitle\n===\n# not\n```"),
        ("<!--\n# draft\n-->\n# Title", "<!--\n\\# draft\n-->\n# Title"),
        ("<!-- # one line -->\n# Title", "<!-- # one line -->\n# Title"),
        ("a `<!--` in text\n\n# Title", "a `<!--` in text\n\n# Title"),
        ('<h2 align="center">The <i>mill</i></h2>', "## The mill"),
        ("   ### Indented", "### Indented"),
        ("    # code", "    # code"),
    ],
)
def test_every_kind_of_heading_of_markdown_is_one(text: str, wanted: str) -> None:
    assert markdown_headings(text) == wanted


def table(data: str) -> list[str]:
    out = Output(10_000)
    write_csv(DocumentFile("a.csv", data.encode(), LIMITS), out)
    ((text, _),) = out.parts()
    return text.splitlines()


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        ("sep=;\r\nname;qty\r\nPump;3\r\n", ["| name | qty |", "| Pump | 3 |"]),
        ("SEP=^\na^b\n1^2\n", ["| a | b |", "| 1 | 2 |"]),
        ("1,5;2,5\n3,5;4,5\n", ["| 1,5 | 2,5 |", "| 3,5 | 4,5 |"]),
        ('a,b\n"open,1\nc,2\nd,"e, f"\n', ["| a | b |", '| "open | 1 |', "| c | 2 |", "| d | e, f |"]),
        ('a,b\nc,"open\nd,2\n', ["| a | b |", '| c | "open |', "| d | 2 |"]),
        ('a,b\n5" pipe,2\n', ["| a | b |", '| 5" pipe | 2 |']),
        ('a,b\n"say ""hi""\nyou",2\n', ["| a | b |", '| say "hi" you | 2 |']),
        ('a,b\n"say \\"hi\\", you",2\n', ["| a | b |", '| say "hi", you | 2 |']),
        ('"a, b";c\n"d, e";f\n', ["| a, b | c |", "| d, e | f |"]),
    ],
)
def test_a_csv_file_of_any_dialect_has_its_columns(data: str, rows: list[str]) -> None:
    header, _, *others = table(data)
    assert [header, *others] == rows


@pytest.mark.parametrize(
    ("language", "text", "wanted"),
    [
        ("json", r'{"a": "\u65e5\u5fd7 Pr\u00fcf \ud83d\ude00"}', '{"a": "日志 Prüf 😀"}'),
        ("json", r'{"a": "\\u65e5 \u0022 \n \u000a"}', r'{"a": "\\u65e5 \u0022 \n \u000a"}'),
        ("yaml", r'a: "\u65e5\xFC"', 'a: "日ü"'),
        ("ini", r"a=\u65e5", "a=日"),
        ("python", r"a = '\u65e5'", r"a = '\u65e5'"),
    ],
)
def test_letters_written_as_escapes_are_letters(language: str, text: str, wanted: str) -> None:
    out = Output(10_000)
    write_code(DocumentFile("a", text.encode(), LIMITS, language), out)
    ((written, _),) = out.parts()
    assert written.splitlines()[3:-1] == wanted.splitlines()


def as_records(text: str, name: str = "a.json", limits: ParseLimits = LIMITS) -> str:
    """What is written of a JSON file; "" if it is no table."""
    found, language = detect(name, text.encode(), limits)
    out = Output(1_000_000)
    if found.media != "application/json":
        assert language == "json"
        return ""
    found.load()(DocumentFile(name, text.encode(), limits), out)
    return "".join(text for text, _ in out.parts())


def test_json_that_is_a_table_is_one() -> None:
    rows = '{"id": 7, "by": {"name": "J\\u00fcrgen | \\ud83d"}}', '{"id": null, "tags": ["a", 2], "open": true}'
    table = "| id | by.name | tags | open |\n|---|---|---|---|\n| 7 | Jürgen \\| |\n|  |  | a, 2 | true |"
    assert as_records(f"[{', '.join(rows)}]") == table
    assert as_records("\n".join(rows) + "\n\n", "a.jsonl") == table
    assert as_records(f"\ufeff [{rows[0]}]", "export.JSON").startswith("| id | by.name |")


def test_tables_within_json_have_labels_and_values() -> None:
    """Their lines were quoted as answers, braces and all."""
    checks = '{"id": "RS-12", "checks": [{"on": "2 May", "by": "Ito"}, {"on": "9 June"}]}\n{"id": "RS-13", "checks": []}'
    assert as_records(checks, "a.jsonl") == "| id | checks |\n|---|---|\n| RS-12 | on: 2 May, by: Ito; on: 9 June |\n| RS-13 |"
    quay = '{\n"quay": {"length": "540 m"},\n"cranes": [\n{"id": "RS-12"},\n{"id": "RS-13"}\n],\n"sheds": [{"no": 4}]}'
    assert as_records(quay) == (
        "| quay.length |\n|---|\n| 540 m |\n"
        "\n## cranes\n\n| id |\n|---|\n| RS-12 |\n| RS-13 |\n"
        "\n## sheds\n\n| no |\n|---|\n| 4 |"
    )


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',  # settings
        "[1, 2]",
        "[]",
        "[{}]",
        '[{"a": 1}, 2]',
        '[{"a": [{"b": [{"c": [{"d": 1}]}]}]}]',
        '[{"a": [{"b": 1}, 2]}]',
        '{"a": 1, "b": [{}]}',
        '{"a": {"b": {"c": {"d": 1}}}, "e": [{"f": 1}]}',
        '[{"a": {"b": {"c": {"d": 1}}}}]',
        '[{"a": ' + "9" * 5_000 + "}]",
        '{"a": 1}\n{"b": 2',
        '[{"a": ' * 3_000,
        "[" + ",".join(f'{{"n{number}": 1}}' for number in range(101)) + "]",
        '[{"a": "' + "x" * 20_000_000 + '"}]',
    ],
)
def test_json_that_is_no_table_is_source_code(text: str) -> None:
    assert as_records(text) == ""


def test_json_of_more_rows_than_a_table_may_have_is_source_code() -> None:
    assert as_records('[{"a": 1}, {"a": 2}]', limits=replace(LIMITS, document_rows=1)) == ""
