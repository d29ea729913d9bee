"""What a question is about, word by word: the nouns with what describes them, and the verb.

A passage about another thing may share all other words: "How much is a season ticket for the library?" has "a season ticket" of
the pool's prices, and "Who repaired the oven?" the oven of its builder. So a quote has to have the words that say what the
question is about. There is no tagger: a noun phrase begins behind an article, an owner, a preposition, "how many" or the
auxiliary, and ends before the next function word; where a verb may be last in it, its last word may be that verb.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from headrace.models.asked import ADVERBS, AUXILIARIES, CONJUNCTIONS, DETERMINERS, NUMERALS, OWNERS, PREPOSITIONS, PRONOUNS
from headrace.models.support import MONTHS, UNITS

_READ = 400  # characters of a question
_TOKEN = re.compile(r"\w+(?:['’](?!s\b)\w+)?|['’]s?\b|[^\w\s]")
_ASKS = frozenset(re.findall(r"\w+", "what which who whose whom how when where why wer was wann wo wie"))
_OPENS = DETERMINERS | OWNERS | PREPOSITIONS
_CLOSES = CONJUNCTIONS | PRONOUNS
_BETWEEN = ADVERBS | frozenset(["to", "not", "ever", "each", "every", "other", "same", "own", "different", "various"])
_MODAL = frozenset(["will", "would", "can", "could", "may", "might", "must", "shall", "should"])
_DO = _MODAL | {"do", "does", "did"}  # before the verb as it is in a dictionary
_PARTICIPLE = re.compile(
    r"\w{2,}(?:ed|ing)|(?:tak|giv|writt|brok|chos|driv|froz|hidd|eat|fall)en|(?:thr|gr|dr|fl|bl|sh|kn)[aeo]wn|(?:re)?built|bought|sold|held|paid|kept|run|made|sent|lent|open|due|shut|cut|set|put|won|left|lost|found|born|led"
    r"|hung|met|begun|worn|torn|heard|done|gone|spent|burnt|hit|located|called"
)


_DEGREE = re.compile(
    r"\w{3,}est|(?:larg|small|great|high|low|cheap|long|short|old|new|earli|lat|heavi|big|bett|young|few)g?er|best|worst"
)
# Words of a noun phrase that say little about which thing it is.
_SLIGHT = frozenset(
    re.findall(
        r"\S+",
        """
        able about addition aim alone amount area areas aspect aspects back being case certain condition degree effort
        efforts example fact goal group having help idea large level lot main majority manner matter means member members
        mission need new object one ones order original outcome part people person place places point previous prior
        purpose reason region result role seek serve side sometimes sort thing things time times today total type use used
        user view views way ways whole winner world year years become became behave believed cause caused change
        considered contribute create describe found given go happen include including known lead made make managed named
        needed perform produce put regarded represented show take taken taking trying win won
        """,
    )
)


_SAID_OFTEN = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the of is are was were and to for by with at from what who when how which does did do has have it be not",
        "de": "der die das den dem des und ist sind war im am zum zur für mit von wird nicht auf ein eine was wer wie wann",
        "fr": "le la les des du est sont et au aux une un dans pour sur par ne pas qui que quel quelle combien quand coûte à",
        "es": "el la los las del es son y en una un para por con no que qué cuál cuánto cuándo cuesta al",
    }.items()
}


@dataclass(frozen=True)
class Arguments:
    """Words of a question in lower case: of its noun phrases, and those that may be its verb."""

    nouns: frozenset[str]
    verbs: frozenset[str]


def _is_slight(word: str) -> bool:
    """Whether a word says little about which thing it is: a number, a month, a unit, the largest of several."""
    return (
        word in _SLIGHT
        or word in NUMERALS
        or word in UNITS
        or word in MONTHS
        or word[0].isdigit()
        or _DEGREE.fullmatch(word) is not None
    )


def _is_gerund(word: str, behind: str) -> bool:
    """Whether a word in -ing has an object, as in "for cleaning the pool"; "for cleaning" is what it is for."""
    return word.endswith("ing") and behind[:1].isalnum() and behind not in PREPOSITIONS


def arguments_of(question: str) -> Arguments:
    """The nouns of a question with what describes them, but not those behind its question word ("which insurer"); its verb."""
    nouns: set[str] = set()
    verbs: set[str] = set()
    chunk: list[str] = []
    is_open, is_modal, asks, auxiliary = False, False, "", ""

    def close() -> None:
        # The verb is last in "does the café | close", "is sugar | delivered", "does a card | cost for", alone in "can | sit in".
        last = chunk[-1] if chunk else ""
        alone = len(chunk) == 1 and (is_modal or (_PARTICIPLE.fullmatch(last) and not last.endswith("ing")))
        if alone or (len(chunk) > 1 and (_PARTICIPLE.fullmatch(last) or (auxiliary in _DO and not verbs))):
            verbs.add(chunk.pop())
        nouns.update(chunk)
        chunk.clear()

    words = [found[0].lower() for found in _TOKEN.finditer(question[:_READ])]
    for at, word in enumerate(words):
        before, behind = words[at - 1] if at else "", words[at + 1] if at + 1 < len(words) else ""
        if word in _ASKS and not (word == "was" and asks):  # German asks with it, too
            close()
            asks, is_open = asks or word, False
        elif word in AUXILIARIES:
            close()
            is_modal = word in _MODAL and bool(nouns) and behind not in _OPENS
            auxiliary, is_open = auxiliary or word, True
            continue
        elif word in _OPENS:
            close()
            is_open = True
        elif word in ("many", "much") and before == "how":
            is_open = True
        elif word in _CLOSES:
            close()
            is_open = False
        elif word[0] in "'’-" or word in _BETWEEN or word.endswith("ly"):
            continue
        elif not word[0].isalnum():
            close()
            is_open = False
        elif before == asks and not auxiliary:
            if asks in ("who", "wer") or (asks in ("what", "was") and behind in DETERMINERS | OWNERS):
                verbs.add(word)
        elif is_open and not _is_slight(word) and not (before == "to" or (before in PREPOSITIONS and _is_gerund(word, behind))):
            chunk.append(word)
            continue
        is_modal = False
    close()
    return Arguments(frozenset(nouns), frozenset(verbs))


def language_of(text: str) -> str:
    """The language of a text, by its most common words: `en`, `de`, `fr` or `es`; empty if these do not tell."""
    words = re.findall(r"\w+", text[:_READ].lower())
    counts = sorted(((sum(word in known for word in words), language) for language, known in _SAID_OFTEN.items()), reverse=True)
    return counts[0][1] if counts[0][0] > counts[1][0] else ""
