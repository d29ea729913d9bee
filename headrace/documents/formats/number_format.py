"""Numbers, dates and times as a sheet shows them, by their format code (ECMA-376 part 1, 18.8.31)."""

from __future__ import annotations

import re
from calendar import day_name, month_name
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

# Literal text: quoted, escaped, as wide as a character, filling, or in brackets. Then placeholders of digits.
_TOKEN = re.compile(
    r'"(?P<quoted>[^"]*)"|\\(?P<escaped>.)|_(?P<wide>.)|\*(?P<filled>.)|\[\$(?P<currency>[^\]-]*)[^\]]*\]|\[(?P<bracket>[^\]]*)\]'
    r"|(?P<general>General)|(?P<digit>[0#?])|(?P<exponent>E[+-])|(?P<mark>[.,%/@])|(?P<other>.)",
    re.I | re.S,
)
_CONDITION = re.compile(r"(<=|>=|<>|<|>|=)\s*(-?\d+(?:\.\d+)?)$")
_DATE = re.compile(r"y+|m+|d+|h+|s+(?:\.0+)?|am/pm|a/p", re.I)
_QUIET = re.compile(r'"[^"]*"|\\.|_.|\*.|\[(?!h+\]|m+\]|s+\])[^\]]*\]', re.I)
_INTEGER = 1e21  # beyond it a number without a format is shown with an exponent

Token = tuple[str, str]


def shown_number(value: float, code: str) -> str:
    """A number in a format, as in English; in no format all its digits."""
    for number, section in enumerate(sections := _sections(code)[:3]):
        condition, tokens = section
        if not _applies(value, number, len(sections), condition):
            continue
        if not any(kind in ("digit", "general") for kind, _ in tokens):
            text = "".join(text for kind, text in tokens if kind == "text")
            return text.strip() or general(value)
        negative = value < 0 and (number == 0 or len(sections) == 1 or bool(condition))
        try:
            text = _number(Decimal(repr(abs(value))), tokens).strip()
        except ArithmeticError:  # more digits than a number has
            return general(value)
        return f"-{text}" if negative and any(c in "123456789" for c in text) else text
    return general(value)


def shown_text(value: str, code: str) -> str:
    """A text in a format, of which only a section with @ matters."""
    tokens = next((tokens for _, tokens in _sections(code) if ("mark", "@") in tokens), None)
    if tokens is None:
        return value
    return "".join(value if token == ("mark", "@") else token[1] if token[0] == "text" else "" for token in tokens)


