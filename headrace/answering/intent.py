"""What a message is: a question to the documents, small talk, or a task that a chat client sets the model for itself.

Chat clients have the model name a conversation, tag it or suggest how it goes on, by a prompt in the place of a question
(Open WebUI's begin with "### Task:" and name a JSON key to answer with; LibreChat, NextChat and others ask for a title in plain
words). The rules are narrow: what is not small talk or such a prompt as a whole is a question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Literal

Intent = Literal["question", "small_talk", "task"]

_TITLE_WORDS = 6
_KEY = re.compile(r"\{\s*\"(title|tags|follow_ups|queries|text|prompt)\"\s*:")
_EMPTY: dict[str, object] = {"tags": [], "follow_ups": [], "queries": [], "text": "", "prompt": ""}
_TASK = re.compile(r"\s*#{1,4} *Task:", re.IGNORECASE)
_PLAIN_TASKS = re.compile(
    r"\s*(?:"
    r"(?:please )?(?:generate|provide|create|write|give|suggest|come up with|reply with) (?:me )?an? (?:very )?"
    r"(?:(?:concise|short|brief|(?:\w+ to )?[\w-]+?[ -]word(?:-or-less)?)[, ]+)*title "
    r"(?:\(max \d+ characters\) )?(?:for|of|that summari[sz]es|summari[sz]ing|to) (?:the|this|our|an?)"
    r" (?:conversation|chat|discussion)\b"
    r"|analyze this conversation and provide:\s*1\. the detected language"
    r"|based on the chat history, give this conversation a name\b"
    r"|summari[sz]e (?:the|our|this) (?:conversation|discussion|chat) (?:briefly |in detail|in \d+ words).{0,80}\bprompt for"
    r")",
    re.IGNORECASE | re.DOTALL,
)
_FIRST_SAID = re.compile(r"^[^\S\n]*+(?:#++[^\S\n]*+)?(?:user|human)[^\S\n]*+:\s*+(.+)$", re.IGNORECASE | re.MULTILINE)

_ADDRESSED = r"(?: (?:there|all|everyone|everybody|team|folks|guys|again|bot|assistant|headrace|my friend|dear|zusammen))?"
_PHRASES = {
    "greeting": (
        rf"(?:hi|hiya|hello|hey|howdy|greetings|moin|servus|hallo|grüß gott){_ADDRESSED}",
        rf"good (?:morning|afternoon|evening|day){_ADDRESSED}",
        rf"guten (?:morgen|tag|abend){_ADDRESSED}",
        r"how are you(?: (?:doing|today|doing today))?|how do you do|how is it going|hows it going|whats up|wie gehts(?: dir)?",
        r"nice to meet you|pleased to meet you",
    ),
    "thanks": (
        r"(?:many |ok |okay |great )?(?:thanks|thank you|thx|cheers|ta)(?: (?:a lot|so much|very much|a million|again"
        rf"|for your help|for the help|for that|for this|for the answer|much appreciated))?{_ADDRESSED}",
        r"(?:vielen |danke )?(?:dank|danke)(?: (?:schön|sehr|dir))?",
        r"(?:ok|okay|great|perfect|cool|nice|super|awesome|excellent|wonderful|got it|understood|alles klar|prima)",
        r"(?:that|this) (?:was|is) (?:very |really )?(?:helpful|great|perfect|useful)|that helps(?: a lot)?",
        r"well done|good job|good bot",
    ),
    "goodbye": (
        r"(?:good ?bye|bye|bye bye|see you(?: (?:later|tomorrow|soon))?"
        rf"|have a (?:nice|good|great) (?:day|evening|weekend|one)|good night){_ADDRESSED}",
        r"tschüss|auf wiedersehen|bis (?:bald|morgen|später)",
    ),
    "about": (
        r"(?:who|what) are you|who am i (?:talking|speaking|chatting) (?:to|with)|what is your name|whats your name",
        r"are you (?:a |an )?(?:bot|robot|human|person|ai|real|there|chatgpt|language model)",
        r"who (?:made|built|created) you|what (?:can|do) you do(?: for me)?|how can you help(?: me)?",
        r"can you help(?: me)?|i need (?:some )?help|help(?: me)?|wer bist du|was kannst du(?: tun)?|test|testing|ping",
    ),
}
_SPOKEN = {kind: "|".join(phrases) for kind, phrases in _PHRASES.items()}
# Atomic: "bye bye bye …" could be split in too many ways otherwise.
_SMALL_TALK = re.compile(rf"(?>(?:{'|'.join(_SPOKEN.values())})(?: and| und)?(?: |$))++")
_KINDS = {kind: re.compile(rf"(?:^|(?<= ))(?:{spoken})(?= |$)") for kind, spoken in _SPOKEN.items()}
_ABOUT = "I answer questions from your documents, and name the passages that an answer stands on."
_REPLIES = {
    "about": f"{_ABOUT} Ask me something that they answer.",
    "goodbye": "Goodbye.",
    "thanks": "You are welcome. Ask again at any time.",
    "greeting": f"Hello. {_ABOUT}",
}
_LONGEST = 120  # characters of small talk


def intent_of(text: str) -> Intent:
    """What a message is."""
    if task_key(text) is not None:
        return "task"
    return "small_talk" if len(text) <= _LONGEST and _SMALL_TALK.fullmatch(_words(text)) else "question"


def task_key(text: str) -> str | None:
    """The JSON key that a client's task is to be answered with, empty where plain text will do; `None` for what is no task."""
    if _TASK.match(text):
        keys = _KEY.findall(text)
        return keys[0] if keys else None
    return "" if _PLAIN_TASKS.match(text) else None


def small_talk_reply(text: str) -> str:
    """A sentence in answer to small talk: to what asks for most, where there are several things in it."""
    words = _words(text)
    return next(reply for kind, reply in _REPLIES.items() if _KINDS[kind].search(words))


def task_reply(text: str, said: Sequence[str] = ()) -> str:
    """A client's task done by rule: the conversation is named after its first message, and nothing is suggested.

    `said` is what the user said before, first to last.
    """
    quoted = _FIRST_SAID.search(text)
    first = quoted[1] if quoted else said[0] if said else "Chat"
    title = " ".join(first.split()[:_TITLE_WORDS]).rstrip("?.!,;:")
    key = task_key(text)
    if not key:
        return title
    return json.dumps({key: title if key == "title" else _EMPTY[key]}, ensure_ascii=False)


def _words(text: str) -> str:
    """The words of a message in lower case, without punctuation and emoji."""
    return " ".join(re.findall(r"\w+", re.sub(r"['’]", "", text.casefold())))
