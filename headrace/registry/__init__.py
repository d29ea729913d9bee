"""Registry of released models: serving, canaries, rollback, and moving the embedder together with its index."""
