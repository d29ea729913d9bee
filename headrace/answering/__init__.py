"""A question to an answer: retrieve, re-rank, generate with citations, record; and the verdict on it."""
