"""Follow-up questions: a question that needs the one before it is put so that it stands alone.

"And for gold customers?" after "How long are backups kept for silver customers?" is "How long are backups kept for gold
customers?". The rules here work on words: which questions lean on the one before, and what of that one they replace. A generator
of the user's own is asked to rewrite instead (`rewrite`), and the rules do where it does not answer in time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.models.support import alike, content_words, facts

TURNS = 6
"""How many questions and answers of a conversation count, the newest."""
_CHARACTERS = 1_000  # of one answer that is read
TOKENS = 80
"""That a rewritten question may have."""
_LONGEST = 400  # characters of a question that is rewritten

_LEAD = re.compile(
    r"^(?:(?:ok(?:ay)?|thanks|thank you|danke|so|well)[,.!]?\s+)?(?:(?:and|but|or|also|und|aber|oder|then)\b[,]?\s*)?"
    r"(?:(?:what|how) about\b|what of\b|was ist mit\b|wie (?:ist|sieht) es (?:mit|aus mit)\b)?[,]?\s*(?:then\s+)?",
    re.IGNORECASE,
)
_PREPOSITION = re.compile(
    r"\b(for|in|on|at|with|without|from|to|by|of|about|during|after|before|under|since|until|per"
    r"|für|über|am|im|bei|mit|ohne|von|seit|nach|vor)\b",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"^(?:(?:since|until|from|by|for|to|with|at) )?"
    r"(?:how (?:long|often|much|many|old|big|far|high|fast|soon|late|early|large|heavy)"
    r"|what (?:time|date|day|year|kind|colou?r|size)"
    r"|which|whose|whom|what|who|when|where|why|how|wann|wo|wer|wie(?: lange| oft| viele?)?|warum|was)\b(?: else)?",
    re.IGNORECASE,
)
_AUXILIARY = re.compile(
    r"^(?:is|are|was|were|do|does|did|can|could|will|would|shall|should|has|have|had|must|may|might"
    r"|ist|sind|war|waren|wird|werden|kann|können|muss|müssen|soll|sollen|darf|dürfen|hat)\b",
    re.IGNORECASE,
)
_ACTS = re.compile(
    r"do(?:es)?|did|can|could|w(?:ill|ould)|sh(?:all|ould)|must|may|might|k[aö]nn\w*|m[uü]ss\w*|soll\w*|d[aü]rf\w*", re.I
)
"""Auxiliaries after which comes what acts, then what it does and to what."""
_THINGS = r"it|they|them|this|that|these|those|es|sie|das|dies"
_PEOPLE = r"he|she|him|her"
_OWNED = r"its|their|his|hers"
_BACK = re.compile(
    rf"\b(?:{_THINGS}|{_PEOPLE}|{_OWNED}|that one|this one|the same(?: one)?|the former|the latter)\b", re.IGNORECASE
)
_IMPERSONAL = r"possible|necessary|allowed|required|needed|safe|better|true|normal|ok|okay"
# "that" in front of a clause, "it" of "how long does it take to …", "this year".
_NOT_BACK = re.compile(
    rf"\b(?:it|es) (?:takes?|took|costs?|{_IMPERSONAL})\b.*\b(?:to|that|if|zu)\b"
    rf"|\b(?:does|did|will|can|would|is|was) it (?:take|cost|{_IMPERSONAL})\b"
    r"|\b(?:this|these) (?:year|month|week|day|morning|evening|quarter|documents?|handbook|manual)\b"
    r"|\b(?:so|such|now|given|provided|require[sd]?|means?|says?|said|states?) that\b"
    r"|\b\w{3,} (?:that|which|who) (?!is\?|are\?)\w+",
    re.IGNORECASE,
)
_HAS_OWN = re.compile(r"\b(?:the|an?|each|every|my|our|your|all|der|die|das|ein|eine)\s+\w+", re.IGNORECASE)
_ARTICLE = re.compile(r"\b(?:the|an?|our|my|your|der|die|das|den|dem)\s+", re.IGNORECASE)
_ADVERB = re.compile(r"(?:abroad|here|there|today|tomorrow|yesterday|now|later|online|outside|inside|at all|too)", re.IGNORECASE)
_SPEAKERS = re.compile(r"(?:I|you|we|one|people|ich|wir|man)\b")
_PARTICIPLE = re.compile(
    r"^(?:\w{2,}ed|kept|held|built|made|sent|paid|met|done|given|taken|found|sold|lost|left|run|set|put|stored|be)$", re.I
)
_PLURAL = re.compile(r"^(?:(?! of | von ).)*(?:[^su'’]s|sses|\b(?:people|men|women|children))(?= of | von |$)", re.IGNORECASE)
_CAPITALISED = re.compile(r"\b[A-ZÄÖÜ][\w'’-]++(?:\s++[A-ZÄÖÜ][\w'’-]++)++")
_NAME = re.compile(r"\b(?:[A-ZÄÖÜ][\w-]*(?: [A-ZÄÖÜ][\w-]*)*|[A-Za-z]*-?\d[\w.-]*)(?!\w)")
_LABELLED = re.compile(r"\b([A-Za-zÄÖÜäöüß]{3,}) ((?:[A-Z]{1,3}|[A-Z]?-?\d[\w.-]*))(?!\w)")
_PREFIX = re.compile(r"^(?:(?:the )?rewritten |last )?question(?: is)?:\s*", re.IGNORECASE)
_CITED = re.compile(r"(?<!\s)\s*+\[\d++\]")


@dataclass(frozen=True)
class Turn:
    """A question of a conversation, so that it stands alone, and its answer, if that may be looked at."""

    question: str
    answer: str = ""


def leans(question: str) -> bool:
    """Whether a question needs the one before it."""
    text = _bare(question)
    if not text or len(text) > _LONGEST:
        return False
    rest = text[_LEAD.match(text).end() :]  # type: ignore[union-attr]
    if not rest:
        return False
    asks = _ASKS.match(rest)
    if asks and asks.end() == len(rest):
        return True  # "why?", "since when?"
    clause = asks is not None or _AUXILIARY.match(rest) is not None
    if not clause and len(rest) < len(text):
        return True  # "and for gold customers?"
    if not clause and question.rstrip().endswith("?") and len(rest.split()) <= 5:
        return True  # "gold customers?"
    return _refers(rest)


def stand_alone(question: str, history: Sequence[Turn]) -> str:
    """The question, put by rule so that it stands alone; as it is where it does already."""
    if not history or not leans(question):
        return question
    last = history[-1]
    text = _bare(question)
    rest = text[_LEAD.match(text).end() :]  # type: ignore[union-attr]
    before = _bare(last.question)
    asks = _ASKS.match(rest)
    if asks and asks.end() == len(rest):
        return _question(_asked_otherwise(before, rest))
    if asks is None and _AUXILIARY.match(rest) is None:
        return _question(_about_another(before, rest))
    return _question(_resolved(rest, before, last.answer))


def rewrite(question: str, history: Sequence[Turn], write: Callable[[list[dict[str, str]]], str | None]) -> str:
    """As `stand_alone`, but by a generator: `write` is given a chat and returns what it writes, `None` if it does not answer."""
    if not history or not leans(question):
        return question
    written = _PREFIX.sub("", " ".join((write(_messages(question, history)) or "").split())).strip(' "“”')
    return written if _sensible(written, question, history) else stand_alone(question, history)


def in_full(turns: Sequence[Turn]) -> list[Turn]:
    """The newest turns of a conversation, each question put so that it stands alone."""
    whole: list[Turn] = []
    for turn in turns[-TURNS:]:
        whole.append(Turn(stand_alone(turn.question, whole), turn.answer))
    return whole


def chat_of(history: Sequence[Turn]) -> list[dict[str, str]]:
    """A conversation as chat messages."""
    roles = (("user", "question"), ("assistant", "answer"))
    return [{"role": role, "content": said} for turn in history for role, name in roles if (said := getattr(turn, name))]


def _messages(question: str, history: Sequence[Turn]) -> list[dict[str, str]]:
    said = [
        line
        for turn in history
        for line in (f"User: {turn.question}", *((f"Assistant: {_shortened(turn.answer)}",) if turn.answer else ()))
    ]
    return [
        {
            "role": "user",
            "content": "Rewrite the last question of this conversation so that it can be understood without the conversation."
            " Keep its language. Write the question and nothing else.\n\n"
            + "\n".join(said)
            + f"\n\nLast question: {question}\nRewritten question:",
        }
    ]


def _shortened(answer: str) -> str:
    """The beginning of an answer. A client sends it, and may send megabytes."""
    return " ".join(_CITED.sub("", answer[: 2 * _CHARACTERS]).split())[:_CHARACTERS]


def _sensible(written: str, question: str, history: Sequence[Turn]) -> bool:
    """Whether this is one question about what the conversation is about, and not its last one again."""
    last = history[-1].question
    about = content_words(written) & content_words(f"{question} {last}")
    spoken = re.match(r"(?:user|assistant):", written, re.IGNORECASE)
    return bool(about) and len(written) <= _LONGEST and written not in (question, last) and not spoken


def _bare(question: str) -> str:
    return " ".join(question.split()).rstrip("?.! ")


def _question(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}?"


def _refers(clause: str) -> bool:
    """Whether a clause has a pronoun for something that it does not name itself."""
    found = _pronoun(clause)
    if found is None:
        return False
    front, subject = clause[: found.start()], _subject(clause)
    own = _HAS_OWN.search(front) is not None or bool(facts(front).names)
    if subject is not None and subject[1] <= found.start():
        own = own or _SPEAKERS.match(clause[slice(*subject)]) is None
    return not own


def _pronoun(clause: str) -> re.Match[str] | None:
    """The first word that refers to something said before."""
    masked = _NOT_BACK.sub(lambda match: "\0" * len(match[0]), clause)
    return next((found for found in _BACK.finditer(masked) if found[0] != "IT"), None)


def _asked_otherwise(before: str, asks: str) -> str:
    """The question before with other words to ask with: "why" after "how long are backups kept" asks why they are."""
    old = _ASKS.match(before)
    return f"{asks} {before[old.end() :].strip()}" if old else f"{asks}: {before}"


def _about_another(before: str, fragment: str) -> str:
    """The question before about something else."""
    words = before.split()
    own = fragment.split()
    led = _PREPOSITION.match(fragment)
    if led:
        same = [found for found in _PREPOSITION.finditer(before) if found[1].lower() == led[1].lower()]
        if not same:
            return f"{before} {fragment}"
        behind = _PREPOSITION.search(before, same[-1].end())
        return f"{before[: same[-1].start()]}{fragment}{' ' + before[behind.start() :] if behind else ''}"
    if _ADVERB.fullmatch(fragment):
        return f"{before} {fragment}"
    core = _ARTICLE.sub("", fragment, count=1) if _ARTICLE.match(fragment) else fragment
    label = _LABELLED.fullmatch(core)
    if label:  # "cluster D" for "cluster C"
        for found in _LABELLED.finditer(before):
            if alike(found[1].lower(), label[1].lower()):
                return f"{before[: found.start()]}{core}{before[found.end() :]}"
    for place, word in enumerate(words):  # "gold customers" for "silver customers"
        if len(own) > 1 and alike(word.lower(), own[-1].lower()):
            first = max(0, place - len(core.split()) + 1)
            return " ".join([*words[:first], *core.split(), *words[place + 1 :]])
    for name in reversed(_names(before) if _names(core) else []):  # a number for a number, a name for a name
        if name[:1].isdigit() == core[:1].isdigit():
            at = before.rindex(name)
            return f"{before[:at]}{core}{before[at + len(name) :]}"
    span = _replaced(before, fragment)
    if span is None:
        return f"{before}: {fragment}"
    if own[-1].lower() in ("one", "ones"):  # "the upper one" of "the lower basin"
        fragment = " ".join([*own[:-1], re.split(r" (?:of|von) ", before[slice(*span)])[0].split()[-1]])
    return f"{before[: span[0]]}{fragment}{before[span[1] :]}"


def _resolved(clause: str, before: str, answer: str) -> str:
    """The clause with its pronoun replaced by what it refers to."""
    found = _pronoun(clause)
    assert found is not None
    pronoun = found[0].lower()
    person = re.fullmatch(rf"{_PEOPLE}|his|hers", pronoun) is not None
    named = _CAPITALISED.findall(_shortened(answer)) if person else []
    span = _referent(before, pronoun)
    what = named[0] if named else before[span[0] : span[1]] if span else ""
    if not what:
        return f"{clause} ({before})"
    noun_follows = re.match(r"\s+\w+", clause[found.end() :]) is not None
    owned = re.fullmatch(_OWNED, pronoun) or (pronoun == "her" and noun_follows)
    return f"{clause[: found.start()]}{what + '’s' if owned else what}{clause[found.end() :]}"


def _names(text: str) -> list[str]:
    """Names, acronyms and identifiers as they are written; a question's first word is none."""
    start = len(text.split(" ", 1)[0]) if _ASKS.match(text) or _AUXILIARY.match(text) else 0
    return [name for name in _NAME.findall(text, start) if name != "I"]


