"""Storage the user brings: the same code against endpoints that headrace.toml names, none of them started by the session."""

import os
from pathlib import Path

import numpy as np
import obstore
import pyarrow as pa
import pytest
from servers import serving

from headrace.app import App
from headrace.catalog import CHUNK_ROWS, CHUNKS, DIMENSIONS
from headrace.documents.chunk import chunk
from headrace.documents.formats.contract import ParseLimits
from headrace.documents.parse import parse
from headrace.documents.put import put
from headrace.landing.land import land
from headrace.platform.address import storage_names
from headrace.settings import Settings
from headrace.storage.meter import Meter
from headrace.storage.objects import connect
from headrace.storage.tables.handles import TableReader
from headrace.storage.vectors.handles import VectorWriter


@pytest.fixture(params=["catalog", "no catalog"])
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Servers that somebody else runs, and a headrace.toml that names them as the user's own: with the catalog, or without."""
    with serving(tmp_path / "theirs") as servers:
        theirs = servers.endpoints
        properties = "\n".join(f'"{name}" = "{value}"' for name, value in theirs.catalog_properties.items())
        tables = f"""
            [tables]
            type = "rest"
            uri = "{theirs.catalog_uri}"
            warehouse = "{theirs.warehouse}"
            [tables.properties]
            {properties}
            """
        (tmp_path / "nfs").mkdir()
        (tmp_path / "headrace.toml").write_text(
            f"""
            [objects]
            type = "s3"
            endpoint = "{theirs.s3_endpoint}"
            access_key = "{theirs.s3_access_key}"
            bucket = "{theirs.bucket}"
            {tables if request.param == "catalog" else ""}
            [head]
            type = "kafka"
            bootstrap = "{theirs.kafka_bootstrap}"
            [files]
            dir = "{tmp_path / "nfs"}"
            """
        )
        monkeypatch.setenv("HEADRACE_SETTINGS", str(tmp_path / "headrace.toml"))
        monkeypatch.setenv("HEADRACE_OBJECTS__SECRET_KEY", theirs.s3_secret_key)
        yield theirs


def test_documents_reach_the_index_on_storage_the_user_brings(brought, tmp_path: Path):
    (tmp_path / "docs").mkdir()
    for number in range(5):
        (tmp_path / "docs" / f"{number}.md").write_text(f"# Paper {number}\n\nThis is what paper number {number} says.\n")
    settings = Settings.load(home=tmp_path / "mine")
    with App(settings, "index", models=False, quiet=True) as app:
        runner, endpoints = app.runner, app.runner.endpoints
        assert endpoints.s3_endpoint == brought.s3_endpoint
        assert endpoints.files_dir == tmp_path / "nfs"
        assert runner.run(put, tenant="default", places=[tmp_path / "docs"], most_bytes=10**6).put == 5
        assert runner.run(land).events["document-events"] == 5
        assert runner.run(parse, limits=ParseLimits.from_settings(settings.inference)).parsed == 5
        assert runner.run(chunk, window=100, generation=1).chunks == 5
        meter = Meter(app.runner.record.ledger, "embed")
        rows = TableReader(CHUNK_ROWS, endpoints, meter).read().sort_by("uri")
        random = np.random.default_rng(0).normal(size=(5, DIMENSIONS)).astype(np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(random.reshape(-1)), DIMENSIONS)
        wanted = [name for name in CHUNKS.columns.names if name in CHUNK_ROWS.columns.names]
        given = pa.schema([field for field in CHUNKS.columns if field.name in (*wanted, "embedding")])
        vectors = VectorWriter(CHUNKS, endpoints, meter)
        vectors.upsert(rows.select(wanted).append_column("embedding", column).select(given.names).cast(given))
        vectors.build()
        found = vectors.fusion("paper number 3", random[3], tenant="default", most=1)
        assert found[0].uri == "docs/3.md"
        if endpoints.catalog_in_sql:
            told = storage_names(settings, endpoints)
            assert told["table"] == f"Iceberg on S3 at {brought.s3_endpoint.removeprefix('http://')}, catalog in the home"
            held = [one["path"] for page in obstore.list(connect(endpoints), "tables") for one in page]
            assert any(path.endswith(".parquet") for path in held), "the tables are in the user's bucket"
            assert (tmp_path / "mine" / "catalog.db").exists()
    # Nothing of the platform was started in this home: it has no servers' data.
    assert not (tmp_path / "mine" / "objects").exists()
    assert "mine" in os.listdir(tmp_path)
