"""Full-text search finds words in scripts without spaces, and however a word was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headrace.catalog import CHUNKS, DIMENSIONS
from headrace.storage.endpoints import Endpoints
from headrace.storage.ledger import Ledger
from headrace.storage.meter import Meter
from headrace.storage.vectors.handles import VectorWriter
from headrace.storage.vectors.words import indexed_words, searched_words

# name → a note, and phrases of a question that it answers
NOTES = {
    "zh parking": ("停车场每天早上六点开放，访客车辆须在门卫处登记。", ["停车场", "访客登记", "门卫", "开放"]),
    "zh lab": ("实验室的灭火器每半年检查一次，由安全主管签字。", ["灭火器检查", "安全主管", "多久检查一次灭火器？"]),
    "zh well": ("第八号井的水位由赵工记录。", ["水位", "井", "第八号井"]),
    "ja parking": ("駐車場は午前六時に開きます。来客の車は守衛所で登録してください。", ["駐車場", "来客", "守衛所"]),
    "ja lab": ("実験室のサーバーは月曜日に再起動されます。", ["サーバー", "再起動", "ｻｰﾊﾞｰ"]),
    "ko parking": ("주차장은 오전 여섯 시에 엽니다. 방문객은 경비실에 등록합니다.", ["주차장", "방문객", "경비실 등록"]),
    "ko lab": ("실험실의 소화기는 반년마다 점검합니다.", ["소화기", "점검", "실험실 소화기 점검"]),
    "th parking": ("ที่จอดรถเปิดเวลาหกโมงเช้า ผู้มาเยือนต้องลงทะเบียน", ["ที่จอดรถ", "ผู้มาเยือน", "ลงทะเบียน"]),
    "th lab": ("ห้องปฏิบัติการต้องตรวจถังดับเพลิงทุกครึ่งปี", ["ถังดับเพลิง", "ห้องปฏิบัติการ"]),
    "en widths": ("Pump ＸＹ－９０ stands in hall ４.", ["XY-90", "xy", "hall 4"]),
    "en marks": ("The Dampf\u00adkessel\u200bprüfung is due.", ["Dampfkesselprüfung"]),
    "en code": ("def check_flow(limit): running", ["check_flow", "ＣＨＥＣＫ_flow", "runs"]),
    "hi lab": ("प्रयोगशाला की जाँच हर छह महीने में होती है।", ["प्रयोगशाला", "महीने"]),
}


def rows(texts: Sequence[str], names: Sequence[str]) -> pa.Table:
    """Rows of the vector store with these texts, whose embeddings mean nothing."""
    required = pa.schema([field for field in CHUNKS.columns if not field.nullable])
    numbers = np.random.default_rng(1).normal(size=len(texts) * DIMENSIONS).astype(np.float32)
    special = {
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(numbers), DIMENSIONS),
        "readers": pa.array([[]] * len(texts), pa.list_(pa.string())),
        "position": pa.array(range(len(texts)), pa.int32()),
        "text": pa.array(texts),
        "tenant": pa.array(["acme"] * len(texts)),
    }
    return pa.table({field.name: special.get(field.name, pa.array(names)) for field in required}).cast(required)


@pytest.fixture
def index(tmp_path: Path) -> VectorWriter:
    writer = VectorWriter(CHUNKS, Endpoints.model_construct(vectors_uri=str(tmp_path / "index")), Meter(Ledger(), "test"))
    writer.upsert(rows([text for text, _ in NOTES.values()], list(NOTES)))
    return writer


def found(index: VectorWriter) -> dict[str, str]:
    """Each phrase, and the note that is found first for it."""
    phrases = [phrase for _, some in NOTES.values() for phrase in some]
    hits = {phrase: index.fulltext(phrase, tenant="acme", most=3) for phrase in phrases}
    return {phrase: one[0].uri if one else "" for phrase, one in hits.items()}


def test_phrases_in_chinese_japanese_korean_and_thai_find_their_note(index: VectorWriter) -> None:
    index.build()
    assert found(index) == {phrase: name for name, (_, phrases) in NOTES.items() for phrase in phrases}


def test_an_index_that_knows_only_texts_is_searched_and_brought_along(index: VectorWriter) -> None:
    from lancedb.index import FTS

    table = index._open()
    table.drop_columns(["words"])
    table.create_index("text", config=FTS(stem=True))
    assert [hit.uri for hit in index.fulltext("check_flow", tenant="acme", most=1)] == ["en code"]
    index.build()
    assert {one.name for one in index._open().list_indices()} >= {"words_idx"}
    assert "text_idx" not in {one.name for one in index._open().list_indices()}
    assert found(index)["灭火器检查"] == "zh lab"


def test_words_of_a_question_are_pieces_of_the_words_of_the_text() -> None:
    assert indexed_words("Plain words, P-7.") == "Plain words, P-7."
    assert searched_words("What's P-7? (or: 7*)") == "What s P 7 or 7"
    assert searched_words("泵站P-7") == "泵站 P 7"
    assert searched_words("泵") == "泵"
    assert indexed_words("泵站").split() == ["泵站", "泵", "站"]
    assert searched_words("ต้องตรวจ").split() == ["ตอง", "องต", "งตร", "ตรว", "รวจ"]
    assert searched_words("हिन्दी") == "हिन्दी"
    assert searched_words("\u202e ") == ""
