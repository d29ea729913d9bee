"""Documents: source files to chunks, embeddings and an index, ahead of any question.

In the order in which a document passes them:

    sources          what a folder, the prefix of a bucket or a Git repository has, what changed there, and who may read it
    names            what a document is called; the key of its source in the object store
    put              its bytes to the object store and an event to the head: `put` for files, `put_document` for the API
    parse, parser    the bytes to text, in a process of its own; `formats` has the formats
    chunk, pieces    the text to chunks; where it is cut
    embed            the chunks to vectors
    index            the indices over the vectors, and the whole pass
    generations      an index that is built beside the one that answers

Beside them:

    versions, lookup, view      which version of a document answers, and to whom: as rows, by key, with what is under way
    restrict, revoke, expire    a document that fewer may read, the KV blocks it was in, and the end of its retention
    pii                         personal data in texts
    failed                      documents that a stage cannot take in
    queue                       how far a stage is, and turns between tenants
    parsing, splitting, embedding    what waits for each of these stages; `ahead` reads sources, or has workers parse them
    claims                      sources of documents that are put and not parsed yet
"""