def general(value: float) -> str:
    """A number in no format."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < _INTEGER):
        return str(int(value))
    return f"{value:.15g}"


def shown_time(value: date | time | timedelta, code: str) -> str:
    """A date or time: a day of a year as in ISO 8601, which no country misreads; anything else in its format."""
    if isinstance(value, timedelta):
        return _elapsed(value, code)
    plain = _QUIET.sub("", code.partition(";")[0]).lower()
    if isinstance(value, date) and all(part in plain for part in "ymd"):
        if isinstance(value, datetime):
            return value.date().isoformat() if value.time() == time() else value.isoformat(" ", "minutes")
        return value.isoformat()
    return _formatted(value, code.partition(";")[0]) or str(value)


@lru_cache(maxsize=512)
def _sections(code: str) -> tuple[tuple[str, tuple[Token, ...]], ...]:
    """(condition, tokens) of each section."""
    sections: list[tuple[str, list[Token]]] = [("", [])]
    for match in _TOKEN.finditer(code[:1_000]):
        kind, text = str(match.lastgroup), match[str(match.lastgroup)]
        if kind == "other" and text == ";":
            sections.append(("", []))
        elif kind == "bracket":
            if _CONDITION.match(text):
                sections[-1] = (text, sections[-1][1])
        elif kind in ("digit", "general", "exponent", "mark"):
            sections[-1][1].append((kind, text))
        elif kind != "filled":
            sections[-1][1].append(("text", " " if kind == "wide" else text))
    return tuple((condition, tuple(tokens)) for condition, tokens in sections)


def _applies(value: float, number: int, count: int, condition: str) -> bool:
    if match := _CONDITION.match(condition):
        bound = float(match[2])
        tests = {"<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound}
        return {**tests, "=": value == bound, "<>": value != bound}[match[1]]
    if count == 1:
        return True
    return (value > 0 or (value == 0 and count < 3), value < 0, value == 0)[number]


def _number(value: Decimal, tokens: Sequence[Token]) -> str:
    if any(kind == "general" for kind, _ in tokens):
        shown = general(float(value))
        return "".join(shown if kind == "general" else text for kind, text in tokens if kind in ("general", "text"))
    value *= Decimal(100) ** sum(token == ("mark", "%") for token in tokens)
    digits = [index for index, (kind, _) in enumerate(tokens) if kind == "digit"]
    slash = next((i for i in range(digits[0], len(tokens)) if tokens[i] == ("mark", "/")), None)
    if slash is not None:
        return _fraction(value, tokens, slash)
    exponent = next((index for index, (kind, _) in enumerate(tokens) if kind == "exponent"), None)
    if exponent is not None:
        return _scientific(value, tokens, exponent)
    point = next((i for i, token in enumerate(tokens) if token == ("mark", ".")), len(tokens))
    whole = [i for i in digits if i < point]
    places = [i for i in digits if i > point]
    last = max(whole, default=0)
    after = digits[-1] + 1
    while after < len(tokens) and tokens[after] == ("mark", ","):
        value /= 1000
        after += 1
    grouped = any(tokens[i] == ("mark", ",") for i in range(whole[0], last)) if whole else False
    rounded = f"{value.quantize(Decimal(1).scaleb(-len(places)), ROUND_HALF_UP):f}"
    front, _, back = rounded.partition(".")
    least = sum(tokens[i][1] == "0" for i in whole)
    front = ("" if front == "0" else front).rjust(least, "0")
    kept = len(back)
    while kept and tokens[places[kept - 1]][1] != "0" and back[kept - 1] == "0":
        kept -= 1
    parts = _spread(front, whole, tokens, grouped) | dict(zip(places[:kept], back, strict=False))
    out = []
    for index, (kind, text) in enumerate(tokens):
        if kind == "digit":
            out.append(parts.get(index, ""))
        elif kind == "text" or text == "%" or (text == "." and kept):
            out.append(text if whole or text != "." else f"{front}.")
    return "".join(out)


def _spread(front: str, places: Sequence[int], tokens: Sequence[Token], grouped: bool) -> dict[int, str]:
    """The digits before the point, one per placeholder; all at the first if no text separates the placeholders."""
    if not places:
        return {}
    if grouped or all(tokens[i][0] != "text" for i in range(places[0], places[-1])):
        head = len(front) % 3
        groups = [front[:head]] * bool(head) + [front[i : i + 3] for i in range(head, len(front), 3)]
        return {places[0]: ",".join(groups) if grouped else front}
    padded = front.rjust(len(places)) if len(front) < len(places) else front
    first = max(1, len(padded) - len(places) + 1)
    return {place: piece.strip() for place, piece in zip(places, (padded[:first], *padded[first:]), strict=True)}


def _scientific(value: Decimal, tokens: Sequence[Token], exponent: int) -> str:
    mantissa = [token for token in tokens[:exponent] if token != ("mark", ",")]
    point = mantissa.index(("mark", ".")) if ("mark", ".") in mantissa else len(mantissa)
    places = sum(kind == "digit" for kind, _ in mantissa[point:])
    figures, _, power = f"{value:.{places}E}".partition("E")
    least = sum(kind == "digit" for kind, _ in tokens[exponent:])
    sign = "-" if int(power) < 0 else "+" if tokens[exponent][1].endswith("+") else ""
    return f"{figures}E{sign}{str(abs(int(power))).rjust(least, '0')}"


def _fraction(value: Decimal, tokens: Sequence[Token], slash: int) -> str:
    fixed = "".join(text for _, text in tokens[slash + 1 :] if text.isdigit())
    room = sum(kind == "digit" for kind, _ in tokens[slash + 1 :])
    exact = Fraction(value)
    whole = int(exact) if any(a[0] == "digit" and b[0] == "text" for a, b in pairwise(tokens[:slash])) else 0
    rest = exact - whole
    if fixed.strip("0"):
        over, under = round(rest * int(fixed)), int(fixed)
    else:
        near = rest.limit_denominator(10 ** min(room, 5) - 1)
        over, under = near.numerator, near.denominator
    if under and over == under and whole:
        whole, over = whole + 1, 0
    return " ".join(([str(whole)] if whole else []) + ([f"{over}/{under}"] if over or not whole else []))


def _elapsed(value: timedelta, code: str) -> str:
    total = round(value.total_seconds())
    sign, total = ("-", -total) if total < 0 else ("", total)
    plain = _QUIET.sub("", code).lower()
    hours, minutes, seconds = total // 3600, total // 60 % 60, total % 60
    if "[h" not in plain:
        return sign + (f"{total // 60}:{seconds:02}" if "[m" in plain else str(total) if "[s" in plain else str(value))
    return f"{sign}{hours}" + (f":{minutes:02}" if "m" in plain else "") + (f":{seconds:02}" if "s" in plain else "")


def _formatted(value: date | time, code: str) -> str:
    code = re.sub(r"\[[^\]]*\]|_.|\*.", "", code)
    out, position, before = [], 0, ""
    matches = list(_DATE.finditer(re.sub(r'"[^"]*"|\\.', lambda quiet: "\0" * len(quiet[0]), code)))
    half = any(match[0].lower() in ("am/pm", "a/p") for match in matches)
    for index, match in enumerate(matches):
        out.append(code[position : match.start()])
        part = match[0].lower()
        following = matches[index + 1][0].lower() if index + 1 < len(matches) else ""
        minute = part[0] == "m" and (before.startswith("h") or following.startswith("s"))
        out.append(_part(value, "n" * len(part) if minute else part, half))
        before, position = part, match.end()
    return re.sub(r'["\\]', "", "".join((*out, code[position:]))).strip()


def _part(value: date | time, part: str, half: bool) -> str:
    width = len(part)
    if isinstance(value, date) and part[0] in "ymd":
        if part[0] == "y":
            return f"{value.year:04}" if width > 2 else f"{value.year % 100:02}"
        number = value.month if part[0] == "m" else value.day
        if width < 3:
            return f"{number:0{width}}"
        name = month_name[number] if part[0] == "m" else day_name[value.weekday()]
        return name[0] if width == 5 else name[:3] if width == 3 else name
    if isinstance(value, datetime | time) and part[0] in "hnsa":
        if part[0] == "a":
            return ("AM" if value.hour < 12 else "PM")[: 1 if width == 3 else 2]
        hour = (value.hour % 12 or 12) if half else value.hour
        return f"{ {'h': hour, 'n': value.minute, 's': value.second}[part[0]]:0{min(2, width)}}"
    return ""
