"""Bytes to text: by byte order mark, as UTF-8, as declared, or by an encoding that the letters of some language fit.

charset-normalizer proposes encodings by the shape and frequency of letters. Of those it proposes, the one is taken in which most
letters are in one language's alphabet: a Czech text in ISO 8859-2 is also a well-formed text in Windows-1250, but not in Czech.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise

from headrace.documents.formats.contract import ParseRefused

NOT_TEXT = "it holds binary data, not text"
NOT_KNOWN = "its encoding is not known: save it as UTF-8"

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SHIFTS = ((b"\x1b$)C", "iso2022_kr"), (b"\x1b$", "iso2022_jp_2"))  # seven-bit encodings that escape sequences announce
_LOOKED_AT = 100_000  # bytes, enough to detect an encoding
_SAMPLE = 16_000  # bytes of lines with letters beyond ASCII
_WORD_LENGTH = 4  # a shorter text may repeat a letter
_FITS = 0.9  # of the letters beyond ASCII, at least, belong to the language
_STRAY = 0.01  # of the bytes, at most, may be damaged
_VALID = 2  # multibyte characters of UTF-8 for each damaged one, at least, in a text that is mostly UTF-8

_WESTERN = [
    "àâæçéèêëîïôœùûüÿ",
    "äöüß",
    "áéíñóúü",
    "áâãàçéêíóôõúü",
    "àèéìíîòóùú",
    "ëïéèêöü",
    "åäöé",
    "æøåéô",
    "áðéíóúýþæö",
    "àçèéíïòóúü",
]
_CENTRAL = ["ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "čćđšž", "ăâîşţșț", "äöüß"]
_RUSSIAN = "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
_CYRILLIC = (_RUSSIAN, "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя", "абвгдеёжзійклмнопрстуўфхцчшыьэюя", "абвгдђежзијклљмнњопрстћуфхцчџш")
_GREEK = "αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώϊϋΐΰ"
_HEBREW = "".join(map(chr, range(0x5D0, 0x5EB)))
_ARABIC = "".join(map(chr, (*range(0x621, 0x63B), *range(0x641, 0x653)))) + "پچژگکیںھہے"
_THAI = "".join(map(chr, (*range(0xE01, 0xE3B), *range(0xE40, 0xE5B))))
# Encoding → alphabets of the languages written in it, in lower case; of two that fit equally, the earlier is taken.
_ALPHABETS: dict[str, tuple[str, ...]] = {
    "cp1252": tuple(_WESTERN),
    "iso8859_15": tuple(_WESTERN),
    "cp1250": tuple(_CENTRAL),
    "iso8859_2": tuple(_CENTRAL),
    "cp1254": ("çğıöşüâîû",),
    "cp1257": ("ąčęėįšųūž", "āčēģīķļņšūž", "äöõüšž"),
    "cp949": (),
    "cp932": (),
    "euc_jp": (),
    "gb18030": (),
    "big5": (),
    "cp1251": _CYRILLIC,
    "koi8_r": (_RUSSIAN,),
    "koi8_u": _CYRILLIC[1:2],
    "cp866": (_RUSSIAN,),
    "iso8859_5": _CYRILLIC,
    "cp1253": (_GREEK,),
    "iso8859_7": (_GREEK,),
    "cp1255": (_HEBREW,),
    "cp1256": (_ARABIC,),
    "cp874": (_THAI,),
    "cp850": tuple(_WESTERN),
    "mac_roman": tuple(_WESTERN),
}
_LATIN = frozenset("".join((*_WESTERN, *_CENTRAL, "çąā")))
# The letters of other scripts that make up more than half of any text; a wrong encoding gives rare ones.
_FREQUENT = frozenset("оеаинтсрвліαοιετσνηυρπκςάέήίόύώיולאהמרתשבاليمونرتبعานรองกเมยลวดตส่้ัี")
_USUAL = 0.75  # of letters are frequent ones
# The bytes of common characters in national standards: (codec, first and last lead byte of the characters in frequent use).
_COMMON = {"gb18030": ("gb2312", 0xB0, 0xD7), "big5": ("big5", 0xA4, 0xC6), "cp949": ("euc_kr", 0xB0, 0xC8)}
_JAPANESE = ("euc_jp", 0xB0, 0xCF)
_KANA_SHARE = 0.1  # of Japanese text, at least
_NEUTRAL = frozenset("«»„“”‘’‚–—…€°§·•±²³µ©®™¿¡½¼¾×÷ªº´¨\u00a0\u00ad№")
# What a label means in practice (https://encoding.spec.whatwg.org/#names-and-labels).
_MEANT = {"iso8859-1": "cp1252", "ascii": "cp1252", "latin-1": "cp1252", "iso8859-9": "cp1254", "gb2312": "gb18030"}
_MEANT |= {"gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs", "tis-620": "cp874"}
_XML = re.compile(rb"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{1,40})")
_CODING = re.compile(rb"(?:[^\n]{0,200}\n)?[ \t\f]*(?:#|//|/\*|;|\.\.|--|\")[^\n]{0,200}?coding[:=][ \t]*([\w.-]{1,40})")
_CHARSET = re.compile(rb"(?:<meta[^>]{0,200}?charset\s*=\s*[\"']?|@charset\s+[\"'])([\w.:-]{1,40})", re.I)
_WITHIN = re.compile(r"(?<=[^\W\d_])[«»„“”‚€§•±²³©®™¿¡½¼¾×÷´¨](?=[^\W\d_])")  # marks within words
_WORD = re.compile(r"[^\W\d_]+")


def decoded(data: bytes, declared: str = "") -> str:
    """Bytes as text; `declared` is the encoding named for them, by default the one that they name themselves.

    Raises `ParseRefused` where they are not text, or no encoding fits.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            with contextlib.suppress(UnicodeDecodeError):
                return _proven(data.decode(encoding))
    for escape, encoding in _SHIFTS:
        if escape in data[:_LOOKED_AT]:
            with contextlib.suppress(UnicodeDecodeError):
                return _proven(data.decode(encoding))
    with contextlib.suppress(UnicodeDecodeError):
        if b"\x00" not in data[:_LOOKED_AT]:
            return _proven(data.decode("utf-8"))
    if (wide := _utf16(data)) is not None:
        return wide
    declared = declared or _declared(data)
    if declared and (text := _as_declared(data, declared)) is not None:
        return text
    with contextlib.suppress(UnicodeDecodeError):
        return _proven(data.decode("utf-8"))
    if b"\x00" in data:
        raise ParseRefused(NOT_TEXT)
    _proven(data.decode("latin-1"))
    return _mostly_utf8(data) or _detected(data)


