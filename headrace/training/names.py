"""The names of the models that are trained; apart from the recipes, which take pydantic: the command line's help has them."""

RANKING, RERANKER, EMBEDDER, GENERATOR = "ranking", "reranker", "embedder", "generator"
MODELS = (RANKING, RERANKER, EMBEDDER, GENERATOR)
