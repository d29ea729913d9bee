"""Documents: source files to chunks, embeddings and an index, ahead of any question.

In the order in which a document passes them:

- `files.py` finds files below folders; `names.py` says what a document is called.
- `source.py` writes a document's bytes to the object store and announces it; `put.py` does that for every changed file.
- `parse.py` turns the bytes into text, by `parser.py` in a process of its own, by the writers in `formats/`; `parsing.py` keeps
  slow documents from holding up others.
- `versions.py` says which version of a document answers, and to whom; `lookup.py` answers that by key.
- `chunk.py`, `embed.py` and `index.py` make chunks, vectors and indices; `index.py` also runs the whole pass.
- `failed.py` is for documents that a stage cannot take in, `generations.py` for an index built beside the one that answers.
"""
