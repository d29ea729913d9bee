"""The words of a question: how it is put, its names and its verb, what it asks for, and how much each word counts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from headrace.models.arguments import arguments_of
from headrace.models.asked import AUXILIARIES, CONJUNCTIONS, DETERMINERS, OWNERS, PREPOSITIONS, PRONOUNS, asked_of
from headrace.models.concepts import concepts_of
from headrace.models.question_parts import NAMED
from headrace.models.quotable import PASSAGES, SourceText
from headrace.models.support import content_words, facts
from headrace.models.word_match import match, terms

READ = 400
"""Characters of a question in which names and their nouns are looked for."""
FUNCTION = AUXILIARIES | CONJUNCTIONS | DETERMINERS | OWNERS | PREPOSITIONS | PRONOUNS
"""Words with a function in a sentence and no meaning of their own."""
LEAST_WORD = 0.2
"""The lowest weight of a word of the question."""
SLIGHT = frozenset(
    re.findall(
        r"\S+",
        """
        get gets got go goes going need needs must should could please tell me give there currently exactly something
        anything happen happens happened place take takes kind sort type name s find know called make makes made want
        quelle quel quelles quels est sont la le les du des au aux une un dans pour sur combien comment quand où qui
        que il elle on cela ça cuánto cuánta cuántos cuándo cuál dónde quién qué cómo el los las del al una uno unos
        en por para se es son está hay que lo
        """,
    )
)
"""Words of a question that say little about the answer: in how it is put, and after "how", where the kind of fact says it."""
GENERIC = frozenset(
    re.findall(
        r"\S+",
        """
        name kind type sort year day date time number amount percentage person people man woman place city country
        thing things month period part word percent century state term many much
        """,
    )
)
"""Nouns that say only which kind of fact is asked for."""
SEVERAL = re.compile(
    r"\b(?:which|what|quelles|quels|qué|cuáles)\s+(?!does\b|is\b|was\b|has\b|this\b)\w{3,}(?<![siu])s\b|\bwho are\b",
    re.IGNORECASE,
)
"""Asks for several things."""
SUPERLATIVE = re.compile(
    r"\b(?:most|least|fewest|(?:larg|bigg|small|great|high|low|cheap|dear|long|short|old|new|lat|earli|heavi|light|fast|slow|deep|tall|b)est|worst"
    r"|(?:größ|kleins|höchs|niedrigs|billigs|teuers|meis|wenigs|längs|kürzes|ältes|neues|bes)te[nrsm]?)\b",
    re.IGNORECASE,
)
"""Asks which of all rows has the most of something: no row says that of itself."""
DIMENSION = re.compile(r"\bhow (deep|wide|tall|heavy|hot|warm|cold)\b|\bwie (tief|breit|schwer|heiß|warm|kalt)\b", re.IGNORECASE)
"""Asks for a dimension or a temperature."""
COUNTED = re.compile(r"\b(?:how many|wie ?viele|combien d[e'’]|cuánt[oa]s)\b", re.IGNORECASE)
"""Asks for a count."""
HOW_MUCH = re.compile(r"\b(?:how (?:many|much)|wie ?viele?)\b", re.IGNORECASE)
"""Asks for a count or an amount."""
HOW_MEASURED = re.compile(r"\W*how (?:many|long|old|far|tall|heavy|deep|wide)\b", re.IGNORECASE)
"""Asks for a number."""
ASKS_WHEN = re.compile(
    r"\W*(?:wann\b|when\s+(?:may|can|could|must|shall|should|will|would|is|are|was|were|do|does|did|has|have|had)\b)",
    re.IGNORECASE,
)
"""Asks for a time, or for what has to be so first."""
TEMPORAL = re.compile(
    r"\d|\b(?:when\w*|if|unless|after|before|until|till|once|while|during|soon|then|always|never|daily|weekly|monthly|yearly|annual\w*|hourly|every"
    r"|each|twice|only|seconds?|minutes?|hours?|days?|weeks?|months?|years?|mornings?|noon|midday|afternoons?|evenings?|nights?|midnight|spring"
    r"|summer|autumn|fall|winter|season\w*|weekends?|dawn|dusk|sun\w+|holidays?|easter|christmas|immediately|automatically|now|later|earlier"
    r"|beforehand|afterwards|today|tomorrow|yesterday|first|last|next|century|decade|\w+days?|upon"
    r"|wenn|falls|nach\w*|vor\w*|bis|während|sobald|immer|täglich|wöchentlich|monatlich|jährlich|jede\w*|tag\w*|woche\w*|monat\w*"
    r"|jahr\w*|morgens|mittags|abends|nachts|frühling|sommer|herbst|ostern|weihnachten|beim?|zuerst|sofort|heute|erst|\w+tags?)\b",
    re.IGNORECASE,
)
"""Says when, or under which condition."""
HOW_MUCH_REMAINS = re.compile(
    r"\bhow (?:many|much)\b.{1,120}\b(?:left|remain(?:s|ing)?|still)\b|\bwie ?viele?\b.{1,120}\b(?:übrig|noch)\b", re.IGNORECASE
)
"""Asks how much of something is left."""
REMAINING = re.compile(
    r"\b(?:left|remain(?:s|ed|ing|der)?|rest|still|stock|store|stored|spare|balance|available|outstanding|übrig\w*|noch|Rest\w*|Bestand)\b",
    re.IGNORECASE,
)
"""Says that something is left."""
MEANT_FOR = re.compile(r"\b(?:for|für|pour|para)\s+((?:[^\W\d_]{2,40}\s+){0,2}[^\W\d_]{3,40})\W*$")
"""For whom or what something is meant, at the end of a question."""
_WHEN = r"\W*(?:when|in (?:what|which) (?:year|month)|wann)\s+"
WAS_DONE = re.compile(rf"{_WHEN}(?:was|were|did|wurde|wurden)\b", re.IGNORECASE)
"""Asks when something was done."""
WHEN_CLOSES = re.compile(r"\W*when\s+(?:do|does)\s+.{1,100}\b(?:close|shut)\W*$", re.IGNORECASE)
"""Asks when something closes."""
_WHEN_DONE = re.compile(rf"{_WHEN}(?:was|were|did|does|do|is|are|wurde|wurden)\b", re.IGNORECASE)
_WORDS = 64  # words of a question that are used
_LEAST_NAME = 1.5  # the lowest weight of a name
_MEASURED = re.compile(
    r"\b(?:how|wie)\s+(long|often|soon|far|old|late|early|quickly|big|large|lange|oft|alt|weit|hoch|groß)\b", re.IGNORECASE
)
_ROLE = re.compile(
    r"\W*(?:who|wer|qui|quién) (?:is|was|are|were|ist|war|sind|est|es) (?:the|our|der|die|das|le|la|el) ((?:[\w-]+ )?[\w-]+)",
    re.IGNORECASE,
)
_POSSESSED = re.compile(r"\w['’]s?\s+((?:[a-z][\w-]*\s+){0,2}[a-z][\w-]*)")
_WHO_DID = re.compile(r"\W*(?:who|wer)\s+([^\W\d_]+)", re.IGNORECASE)
_DONE_TO = re.compile(r"\bfor\s+(?:the\s+|our\s+|an?\s+)?(?:[\w-]+\s+){0,2}?([^\W\d_]{4,40})\s+(?:of|to|on)\b")
_SLIGHT_VERBS = frozenset(
    re.findall(
        r"\S+",
        """
        occur occurred happen happened place take took become became get got have had be been make made go work works
        """,
    )
)
_GERMAN = re.compile(
    r"^\W*(?:(?:ab|bis|seit|in|an|zu|von|für|auf|bei|mit)\s+)?(?:was|wer|wie|wo|wann|warum|welche[rsnm]?|wieviele?|wohin)\b",
    re.IGNORECASE,
)


def word_weights(question: str, sources: Sequence[SourceText]) -> dict[str, float]:
    """What each word of a question counts: names and words that few passages have count more."""
    wanted = sorted(content_words(question), key=question.lower().find)[:_WORDS]
    texts = [terms(f"{source.name}\n{source.text}") for source in sources[:PASSAGES]]
    names = names_of(question)
    slight = SLIGHT | FUNCTION | {how[1].lower() for how in _MEASURED.finditer(question)}
    return {
        word: max(_LEAST_NAME, _idf(word, texts))
        if word in names
        else LEAST_WORD
        if word in slight
        else max(LEAST_WORD, _idf(word, texts))
        for word in wanted
    }


def names_of(question: str) -> frozenset[str]:
    """The names of a question; of a German one, which writes every noun like a name, only what is none of its words."""
    named = {name.casefold() for name in NAMED.findall(question)}
    own = {re.sub(r"['’]s?$", "", name) for name in facts(question).names}
    if _GERMAN.match(question):
        own = {name for name in own if any(c.isdigit() for c in name) or not concepts_of(name)}
    return frozenset(own | named)


def focus_of(question: str) -> frozenset[str]:
    """The words for what is asked for: "capacity" of "what capacity has …" and "what is the capacity of …"."""
    nouns = set(asked_of(question, {}).nouns)
    if role := _ROLE.match(question):
        nouns |= {word for word in role[1].lower().split() if word not in FUNCTION}
    for how in DIMENSION.finditer(question):
        nouns.add((how[1] or how[2]).lower())
    for possessed in _POSSESSED.finditer(question):
        nouns |= {word for word in possessed[1].split() if word not in FUNCTION}
    return frozenset(word for noun in nouns for word in terms(noun) if word not in GENERIC)


def event_of(question: str) -> str:
    """The verb of a question who did something, or when something was done; empty for any other question."""
    if (who := _WHO_DID.match(question)) and who[1].lower() not in FUNCTION:
        return "" if who[1].lower() in _SLIGHT_VERBS else who[1].lower()
    verbs = arguments_of(question).verbs - _SLIGHT_VERBS if _WHEN_DONE.match(question) else ()
    if len(verbs) != 1:
        return ""
    (verb,) = verbs
    behind = question.lower().partition(verb)[2]
    return "" if _SLIGHT_VERBS & set(re.findall(r"\w+", behind[:READ])) else verb  # "does the course take place"


def identified(question: str) -> str:
    """What was done, of a question for its identifier: "upgrade" of "the change ticket for the firmware upgrade of array A7"."""
    done = _DONE_TO.search(question[:READ])
    return done[1].lower() if done and done[1].lower() not in FUNCTION else ""


def beside_names(question: str, names: frozenset[str]) -> list[tuple[str, re.Pattern[str]]]:
    """For each name with a noun beside it, the pattern of another name in its place: any site for "the Lund site"."""
    words = re.findall(r"[\w'’-]+", question[:READ])
    found = []
    for at, word in enumerate(words):
        name = re.sub(r"['’]s?$", "", word.casefold())
        if name not in names:
            continue
        for noun, pattern in (
            (words[at + 1 : at + 2], r"\b([A-ZÄÖÜ][\w-]*)\s+{}s?\b"),
            (words[max(0, at - 1) : at], r"\b{}\s+([A-ZÄÖÜ0-9][\w-]*)\b"),
        ):
            if noun and noun[0].islower() and noun[0] not in FUNCTION and noun[0] not in SLIGHT and len(noun[0]) > 2:
                found.append((name, re.compile(pattern.format(re.escape(noun[0])))))
    return found


def share_of(there: frozenset[str], weights: Mapping[str, float]) -> float:
    """The weighted share of a question's words that a text has."""
    return sum(weight * match(there, word) for word, weight in weights.items()) / (sum(weights.values()) or 1.0)


def _idf(word: str, texts: Sequence[frozenset[str]]) -> float:
    """Inverse document frequency over the passages (Robertson and Sparck Jones); a word in none of them counts as in one more."""
    count = sum(match(there, word) > 0 for there in texts)
    return math.log(1 + (len(texts) - count + 0.5) / (count + 0.5)) if count else math.log(1 + 2 * len(texts))


def is_name_in(word: str, texts: Sequence[str]) -> bool:
    """Whether a word is written like a name within the sentences of some texts."""
    return any(re.search(rf"(?<=\w ){re.escape(word.capitalize())}\b", text) for text in texts)