def _replaced(before: str, fragment: str) -> tuple[int, int] | None:
    """Where the noun phrase is that another one takes the place of: "the filter" of "how do I replace the filter".

    A fragment with an article replaces a phrase with an article, one without an article a phrase without. If the question has a
    subject that acts, the object is replaced.
    """
    spans = [span for span in _phrases(before) if not _SPEAKERS.fullmatch(before[slice(*span)])]
    verb = next((word for word in before.split() if _AUXILIARY.fullmatch(word)), None)
    if len(spans) > 1 and verb and _ACTS.fullmatch(verb):
        spans = [*spans[1:], spans[0]]
    same = [span for span in spans if (_ARTICLE.match(before, span[0]) is None) == (_ARTICLE.match(fragment) is None)]
    return next(iter(same or spans), None)


def _referent(before: str, pronoun: str) -> tuple[int, int] | None:
    """Where the noun phrase is that a pronoun refers to: the first that is one or several as the pronoun is, else the first."""
    spans = [span for span in _phrases(before) if not _SPEAKERS.fullmatch(before[slice(*span)])]
    if pronoun in ("it", "its", "they", "them", "their"):
        plural = pronoun not in ("it", "its")
        spans = [span for span in spans if (_PLURAL.search(before[slice(*span)]) is not None) == plural] or spans
    return next(iter(spans), None)


