"""A question to an answer: retrieve, re-rank, generate with citations, record; and the verdict on it.

engine                      the pipeline, and `QueryEngine`, which answers
follow_up, intent           a question that needs the one before it; whether it is one
retrieve, rerank            the passages, and their order
quotes, generate            the answer: quoted, or written by the generator; `options` is what a client asks of it
record, verdicts            answers and verdicts to the head; the answer of a verdict
unrecorded                  answers given while the head is away
"""
