"""DOCX as Word shows it: text in wrappers that say nothing, tracked changes accepted, merged cells, headings of any style."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from documents import office, paragraph, word

from headrace.documents.formats.contract import DocumentFile, Output, ParseLimits, ParseRefused
from headrace.documents.formats.word import write_word
from headrace.settings import Settings

LIMITS = ParseLimits.from_settings(Settings.model_fields["inference"].default)
_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_BOXES = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" xmlns:v="urn:schemas-microsoft-com:vml" '
_BOXES += 'xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape"'


WIDE, TALL = '<w:gridSpan w:val="2"/>', '<w:vMerge w:val="restart"/>'


def markdown(data: bytes) -> str:
    out = Output(1_000_000)
    write_word(DocumentFile("a.docx", data, LIMITS), out)
    return "\n".join(text for text, _ in out.parts())


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


@pytest.mark.parametrize(
    ("inside", "text"),
    [
        (f'{run("See ")}<w:fldSimple w:instr=" REF a ">{run("part 4")}</w:fldSimple>{run(" first.")}', "See part 4 first."),
        (f"<w:customXml w:element='c'><w:customXmlPr/>{run('Harbour')}</w:customXml>", "Harbour"),
        (f"<w:bdo w:val='rtl'>{run('שלום')}</w:bdo><w:dir w:val='ltr'>{run(' pump')}</w:dir>", "שלום pump"),
        (f"<w:moveFrom>{run('Gone.')}</w:moveFrom><w:moveTo>{run('Here.')}</w:moveTo>", "Here."),
        (f"<w:ins>{run('new')}<w:del><w:r><w:delText>old</w:delText></w:r></w:del></w:ins>", "new"),
        (f"<w:moveTo><w:ins><w:fldSimple w:instr='X'>{run('deep')}</w:fldSimple></w:ins></w:moveTo>", "deep"),
        (f"{run('a')}<w:r><w:cr/></w:r>{run('b')}", "a\nb"),
        (
            f"<w:r><w:ruby><w:rubyPr/><w:rt>{run('みず')}</w:rt><w:rubyBase>{run('水')}</w:rubyBase></w:ruby></w:r>{run('車')}",
            "水(みず)車",
        ),
    ],
)
def test_text_in_wrappers_that_say_nothing_is_read(inside: str, text: str) -> None:
    assert markdown(word(f"<w:p>{inside}</w:p>")).replace("  \n", "\n") == text


def test_whole_paragraphs_and_tables_in_wrappers_are_read() -> None:
    row = f"<w:tr><w:tc>{paragraph('cell')}</w:tc></w:tr>"
    data = word(f"<w:customXml>{paragraph('one')}</w:customXml>", f"<w:tbl><w:customXml>{row}</w:customXml>{row}</w:tbl>")
    assert markdown(data) == "one\n\n| cell |\n| --- |\n| cell |"


def test_text_boxes_are_read_once_with_or_without_an_older_form() -> None:
    box = f"<w:drawing><wps:txbx><w:txbxContent>{paragraph('in a box')}</w:txbxContent></wps:txbx></w:drawing>"
    older = f"<w:pict><v:textbox><w:txbxContent>{paragraph('in a box')}</w:txbxContent></v:textbox></w:pict>"
    choice = f"<mc:Choice Requires='wps'>{box}</mc:Choice>"
    for drawn in (
        box,
        f"<mc:AlternateContent>{choice}</mc:AlternateContent>",
        f"<mc:AlternateContent>{choice}<mc:Fallback/></mc:AlternateContent>",
        f"<mc:AlternateContent>{choice}<mc:Fallback>{older}</mc:Fallback></mc:AlternateContent>",
    ):
        body = f'<w:document xmlns:w="{_W}" {_BOXES}><w:body><w:p>{run("Before.")}<w:r>{drawn}</w:r></w:p></w:body></w:document>'
        assert markdown(office("docx", body)) == "Before.\n\nin a box"


def test_merged_cells_stand_in_each_of_their_rows_and_columns() -> None:
    def cell(text: str, properties: str = "") -> str:
        return f"<w:tc><w:tcPr>{properties}</w:tcPr>{paragraph(text)}</w:tc>"

    table = (
        f"<w:tbl><w:tr>{cell('Class')}{cell('Limit', WIDE)}</w:tr>"
        f"<w:tr>{cell('A', TALL)}{cell('5')}{cell('bar')}</w:tr>"
        f"<w:tr>{cell('', '<w:vMerge/>')}{cell('6')}{cell('bar | kPa')}</w:tr></w:tbl>"
    )
    assert markdown(word(table)).splitlines() == [
        "| Class | Limit | Limit |",
        "| --- | --- | --- |",
        "| A | 5 | bar |",
        "| A | 6 | bar \\| kPa |",
    ]


def styled(styles: Mapping[str, str], *blocks: str) -> bytes:
    inside = "".join(f'<w:style w:type="paragraph" w:styleId="{name}">{xml}</w:style>' for name, xml in styles.items())
    return word(*blocks, more={"word/styles.xml": f'<w:styles xmlns:w="{_W}">{inside}</w:styles>'})


def test_a_heading_is_one_by_name_by_outline_level_or_by_what_its_style_is_based_on() -> None:
    styles = {
        "T": '<w:name w:val="Title"/>',
        "berschrift1": '<w:name w:val="heading 1"/>',
        "Chapter": '<w:name w:val="Chapter"/><w:basedOn w:val="berschrift1"/>',
        "Section": '<w:name w:val="Section"/><w:pPr><w:outlineLvl w:val="1"/></w:pPr>',
        "Body": '<w:name w:val="Body"/><w:basedOn w:val="Chapter"/><w:pPr><w:outlineLvl w:val="9"/></w:pPr>',
        "Loop": '<w:name w:val="Loop"/><w:basedOn w:val="Loop"/>',
    }
    direct = f'<w:p><w:pPr><w:outlineLvl w:val="2"/></w:pPr>{run("direct")}</w:p>'
    data = styled(styles, *(paragraph(name, name) for name in styles), paragraph("none", "Missing"), direct)
    assert markdown(data).split("\n\n") == [
        "# T",
        "# berschrift1",
        "# Chapter",
        "## Section",
        "Body",
        "Loop",
        "none",
        "### direct",
    ]


def test_what_is_nested_deeper_than_any_program_writes_is_refused() -> None:
    data = word("<w:customXml>" * 300 + paragraph("deep") + "</w:customXml>" * 300)
    with pytest.raises(ParseRefused, match="it is nested too deeply"):
        markdown(data)