def _subject(question: str) -> tuple[int, int] | None:
    """Where the noun phrase is that a question is about: "the pump of the upper lock" of when that was greased."""
    return next(iter(_phrases(question)), None)


def _phrases(question: str) -> list[tuple[int, int]]:
    """Where the noun phrases of a question are, its subject first: of "how do I replace the filter", "I" and "the filter"."""
    asks = _ASKS.match(question)
    asks_for = asks[0].lower() if asks else ""
    words = [found for found in re.finditer(r"\S+", question) if found.start() >= len(asks_for)]
    verb = next((place for place, word in enumerate(words) if _AUXILIARY.fullmatch(word[0])), -1)
    spans: list[tuple[int, int]] = []
    place = verb + 1
    if verb < 0 and asks_for.startswith(("who", "what", "which", "wer", "was")):
        place = 1  # the verb: "who owns cluster C"
    elif verb >= 0 and _ACTS.fullmatch(words[verb][0]):
        if verb == 0 and asks_for.startswith(("who", "wer")):
            place += 1  # the verb: "who must sign the log"
        else:
            place = _acting(question, words, place, spans)
    while place < len(words):
        end = _phrase_end(words, place)
        acts = end < len(words) and _ARTICLE.match(f"{words[end][0]} ") and not _ARTICLE.match(f"{words[place][0]} ")
        if end > place and not acts:  # not "drain" of "to drain the lock"
            spans.append((words[place].start(), words[end - 1].end()))
        place = max(end, place + 1)
    return spans


