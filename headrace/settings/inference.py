"""The inference pipeline: limits of documents, personal data, retrieval and answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from headrace.settings.section import Section

AnswerMode = Literal["auto", "extractive", "generated"]
PiiAction = Literal["allow", "warn", "mask", "refuse"]


class PiiPolicy(Section):
    """What is done with personal data in a document's text when it is parsed: `allow` does not look for it, `warn` says so in the
    document's status, `mask` replaces its letters and digits by blocks, `refuse` takes nothing of the document into the index.

    Only the text is changed: the source stays as it was put. Documents parsed before stay as they are.
    """

    email: PiiAction = "allow"
    """E-mail addresses."""
    phone: PiiAction = "allow"
    """Phone numbers: international ones with a +, and US ones."""
    card: PiiAction = "allow"
    """Card numbers, by Luhn's checksum."""
    iban: PiiAction = "allow"
    """IBANs, by their country's length and their checksum."""
    ssn: PiiAction = "allow"
    """US social security numbers, written with hyphens."""

    def actions(self) -> dict[str, str]:
        """Kind → what is done with it, of those that are not allowed."""
        return {kind: action for kind, action in self.model_dump().items() if action != "allow"}


class Inference(Section):
    """The inference pipeline."""

    chunk_tokens: int = Field(default=200, ge=32, le=254)
    """Maximum word pieces per chunk; the embedder reads 256, including two special tokens and the heading path."""
    document_bytes: int = Field(default=50_000_000, ge=1)
    """Larger files are rejected with a recorded reason, like every file that exceeds one of the following limits."""
    document_pages: int = Field(default=5_000, ge=1)
    """Pages of a PDF, or slides of a presentation."""
    document_sheets: int = Field(default=500, ge=1)
    """Sheets of a workbook."""
    document_rows: int = Field(default=500_000, ge=1)
    """Non-empty rows of a CSV file, or of all sheets of a workbook."""
    document_characters: int = Field(default=10_000_000, ge=1)
    """Characters of a document's text; a small file can expand to far more."""
    unpacked_bytes: int = Field(default=500_000_000, ge=1)
    """Unpacked bytes that a zip-based file (DOCX, PPTX, XLSX) declares; checked before anything is unpacked."""
    unpacked_ratio: int = Field(default=200, ge=1)
    """Compression ratio of a zip-based file; checked if it unpacks to more than 10 MB."""
    unpacked_files: int = Field(default=20_000, ge=1)
    """Files inside a zip-based file."""
    parse_seconds: float = Field(default=120.0, gt=0)
    """A file that takes longer to parse is rejected; its parser is killed."""
    parse_cpu_seconds: int = Field(default=60, ge=1)
    """A file that takes more processor time is rejected, however busy the machine is."""
    parse_memory_bytes: int = Field(default=2 << 30, ge=1 << 29)
    """Address space of a parser process, of which there are three at most; a file that needs more is rejected."""
    ocr_pages: int = Field(default=200, ge=0)
    """Scanned pages of a PDF that are read by OCR, where the `ocr` extra is installed, each in the time that a file has to be
    parsed; further ones have no text. 0 reads none."""
    ocr_seconds: float = Field(default=1_800.0, gt=0)
    """Seconds of reading scanned pages of one PDF, after which it begins no further page: those have no text."""
    pii: PiiPolicy = PiiPolicy()
    """Personal data in documents."""
    retrieve: int = Field(default=20, ge=1)
    """Passages retrieved before re-ranking."""
    fusion: Literal["scores", "ranks"] = "scores"
    """How dense and full-text search become one order: by their `scores`, better where measured, or by reciprocal `ranks`."""
    passages: int = Field(default=2, ge=1)
    """Passages given to the generator; the small embedded one answers best from two, a large one from more."""
    least_similarity: float = Field(default=0.30, ge=-1, le=1)
    """If the cosine similarity of question and best passage is lower, the generator is not asked and the question is refused."""
    rerank_seconds: float = Field(default=5.0, gt=0)
    """A re-ranker that takes longer is skipped: retrieval's order is used, and the answer says so."""
    rewrite_seconds: float = Field(default=5.0, ge=0)
    """Seconds your own generator may take to rewrite a follow-up question; later, or with 0, it is rewritten by rule."""
    answers: AnswerMode = "auto"
    """`extractive` quotes the sentence or table row that answers, `generated` has the generator write. `auto` quotes with the
    embedded embedder and generator, which are small and quote better than they write."""
    answer_tokens: int = Field(default=160, ge=1)
    """Maximum tokens the generator writes; an answer cut off there says so."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Sampling temperature of answers; 0 takes the likeliest words. Above 0 answers vary, which recipe `online` needs."""

    def mode(self, wanted: AnswerMode | None = None, *, embedded: bool) -> AnswerMode:
        """How a question is answered: as `wanted`, by default as `answers` says; never `auto`.

        `embedded` means that embedder and generator are the embedded models.
        """
        wanted = wanted or self.answers
        if wanted != "auto":
            return wanted
        # A temperature asks for answers that vary, as the recipe `online` needs; quotes do not vary.
        return "extractive" if embedded and not self.temperature else "generated"
