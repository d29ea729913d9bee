"""The names of the trained models, in a module without pydantic because the command line's help needs them."""

RANKING, RERANKER, EMBEDDER, GENERATOR = "ranking", "reranker", "embedder", "generator"
MODELS = (RANKING, RERANKER, EMBEDDER, GENERATOR)
