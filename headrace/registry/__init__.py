"""Registry of released models: serving, canaries, rollback, and moving the embedder together with its index.

    serve        `RoundRunner`: runs a round and serves its outcome; promotion and rollback by hand
    champion     moves of the pointer by hand
    canary       whether a canary is promoted or ended: `verdict`
    embedder     an embedder is served with the index that was built with it

Whether a challenger is promoted after a round is decided in `headrace/training/gate.py`.
"""
