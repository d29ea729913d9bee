"""What training asks of storage: checkpoints and how often, weights, data sets."""

from __future__ import annotations

from headrace.errors import WrongUsage
from headrace.explain.sizing import formulas
from headrace.explain.sizing.figure import Figure, figure
from headrace.explain.sizing.models import TYPE_BYTES, LanguageModel
from headrace.explain.sizing.parameters import SizingParameters


def checkpoint_figures(p: SizingParameters, model: LanguageModel) -> list[Figure]:
    """Checkpoints: bytes, bandwidth and interval. Raises `WrongUsage` for times with which training makes no progress."""
    each, parts = formulas.RECIPES[p.recipe], formulas.RECIPE_PARTS[p.recipe]
    trained = model.parameters * p.trained_share
    checkpoint = trained * each
    mttf = p.mttf_h * 3_600 if p.mttf_h else p.gpu_mttf_h * 3_600 / p.gpus
    young = formulas.young_interval(p.stall_s, mttf)
    best = formulas.availability_interval(p.stall_s, mttf, p.recovery_s)
    interval = p.checkpoint_interval_s or best
    if interval <= p.stall_s:
        raise WrongUsage(
            f"A checkpoint every {interval:g} s cannot stop training for {p.stall_s:g} s each.",
            hint="Raise checkpoint_interval_s, or lower stall_s.",
        )
    lost = formulas.lost_share(interval, p.stall_s, mttf, p.recovery_s)
    if lost >= 1:
        raise WrongUsage(
            f"Training would make no progress: it fails every {mttf:,.0f} s on average, and with a checkpoint every"
            f" {interval:,.0f} s, a stall of {p.stall_s:g} s and {p.recovery_s:g} s of recovery all of its time is lost.",
            hint="Lower checkpoint_interval_s, stall_s, recovery_s or gpus, or raise mttf_h or gpu_mttf_h.",
        )
    times = {"stall": p.stall_s, "time to failure": mttf}
    return [
        figure(
            "checkpoint_bytes",
            "object",
            "One checkpoint",
            checkpoint,
            "B",
            "trained parameters × bytes a parameter",
            {"trained parameters": trained, "bytes a parameter": each},
            formulas.RECIPE_SOURCES[p.recipe],
            note="; ".join(filter(None, (parts, _beside_mlperf(p, model, checkpoint)))),
        ),
        figure(
            "checkpoint_capacity",
            "object",
            "Checkpoints kept",
            checkpoint * p.checkpoints_kept,
            "B",
            "checkpoints kept × one checkpoint",
            {"checkpoints kept": p.checkpoints_kept, "one checkpoint": checkpoint},
            "checkpoint",
            role="capacity",
        ),
        figure(
            "checkpoint_write",
            "object",
            "Checkpoint written while training waits",
            checkpoint / p.stall_s,
            "B/s",
            "one checkpoint ÷ allowed stall",
            {"one checkpoint": checkpoint, "allowed stall": p.stall_s},
            "checkpoint",
            role="peak_write",
        ),
        figure(
            "checkpoint_write_async",
            "object",
            "Checkpoint written beside the steps",
            checkpoint / interval,
            "B/s",
            "one checkpoint ÷ interval",
            {"one checkpoint": checkpoint, "interval": interval},
            "checkpoint",
            role="write",
            note="the least that keeps up: training goes on from a copy in host memory",
        ),
        figure(
            "checkpoint_read",
            "object",
            "Checkpoint read after a failure",
            checkpoint / p.recovery_s,
            "B/s",
            "one checkpoint ÷ time to recover",
            {"one checkpoint": checkpoint, "time to recover": p.recovery_s},
            "checkpoint",
            role="peak_read",
            note="read once and passed on between GPUs; more if each replica reads it",
        ),
        figure(
            "mttf",
            "object",
            "Mean time to failure of the job",
            mttf,
            "s",
            "as given" if p.mttf_h else "time to failure of a GPU ÷ GPUs",
            {"hours": p.mttf_h} if p.mttf_h else {"hours of a GPU": p.gpu_mttf_h, "GPUs": p.gpus},
            "mttf",
        ),
        figure(
            "interval_young",
            "object",
            "Optimal interval, Young",
            young,
            "s",
            "√(2 × stall × time to failure)",
            times,
            "young",
        ),
        figure(
            "interval_daly",
            "object",
            "Optimal interval, Daly",
            formulas.daly_interval(p.stall_s, mttf),
            "s",
            "√(2SM) × (1 + ⅓√(S/2M) + S/18M) − S, S: stall, M: time to failure",
            times,
            "daly",
        ),
        figure(
            "interval_availability",
            "object",
            "Optimal interval, availability",
            best,
            "s",
            "S + √(2(M + R)S + S²), S: stall, M: time to failure, R: recovery",
            {**times, "recovery": p.recovery_s},
            "availability",
        ),
        figure(
            "interval",
            "object",
            "Interval",
            interval,
            "s",
            "as given" if p.checkpoint_interval_s else "the availability-optimal one",
            {},
            "availability",
        ),
        figure(
            "lost_share",
            "object",
            "Time lost to checkpoints and failures",
            lost,
            "share",
            "stall ÷ interval + (interval ÷ 2 + recovery) ÷ time to failure",
            {**times, "interval": interval, "recovery": p.recovery_s},
            "young",
        ),
    ]