def _utf16(data: bytes) -> str | None:
    """Text in UTF-16 without a mark: every other byte is zero in European scripts; in others the letters must fit a language."""
    sample = data[:_LOOKED_AT]
    if len(data) % 2 or len(sample) < 4 or b"\x00" not in sample:
        return None
    for zeros, others, encoding in ((sample[1::2], sample[::2], "utf-16-le"), (sample[::2], sample[1::2], "utf-16-be")):
        with contextlib.suppress(UnicodeDecodeError, ParseRefused):
            if zeros.count(0) >= 0.5 * len(zeros) and others.count(0) <= 0.02 * len(others):
                return _proven(data.decode(encoding))
            text = data.decode(encoding)
            if _varied(text[:_SAMPLE]) and max(_fit(text[:_SAMPLE], name) for name in _ALPHABETS) >= _FITS:
                return _proven(text)
    return None


def _varied(text: str) -> bool:
    """Whether no character is more than half of the text, as in a binary file that repeats two bytes."""
    return len(text) < _WORD_LENGTH or Counter(text).most_common(1)[0][1] <= len(text) / 2


def _declared(data: bytes) -> str:
    """The encoding that XML, HTML, CSS or source code (PEP 263) names in itself, or ""."""
    match = _XML.match(data) or _CODING.match(data) or _CHARSET.search(data[:4096])
    return match[1].decode("ascii", "ignore") if match else ""


def _as_declared(data: bytes, declared: str) -> str | None:
    """The text, if no more than a few bytes of it are not in the encoding it declares."""
    try:
        encoding = codecs.lookup(declared).name
        text = data.decode(_MEANT.get(encoding, encoding), "replace")
    except (LookupError, UnicodeError):
        return None
    return _proven(text) if text.count("\ufffd") <= _STRAY * len(text) else None


def _mostly_utf8(data: bytes) -> str | None:
    """UTF-8 with a few damaged bytes, or cut within a character; also ASCII with a few bytes of no encoding."""
    whole = data.lstrip(bytes(range(0x80, 0xC0))) if data[0] >= 0x80 else data  # cut in front
    cut = codecs.getincrementaldecoder("utf-8")("strict")
    with contextlib.suppress(UnicodeDecodeError):
        if len(data) - len(whole) < 4 and (text := cut.decode(whole)) and not text.isascii():
            return _proven(text + ("\ufffd" if cut.getstate()[0] else ""))
    text = data.decode("utf-8", "replace")
    damaged = text.count("\ufffd") - data.count(b"\xef\xbf\xbd")
    valid = sum(not c.isascii() for c in text) - text.count("\ufffd")
    return _proven(text) if valid >= _VALID * damaged else None


