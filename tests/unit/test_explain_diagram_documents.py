"""PDF and PowerPoint: vector shapes and native ones, with every word of the scene and where the scene has it."""

from __future__ import annotations

import io
from collections import Counter
from functools import cache
from itertools import pairwise
from typing import Any

import pypdf
import pytest
from pptx import Presentation
from pptx.oxml.ns import qn
from test_explain_diagram_draw import HOSTILE, diagram
from test_explain_diagram_scene import PIPELINES

from headrace.explain.diagram.layout import storage_scene
from headrace.explain.diagram.pdf import pdf
from headrace.explain.diagram.pptx import HEIGHT, WIDTH, pptx
from headrace.explain.diagram.scene import Label, Line, Rect, Scene
from headrace.explain.diagram.theme import DARK
from headrace.explain.diagram.views import Detail, View, scene_for

POINT = 12_700
SCENES = [f"{name}-{detail}" for name in ("training", "inference") for detail in Detail] + ["ray"]


@cache
def scene_of(name: str) -> Scene:
    if name == "ray":
        return scene_for(PIPELINES["training"], view=View.RAY, palette=DARK)
    pipeline, detail = name.split("-")
    return scene_for(PIPELINES[pipeline], detail=Detail(detail))


def texts(scene: Scene) -> list[str]:
    return [item.text for group in scene.groups for item in group.items if isinstance(item, Label) and item.text]


def shapes(data: bytes) -> list[Any]:
    deck = Presentation(io.BytesIO(data))
    (slide,) = deck.slides
    return list(slide.shapes)


@pytest.mark.parametrize("name", SCENES)
def test_a_pdf_is_one_page_of_vectors_with_every_word(name: str) -> None:
    scene = scene_of(name)
    document = pypdf.PdfReader(io.BytesIO(pdf(scene)))
    (page,) = document.pages
    assert (float(page.mediabox.width), float(page.mediabox.height)) == pytest.approx((scene.width, scene.height), abs=0.1)
    assert not page.images
    fonts = {str(font.get_object()["/BaseFont"]) for font in page["/Resources"]["/Font"].get_object().values()}
    assert any("SourceSansPro" in font for font in fonts), fonts
    said = page.extract_text()
    assert all(text in said for text in texts(scene))
    assert document.metadata is not None
    assert document.metadata.title == scene.title


def test_the_same_scene_gives_the_same_pdf() -> None:
    assert pdf(scene_of("training-slide")) == pdf(scene_of("training-slide"))


@pytest.mark.parametrize("name", SCENES)
def test_a_slide_has_native_shapes_where_the_scene_has_them(name: str) -> None:
    scene = scene_of(name)
    drawn = shapes(pptx(scene))
    deck = Presentation(io.BytesIO(pptx(scene)))
    assert (deck.slide_width, deck.slide_height) == (WIDTH * POINT, HEIGHT * POINT) == (12_192_000, 6_858_000)
    assert not [shape for shape in drawn if shape.shape_type is not None and "PICTURE" in str(shape.shape_type)]
    zoom = min(WIDTH / scene.width, HEIGHT / scene.height)
    rects = [item.box for group in scene.groups for item in group.items if isinstance(item, Rect)]
    boxes = Counter(
        (round(box.x * zoom), round(box.y * zoom), round(box.width * zoom), round(box.height * zoom)) for box in rects
    )
    sizes = Counter(
        (round(shape.left / POINT), round(shape.top / POINT), round(shape.width / POINT), round(shape.height / POINT))
        for shape in drawn
    )
    assert not boxes - sizes
    lines = [item for group in scene.groups for item in group.items if isinstance(item, Line)]
    assert sum(shape._element.tag == qn("p:cxnSp") for shape in drawn) == len(lines)
    heads = [shape for shape in drawn if shape._element.findall(f".//{qn('a:tailEnd')}")]
    assert len(heads) == sum(1 for line in lines if line.head)
    words = Counter(
        paragraph.text for shape in drawn if shape.has_text_frame for paragraph in shape.text_frame.paragraphs if paragraph.text
    )
    assert words == Counter(texts(scene))


def test_a_slide_is_described_and_read_in_order() -> None:
    scene = scene_of("training-slide")
    drawn = shapes(pptx(scene))
    described = [shape._element.xpath(".//p:cNvPr")[0].get("descr") for shape in drawn]
    assert {group.alt for group in scene.groups if group.items} <= set(described)
    assert not [shape for shape in drawn if shape._element.find(qn("p:style")) is not None], "a style brings shadows"
    stages = [shape.text_frame.text for shape in drawn if shape.name.startswith("stage") and shape.has_text_frame]
    titles = [title for title in stages if title and not title.isdigit()]
    lefts = [shape.left for shape in drawn if shape.name.startswith("stage") and shape.text_frame.text in titles]
    assert len(titles) == sum(1 for group in scene.groups if group.kind == "stage")
    assert all(one < two for one, two in pairwise(lefts))


def test_text_on_a_slide_is_large_enough_and_in_a_font_that_all_have() -> None:
    for shape in shapes(pptx(scene_of("inference-slide"))):
        for paragraph in shape.text_frame.paragraphs if shape.has_text_frame else ():
            for run in paragraph.runs:
                assert run.font.name == "Calibri"
                assert run.font.size.pt >= 12


def test_speakers_notes_have_every_flow_and_what_is_not_drawn() -> None:
    deck = Presentation(io.BytesIO(pptx(scene_of("training-slide"))))
    notes = deck.slides[0].notes_slide.notes_text_frame.text
    assert "95 % within" in notes
    assert "record 12 KB" in notes


def test_hostile_names_stay_text_in_documents() -> None:
    scene = storage_scene(diagram(HOSTILE, HOSTILE))
    assert pypdf.PdfReader(io.BytesIO(pdf(scene))).pages
    text = " ".join(shape.text_frame.text for shape in shapes(pptx(scene)) if shape.has_text_frame)
    assert "<script>" in text
    assert "\x00" not in text
