"""The parameters of a sizing, with their defaults and bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from headrace.errors import WrongUsage

Recipe = Literal["mixed-adam", "fp32-adam", "fp8-adam", "adam-8bit", "weights"]
NumberType = Literal["fp32", "bf16", "fp16", "fp8", "int8", "fp4"]
Index = Literal["ivf_rq", "ivf_pq", "hnsw", "flat"]
P = TypeVar("P", bound=BaseModel)


class SizingParameters(BaseModel):
    """What a platform is to carry. Bytes are decimal; times are in the unit that the name ends in."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    model: str = "llama-3.1-70b"
    """A preset, or a model's `config.json` file: layers, heads and parameters come from it."""
    gpus: int = Field(default=256, ge=1, le=10_000_000)
    """GPUs that train."""

    # file: KV cache
    users: int = Field(default=1_000, ge=0, le=10**10)
    """Users who ask questions."""
    question_interval_s: float = Field(default=60.0, gt=0)
    """Seconds between two questions of one user."""
    context_tokens: int = Field(default=8_000, ge=1, le=10**8)
    """Tokens of a question's context: prompt, passages, earlier turns."""
    kept_contexts: float = Field(default=1.0, ge=0)
    """Contexts whose KV is kept per user."""
    kv_read_share: float = Field(default=0.5, ge=0, le=1)
    """Share of a context's tokens whose KV is read from storage; what the GPU or host memory still holds is not."""
    kv_write_share: float = Field(default=0.3, ge=0, le=1)
    """Share of a context's tokens whose KV is computed and written to storage."""
    kv_type: NumberType = "bf16"
    """Type of keys and values on the GPU."""
    offload_type: NumberType = "bf16"
    """Type of keys and values on storage; often larger than on the GPU."""
    concurrent_restores: int = Field(default=8, ge=1)
    """Contexts that one node restores at once."""

    # object: checkpoints, weights
    recipe: Recipe = "mixed-adam"
    """Precision recipe: bytes of a checkpoint per trained parameter."""
    trained_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the parameters that are trained: 1, or about 0.01 with LoRA."""
    stall_s: float = Field(default=30.0, gt=0)
    """Seconds for which training may stop to write a checkpoint."""
    checkpoint_interval_s: float | None = Field(default=None, gt=0)
    """Seconds between checkpoints; unset: the availability-optimal interval."""
    recovery_s: float = Field(default=300.0, gt=0)
    """Seconds from a failure until training goes on; the checkpoint is read within them."""
    gpu_mttf_h: float = Field(default=50_000.0, gt=0)
    """Mean time to failure of one GPU with its share of everything else."""
    mttf_h: float | None = Field(default=None, gt=0)
    """Mean time to failure of the whole job; unset: `gpu_mttf_h` divided by `gpus`."""
    checkpoints_kept: int = Field(default=5, ge=1)
    """Checkpoints kept."""
    replicas: int = Field(default=1, ge=0)
    """Copies of the model that answer; each loads the weights."""
    load_s: float = Field(default=60.0, gt=0)
    """Seconds in which all copies load their weights."""
    weights_type: NumberType = "bf16"
    """Type of released weights."""
    versions_kept: int = Field(default=5, ge=1)
    """Released versions kept."""

    # object: data sets, documents
    training_tokens: float = Field(default=1e11, ge=0)
    """Tokens of the training data."""
    token_bytes: float = Field(default=4.0, gt=0)
    """Bytes of a token in the training data: 4 as 32-bit ids, about 4 as English text."""
    gpu_tflops: float = Field(default=989.0, gt=0)
    """Peak Tflop/s of one GPU in the type that it trains in."""
    utilisation: float = Field(default=0.4, gt=0, le=1)
    """Share of the peak that training reaches (model FLOPs utilisation)."""
    samples_per_gpu_s: float = Field(default=0.0, ge=0)
    """For images or video: samples that one GPU trains on a second; 0: text only."""
    sample_bytes: float = Field(default=0.0, ge=0)
    """Bytes of a sample."""
    documents: int = Field(default=1_000_000, ge=0, le=10**13)
    """Documents that are searched."""
    document_bytes: float = Field(default=500_000.0, ge=0)
    """Bytes of a source file."""
    document_text_bytes: float = Field(default=20_000.0, ge=0)
    """Bytes of a document's text."""

    # vector
    chunk_tokens: int = Field(default=256, ge=1)
    """Tokens of a chunk."""
    text_token_bytes: float = Field(default=4.0, gt=0)
    """Bytes of text per token."""
    dimensions: int = Field(default=1_024, ge=1, le=65_536)
    """Dimensions of an embedding."""
    vector_type: NumberType = "fp32"
    """Type of an embedding's numbers."""
    index: Index = "ivf_rq"
    """Kind of vector index."""
    chunk_metadata_bytes: float = Field(default=250.0, ge=0)
    """Bytes of a chunk's ids, readers and names."""
    searched_share: float = Field(default=0.02, gt=0, le=1)
    """Share of an IVF index's lists that a search reads."""
    refined: int = Field(default=150, ge=1)
    """Candidates that a search compares exactly."""
    passages: int = Field(default=50, ge=1)
    """Passages that a search returns, whose text is read."""

    # stream, table, archive
    events_per_s: float = Field(default=1_000.0, ge=0)
    """Events that arrive a second."""
    event_bytes: float = Field(default=1_000.0, ge=0)
    """Bytes of an event."""
    answer_event_bytes: float = Field(default=8_000.0, ge=0)
    """Bytes of the event that records one answer."""
    head_h: float = Field(default=24.0, gt=0)
    """Hours that the head keeps events after they came."""
    head_replicas: int = Field(default=3, ge=1)
    """Copies that the head keeps of an event."""
    landed_ratio: float = Field(default=0.4, gt=0)
    """Bytes in a table per byte of event, compressed columns."""
    table_days: float = Field(default=90.0, gt=0)
    """Days that a table keeps a row."""
    archive_days: float = Field(default=1_095.0, ge=0)
    """Days that the archive keeps it after that."""
    archive_ratio: float = Field(default=0.25, gt=0)
    """Bytes in the archive per byte of event."""

    @model_validator(mode="after")
    def _possible(self) -> SizingParameters:
        if self.kv_read_share + self.kv_write_share > 1:
            raise ValueError("kv_read_share and kv_write_share are together more than a whole context")
        if bool(self.samples_per_gpu_s) != bool(self.sample_bytes):
            raise ValueError("samples_per_gpu_s and sample_bytes go together: set both or neither")
        return self


def parameters_of(values: Mapping[str, Any]) -> SizingParameters:
    """Parameters from values as a person or a request gives them. Raises `WrongUsage` that names every wrong one."""
    return checked(SizingParameters, values, hint="headrace size --list shows all, with their defaults.")


def checked(kind: type[P], values: Mapping[str, Any], *, hint: str) -> P:
    """A model of that kind with these values. Raises `WrongUsage` that names every wrong one, with the hint."""
    try:
        return kind(**values)
    except ValidationError as error:
        known = kind.model_fields
        faults = []
        for fault in error.errors():
            name = ".".join(map(str, fault["loc"]))
            said = fault["msg"].removeprefix("Input ").removeprefix("Value error, ")
            if not name:
                faults.append(f"  {said}")
            elif name in known:
                faults.append(f"  {name}: {said}, not {fault['input']!r}")
            else:
                faults.append(f"  {name}: there is no such parameter")
        raise WrongUsage("These parameters cannot be used:\n" + "\n".join(faults), hint=hint) from None
