"""Sizing: every formula against figures published elsewhere, and every contradiction of parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from transformers import DeepseekV3Config, GptOssConfig, LlamaConfig

from headrace.errors import WrongUsage
from headrace.explain.sizing import formulas
from headrace.explain.sizing.measured import measured_by, measurements
from headrace.explain.sizing.models import PRESETS, TYPE_BYTES, from_config, model_of
from headrace.explain.sizing.parameters import SizingParameters, parameters_of
from headrace.explain.sizing.sizing import SUPERPOD, Sizing, choices, size


def sized(**values: Any) -> Sizing:
    return size(parameters_of(values))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("llama-3.1-8b", 131_072),
        ("llama-3.1-70b", 327_680),
        ("qwen3-8b", 147_456),
        ("deepseek-r1", 70_272),
        ("smollm2-135m", 23_040),
        ("llama-2-7b", 524_288),
        ("falcon-7b", 8_192),
        ("gpt-oss-120b", 73_728),
    ],
)
def test_kv_bytes_of_a_token_in_fp16_are_the_published_ones(model: str, expected: int) -> None:
    assert sized(model=model, kv_type="fp16").figure("kv_bytes_per_token").value == expected


@pytest.mark.parametrize(
    ("model", "published"),
    [("llama-3.1-8b", 105e9), ("llama-3.1-70b", 912e9), ("llama-3.1-405b", 5.29e12), ("mlperf-1t", 18e12)],
)
def test_checkpoints_are_within_forty_per_cent_of_mlperf_and_say_why_they_differ(model: str, published: float) -> None:
    checkpoint = sized(model=model).figure("checkpoint_bytes")
    assert abs(checkpoint.value / published - 1) < 0.4
    said, value, why = formulas.MLPERF_CHECKPOINTS[model]
    assert value == published
    assert said in checkpoint.note
    assert why in checkpoint.note


def test_mlperfs_smaller_checkpoints_are_ours_in_gibibytes() -> None:
    ours = {model: sized(model=model).figure("checkpoint_bytes").value / 2**30 for model in ("llama-3.1-8b", "llama-3.1-405b")}
    assert round(ours["llama-3.1-8b"]) == 105
    assert round(ours["llama-3.1-405b"] / 1000, 2) == 5.29


@pytest.mark.parametrize(
    ("kind", "config", "preset"),
    [
        (LlamaConfig, {"vocab_size": 128_256, "intermediate_size": 14_336, "num_key_value_heads": 8}, "llama-3.1-8b"),
        (LlamaConfig, {}, "llama-2-7b"),
        (DeepseekV3Config, {}, "deepseek-r1"),
        (GptOssConfig, {}, "gpt-oss-120b"),
    ],
)
def test_presets_agree_with_the_configurations_of_transformers(kind: Any, config: dict[str, int], preset: str) -> None:
    read = from_config(preset, kind(**config).to_dict())
    known = PRESETS[preset]
    assert (read.layers, read.per_layer, read.windowed_layers, read.window) == (
        known.layers,
        known.per_layer,
        known.windowed_layers,
        known.window,
    )
    if kind is LlamaConfig:
        assert (read.parameters, read.layout) == (known.parameters, known.layout)


def test_windowed_layers_keep_no_more_than_their_window() -> None:
    model = PRESETS["gpt-oss-120b"]
    a_layer = 2 * 8 * 64 * 2
    assert formulas.kv_bytes(model, 100, 2) == 36 * 100 * a_layer
    assert formulas.kv_bytes(model, 10_000, 2) == (18 * 10_000 + 18 * 128) * a_layer


def test_a_users_measured_offload_is_what_the_offloaded_type_says() -> None:
    sizing = sized(model="llama-3.1-70b", kv_type="int8", offload_type="bf16")
    on_gpu, stored = sizing.figure("kv_bytes_per_token").value, sizing.figure("kv_offloaded_bytes_per_token")
    assert (stored.value, stored.note) == (2 * on_gpu, "2 × what the GPU keeps")
    assert sizing.figure("kv_bytes_per_context").value == stored.value * sizing.parameters.context_tokens


def test_optimal_intervals() -> None:
    # 10 minutes to save, 24 hours between failures.
    assert formulas.young_interval(600, 86_400) == pytest.approx(10_182, abs=1)
    assert formulas.daly_interval(600, 86_400) == pytest.approx(9_788, rel=0.01)
    assert formulas.daly_interval(300, 100) == 100
    # Asymptotically the availability-optimal interval is Young's (arXiv 2410.18124, abstract).
    assert formulas.availability_interval(0.01, 1e7, 1) == pytest.approx(formulas.young_interval(0.01, 1e7), rel=1e-3)


def test_the_availability_optimal_interval_loses_the_least_time() -> None:
    save, mttf, recovery = 30.0, 11_000.0, 300.0
    best = formulas.availability_interval(save, mttf, recovery)
    lost = {share: formulas.lost_share(best * share, save, mttf, recovery) for share in (0.5, 0.9, 1.0, 1.1, 2.0)}
    assert lost[1.0] == pytest.approx(min(lost.values()), rel=0.01)


def test_llama_3_failed_about_every_three_hours() -> None:
    assert sized(gpus=16_384).figure("mttf").value / 3_600 == pytest.approx(54 * 24 / 419, rel=0.02)


def test_every_figure_carries_its_formula_and_a_known_source() -> None:
    sizing = sized(samples_per_gpu_s=10, sample_bytes=1e5, model="gpt-oss-20b")
    for figure in sizing.figures:
        assert figure.formula
        assert figure.sources
        assert set(figure.sources) <= sizing.sources.keys()
    used = {source for figure in sizing.figures for source in figure.sources} | {sizing.supply_source}
    assert used == sizing.sources.keys()


def test_a_tiers_demand_is_the_sum_of_its_figures() -> None:
    sizing = sized()
    for tier in sizing.tiers:
        held = sum(figure.value for figure in sizing.figures if (figure.tier, figure.role) == (tier.tier, "capacity"))
        assert tier.capacity == pytest.approx(held)
        assert tier.peak_read >= tier.read
        assert tier.peak_write >= tier.write


def test_supply_is_the_reference_architectures_table() -> None:
    good, better, best = SUPERPOD
    assert [level.read(256) for level in (good, better, best)] == [15e9, 40e9, 125e9]
    assert [level.write(1_024) for level in (good, better, best)] == [28e9, 80e9, 248e9]
    assert best.read(8) == 40e9  # one node takes no more than a node can


def test_a_shortfall_is_a_share_above_one() -> None:
    short = sized(model="llama-3.1-405b", gpus=8)
    assert short.supply[0].write_share > 1
    assert short.supply[0].write_share > short.supply[2].write_share


def test_a_sizing_is_json_and_back() -> None:
    sizing = sized()
    assert Sizing.model_validate(json.loads(json.dumps(sizing.model_dump(mode="json")))) == sizing
    assert json.dumps(choices())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gpus": 0}, "gpus: should be greater than or equal to 1, not 0"),
        ({"gpu": 8}, "gpu: there is no such parameter"),
        ({"stall_s": "soon"}, "stall_s: should be a valid number"),
        ({"users": float("nan")}, "users"),
        ({"kv_read_share": 0.8, "kv_write_share": 0.3}, "more than a whole context"),
        ({"sample_bytes": 1_000}, "samples_per_gpu_s and sample_bytes"),
        ({"recipe": "fp64"}, "recipe"),
    ],
)
def test_impossible_parameters_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(WrongUsage, match=said):
        parameters_of(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": "gpt-9"}, "There is no model 'gpt-9'"),
        ({"checkpoint_interval_s": 20, "stall_s": 30}, "every 20 s cannot stop training for 30 s"),
        ({"mttf_h": 0.05, "stall_s": 600}, "no progress"),
        ({"model": "absent/config.json"}, "cannot be read"),
    ],
)
def test_contradictions_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(WrongUsage, match=said):
        sized(**values)


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"num_hidden_layers": "many"}', '{"num_hidden_layers": 2, "hidden_size": 8}'])
def test_a_file_that_describes_no_model_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WrongUsage):
        model_of(str(tmp_path / "config.json"))


def test_a_models_own_config_is_sized(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LlamaConfig().to_dict(), "_name_or_path": "our/llama"}))
    sizing = sized(model=str(tmp_path / "config.json"))
    assert (sizing.model.name, sizing.model.source) == ("our/llama", "config.json")
    assert sizing.figure("kv_bytes_per_token").value == 524_288


# Measured beside estimated


def row(stage: str, store: str, tier: str, direction: str, moved: int, ops: int = 1) -> dict[str, Any]:
    return {"stage": stage, "store": store, "tier": tier, "direction": direction, "bytes": moved, "ops": ops}


JOURNAL: dict[str, Any] = {
    "run": "20261129-120000-demo-aaaa",
    "command": "demo",
    "rows": [
        row("embed", "chunks", "vector", "write", 250_000),
        row("index", "chunks", "vector", "write", 50_000),
        row("retrieve", "chunks", "vector", "read", 4_000_000),
        row("generate", "kv-cache", "file", "write", 256 * 23_040 + 1_000),
        row("land", "feedback", "stream", "read", 10_000),
        row("land", "feedback", "table", "write", 8_000),
        row("maintain", "feedback", "table", "write", 99_000_000),
    ],
    "counts": {
        "chunks": 100, "chunk_text_bytes": 50_000, "questions": 20, "index_chunks": 100, "kv_tokens_written": 256, "events": 20
    },
    "detail": {"round": {"training": {"parameters": 1_000, "checkpoints": 2, "checkpoint_bytes": 25_000}}},
}  # fmt: skip


def test_a_run_measures_the_quantities_that_it_counted() -> None:
    found = {one.name: one for one in measured_by(JOURNAL)}
    assert {name: one.measured for name, one in found.items()} == {
        "vector_bytes_per_chunk": 3_000,
        "vector_bytes_per_question": 200_000,
        "kv_bytes_per_token": 23_040 + 1_000 / 256,
        "checkpoint_bytes": 12_500,
        "landing_bytes_per_event": 400,
    }
    assert found["kv_bytes_per_token"].estimated == 30 * 2 * 3 * 64 * TYPE_BYTES["fp16"]
    assert found["checkpoint_bytes"].estimated == 12_000
    assert found["checkpoint_bytes"].error == pytest.approx(-0.04)
    assert found["landing_bytes_per_event"].estimated == 500 * SizingParameters().landed_ratio
    for one in found.values():
        assert (one.run, one.command) == (JOURNAL["run"], "headrace demo")


@pytest.mark.parametrize(("questions", "said"), [(1, True), (20, False)])
def test_a_few_questions_measure_the_opening_of_the_index_which_is_said(questions: int, said: bool) -> None:
    found = {one.name: one for one in measured_by({**JOURNAL, "counts": {**JOURNAL["counts"], "questions": questions}})}
    assert ("the first, which opens the index" in found["vector_bytes_per_question"].note) is said


def test_each_quantity_is_from_the_run_with_the_largest_sample_which_is_named(tmp_path: Path) -> None:
    """The newest run was shown, though it had asked one question and the one before it 160."""
    later = {
        **JOURNAL,
        "run": "20261130-120000-up-bbbb",
        "command": "up",
        "counts": {**JOURNAL["counts"], "questions": 1, "chunks": 7_000},
        "rows": [one for one in JOURNAL["rows"] if one["stage"] != "land"],
        "detail": {},
    }
    (tmp_path / "runs").mkdir()
    for at, journal in enumerate((JOURNAL, later)):
        stored = {**journal, "started": f"2026-11-{29 + at}T12:00:00+00:00"}
        (tmp_path / "runs" / f"{journal['run']}.json").write_text(json.dumps(stored))
    found = {one.name: one for one in measurements(tmp_path)}
    question, chunk, event = (
        found[name] for name in ("vector_bytes_per_question", "vector_bytes_per_chunk", "landing_bytes_per_event")
    )
    assert (question.run, question.sample) == (JOURNAL["run"], 20)
    assert question.source == f"{JOURNAL['run']}, the largest sample of 2 runs"
    assert (chunk.run, chunk.sample) == (later["run"], 7_000)
    assert event.source == JOURNAL["run"], "no other run measured it"
    assert found["kv_bytes_per_token"].run == later["run"], "of two equal ones the newer"
    (only,) = (one for one in measurements(tmp_path, later["run"]) if one.name == question.name)
    assert only.source == later["run"]


@pytest.mark.parametrize("missing", ["counts", "detail"])
def test_what_a_run_did_not_count_is_not_measured(missing: str) -> None:
    journal = {name: value for name, value in JOURNAL.items() if name != missing}
    names = {one.name for one in measured_by(journal)}
    assert names == ({"checkpoint_bytes"} if missing == "counts" else names - {"checkpoint_bytes"})
    assert not list(measured_by({**JOURNAL, "rows": [], "detail": {}}))


_NUMBERS = [name for name, field in SizingParameters.model_fields.items() if field.annotation in (float, int)]


@given(
    some.dictionaries(
        some.sampled_from(_NUMBERS), some.sampled_from([1e-300, 1e-9, 0.5, 1, 10**6, 1e18, 1e200, 1e308]), max_size=6
    )
)
def test_whatever_is_given_is_sized_or_refused(values: dict[str, Any]) -> None:
    """Numbers out of all proportion were a server error."""
    try:
        sizing = sized(**values)
    except WrongUsage:
        return
    json.loads(json.dumps(sizing.model_dump(mode="python"), allow_nan=False, default=str))