def _acting(question: str, words: Sequence[re.Match[str]], place: int, spans: list[tuple[int, int]]) -> int:
    """Add what acts, and what it acts on if that has no article; return where the words after the verb begin."""
    if place >= len(words) or re.fullmatch(_THINGS, words[place][0], re.IGNORECASE):
        return place + 2  # "it" and a verb
    end = place + 1
    if _SPEAKERS.fullmatch(words[place][0]) is None:
        named = words[place][0][0].isupper()
        end = _phrase_end(words, place)
        run = end - place - (_ARTICLE.match(question, words[place].start()) is not None)
        if named:
            end = next((at for at in range(place, end) if not words[at][0][0].isupper()), end)
        elif end < len(words) and (_PARTICIPLE.match(words[end][0]) or _AUXILIARY.fullmatch(words[end][0])):
            spans.append((words[place].start(), words[end - 1].end()))
            return end  # "the log be signed"
        elif run > 2 and _PLURAL.search(words[end - 1][0]):  # "the warranty cover batteries"
            spans.append((words[place].start(), words[end - 3].end()))
            return end - 1
        elif run > 1:
            end -= 1  # "the wheel turn"
    spans.append((words[place].start(), words[end - 1].end()))
    return end + 1


def _phrase_end(words: Sequence[re.Match[str]], place: int) -> int:
    """Where the noun phrase that begins at a word ends: before a preposition, a verb's form, or another article."""
    german = re.fullmatch(r"der|die|das|den|dem", words[place][0], re.IGNORECASE)
    for end in range(place, len(words)):
        word = words[end][0]
        low = word.lower()
        if (_PREPOSITION.fullmatch(word) and low not in ("of", "von")) or low in ("and", "or", "when", "if"):
            return end
        if end > place and (_PARTICIPLE.match(word) or _AUXILIARY.fullmatch(word)):
            return end
        if end > place and _ARTICLE.match(f"{low} ") and words[end - 1][0].lower() not in ("of", "von"):
            return end
        if german and word[0].isupper():
            return end + 1
    return len(words)
