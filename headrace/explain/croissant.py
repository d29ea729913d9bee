"""A dataset of a round as Croissant: JSON-LD that names its files, their hashes and their columns.

Format: Croissant 1.0 (http://mlcommons.org/croissant/1.0), with what the RAI extension 1.0 says about people's data.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from headrace.catalog import DATASETS, EXAMPLES
from headrace.training.data.dataset import Dataset
from headrace.training.manifest import Manifest

CONFORMS = ("http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0")
_CR, _SC = "http://mlcommons.org/croissant/", "https://schema.org/"
_CONTEXT = {
    "@language": "en",
    "@vocab": _SC,
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": _CR,
    "rai": f"{_CR}RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": _SC,
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(manifest: Manifest, dataset: Dataset, *, place: str, publisher: str, licence: str) -> dict[str, Any]:
    """The dataset that a round was trained on, JSON-ready.

    `place` is the address of the datasets' store, below which the keys of files are; `licence` a URL or an SPDX id.
    """
    scrubbed = ", ".join(f"{count:,} texts with {kind}" for kind, count in dataset.scrubbed.items()) or "none was found"
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in dataset.left_out.items()) or "nothing"
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": list(CONFORMS),
        "name": f"headrace-{dataset.version}",
        "description": (
            f"{sum(dataset.examples.values()):,} examples of users' verdicts, on which round {manifest.round} of a training loop"
            f" trained {manifest.model} by recipe {manifest.recipe}. Splits: "
            + ", ".join(f"{split} {count:,}" for split, count in dataset.examples.items())
            + "."
        ),
        "url": f"{place}/{dataset.version}/",
        "version": f"{manifest.round}.0.0",
        "datePublished": manifest.committed[:10],
        "license": licence,
        "creator": {"@type": "sc:Organization", "name": publisher},
        "isLiveDataset": False,
        "rai:dataCollection": f"Verdicts on answers of this installation, landed up to {manifest.newest_verdict or 'now'}.",
        "rai:dataPreprocessingProtocol": f"Left out: {left_out}. Near-duplicate questions are in one split.",
        "rai:personalSensitiveInformation": f"Names of users are columns. Personal data replaced in texts: {scrubbed}.",
        "distribution": [_file(file, place) for file in dataset.files],
        "recordSet": [_records(file) for file in dataset.files],
    }


def _file(file: dict[str, Any], place: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file["key"],
        "name": file["key"],
        "description": f"Split {file['split']}, {file['examples']:,} examples.",
        "contentUrl": f"{place}/{file['key']}",
        "contentSize": f"{file['bytes']} B",
        "encodingFormat": "application/x-parquet",
        "sha256": file["sha256"],
    }


def _records(file: dict[str, Any]) -> dict[str, Any]:
    """The columns of one shard."""
    name = file["key"].rpartition("/")[2].removesuffix(".parquet")
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"Examples of split {file['split']}.",
        "field": [_field(name, column, file["key"]) for column in EXAMPLES.columns],
    }


def _field(records: str, column: pa.Field, key: str) -> dict[str, Any]:
    repeated = pa.types.is_list(column.type)
    each = column.type.value_type if repeated else column.type
    return {
        "@type": "cr:Field",
        "@id": f"{records}/{column.name}",
        "name": f"{records}/{column.name}",
        "description": f"Column {column.name} of the store {EXAMPLES.name}.",
        "dataType": _type(each),
        **({"repeated": True} if repeated else {}),
        "source": {"fileObject": {"@id": key}, "extract": {"column": column.name}},
    }


def _type(of: pa.DataType) -> str:
    if pa.types.is_floating(of):
        return "sc:Float"
    if pa.types.is_integer(of):
        return "sc:Integer"
    if pa.types.is_boolean(of):
        return "sc:Boolean"
    if pa.types.is_timestamp(of):
        return "sc:DateTime"
    return "sc:Text"


def place_of(endpoint: str, bucket: str) -> str:
    """The address of the datasets' store on an S3 endpoint, path-style."""
    return f"{endpoint.rstrip('/')}/{bucket}/{DATASETS.name}"
