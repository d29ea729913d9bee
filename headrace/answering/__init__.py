"""Enterprise RAG: documents to an index ahead of time; at question time retrieve, re-rank, generate, answer."""
