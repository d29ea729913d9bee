"""The KV cache: attention keys and values of prompt prefixes, kept on files."""
