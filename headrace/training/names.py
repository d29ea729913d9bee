"""The names of the models that are trained; apart from the recipes, which take pydantic: the command line's help has them."""

RERANKER, EMBEDDER, GENERATOR = "reranker", "embedder", "generator"
MODELS = (RERANKER, EMBEDDER, GENERATOR)
