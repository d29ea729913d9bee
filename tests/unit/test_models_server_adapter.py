"""Adapters merged into the weights they were trained beside, against what PEFT makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import adapter, llama

from headrace.models.server.adapter import merged

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.fixture(scope="module")
def base() -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield llama().eval()
    torch.set_num_threads(threads)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        answer: torch.Tensor = model(IDS).logits
    return answer


@pytest.mark.parametrize("given", [{}, {"use_rslora": True}, {"r": 2, "lora_alpha": 3, "target_modules": "all-linear"}])
def test_it_is_the_model_that_peft_merges(base: Any, tmp_path: Path, given: dict[str, Any]) -> None:
    before = logits(base)
    expected = adapter(base, tmp_path, **given).merge_and_unload()
    model = merged(base, tmp_path)
    assert torch.allclose(logits(model), logits(expected), atol=1e-6)
    assert (logits(model) - before).abs().max() > 0.01
    assert torch.equal(logits(base), before)  # which goes on answering


def test_only_what_the_adapter_touches_takes_memory(base: Any, tmp_path: Path) -> None:
    adapter(base, tmp_path)
    model = merged(base, tmp_path)
    ours, theirs = dict(model.named_parameters()), dict(base.named_parameters())
    own = {name for name in ours if ours[name].data_ptr() != theirs[name].data_ptr()}
    assert {name.split(".")[-2] for name in own} == {"q_proj", "v_proj", "down_proj"}
    assert len(own) == 6
    assert model.lm_head.weight is model.model.embed_tokens.weight
    # The modules are those of the packaged model, so an answer takes as long.
    assert [type(module) for module in model.modules()] == [type(module) for module in base.modules()]


@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT doubts these adapters, too
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all", "target_modules": ["q_proj"], "lora_bias": True}, "lora_bias"),
        ({"target_modules": ["embed_tokens"]}, "not part of a plain LoRA"),
    ],
)
def test_what_is_no_plain_adapter_is_refused(base: Any, tmp_path: Path, given: dict[str, Any], words: str) -> None:
    adapter(base, tmp_path, **given)
    with pytest.raises(ValueError, match=words):
        merged(base, tmp_path)


def test_a_file_of_another_model_or_of_nonsense_is_refused(base: Any, tmp_path: Path) -> None:
    adapter(base, tmp_path)
    file, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    whole, told = load_file(file), config.read_text()
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"

    def refused(tensors: dict[str, torch.Tensor], words: str) -> None:
        save_file(tensors, file)
        with pytest.raises(ValueError, match=words):
            merged(base, tmp_path)

    refused(whole | {a: torch.full_like(whole[a], torch.nan)}, "not be finite")
    refused(whole | {a: torch.zeros(4, 33)}, "does not fit")
    refused({key: tensor for key, tensor in whole.items() if key != b}, "only one of its two matrices")
    refused({}, "empty")
    elsewhere = {key.replace("layers.0", "layers.7"): tensor for key, tensor in whole.items()}
    refused(elsewhere, "not an unshared linear weight")
    tied = "base_model.model.lm_head"  # the embedding's very weight
    refused({f"{tied}.lora_A.weight": whole[a], f"{tied}.lora_B.weight": torch.zeros(258, 4)}, "not an unshared linear weight")
    save_file(whole, file)
    config.write_text(json.dumps(json.loads(told) | {"peft_type": "IA3"}))
    with pytest.raises(ValueError, match="IA3"):
        merged(base, tmp_path)
    config.write_text(told)
    merged(base, tmp_path)
