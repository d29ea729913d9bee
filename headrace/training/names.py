"""The names of the trained models, in a module without pydantic because the command line's help needs them."""

RANKING, RERANKER, EMBEDDER, GENERATOR = "ranking", "reranker", "embedder", "generator"
MODEL_NAMES = (RANKING, RERANKER, EMBEDDER, GENERATOR)
