"""Model endpoints: clients of NIM and OpenAI-style servers, and the embedded model server that speaks the same formats.

    client, connection, wire, prompt, tokens           calls of models
    server                                             the embedded model server
    kv                                                 its KV cache
    pointer, cards                                     which version is served, and the files of one
    ranking, served_ranking, interleaving              the order of passages
    citations, support, word_match, concepts           whether a passage supports a sentence
    asked, arguments, subject, question_parts, ranges  what a question asks for
    question_words, comparison                         its words, and what of it a quote has
    fact_kinds, identifiers, counts                    the kind of fact it asks for, and whether a text has one
    extract, quotable, clauses, short_answer, spans    the words of a passage that answer it
    measures                                           how good an answer is
    http, handshakes                                   what both HTTP servers share
    precision                                          products of matrices in bfloat16

`client` and `tokens` never import torch, so commands start fast. Modules that need torch are in `server`.
"""

from __future__ import annotations

RANKING, RERANKER, EMBEDDER, GENERATOR = "ranking", "reranker", "embedder", "generator"
MODEL_NAMES = (RANKING, RERANKER, EMBEDDER, GENERATOR)
"""The models that are trained and served; here, without pydantic, because the command line's help needs them."""
