"""What inference asks of storage: the KV cache, documents and their vectors."""

from __future__ import annotations

from headrace.explain.sizing import formulas
from headrace.explain.sizing.figure import Figure, figure
from headrace.explain.sizing.models import TYPE_BYTES, LanguageModel
from headrace.explain.sizing.parameters import SizingParameters


def kv_figures(p: SizingParameters, model: LanguageModel) -> list[Figure]:
    """The KV cache on the file tier, of all users."""
    on_gpu, stored = TYPE_BYTES[p.kv_type], TYPE_BYTES[p.offload_type]
    per_token = formulas.kv_bytes_per_token(model, stored)
    context = formulas.kv_bytes(model, p.context_tokens, stored)
    questions = p.users / p.question_interval_s
    if model.latent_dim:
        formula, shape = "layers × latent size × bytes", {"layers": model.layers, "latent size": model.latent_dim}
    else:
        formula = "layers × 2 × KV heads × head size × bytes"
        shape = {"layers": model.layers, "KV heads": model.kv_heads, "head size": model.head_dim}
    windows = f"{model.windowed_layers} of {model.layers} layers keep only {model.window} tokens" if model.windowed_layers else ""
    larger = "" if stored <= on_gpu else f"{stored / on_gpu:g} × what the GPU keeps"
    common = {"context tokens": p.context_tokens, "KV bytes a token": per_token}
    return [
        figure(
            "kv_bytes_per_token",
            "file",
            "KV of one token, on the GPU",
            formulas.kv_bytes_per_token(model, on_gpu),
            "B",
            formula,
            {**shape, "bytes": on_gpu},
            "kv",
            note=windows,
        ),
        figure(
            "kv_offloaded_bytes_per_token",
            "file",
            "KV of one token, on storage",
            per_token,
            "B",
            formula,
            {**shape, "bytes": stored},
            "kv",
            "offload",
            note=larger,
        ),
        figure(
            "kv_bytes_per_context",
            "file",
            "KV of one context",
            context,
            "B",
            "context tokens × KV bytes a token" + (", windowed layers at most their window" if windows else ""),
            common,
            "kv",
        ),
        figure(
            "kv_capacity",
            "file",
            "KV cache",
            p.users * p.kept_contexts * context,
            "B",
            "users × kept contexts × KV of one context",
            {"users": p.users, "kept contexts": p.kept_contexts, "KV of one context": context},
            "kv",
            role="capacity",
        ),
        figure(
            "kv_read",
            "file",
            "KV read",
            questions * p.kv_read_share * context,
            "B/s",
            "users ÷ seconds between questions × share read × KV of one context",
            {
                "users": p.users,
                "seconds between questions": p.question_interval_s,
                "share read": p.kv_read_share,
                "KV of one context": context,
            },
            "kv",
            role="read",
        ),
        figure(
            "kv_write",
            "file",
            "KV written",
            questions * p.kv_write_share * context,
            "B/s",
            "users ÷ seconds between questions × share written × KV of one context",
            {
                "users": p.users,
                "seconds between questions": p.question_interval_s,
                "share written": p.kv_write_share,
                "KV of one context": context,
            },
            "kv",
            role="write",
        ),
        figure(
            "kv_staging",
            "file",
            "Host memory that one node stages KV in",
            p.concurrent_restores * context,
            "B",
            "concurrent restores × KV of one context",
            {"concurrent restores": p.concurrent_restores, "KV of one context": context},
            "staging",
            note="less than this, and long prompts are computed although their KV is stored",
        ),
    ]


def document_figures(p: SizingParameters) -> list[Figure]:
    """Source files, their text, and the vector tier."""
    chunk_bytes = p.chunk_tokens * p.text_token_bytes
    chunks = p.documents * p.document_text_bytes / chunk_bytes
    vector = p.dimensions * TYPE_BYTES[p.vector_type]
    index = formulas.index_bytes_per_vector(p.index, p.dimensions)
    per_chunk = vector + index + chunk_bytes + p.chunk_metadata_bytes
    searched = formulas.searched_bytes(
        p.index, p.dimensions, chunks, TYPE_BYTES[p.vector_type], p.searched_share, p.refined
    ) + p.passages * (chunk_bytes + p.chunk_metadata_bytes)
    questions = p.users / p.question_interval_s
    index_source = "rabitq" if p.index == "ivf_rq" else "faiss"
    return [
        figure(
            "documents_capacity",
            "object",
            "Source documents",
            p.documents * p.document_bytes,
            "B",
            "documents × bytes",
            {"documents": p.documents, "bytes": p.document_bytes},
            "assumption",
            role="capacity",
        ),
        figure(
            "text_capacity",
            "table",
            "Text of documents and chunks",
            2 * p.documents * p.document_text_bytes * p.landed_ratio,
            "B",
            "2 × documents × text bytes × compression",
            {"documents": p.documents, "text bytes": p.document_text_bytes, "compression": p.landed_ratio},
            "assumption",
            role="capacity",
        ),
        figure(
            "chunks",
            "vector",
            "Chunks",
            chunks,
            "",
            "documents × text bytes ÷ (tokens a chunk × bytes a token)",
            {
                "documents": p.documents,
                "text bytes": p.document_text_bytes,
                "tokens a chunk": p.chunk_tokens,
                "bytes a token": p.text_token_bytes,
            },
            "assumption",
        ),
        figure(
            "vector_bytes_per_chunk",
            "vector",
            "One chunk",
            per_chunk,
            "B",
            "dimensions × bytes + index + text + metadata",
            {
                "dimensions": p.dimensions,
                "bytes": TYPE_BYTES[p.vector_type],
                "index": index,
                "text": chunk_bytes,
                "metadata": p.chunk_metadata_bytes,
            },
            index_source,
            note=f"the index ({p.index}) adds {index / vector:.1%} to the vector",
        ),
        figure(
            "vector_capacity",
            "vector",
            "Embeddings, text and index",
            chunks * per_chunk,
            "B",
            "chunks × one chunk",
            {"chunks": chunks, "one chunk": per_chunk},
            index_source,
            role="capacity",
        ),
        figure(
            "vector_bytes_per_question",
            "vector",
            "Read by one question",
            searched,
            "B",
            "index and vectors that a search reads + passages × (text + metadata)",
            {
                "index": p.index,
                "chunks": chunks,
                "share of lists": p.searched_share,
                "refined": p.refined,
                "passages": p.passages,
            },
            index_source,
            note="without a cache",
        ),
        figure(
            "vector_read",
            "vector",
            "Read by all questions",
            questions * searched,
            "B/s",
            "users ÷ seconds between questions × read by one question",
            {
                "users": p.users,
                "seconds between questions": p.question_interval_s,
                "read by one question": searched,
            },
            index_source,
            role="read",
        ),
    ]
