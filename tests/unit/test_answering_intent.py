"""Small talk and clients' own prompts, told from questions: a labelled list of each kind."""

from __future__ import annotations

import json
import time

import pytest

from headrace.answering.intent import intent_of, small_talk_reply, task_reply

SMALL_TALK = """hi
Hi!
Hello there
hello, how are you?
Hey team 👋
Good morning!
good evening everyone
Guten Morgen
Hallo zusammen
Thanks!
thank you very much
Thanks a lot, that helps
ok thanks
Okay, great, thank you!
Perfect.
cool
Many thanks and have a nice day
Vielen Dank!
bye
Bye bye
goodbye
Who are you?
what are you
What can you do?
What’s your name?
how can you help me?
Can you help me?
Are you a bot?
Who made you?
Wer bist du?
that was very helpful, thanks
Nice to meet you
test
How's it going?""".splitlines()

QUESTIONS = """Hi, how long are backups kept?
Hello, who owns cluster C?
Thanks! And how long are they kept for gold customers?
Thank you. Which pump feeds the upper lock?
Good morning, when does the night shift end?
Good morning calls: who makes them?
How are you supposed to grease the bearing?
How are backups kept?
Who are you supposed to call when the pump fails?
What can you do about a leaking valve?
What can you tell me about the weir?
How can you reset the meter?
Can you help me find the maintenance plan?
Help with a locked account
I need help with my invoice
What is your return policy?
What is your name for the north station?
Are you a partner of Globex?
Who built the weir?
Who made the pump?
Is the pump great?
hello world program in the handbook
What does "thanks in advance" cost in the style guide?
thanks clause in contract 7
Test results of pump 7?
ping timeout of the gateway
Okta set-up
perfect secrecy
cool-down time of the kiln
Cheers Ltd: who is our contact?
bye-laws of the association
Generate a title for the report about pumps
What is the title of the conversation guide?
Provide a list of the conversation topics in the handbook
Suggest 3-5 relevant questions for the pump inspection
Summarize the discussion of the flood in the minutes
Task: grease the wheel. Who does it?
### Task
What is a task in the scheduler?
hi-vis jackets
Hallo, wie lange werden Backups aufbewahrt?
Danke, und für Gold?
yes
no
?
42""".splitlines()

TITLE = """### Task:
Generate a concise, 3-5 word title with an emoji summarizing the chat history.
### Guidelines:
- The title should clearly represent the main theme or subject of the conversation.
### Output:
JSON format: { "title": "your concise title here" }
### Examples:
- { "title": "📉 Stock Market Trends" },
### Chat History:
<chat_history>
USER: How long are the backups of gold customers kept?
ASSISTANT: They are kept for 90 days. [1]
</chat_history>"""
TAGS = """### Task:
Generate 1-3 broad tags categorizing the main themes of the chat history, along with 1-3 more specific subtopic tags.
### Output:
JSON format: { "tags": ["tag1", "tag2", "tag3"] }
### Chat History:
<chat_history>
USER: How long?
</chat_history>"""
FOLLOW_UPS = """### Task:
Suggest 3-5 relevant follow-up questions or prompts that the user might naturally ask next in this conversation as a **user**.
### Output:
JSON format: { "follow_ups": ["Question 1?", "Question 2?", "Question 3?"] }
"""
QUERIES = """### Task:
Analyze the chat history to determine the necessity of generating search queries, in the given language.
### Output:
Strictly return in JSON format:
{
  "queries": ["query1", "query2"]
}
"""
COMPLETION = """### Task:
You are an autocompletion system. Continue the text in `<text>` based on the **completion type** in `<type>`.
### **Output Rules**:
- Respond only in JSON format: { "text": "<your_completion>" }.
"""
PLAIN = [
    "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. Only return the title.\n\n"
    "Conversation:\nUser: How long are backups kept?\nAI: 35 days.",
    "Please generate a four to five word title summarizing our conversation without any lead-in, punctuation, quotation marks.",
    "Please generate a concise title (max 40 characters) for a conversation that starts with:\nUser: hi",
    "Generate a concise, 3-5 word title for a conversation that starts with this user message.",
    "Analyze this conversation and provide:\n1. The detected language of the conversation\n2. A concise title (5 words or less)",
    "Based on the chat history, give this conversation a name.\nKeep it short.",
    "Summarize the discussion briefly in 200 words or less to use as a prompt for future context.",
]
# Open WebUI's own retrieval wraps a question so: it is one.
WRAPPED = """### Task:
Respond to the user query using the provided context, incorporating inline citations in the format [id].
<context>
<source id="1">Backups are kept for 35 days.</source>
</context>
<user_query>
How long are backups kept?
</user_query>"""


@pytest.mark.parametrize("text", SMALL_TALK)
def test_small_talk(text: str) -> None:
    assert intent_of(text) == "small_talk"
    assert small_talk_reply(text).endswith(".")


@pytest.mark.parametrize("text", [*QUESTIONS, WRAPPED, "", " ", "hi " * 100])
def test_questions_and_what_is_long_are_questions(text: str) -> None:
    assert intent_of(text) == "question"


@pytest.mark.parametrize("text", [TITLE, TAGS, FOLLOW_UPS, QUERIES, COMPLETION, *PLAIN])
def test_what_clients_ask_for_themselves_is_a_task(text: str) -> None:
    assert intent_of(text) == "task"


def test_a_reply_is_to_what_asks_for_most() -> None:
    assert "I answer questions" in small_talk_reply("Hello, who are you?")
    assert small_talk_reply("ok thanks, bye") == "Goodbye."
    assert small_talk_reply("Okay, thank you!").startswith("You are welcome.")
    assert small_talk_reply("hi there").startswith("Hello.")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (TITLE, {"title": "How long are the backups of"}),
        (TAGS, {"tags": []}),
        (FOLLOW_UPS, {"follow_ups": []}),
        (QUERIES, {"queries": []}),
        (COMPLETION, {"text": ""}),
    ],
)
def test_a_task_without_a_generator_is_done_by_rule_in_the_shape_that_is_asked_for(text: str, wanted: dict[str, object]) -> None:
    assert json.loads(task_reply(text)) == wanted


def test_a_title_in_plain_words_is_of_the_conversations_beginning() -> None:
    assert task_reply(PLAIN[0]) == "How long are backups kept"
    assert task_reply(PLAIN[1], ["Who owns cluster C?", "And D?"]) == "Who owns cluster C"
    assert task_reply(PLAIN[1]) == "Chat"


@pytest.mark.parametrize("text", ["bye " * 29 + "x", "ok " * 39 + "x", "Generate a " + "x" * 50_000, "### Task:" + "{ " * 30_000])
def test_what_is_odd_takes_no_time(text: str) -> None:
    started = time.process_time()
    intent_of(text)
    assert time.process_time() - started < 0.5
