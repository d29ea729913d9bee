"""The generator under training: its adapter, log-probabilities shared behind a prompt, and answers as serving would end them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import END, bigram, ids, random_llama
from transformers import AutoModelForCausalLM

from headrace.training import causal
from headrace.training.checkpoint import _state
from headrace.training.recipe import Policy


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_llama(tmp_path_factory.mktemp("llama"))


def fresh(base: Path, parent: Path | None = None, *, seed: int = 1, mlp: bool = False) -> Policy:
    return causal.fresh(base, parent, rank=4, alpha=8, mlp=mlp, seed=seed)


def moved(policy: Policy, by: float = 0.05) -> Policy:
    """Every trained weight a little away from where it was."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter += by * torch.randn_like(parameter)
    return policy


def trained(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in policy.model.named_parameters() if p.requires_grad}


def plain(base: Path, prompt: tuple[int, ...], completion: tuple[int, ...], temperature: float = 1.0) -> torch.Tensor:
    """The same in one plain pass of the library, without a cache."""
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0] / temperature
    behind = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return behind[torch.arange(len(completion)), torch.tensor(completion)]


PROMPT = ids("user which colour is the sky assistant")
SAID = [ids("blue ."), ids("the sky is blue ."), ids("red")]


def test_a_new_adapter_changes_nothing_and_only_it_is_trained(llama: Path) -> None:
    policy = fresh(llama)
    [ours] = causal.logprobs(policy.model, PROMPT, SAID[:1])
    assert torch.allclose(ours, plain(llama, PROMPT, SAID[0]), atol=1e-5)
    assert {name.split(".")[-3] for name in trained(policy)} == {"lora_A", "lora_B"}
    assert {name.split(".")[-4] for name in trained(policy)} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert {name.split(".")[-4] for name in trained(fresh(llama, mlp=True))} > {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_answers_behind_one_prompt_have_the_log_probabilities_each_has_alone(llama: Path, temperature: float) -> None:
    model = fresh(llama).model
    together = causal.logprobs(model, PROMPT, SAID, temperature=temperature)
    for said, found in zip(SAID, together, strict=True):
        assert found.shape == (len(said),)
        assert torch.allclose(found, plain(llama, PROMPT, said, temperature), atol=1e-5)
        assert torch.allclose(found, causal.logprobs(model, PROMPT, [said], temperature=temperature)[0], atol=1e-5)


def test_the_shared_prompt_gives_the_gradients_of_one_pass(llama: Path) -> None:
    policy = moved(fresh(llama))
    gradients = []
    for said in ([SAID[1]], [SAID[1], SAID[0]]):  # in one pass; behind a prompt read for two
        policy.model.zero_grad()
        torch.autograd.backward(causal.logprobs(policy.model, PROMPT, said)[0].sum())
        gradients.append({name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == trained(policy).keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5)
    assert max(float(g.abs().max()) for name, g in gradients[0].items() if "k_proj" in name) > 0  # through the prompt's keys too


def test_probabilities_worked_by_hand(tmp_path: Path) -> None:
    model = fresh(bigram(tmp_path, {"is": {"blue": 0.5, "red": 0.5}, "blue": {".": 0.25, "blue": 0.75}})).model
    [found] = causal.logprobs(model, ids("sky is"), [ids("blue blue .")])
    assert found.tolist() == pytest.approx([math.log(0.5), math.log(0.75), math.log(0.25)], abs=1e-5)
    # At temperature 0.5 probabilities are squared and divided by their sum: 0.75² / (0.75² + 0.25²) = 0.9, the other one 0.1.
    [found] = causal.logprobs(model, ids("sky is"), [ids("blue blue .")], temperature=0.5)
    assert found.tolist() == pytest.approx([math.log(0.5), math.log(0.9), math.log(0.1)], abs=1e-5)


def test_the_reference_stays_where_the_model_was(llama: Path) -> None:
    policy = fresh(llama)
    before = plain(llama, PROMPT, SAID[1])
    moved(policy)
    [now] = causal.logprobs(policy.model, PROMPT, SAID[1:2])
    [then] = causal.logprobs(policy.extra["reference"], PROMPT, SAID[1:2])
    assert torch.allclose(then, before, atol=1e-5)
    assert not torch.allclose(now, before, atol=1e-3)
    assert now.requires_grad
    assert not then.requires_grad


def test_an_adapter_comes_back_exactly_and_the_next_reference_is_it(llama: Path, tmp_path: Path) -> None:
    policy = moved(fresh(llama))
    causal.save(policy.model, tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert len(load_file(tmp_path / "adapter" / "adapter_model.safetensors")) == len(trained(policy))
    again = causal.fresh(llama, tmp_path / "adapter", rank=99, alpha=1, mlp=True, seed=5)  # a parent keeps its own form
    assert trained(again).keys() == trained(policy).keys()
    assert all(torch.equal(trained(again)[name], weights) for name, weights in trained(policy).items())
    [ours] = causal.logprobs(policy.model, PROMPT, SAID[:1])
    [theirs] = causal.logprobs(again.extra["reference"], PROMPT, SAID[:1])
    assert torch.equal(ours.detach(), theirs)
    merged, _ = causal.merged(llama, tmp_path / "adapter")
    [folded] = causal.logprobs(merged, PROMPT, SAID[:1])
    assert torch.allclose(folded, theirs, atol=1e-5)


def test_a_released_adapter_names_no_folder_of_this_machine(llama: Path, tmp_path: Path) -> None:
    causal.save(fresh(llama).model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == llama.name
    assert str(llama) not in (tmp_path / "adapter_config.json").read_text()
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]  # in one order: the bytes are compared


def test_a_checkpoint_holds_the_adapter_alone(llama: Path) -> None:
    policy = fresh(llama)
    optimizer = torch.optim.AdamW([p for p in policy.model.parameters() if p.requires_grad])
    # Not the output layer, which is the word embeddings under a second name: a quarter of the packaged model.
    assert _state(1, policy.model, optimizer, {})["weights"].keys() == trained(policy).keys()


def test_the_same_seed_gives_the_same_adapter(llama: Path) -> None:
    one, same, other = (trained(fresh(llama, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


CHAIN = {
    "is": {"blue": 0.9, "red": 0.1},
    "blue": {".": 0.6, "blue": 0.4},
    "red": {"\n\n": 1.0},
    "which": {"colour": 1.0},
    "colour": {"colour": 1.0},
}


def test_greedy_answers_end_with_a_mark_a_blank_line_or_the_limit(tmp_path: Path) -> None:
    # `red` is followed by a blank line, which ids() cannot split off: it is a word of its own.
    folder = bigram(tmp_path, {key: value for key, value in CHAIN.items() if key != "red"} | {"red": {"green": 1.0}})
    model, tokenizer = causal.merged(folder, None)
    prompts = [ids("the sky is"), ids("which"), ids("it is the sky is")]
    assert causal.greedy(model, tokenizer, prompts, 4) == [("blue", 1), ("colour colour colour colour", 4), ("blue", 1)]


def test_a_batch_says_what_each_prompt_gets_alone(llama: Path) -> None:
    model, tokenizer = causal.merged(llama, None)
    prompts = [PROMPT, ids("red"), ids("user it is green Question: the sky")]
    alone = [causal.greedy(model, tokenizer, [prompt], 12)[0] for prompt in prompts]
    assert causal.greedy(model, tokenizer, prompts, 12) == alone
    assert len({said for said, _ in alone}) > 1


def test_sampling_hangs_on_torchs_generator_alone_and_follows_the_distribution(tmp_path: Path) -> None:
    policy = fresh(bigram(tmp_path, {key: value for key, value in CHAIN.items() if key != "red"} | {"red": {".": 1.0}}))

    def drawn(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        prefix = causal.encode_prefix(policy.model, ids("sky is"))
        return causal.sample(policy.model, [prefix] * 200, policy.tokenizer, policy.extra["ends"], most_tokens=1, temperature=1.0)

    assert drawn(1) == drawn(1) != drawn(2)
    share = sum(said == list(ids("blue")) for said in drawn(1)) / 200
    assert 0.82 < share < 0.97  # of 0.9; a standard deviation is 0.021
    said = causal.sample(
        policy.model,
        [causal.encode_prefix(policy.model, ids("sky is"))] * 8,
        policy.tokenizer,
        {END},
        most_tokens=9,
        temperature=1.0,
    )
    assert all(END not in one[:-1] for one in said)
    assert all(one[-1] == END or len(one) == 9 for one in said)


def test_a_blank_line_ends_an_answer_and_is_no_part_of_its_text(tmp_path: Path) -> None:
    folder = bigram(tmp_path, {"is": {"red": 1.0}})
    model, tokenizer = causal.merged(folder, None)
    blank = tokenizer("\n\n", add_special_tokens=False)["input_ids"]
    assert len(blank) == 1
    with torch.no_grad():  # behind "red" comes the blank line
        table = torch.full((32,), -60.0)
        table[blank[0]] = 0.0
        model.lm_head.weight[:, ids("red")[0]] = table / math.sqrt(32)
    [said] = causal.sample(model, [causal.encode_prefix(model, ids("sky is"))], tokenizer, {END}, most_tokens=9)
    assert said == [ids("red")[0], blank[0]]
    assert causal.text(tokenizer, said) == "red"