def _detected(data: bytes) -> str:
    from charset_normalizer import from_bytes  # late: most files are UTF-8

    sample = _sample(data)
    proposed = [match.encoding for match in from_bytes(sample, cp_isolation=[*_ALPHABETS])]
    best = _best(sample, proposed) or _best(sample, _ALPHABETS)
    if best:
        text = data.decode("big5hkscs" if best == "big5" else best, "replace")
        if text.count("\ufffd") <= _STRAY * len(text):
            return _proven(text)
    if sum(byte >= 0x80 for byte in data) <= _STRAY * len(data):
        return _proven(data.decode("utf-8", "replace"))
    raise ParseRefused(NOT_KNOWN)


def _best(sample: bytes, encodings: Collection[str]) -> str:
    """The encoding that fits best, or "" if none fits."""
    fits = {name: _fit_of(sample, name) for name in _ALPHABETS if name in encodings}
    best = max(fits, key=fits.__getitem__, default="")
    return best if best and fits[best] >= _FITS else ""


def _sample(data: bytes) -> bytes:
    """Lines that have bytes beyond ASCII, up to a few thousand bytes; a line's end is in no character of these encodings."""
    lines, size = [], 0
    for line in data.splitlines(keepends=True):
        if not line.isascii():
            lines.append(line[:_SAMPLE])
            size += len(line)
            if size > _SAMPLE:
                break
    return b"".join(lines)


def _fit_of(sample: bytes, encoding: str) -> float:
    try:
        return _fit(sample.decode(encoding), encoding)
    except UnicodeDecodeError:
        return 0.0


def _fit(text: str, encoding: str) -> float:
    """The share of letters beyond ASCII that belong to one language written in this encoding.

    Marks that no text uses, capitals within words and words of two scripts count against it.
    """
    letters = [c for c in text if not (c.isascii() or c in _NEUTRAL or "\u3000" <= c <= "\u3020" or "！" <= c <= "～")]
    letters += _WITHIN.findall(text)
    if not letters:
        return 0.0 if text.isascii() else 0.95
    if not (alphabets := _ALPHABETS[encoding]):
        return _eastern(letters, encoding)
    wrong = sum(len(word) for word in _WORD.findall(text) if not word.isascii() and not _is_word(word, alphabets))
    best = max(sum(c.lower() in alphabet for c in letters) for alphabet in alphabets)
    frequent = _USUAL if alphabets[0][0] in _LATIN else sum(c.lower() in _FREQUENT for c in letters) / len(letters)
    return max(0.0, best - wrong) / len(letters) - 0.1 * (1.0 - frequent)


def _is_word(word: str, alphabets: tuple[str, ...]) -> bool:
    if any(before.islower() and after.isupper() and not after.isascii() for before, after in pairwise(word)):
        return False
    return alphabets[0][0] in _LATIN or not any(c.isascii() for c in word)


def _eastern(letters: Sequence[str], encoding: str) -> float:
    """The share of characters in frequent use, and half of those in rare use; a text in Japanese has kana."""
    kana = sum("\u3041" <= c <= "\u30ff" or "\uff66" <= c <= "\uff9f" for c in letters) / len(letters)
    if encoding in ("cp932", "euc_jp"):
        japanese = sum(
            0.9 if "\uff66" <= c <= "\uff9f" else 1.0 if "\u3041" <= c <= "\u30ff" else _use(c, *_JAPANESE) for c in letters
        )
        return japanese / len(letters) - (0.0 if kana >= _KANA_SHARE else 0.3)
    return sum(_use(c, *_COMMON[encoding]) for c in letters) / len(letters)


def _use(character: str, standard: str, first: int, last: int) -> float:
    """How much a character is used, by its place in a national standard, which has those in frequent use first."""
    try:
        encoded = character.encode(standard)
    except UnicodeEncodeError:
        return 0.0
    return 0.0 if len(encoded) != 2 or encoded[0] < first else 1.0 if encoded[0] <= last else 0.5


def _proven(text: str) -> str:
    """The text, unless more than 1 % of it is control characters; a stray NUL is dropped later."""
    control = sum(text.count(chr(code)) for code in range(32) if chr(code) not in "\n\r\t\f\x1b")
    if control > 0.01 * len(text):
        raise ParseRefused(NOT_TEXT)
    return text
