"""The schema of the metadata store, version by version."""

from __future__ import annotations

from datetime import UTC, datetime

from headrace.errors import BadSettings
from headrace.storage.database import Database

# One entry per version, each applied once in its own transaction. Append entries; never change one.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE tenants (
            name TEXT PRIMARY KEY,
            created_at TEXT NOT NULL,
            quotas TEXT NOT NULL
        )""",
        """CREATE TABLE api_keys (
            id TEXT PRIMARY KEY,
            tenant TEXT NOT NULL REFERENCES tenants (name),
            hash TEXT NOT NULL,
            scopes TEXT NOT NULL,
            created_at TEXT NOT NULL,
            revoked_at TEXT,
            last_used_at TEXT,
            label TEXT NOT NULL
        )""",
        "CREATE INDEX api_keys_tenant ON api_keys (tenant)",
    ),
    (
        # Lines not yet in the audit table; `batch` names lines that are appended together.
        "CREATE TABLE audit_pending (id TEXT PRIMARY KEY, at TEXT NOT NULL, line TEXT NOT NULL, batch TEXT)",
        "CREATE INDEX audit_pending_batch ON audit_pending (batch)",
    ),
    (
        # The readers a key is restricted to, as a JSON list; null: unrestricted.
        "ALTER TABLE api_keys ADD COLUMN readers TEXT",
    ),
    ("ALTER TABLE tenants ADD COLUMN training TEXT NOT NULL DEFAULT 'none'",),
    (
        # The key that its verdicts count as; null: itself. For keys created by a tenant: the key that created them.
        "ALTER TABLE api_keys ADD COLUMN voter TEXT",
    ),
    (
        # What tables say, by key (`documents/lookup.py`): a copy that can be made again. `scope` is a table's identity, hashed.
        "CREATE TABLE table_copies (scope BIGINT PRIMARY KEY, revision TEXT NOT NULL)",
        """CREATE TABLE document_rows (
            scope BIGINT NOT NULL,
            document_id TEXT NOT NULL,
            topic TEXT NOT NULL,
            part INTEGER NOT NULL,
            position BIGINT NOT NULL,
            status TEXT NOT NULL,
            tenant TEXT NOT NULL,
            version TEXT NOT NULL,
            fields TEXT NOT NULL,
            PRIMARY KEY (scope, document_id, topic, part, position, status)
        )""",
        "CREATE INDEX document_rows_version ON document_rows (scope, tenant, version)",
        """CREATE TABLE document_states (
            scope BIGINT NOT NULL,
            document_id TEXT NOT NULL,
            tenant TEXT NOT NULL,
            uri TEXT NOT NULL,
            source TEXT,
            fields TEXT NOT NULL,
            live TEXT,
            description TEXT NOT NULL,
            PRIMARY KEY (scope, document_id)
        )""",
        "CREATE INDEX document_states_uri ON document_states (scope, tenant, uri COLLATE BINARY)",
        "CREATE INDEX document_states_source ON document_states (scope, tenant, source)",
        """CREATE TABLE document_chunks (
            scope BIGINT NOT NULL,
            generation INTEGER NOT NULL,
            document_id TEXT NOT NULL,
            version TEXT NOT NULL,
            chunks INTEGER NOT NULL,
            position BIGINT NOT NULL,
            PRIMARY KEY (scope, generation, document_id, version)
        )""",
        "CREATE TABLE seen_events (scope BIGINT NOT NULL, event TEXT NOT NULL, origin TEXT NOT NULL, PRIMARY KEY (scope, event))",
        # How far each generation of the index follows the tables.
        """CREATE TABLE index_progress (
            name TEXT PRIMARY KEY,
            documents TEXT NOT NULL,
            chunks TEXT NOT NULL,
            version BIGINT NOT NULL,
            compared_at TEXT NOT NULL
        )""",
    ),
    (
        # The content of a document of a source by its stamp (`documents/sources/hashes.py`): a cache.
        """CREATE TABLE source_hashes (
            tenant TEXT NOT NULL,
            source TEXT NOT NULL,
            uri TEXT NOT NULL,
            stamp TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            PRIMARY KEY (tenant, source, uri)
        )""",
        "CREATE INDEX source_hashes_uri ON source_hashes (tenant, uri)",
    ),
    (
        # Sources of puts that are not parsed yet (`documents/claims.py`), by the events that announce them.
        """CREATE TABLE source_claims (
            event_id TEXT PRIMARY KEY,
            tenant TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            uri TEXT NOT NULL,
            at TEXT NOT NULL
        )""",
        "CREATE INDEX source_claims_version ON source_claims (tenant, sha256)",
    ),
    (
        # Events for triggers (`scheduler/triggers/queue.py`), and how far each table was looked through for them.
        """CREATE TABLE trigger_deliveries (
            id TEXT PRIMARY KEY,
            trigger_name TEXT NOT NULL,
            event TEXT NOT NULL,
            state TEXT NOT NULL,
            attempts INTEGER NOT NULL,
            due TEXT NOT NULL,
            reason TEXT NOT NULL,
            at TEXT NOT NULL
        )""",
        "CREATE INDEX trigger_deliveries_due ON trigger_deliveries (trigger_name, state, due)",
        "CREATE TABLE trigger_positions (name TEXT PRIMARY KEY, position TEXT NOT NULL, at TEXT NOT NULL)",
    ),
    (
        # KV blocks in the object store by their last use, and their bytes by tenant (`models/kv/object_index.py`): can be made
        # again. `scope` is the bucket and the store, hashed.
        """CREATE TABLE kv_objects (
            scope BIGINT NOT NULL,
            name TEXT NOT NULL,
            tenant TEXT NOT NULL,
            bytes BIGINT NOT NULL,
            used DOUBLE PRECISION NOT NULL,
            PRIMARY KEY (scope, name)
        )""",
        "CREATE INDEX kv_objects_name ON kv_objects (scope, name COLLATE BINARY)",
        "CREATE INDEX kv_objects_used ON kv_objects (scope, used, name)",
        "CREATE INDEX kv_objects_tenant ON kv_objects (scope, tenant, used, name)",
        """CREATE TABLE kv_object_bytes (
            scope BIGINT NOT NULL,
            tenant TEXT NOT NULL,
            bytes BIGINT NOT NULL,
            PRIMARY KEY (scope, tenant)
        )""",
    ),
    (
        # Which documents' passages were in the prompts that KV blocks were made for (`models/kv/index.py`). `state` is what the
        # documents table said of the document then; `written` is 0 until the block is stored, `revoked` 1 until it is removed.
        """CREATE TABLE kv_blocks (
            tenant TEXT NOT NULL,
            document_id TEXT NOT NULL,
            block TEXT NOT NULL,
            state TEXT NOT NULL,
            written INTEGER NOT NULL,
            revoked INTEGER NOT NULL,
            at TEXT NOT NULL,
            PRIMARY KEY (document_id, tenant, block)
        )""",
        "CREATE INDEX kv_blocks_block ON kv_blocks (block)",
        "CREATE INDEX kv_blocks_unwritten ON kv_blocks (at) WHERE written = 0",
        # A document was deleted or changed: its blocks go. Until `settled_at` and for a while after, none is stored.
        """CREATE TABLE kv_revocations (
            revocation TEXT PRIMARY KEY,
            position BIGINT NOT NULL UNIQUE,
            tenant TEXT NOT NULL,
            document_id TEXT NOT NULL,
            uri TEXT NOT NULL,
            reason TEXT NOT NULL,
            noted_at TEXT NOT NULL,
            ended_at TEXT,
            settled_at TEXT
        )""",
        "CREATE INDEX kv_revocations_document ON kv_revocations (tenant, document_id)",
        "CREATE INDEX kv_revocations_open ON kv_revocations (position) WHERE ended_at IS NULL",
        "CREATE INDEX kv_revocations_unsettled ON kv_revocations (position) WHERE settled_at IS NULL",
        # The blocks of a revocation, noted before the first is removed.
        """CREATE TABLE kv_revoked_blocks (
            revocation TEXT NOT NULL,
            block TEXT NOT NULL,
            removed_at TEXT,
            PRIMARY KEY (revocation, block)
        )""",
        # The revision of the documents table up to which changes are noted as revocations.
        "CREATE TABLE kv_progress (name TEXT PRIMARY KEY, revision TEXT NOT NULL)",
        # What the KV cache did, summed by tenant and model version (`models/kv/use.py`).
        """CREATE TABLE kv_use (
            tenant TEXT NOT NULL,
            model TEXT NOT NULL,
            name TEXT NOT NULL,
            value DOUBLE PRECISION NOT NULL,
            PRIMARY KEY (tenant, model, name)
        )""",
        # Representations whose blocks are not used, because a restored prefix differed from its recomputation.
        """CREATE TABLE kv_closed (
            identity TEXT PRIMARY KEY,
            model TEXT NOT NULL,
            epoch INTEGER NOT NULL,
            closed_at TEXT,
            reason TEXT NOT NULL
        )""",
    ),
    (
        # A document's status and age, by which they are listed and expire; '' in rows that an older version wrote.
        "ALTER TABLE document_states ADD COLUMN status TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE document_states ADD COLUMN changed_s BIGINT NOT NULL DEFAULT 0",
        "CREATE INDEX document_states_status ON document_states (scope, tenant, status, uri COLLATE BINARY)",
        "CREATE INDEX document_states_shown ON document_states (scope, tenant, uri COLLATE BINARY) WHERE status <> 'deleted'",
        "CREATE INDEX document_states_age ON document_states (scope, tenant, changed_s) WHERE status <> 'deleted'",
        "CREATE INDEX document_states_unfilled ON document_states (scope) WHERE status = ''",
        # The documents with the same bytes, one after another.
        "CREATE INDEX document_rows_source ON document_rows (scope, tenant, version, document_id)",
        "DROP INDEX document_rows_version",
        # Each put asks for the claims of its document, each pass for those that are too old.
        "CREATE INDEX source_claims_document ON source_claims (tenant, uri)",
        "CREATE INDEX source_claims_at ON source_claims (at)",
    ),
    (
        # Whose event a delivery is of: tenants take turns.
        "ALTER TABLE trigger_deliveries ADD COLUMN tenant TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX trigger_deliveries_turn ON trigger_deliveries (trigger_name, state, tenant, due)",
    ),
    (
        # The key that made a key; of those made before, the tenant admin's key that they count as.
        "ALTER TABLE api_keys ADD COLUMN made_by TEXT",
        "UPDATE api_keys SET made_by = voter",
        "CREATE INDEX api_keys_made_by ON api_keys (made_by)",
    ),
)


def migrate(database: Database) -> None:
    """Apply the versions that a database lacks, each in its own transaction.

    Raises `BadSettings` where a newer Headrace wrote it.
    """
    with database.transaction(alone=True) as run:
        run("CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL)", {})
        current = run("SELECT coalesce(max(version), 0) FROM migrations", {})[0][0]
    if current > len(MIGRATIONS):
        raise BadSettings(
            f"The metadata store has schema version {current}; this Headrace knows up to {len(MIGRATIONS)}.",
            hint="A newer Headrace wrote it: use that version, or name another metadata store.",
        )
    for version in range(current + 1, len(MIGRATIONS) + 1):
        with database.transaction(alone=True) as run:
            if run("SELECT version FROM migrations WHERE version = :version", {"version": version}):
                continue  # another process was faster
            for statement in MIGRATIONS[version - 1]:
                run(statement, {})
            row = {"version": version, "now": datetime.now(UTC).isoformat(timespec="microseconds")}
            run("INSERT INTO migrations (version, applied_at) VALUES (:version, :now)", row)
