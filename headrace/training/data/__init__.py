"""prepare: answers joined with the verdicts users gave them, into a dataset that keeps where each example came from.

source         table snapshots
text           each text cleaned: personal data replaced (personal), a normal form to compare by
asked          questions and answers told apart; what is too poor (quality) or of the evaluation (contamination) left out
join           verdicts joined, however late; whose count, and the examples they make
split          train, tune, test: by document, and by near-duplicates (duplicates)
examples       the rows
dataset        Parquet shards and the list that names them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from headrace.catalog import CHUNK_ROWS, DATASETS, DOCUMENT_ROWS, EXAMPLES, FEEDBACK_ROWS, INTERACTION_ROWS
from headrace.core.launch import Batches
from headrace.core.stage import stage
from headrace.settings import Preparing
from headrace.storage.objects import ObjectWriter
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.training.cutoff import NOTHING, Exclusions
from headrace.training.data.dataset import DEFAULTS, Dataset, Shards, dataset_version, listed
from headrace.training.data.examples import SPLITS, make
from headrace.training.data.questions import NONE
from headrace.training.data.source import Source

__all__ = ["Dataset", "dataset_version", "prepare"]


@stage("Joins answers with the verdicts users gave them into a dataset of training examples.")
def prepare(
    interactions: Annotated[TableReader, INTERACTION_ROWS],
    feedback: Annotated[TableReader, FEEDBACK_ROWS],
    documents: Annotated[TableReader, DOCUMENT_ROWS],
    chunks: Annotated[TableReader, CHUNK_ROWS],
    examples: Annotated[TableWriter, EXAMPLES],
    datasets: Annotated[ObjectWriter, DATASETS],
    batches: Batches,
    snapshots: Mapping[str, int | None],
    version: str,
    seed: int,
    settings: Preparing = DEFAULTS,
    exclusions: Exclusions = NOTHING,
    generator_history: Sequence[str] = (NONE,),
) -> Dataset:
    """Write the dataset of the given table snapshots: Parquet shards by split, and last the list that names them.

    `snapshots` are by table name; a table that is not named is read as it stands, one named `None` had no row yet.
    `generator_history` are the generator's versions in the order in which they were served; the last one is served now.
    `version` is what `dataset_version` says of all these. The same inputs give the same bytes. A dataset whose list stands is
    not made again.

    Raises `WrongUsage` where a file of evaluation questions cannot be read, `NotFound` where a snapshot is no longer there.
    """
    dataset = listed(datasets, version)
    if dataset is not None:
        return dataset
    source = Source(interactions, feedback, documents, chunks, snapshots)
    made = make(source, batches, version, seed, settings, exclusions, generator_history)
    shards = Shards(datasets, version, settings.shard_rows)
    for split in SPLITS:
        shards.write(split, *made.bounds(split), made.rows)
    # The examples table is for looking things up by offset; its property makes writing it twice impossible.
    written: list[str] = examples.snapshot_property("datasets") or []
    if version not in written:
        examples.append(made.lookup(), properties={"datasets": [*written, version]}, expected={"datasets": written or None})
    return shards.finish(made.questions, made.left_out, made.scrubbed)
