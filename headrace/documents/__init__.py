"""Documents: source files to chunks, embeddings and an index, ahead of any question."""
