"""Metered storage handles, one module per tier. Every byte of a tier goes through them.

    stream               Kafka topics; `tansu` and `record_batch` rewrite what the embedded head stores
    objects, s3_requests  objects in S3; listings and tags, which obstore does not ask for
    tables               tables: the handles, and the backends Iceberg and VAST DB
    vectors              the vector index
    files, listing       a directory, local or NFS
    ledger, meter        what a run moved; a stage's view of it, with which a handle counts. `timeline` is when
    endpoints            addresses and keys of the tiers; `connection` and `reason` say why one cannot be used
    metadata             tenants, keys and copies by key, in SQL; in no tier and not metered. `database`, `migrations`
    records, signature   the records of topics, and who may write them
    sql, filters         queries over the tables; filters of a search
    recent               a value that is read at most once a second

Storage knows nothing about stages.
"""
