"""One peer over the documents of standard input, by an interpreter that has it: its index, its searches and what they found.

In: `{"documents": {id: text}, "questions": {id: text}, "model": folder of the embedder, "threads": n, "most": n}`. Out: `index_s`
and for each of its ways to search `search_ms` and `found` (question → documents, best first). Settings are the peer's defaults
but for the embedder, which is the same for everybody. Only embedders are loaded before the clock starts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

Search = Callable[[str], list[str]]


def haystack(documents: dict[str, str], model: str, most: int) -> tuple[float, dict[str, Search]]:
    """Its splitter of 200 words, in-memory store, dense retriever, BM25 beside it joined by reciprocal rank."""
    from haystack import Document, Pipeline
    from haystack.components.joiners import DocumentJoiner
    from haystack.components.preprocessors import DocumentSplitter
    from haystack.components.retrievers.in_memory import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
    from haystack.components.writers import DocumentWriter
    from haystack.document_stores.in_memory import InMemoryDocumentStore
    from haystack_integrations.components.embedders.sentence_transformers import (
        SentenceTransformersDocumentEmbedder,
        SentenceTransformersTextEmbedder,
    )

    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    indexing = Pipeline()
    indexing.add_component("split", DocumentSplitter())
    indexing.add_component("embed", SentenceTransformersDocumentEmbedder(model=model, progress_bar=False))
    indexing.add_component("write", DocumentWriter(store))
    indexing.connect("split", "embed")
    indexing.connect("embed", "write")
    indexing.warm_up()
    started = time.perf_counter()
    given = [Document(content=text, meta={"name": name}) for name, text in documents.items()]
    indexing.run({"split": {"documents": given}})
    seconds = time.perf_counter() - started

    dense = Pipeline()
    dense.add_component("embed", SentenceTransformersTextEmbedder(model=model, progress_bar=False))
    dense.add_component("retrieve", InMemoryEmbeddingRetriever(store, top_k=most))
    dense.connect("embed.embedding", "retrieve.query_embedding")
    hybrid = Pipeline()
    hybrid.add_component("embed", SentenceTransformersTextEmbedder(model=model, progress_bar=False))
    hybrid.add_component("dense", InMemoryEmbeddingRetriever(store, top_k=most))
    hybrid.add_component("words", InMemoryBM25Retriever(store, top_k=most))
    hybrid.add_component("join", DocumentJoiner(join_mode="reciprocal_rank_fusion", top_k=most))
    hybrid.connect("embed.embedding", "dense.query_embedding")
    hybrid.connect("dense", "join")
    hybrid.connect("words", "join")

    def by_embedding(question: str) -> list[str]:
        found = dense.run({"embed": {"text": question}})["retrieve"]["documents"]
        return [document.meta["name"] for document in found]

    def by_both(question: str) -> list[str]:
        found = hybrid.run({"embed": {"text": question}, "words": {"query": question}})["join"]["documents"]
        return [document.meta["name"] for document in found]

    return seconds, {"dense": by_embedding, "hybrid": by_both}


def llamaindex(documents: dict[str, str], model: str, most: int) -> tuple[float, dict[str, Search]]:
    """Its sentence splitter, in-memory vector index, BM25 retriever beside it fused by reciprocal rank."""
    from llama_index.core import Document, VectorStoreIndex
    from llama_index.core.llms import MockLLM
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.retrievers import QueryFusionRetriever
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding
    from llama_index.retrievers.bm25 import BM25Retriever

    embedder = HuggingFaceEmbedding(model_name=model)
    started = time.perf_counter()
    given = [Document(text=text, metadata={}, id_=name) for name, text in documents.items()]
    nodes = SentenceSplitter().get_nodes_from_documents(given)
    index = VectorStoreIndex(nodes, embed_model=embedder)
    seconds = time.perf_counter() - started
    dense = index.as_retriever(similarity_top_k=most)
    words = BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=min(most, len(nodes)))
    hybrid = QueryFusionRetriever(
        [dense, words], similarity_top_k=most, num_queries=1, mode="reciprocal_rerank", use_async=False, llm=MockLLM()
    )

    def through(retriever: Any) -> Search:
        return lambda question: [found.node.ref_doc_id for found in retriever.retrieve(question)]

    return seconds, {"dense": through(dense), "hybrid": through(hybrid)}


def main() -> None:
    """Measure the peer that the command line names."""
    import torch

    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    peers = {"haystack": haystack, "llamaindex": llamaindex}
    seconds, searches = peers[sys.argv[1]](request["documents"], request["model"], request["most"])
    result: dict[str, Any] = {"index_s": seconds}
    for name, search in searches.items():
        search("warm up")
        found, taken = {}, []
        for key, question in request["questions"].items():
            started = time.perf_counter()
            found[key] = search(question)
            taken.append((time.perf_counter() - started) * 1e3)
        result[name] = {"search_ms": taken, "found": found}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
