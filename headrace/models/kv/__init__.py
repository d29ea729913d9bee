"""The KV cache: attention keys and values of prompt prefixes, in a block store.

To add a backend: docs/how-to/add-a-kv-backend.md.

    cache                  prefixes to blocks: names, format, eviction
    blocks                 the protocols of a block store and of a backend; files
    objects                the object store as a backend, with the index `object_index`
    memory                 memory in front of either
    prompt_memory          the memory that prefixes are restored into
    backends               `BACKENDS`, and the handle for stages
    service                the cache of one model server; `writes` stores behind the answer
    economy                whether loading or storing is worth it
    index, revocation      the blocks of a document, and their end
    canary, closing        restored prefixes recomputed, and what follows if they differ
    use                    what the cache did
"""
