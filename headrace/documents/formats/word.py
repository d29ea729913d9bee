"""DOCX to Markdown, by way of the HTML that mammoth makes of it.

mammoth passes over what it does not know, with the text in it. So such elements are first written as ones that it knows.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import mammoth
from lxml import etree
from markitdown.converter_utils.docx.pre_process import pre_process_docx

from headrace.documents.formats.contract import DocumentFile, Output, ParseRefused
from headrace.documents.formats.html import write_page

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_V = "{urn:schemas-microsoft-com:vml}"
_STRICT = b"http://purl.oclc.org/ooxml/wordprocessingml/main"
_TEXT_PARTS = re.compile(r"word/(?:document\w*|footnotes|endnotes)\.xml", re.I)
_STYLES = "word/styles.xml"
# What holds text and means nothing to a reader, and what was moved away.
_WRAPPERS = tuple(_W + name for name in ("moveTo", "fldSimple", "customXml", "smartTag", "bdo", "dir", "ins"))
_DROPPED = tuple(_W + name for name in ("moveFrom", "customXmlPr", "smartTagPr", "rubyPr"))
_BOX = _W + "txbxContent"
_HEADINGS = 6


def write_word(file: DocumentFile, out: Output) -> None:
    """Write a Word document: headings, lists, tables, notes, text boxes and formulas, with tracked changes accepted."""
    page = mammoth.convert_to_html(
        pre_process_docx(_known(file.data)),
        style_map="u => u",
        include_embedded_style_map=False,
        convert_image=mammoth.images.img_element(lambda image: {"src": ""}),
    ).value
    write_page(page, out)


def _known(data: bytes) -> io.BytesIO:
    """The document in elements that mammoth knows, without its pictures."""
    known = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(known, "w") as target:
        names = source.namelist()
        levels = _levels(_parsed(source.read(_STYLES))) if _STYLES in names else {}
        for name in names:
            content = source.read(name) if name.lower().endswith((".xml", ".rels")) else b""
            if _TEXT_PARTS.fullmatch(name) and _STRICT not in content:
                root = _parsed(content)
                _rewrite(root, levels)
                content = etree.tostring(root, encoding="utf-8", xml_declaration=True)
            target.writestr(name, content)
    known.seek(0)
    return known


def _parsed(content: bytes) -> Any:
    try:
        return etree.fromstring(content, etree.XMLParser(resolve_entities=False, no_network=True))
    except etree.XMLSyntaxError as error:
        if "depth" in str(error):
            raise ParseRefused("it is nested too deeply") from None
        raise


def _rewrite(root: Any, levels: Mapping[str, int]) -> None:
    for choice in list(root.iter(_MC + "AlternateContent")):
        _choose(choice)
    for box in [box for box in root.iter(_BOX) if box.getparent().tag != _V + "textbox"]:
        drawing = next(box.iterancestors(_W + "drawing"), None)
        if drawing is not None:
            picture = etree.Element(_W + "pict")
            etree.SubElement(picture, _V + "textbox").append(box)
            drawing.addnext(picture)
    for tag in list(root.iter(*_DROPPED)):
        _remove(tag)
    for tag in list(root.iter(_W + "ruby")):
        _unwrap_ruby(tag)
    for tag in list(root.iter(_W + "cr")):
        tag.tag = _W + "br"
    for tag in list(root.iter(*_WRAPPERS)):
        if tag.getparent() is not None and tag.getparent().tag not in (_W + "rPr", _W + "trPr", _W + "numPr"):
            _unwrap(tag)
    for properties in root.iter(_W + "pPr"):
        _set_heading(properties, levels)


def _choose(choice: Any) -> None:
    """Keep of alternatives the fallback if it has text, which mammoth reads; otherwise the first choice."""
    fallback = choice.find(_MC + "Fallback")
    kept = fallback if fallback is not None and _has_text(fallback) else choice.find(_MC + "Choice")
    if kept is None or (fallback is not None and not _has_text(kept)):
        kept = fallback
    if kept is not None:
        choice[:] = list(kept)
        _unwrap(choice)


def _has_text(element: Any) -> bool:
    return any(text.text for text in element.iter(_W + "t"))


def _unwrap(element: Any) -> None:
    """Put an element's children in its place."""
    for child in element:
        element.addprevious(child)
    _remove(element)


def _remove(element: Any) -> None:
    parent = element.getparent()
    if parent is not None:
        parent.remove(element)


def _unwrap_ruby(ruby: Any) -> None:
    """Characters and then their reading in parentheses, as runs of their own where the run of the ruby is."""
    run = ruby.getparent()
    base = [text.text or "" for text in ruby.iterfind(f"{_W}rubyBase//{_W}t")]
    reading = "".join(text.text or "" for text in ruby.iterfind(f"{_W}rt//{_W}t"))
    text = etree.Element(_W + "t")
    text.text = "".join(base) + (f"({reading})" if reading else "")
    run.replace(ruby, text)


def _levels(styles: Any) -> dict[str, int]:
    """The heading level of each paragraph style that is a heading by its name, its outline level, or the style it is based on."""
    found = {style.get(_W + "styleId"): style for style in styles.iter(_W + "style")}
    levels = {}
    for name in found:
        for style in _lineage(found, name):
            if level := _level(style):
                levels[name] = level
                break
            if style.find(f"{_W}pPr/{_W}outlineLvl") is not None:
                break  # body text by its own word, whatever it is based on
    return levels


def _lineage(styles: Mapping[str, Any], name: str) -> Iterator[Any]:
    seen: set[str] = set()
    while name in styles and name not in seen:
        seen.add(name)
        yield styles[name]
        based = styles[name].find(_W + "basedOn")
        name = "" if based is None else based.get(_W + "val")


def _level(style: Any) -> int:
    if outline := _outline(style.find(_W + "pPr")):
        return outline
    named = style.find(_W + "name")
    words = ("" if named is None else named.get(_W + "val") or "").lower().split()
    if words == ["title"]:
        return 1
    return int(words[1]) if len(words) == 2 and words[0] == "heading" and words[1] in "123456" else 0


def _outline(properties: Any) -> int:
    level = None if properties is None else properties.find(_W + "outlineLvl")
    value = "" if level is None else level.get(_W + "val") or ""
    return int(value) + 1 if value.isdigit() and int(value) < _HEADINGS else 0


def _set_heading(properties: Any, levels: Mapping[str, int]) -> None:
    style = properties.find(_W + "pStyle")
    level = _outline(properties) or levels.get("" if style is None else style.get(_W + "val"), 0)
    if level:
        if style is None:
            style = etree.Element(_W + "pStyle")
            properties.insert(0, style)
        style.set(_W + "val", f"Heading{level}")