def _beside_mlperf(p: SizingParameters, model: LanguageModel, checkpoint: float) -> str:
    """How far MLPerf's own figure for the same model is from ours, and why."""
    published = formulas.MLPERF_CHECKPOINTS.get(model.name)
    if published is None or p.recipe != "mixed-adam" or p.trained_share != 1:
        return ""
    said, value, why = published
    return f"MLPerf Storage publishes {said}, {abs(value / checkpoint - 1):.0%} {'more' if value > checkpoint else 'less'}: {why}"


def weight_figures(p: SizingParameters, model: LanguageModel) -> list[Figure]:
    """Released weights: kept, and loaded by what answers."""
    weights = model.parameters * TYPE_BYTES[p.weights_type]
    inputs = {"parameters": model.parameters, "bytes": TYPE_BYTES[p.weights_type]}
    return [
        figure(
            "weights_capacity",
            "object",
            "Released weights",
            weights * p.versions_kept,
            "B",
            "versions kept × parameters × bytes",
            {**inputs, "versions kept": p.versions_kept},
            "checkpoint",
            role="capacity",
        ),
        figure(
            "weights_read",
            "object",
            "Weights loaded by all replicas",
            weights * p.replicas / p.load_s,
            "B/s",
            "replicas × parameters × bytes ÷ load time",
            {**inputs, "replicas": p.replicas, "load time": p.load_s},
            "checkpoint",
            role="peak_read",
        ),
    ]


def dataset_figures(p: SizingParameters, model: LanguageModel) -> list[Figure]:
    """Training data: kept, and read at the pace of the GPUs."""
    per_gpu = formulas.tokens_per_s(model, p.gpu_tflops, p.utilisation)
    return [
        figure(
            "dataset_capacity",
            "object",
            "Training data, text",
            p.training_tokens * p.token_bytes,
            "B",
            "tokens × bytes a token",
            {"tokens": p.training_tokens, "bytes a token": p.token_bytes},
            "assumption",
            role="capacity",
        ),
        figure(
            "dataset_read",
            "object",
            "Training data read, text",
            p.gpus * per_gpu * p.token_bytes,
            "B/s",
            "GPUs × Tflop/s × utilisation ÷ (6 × active parameters) × bytes a token",
            {
                "GPUs": p.gpus,
                "Tflop/s": p.gpu_tflops,
                "utilisation": p.utilisation,
                "active parameters": model.active,
                "bytes a token": p.token_bytes,
            },
            "flops",
            role="read",
        ),
        figure(
            "samples_read",
            "object",
            "Training data read, images or video",
            p.gpus * p.samples_per_gpu_s * p.sample_bytes,
            "B/s",
            "GPUs × samples a second × bytes a sample",
            {"GPUs": p.gpus, "samples a second": p.samples_per_gpu_s, "bytes a sample": p.sample_bytes},
            "assumption",
            role="read",
        ),
    ]
