"""The API and the page that `headrace up` serves on this machine.

app, service                             routes over a `Service`; what one `headrace up` serves
routes, dependencies, schemas, openapi   the routes, and what their bodies share
middleware, auth, admission, uploads     who may call, how often and how much
questions, answers                       questions and verdicts of many callers, and the responses
documents, document_text                 documents over HTTP
index_thread, follow_thread, threads     what indexes and follows sources beside the answers
openai, chat, responses, conversation    what OpenAI's clients ask
page, live, training_view, recorded_events   what the page in `static/` shows
audit, telemetry, errors                 who did what; metrics and traces; what a caller reads of an error
"""
