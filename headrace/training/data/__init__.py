"""prepare: joins answers with users' verdicts into a dataset in which each example names its origins.

source         table snapshots
text           cleaning: personal data replaced, and a normal form for comparisons
questions      distinct questions and their answers, without poor ones and those of the evaluation
join           the join with verdicts, however late, and the examples they make
split          train, tune, test: by document and by near-duplicates
duplicates     near-duplicate questions
examples       the rows
dataset        Parquet shards and the list that names them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from headrace.catalog import CHUNK_ROWS, DATASETS, DOCUMENT_ROWS, EXAMPLES, FEEDBACK_ROWS, INTERACTION_ROWS
from headrace.core.launch import Batches
from headrace.core.stage import stage
from headrace.models.pointer import NONE
from headrace.settings import Preparing
from headrace.storage.objects import ObjectWriter
from headrace.storage.tables.handles import TableReader, TableWriter
from headrace.training.cutoff import NOTHING, Exclusions
from headrace.training.data.dataset import DEFAULTS, Dataset, Shards, dataset_version, listed
from headrace.training.data.examples import SPLITS, make
from headrace.training.data.source import Source

__all__ = ["Dataset", "dataset_version", "prepare"]

_REMEMBERED = 100  # datasets of which the examples table says that it has them: a killed round is resumed before another


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
    """Write the dataset of these table snapshots: Parquet shards by split, and last the list that names them.

    `snapshots` are by table name; a table without one is read at its newest snapshot, and one with `None` had no rows yet.
    `generator_history` lists the generator's versions in the order in which they were served, the current one last. `version`
    is `dataset_version` of all these. The same inputs give the same bytes. A dataset that has its list is not made again.

    Raises `WrongUsage` if a file of evaluation questions cannot be read, `NotFound` if a snapshot no longer exists.
    """
    dataset = listed(datasets, version)
    if dataset is not None:
        return dataset
    source = Source(interactions, feedback, documents, chunks, snapshots)
    made = make(source, batches, version, seed, settings, exclusions, generator_history)
    shards = Shards(datasets, version, settings.shard_rows)
    for split in SPLITS:
        shards.write(split, *made.bounds(split), made.rows)
    # The examples table serves lookups by offset; its property prevents a second write.
    written: list[str] = examples.snapshot_property("datasets") or []
    if version not in written:
        remembered = [*written, version][-_REMEMBERED:]
        examples.append(made.lookup(), properties={"datasets": remembered}, expected={"datasets": written or None})
    return shards.finish(made.questions, made.left_out, made.scrubbed)
