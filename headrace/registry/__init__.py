"""Released models: which version is served, how it is tried, and how the embedder and its index move together."""
