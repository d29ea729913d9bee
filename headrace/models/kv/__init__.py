"""The KV cache: attention keys and values of prompt prefixes, in a block store."""
