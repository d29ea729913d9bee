"""Model endpoints: clients of NIM and OpenAI-style servers, and the embedded model server that speaks the same formats.

    client, connection, wire, prompt, tokens           calls of models
    server                                             the embedded model server
    kv                                                 its KV cache
    pointer, cards                                     which version is served, and the files of one
    ranking, served_ranking, interleaving              the order of passages
    citations, support, word_match, concepts           whether a passage supports a sentence
    extract, quotable, asked, question_parts, fact_kinds, short_answer, spans
                                                       the words of a passage that answer a question
    measures                                           how good an answer is
    http, handshakes                                   what both HTTP servers share
    precision                                          products of matrices in bfloat16

`client` and `tokens` never import torch, so commands start fast. Modules that need torch are in `server`.
"""
