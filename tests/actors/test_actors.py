"""Tests of `critique_rl.actors`: a tiny Qwen2 here, behind HTTP with faults, and in `transformers serve`.

The model has random weights of large scale: its greedy replies all differ, hardly repeat themselves and often
end, so that any change of a single input bit shows.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import pytest
import torch
from helpers import environment, free_port, started_server
from PIL import Image
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

from critique_rl.actors import ActorError, OpenAIActor, TransformersActor, make_actor, transformers_actor
from critique_rl.actors import server as server_module
from critique_rl.actors.base import GreedyCache
from critique_rl.actors.sampler import SeededSampler
from critique_rl.cold_start import tiny_vl
from critique_rl.types import Conversation, Generation, Sampling, UserError, child_seed
from critique_rl.vision.images import data_url

torch.set_num_threads(1)

PREFIX = "Let's break it down step by step:\n\n"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CONTEXT = 400
GREEDY = Sampling(max_tokens=24)
SAMPLED = Sampling(max_tokens=24, temperature=1.0, seed=1)


def template(name: str) -> str:
    trl = importlib.util.find_spec("trl")  # found without importing it, which takes seconds
    assert trl is not None and trl.origin is not None
    return (Path(trl.origin).parent / "chat_templates" / f"{name}.jinja").read_text()


def build_tokenizer(template_name: str = "qwen2_5", eos: str = "<|im_end|>") -> PreTrainedTokenizerBase:
    vocab = {token: i for i, token in enumerate([*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=[],
        eos_token=eos,
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        extra_special_tokens=SPECIALS[1:],
    )
    tokenizer.chat_template = template(template_name)
    return tokenizer


def build_model(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(SPECIALS) + 256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.6,
        attention_dropout=0.1,  # shows if evaluation mode is forgotten
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[:2] = 0.0  # of the special tokens greedy decoding then writes <|im_end|> alone
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0)
    return model


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("actor")
    build_model().save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def actor(model_dir: Path) -> TransformersActor:
    return TransformersActor(str(model_dir), batch_size=5)


def ask(text: str, prefill: str | None = None) -> Conversation:
    conversation: Conversation = [{"role": "user", "content": text}]
    if prefill is not None:
        conversation.append({"role": "assistant", "content": prefill})
    return conversation


def varied_prompts() -> list[Conversation]:
    """Short and long, with and without prefill, one and several turns, in no order of length."""
    prompts = [
        ask("+".join(map(str, range(n))), PREFIX if n % 3 else None) for n in (7, 1, 30, 2, 12, 20, 4, 9)
    ]
    refine: Conversation = [*ask("1+1?", PREFIX + "The answer is 3."), *ask("Wrong. Again.", PREFIX)]
    return [*prompts[:3], refine, *prompts[3:], [{"role": "system", "content": "Be brief."}, *ask("2+2?")]]


def naive_greedy(model_dir: Path, rendered: str, max_tokens: int) -> Generation:
    """The definition of greedy decoding: no batch, no padding, no cache, no `generate`."""
    model = AutoModelForCausalLM.from_pretrained(model_dir).eval()
    tokenizer = build_tokenizer()
    prompt = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    reply: list[int] = []
    while len(reply) < max_tokens and reply[-1:] != [2]:
        with torch.no_grad():
            reply.append(int(model(torch.tensor([prompt + reply])).logits[0, -1].argmax()))
    text = tokenizer.decode(reply, skip_special_tokens=True)
    return Generation(text, len(prompt), len(reply), truncated=reply[-1] != 2)


# --- greedy -------------------------------------------------------------------------------------------


def test_a_batch_of_varied_lengths_equals_naive_greedy_decoding_in_order(
    actor: TransformersActor, model_dir: Path
) -> None:
    prompts = varied_prompts()
    replies = actor.generate(prompts, GREEDY)
    assert replies == [naive_greedy(model_dir, actor.render(prompt), 24) for prompt in prompts]
    assert {reply.truncated for reply in replies} == {True, False}  # else the end of turn is not tested
    assert len({reply.text for reply in replies}) == len(prompts)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_greedy_replies_do_not_depend_on_the_batch_size(
    actor: TransformersActor, model_dir: Path, batch_size: int
) -> None:
    other = TransformersActor(model_dir, batch_size=batch_size)
    assert other.generate(varied_prompts(), GREEDY) == actor.generate(varied_prompts(), GREEDY)


def test_the_type_on_cpu_is_float32_unless_the_fastest_is_asked_for(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for able, fastest in ((True, "torch.bfloat16"), (False, "torch.float32")):
        capabilities = {"avx512_bf16": able, "amx_bf16": False}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capabilities: c, raising=False)
        used = [
            TransformersActor(model_dir, device="cpu", dtype=d).settings["dtype"] for d in (None, "fastest")
        ]
        assert used == ["torch.float32", fastest]


def test_a_batch_holds_a_number_of_tokens(
    actor: TransformersActor, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, most = varied_prompts(), 500
    expected = actor.generate(prompts, GREEDY)
    monkeypatch.setattr(transformers_actor, "BATCH_TOKENS", most)
    batches: list[list[int]] = []
    decode = transformers_actor.decode
    monkeypatch.setattr(
        transformers_actor,
        "decode",
        lambda model, ids, *args, **options: (
            batches.append([len(row) for row in ids]) or decode(model, ids, *args, **options)
        ),
    )
    assert TransformersActor(model_dir).generate(prompts, GREEDY) == expected
    assert sum(map(len, batches)) == len(prompts) and max(map(len, batches)) > 1
    assert all(len(rows) * (max(rows) + 24) <= most or len(rows) == 1 for rows in batches)
    for rows, after in itertools.pairwise(batches):  # none could have been larger
        assert (len(rows) + 1) * (max(*rows, after[0]) + 24) > most


def test_equal_greedy_prompts_are_generated_once_and_remembered(actor: TransformersActor) -> None:
    a, b = ask("1+1?"), ask("2+2?")
    first = actor.generate([a, b, a, a], GREEDY)
    assert actor.sequences_generated == 2
    assert first == [first[0], first[1], first[0], first[0]] and first[0] != first[1]
    assert actor.generate([b, a], GREEDY) == [first[1], first[0]]
    assert actor.generate([a], Sampling(max_tokens=24, seed=9, top_p=0.5)) == [first[0]]  # greedy: no draw
    assert actor.sequences_generated == 2
    assert actor.generate([a], Sampling(max_tokens=3))[0].completion_tokens == 3
    assert actor.sequences_generated == 3


def test_the_cache_drops_what_was_not_used_for_longest() -> None:
    asked: list[str] = []

    def generate(*keys: str) -> list[str]:
        def run(indices: list[int]) -> list[Generation]:
            asked.extend(keys[i] for i in indices)
            return [Generation(keys[i].upper(), 1, 1, False) for i in indices]

        return [reply.text for reply in cache.generate(keys, run)]

    cache = GreedyCache(2)
    assert generate("a", "b") == ["A", "B"]
    assert generate("a") == ["A"]  # b is now the oldest
    assert generate("c") == ["C"]
    assert generate("a", "b") == ["A", "B"]
    assert asked == ["a", "b", "c", "b"]
    assert generate("d", "e", "f", "d") == ["D", "E", "F", "D"]  # one call may exceed the bound

    cache = GreedyCache(0)
    asked.clear()
    assert generate("a", "a") == ["A", "A"] and generate("a") == ["A"]
    assert asked == ["a", "a"]


def test_sampling_defaults_of_the_checkpoint_do_not_change_greedy(tmp_path: Path, model_dir: Path) -> None:
    model = build_model()
    model.generation_config = GenerationConfig(
        eos_token_id=2,
        pad_token_id=0,
        do_sample=True,
        top_k=3,
        top_p=0.8,
        temperature=0.7,
        repetition_penalty=3.0,
    )
    model.save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    plain = TransformersActor(model_dir).generate(varied_prompts(), GREEDY)
    assert TransformersActor(tmp_path).generate(varied_prompts(), GREEDY) == plain


def test_the_end_of_turn_of_the_template_ends_a_reply_even_if_it_is_no_eos(
    actor: TransformersActor, tmp_path: Path
) -> None:
    model = build_model()
    model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0)
    model.save_pretrained(tmp_path)
    build_tokenizer(eos="<|im_start|>").save_pretrained(tmp_path)
    replies = actor.generate(varied_prompts(), GREEDY)
    assert any(not reply.truncated for reply in replies)
    assert TransformersActor(tmp_path).generate(varied_prompts(), GREEDY) == replies


# --- prefill ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3", "llama3_1", "gemma", "gemma3", "phi3"])
@pytest.mark.parametrize("prefill", [PREFIX, "So: ", "plain", "  led", "a\n\nb \t\n", "\n\n", " ", ""])
def test_the_rendered_prompt_ends_in_exactly_the_prefill(name: str, prefill: str) -> None:
    actor = TransformersActor(build_model(), build_tokenizer(name))
    opened = actor.render(ask("1+1?", prefill))
    assert opened.endswith(prefill)
    # and before it stands what the template puts before an assistant's text, nothing is lost or doubled
    reference = actor.render(ask("1+1?", "X"))
    assert reference.endswith("X")
    if prefill.strip():
        assert opened == reference[:-1] + prefill
    else:
        assert opened == actor.render(ask("1+1?")) + prefill


def test_a_prefill_is_continued_and_not_repeated(actor: TransformersActor) -> None:
    whole = actor.generate([ask("0", PREFIX)], Sampling(max_tokens=24))[0]
    start = whole.text[:2]
    assert start.isascii()  # two characters are then two tokens
    rest = actor.generate([ask("0", PREFIX + start)], Sampling(max_tokens=22))[0]
    assert start + rest.text == whole.text
    assert (rest.prompt_tokens, rest.completion_tokens) == (
        whole.prompt_tokens + 2,
        whole.completion_tokens - 2,
    )


# --- sampling -----------------------------------------------------------------------------------------


def test_sampling_neither_changes_nor_reads_the_global_random_state(actor: TransformersActor) -> None:
    prompts = varied_prompts()
    torch.manual_seed(5)
    before, python_before = torch.random.get_rng_state(), random.getstate()
    first = actor.generate(prompts, SAMPLED)
    actor.generate(prompts, GREEDY)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert random.getstate() == python_before
    torch.manual_seed(6)
    assert actor.generate(prompts, SAMPLED) == first


def test_samples_depend_on_the_seed_and_the_position_and_on_nothing_else(
    actor: TransformersActor, model_dir: Path
) -> None:
    prompts = varied_prompts()
    first = actor.generate(prompts, SAMPLED)
    assert actor.generate(prompts, SAMPLED) == first
    assert TransformersActor(model_dir, batch_size=2).generate(prompts, SAMPLED) == first
    assert actor.generate(prompts[:3], SAMPLED) == first[:3]
    other = actor.generate(prompts, Sampling(24, temperature=1.0, seed=2))
    assert all(a.text != b.text for a, b in zip(first, other, strict=True))
    repeated = actor.generate([prompts[0]] * 4, SAMPLED)
    assert len({reply.text for reply in repeated}) == 4  # samples of one prompt must differ


def test_a_tiny_nucleus_or_temperature_is_greedy(actor: TransformersActor) -> None:
    greedy = actor.generate(varied_prompts(), GREEDY)
    assert actor.generate(varied_prompts(), Sampling(24, temperature=1.0, top_p=1e-6)) == greedy
    assert actor.generate(varied_prompts(), Sampling(24, temperature=1e-4)) == greedy


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (1.0, 1.0, [0.2, 0.5, 0.3]),
        (1.0, 0.7, [0.0, 5 / 8, 3 / 8]),  # 0.5 < 0.7 <= 0.5 + 0.3: the nucleus is {1, 2}
        (1.0, 0.4, [0.0, 1.0, 0.0]),
        (0.5, 1.0, [4 / 38, 25 / 38, 9 / 38]),  # squares, normalised
    ],
)
def test_the_sampler_draws_from_the_tempered_nucleus(
    temperature: float, top_p: float, expected: list[float]
) -> None:
    n = 20_000
    sampler = SeededSampler(range(n), Sampling(2, temperature, top_p), prompt_width=7)
    scores = torch.tensor([0.2, 0.5, 0.3]).log().expand(n, 3) + 4.0
    for step in range(2):
        drawn = sampler(torch.zeros(n, 7 + step, dtype=torch.long), scores)
        assert bool(((drawn == 0).sum(-1) == 1).all()) and bool((drawn.isneginf().sum(-1) == 2).all())
        counts = drawn.argmax(-1).bincount(minlength=3) / n
        # 4 standard deviations of a frequency over 20,000 draws: 4 sqrt(0.25 / 20,000) = 0.014
        assert counts.tolist() == pytest.approx(expected, abs=0.014)


@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5])
def test_few_sorted_tokens_draw_what_all_sorted_ones_draw(
    top_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, generator = 200, torch.Generator().manual_seed(0)
    scale = torch.linspace(0.2, 4.0, n).unsqueeze(1)  # from nearly even to peaked
    logits = torch.randn(n, 3000, generator=generator) * scale

    def drawn() -> torch.Tensor:
        sampler = SeededSampler(range(n), Sampling(1, 1.0, top_p))
        return torch.cat([sampler.draw(logits[i : i + 1], torch.tensor([i]), 0) for i in range(n)])

    some = drawn()
    monkeypatch.setattr("critique_rl.actors.sampler._CANDIDATES", ())
    assert some.equal(drawn())


# --- errors -------------------------------------------------------------------------------------------


def test_prompts_beyond_the_context_are_unknown_and_many_are_an_error(
    model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One over-long prompt does not end a run of days; a limit that fits nothing does, before anything is done."""
    actor = TransformersActor(model_dir)
    fits, other, too_long = ask("1+1?"), ask("2+2?"), ask("9" * 400)
    tokens = actor.generate([ask("9" * 100)], GREEDY)[0].prompt_tokens + 300
    for sampling in (GREEDY, SAMPLED):
        alone = [actor.generate([p], sampling)[0] for p in (fits, other)]
        first, none, last = actor.generate([fits, too_long, other], sampling)
        assert none.text is None and none.tokens is None
        if sampling is GREEDY:
            assert [first, last] == alone
        else:  # each draws from the stream of its place
            assert first == alone[0]
            assert last == actor.generate([fits, fits, other], sampling)[2]
    assert actor.unknown == 2
    why = f"1 x does not fit the context; first prompt 1: does not fit the context: {tokens} tokens"
    assert f"1 of 3 replies cannot be used; they count as unknown, not as wrong ({why}" in caplog.text
    room = CONTEXT - actor.generate([fits], GREEDY)[0].prompt_tokens
    assert actor.generate([fits], Sampling(room))[0].prompt_tokens == CONTEXT - room  # exactly full is fine
    assert actor.generate([fits], Sampling(room + 1))[0].text is None
    actor = TransformersActor(model_dir)
    with pytest.raises(ActorError, match=r"5 of 9 replies cannot be used.*lower the limits of `lengths`"):
        actor.generate([too_long] * 5 + [ask(f"{i}+1?") for i in range(4)], GREEDY)
    assert actor.sequences_generated == 0
    with pytest.raises(ActorError, match=r"1 of 1 replies cannot be used, more than max_unknown=0 allows"):
        TransformersActor(model_dir, max_unknown=0.0).generate([too_long], GREEDY)


@pytest.mark.parametrize(
    ("prompts", "sampling", "message"),
    [
        ([ask("a"), []], GREEDY, "prompt 1 is an empty conversation"),
        ([[{"role": "assistant", "content": "a"}]], GREEDY, "prompt 0 is a prefill alone"),
        ([ask("a")], Sampling(0), "max_tokens"),
        ([ask("a")], Sampling(1, temperature=-1.0), "temperature"),
        ([ask("a")], Sampling(1, temperature=1.0, top_p=0.0), "top_p"),
    ],
)
def test_malformed_requests_are_refused(
    actor: TransformersActor, prompts: list[Conversation], sampling: Sampling, message: str
) -> None:
    with pytest.raises(ActorError, match=message):
        actor.generate(prompts, sampling)


def test_no_prompts_give_no_replies(actor: TransformersActor) -> None:
    assert actor.generate([], GREEDY) == []


def test_a_conversation_that_the_template_refuses_is_named() -> None:
    actor = TransformersActor(build_model(), build_tokenizer("gemma"))
    with pytest.raises(ActorError, match="refuses prompt 1"):
        actor.generate([ask("a"), [*ask("a"), *ask("b")]], GREEDY)


def test_models_that_cannot_be_loaded(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    with pytest.raises(ActorError, match="no model at /no/such/dir"):
        TransformersActor("/no/such/dir")
    with pytest.raises(ActorError, match=f"cannot load a model in directory {tmp_path}"):
        TransformersActor(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ActorError, match="nobody/nothing is no directory, and as a hub id"):
        TransformersActor("nobody/nothing")
    with pytest.raises(ActorError, match="needs its tokenizer"):
        TransformersActor(build_model())
    with pytest.raises(ActorError, match=r"no model at \./nowhere"):
        TransformersActor(str(model_dir), "./nowhere")
    bare = build_tokenizer()
    bare.chat_template = None
    with pytest.raises(ActorError, match="has no chat template"):
        TransformersActor(model_dir, bare)
    assert time.monotonic() - started < 10


# --- GGUF ------------------------------------------------------------------------------------------------


def write_gguf(model: PreTrainedModel, path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(gguf_name, parameter.detach().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_the_same_actor(actor: TransformersActor, model_dir: Path, tmp_path: Path) -> None:
    write_gguf(build_model(), tmp_path / "model.gguf")
    loaded = TransformersActor(tmp_path, model_dir, gguf_file="model.gguf")
    assert loaded.fingerprint() == actor.fingerprint()
    assert loaded.generate(varied_prompts(), GREEDY) == actor.generate(varied_prompts(), GREEDY)
    with pytest.raises(ActorError, match=r"does not appear to have a file named absent\.gguf"):
        TransformersActor(tmp_path, model_dir, gguf_file="absent.gguf")


# --- the weights --------------------------------------------------------------------------------------


def test_a_loaded_actor_is_frozen_and_its_fingerprint_shows_any_change(model_dir: Path) -> None:
    actor = TransformersActor(model_dir)
    parameters = list(actor._model.parameters())
    assert not any(parameter.requires_grad for parameter in parameters) and not actor._model.training
    fingerprint = actor.fingerprint()
    actor.generate(varied_prompts(), GREEDY)
    actor.generate(varied_prompts(), SAMPLED)
    assert actor.fingerprint() == fingerprint == TransformersActor(model_dir).fingerprint()
    with torch.no_grad():
        parameters[3].view(-1)[1] = torch.nextafter(parameters[3].view(-1)[1], torch.tensor(9.0))
    assert actor.fingerprint() != fingerprint


def test_the_fingerprint_covers_bfloat16(model_dir: Path) -> None:
    half = TransformersActor(model_dir, dtype=torch.bfloat16)
    assert half.fingerprint() == TransformersActor(model_dir, dtype="bfloat16").fingerprint()
    assert half.fingerprint() != TransformersActor(model_dir).fingerprint()


def test_a_borrowed_model_is_given_back_as_it_was_and_its_new_weights_count(model_dir: Path) -> None:
    model, tokenizer = build_model(), build_tokenizer()
    tokenizer.padding_side = "right"
    model.train()
    model.model.layers[0].eval()  # a trainer may keep a part in evaluation mode
    modes = [module.training for module in model.modules()]
    actor = TransformersActor(model, tokenizer)
    before = actor.generate(varied_prompts(), GREEDY)
    assert before == TransformersActor(model_dir).generate(varied_prompts(), GREEDY)
    assert [module.training for module in model.modules()] == modes
    assert tokenizer.padding_side == "right"
    ids = torch.tensor([[3, 4, 5]])
    model(ids, labels=ids).loss.backward()
    assert all(p.requires_grad and p.grad is not None and not p.is_inference() for p in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * parameter.grad)
    assert actor.generate(varied_prompts(), GREEDY) != before


def test_the_mode_is_given_back_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model().train()
    actor = TransformersActor(model, build_tokenizer())

    def fail(**_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        actor.generate([ask("a")], GREEDY)
    assert model.training and torch.is_grad_enabled()


# --- a server with faults -----------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Chat completions over a `TransformersActor`; the next requests meet `faults`, first fault first."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, actor: TransformersActor, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.actor, self.root = actor, "weights"
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.models: Any = ["tiny", "other"]
        self.rejects_continuation = False
        self.reply: Callable[[str], str] = lambda text: text
        self.faults: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.lock = Lock()
        self.let_go = Event()


def as_conversation(messages: list[dict[str, Any]]) -> Conversation:
    """What a server reads from the messages of a request, whose contents are strings or lists of parts."""
    read: list[Any] = []
    for message in messages:
        if isinstance(message["content"], str):
            read.append(message)
        else:
            image, text = message["content"]
            assert (image["type"], text["type"]) == ("image_url", "text")
            read.append({**message, "content": text["text"], "image": image["image_url"]["url"]})
    return read


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        """Not on the terminal."""

    def send(self, status: int, body: object, kind: str = "application/json") -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.server.keys.add(self.headers["authorization"])
        if self.path != "/v1/models":
            self.send(404, "<html>not found</html>", "text/html")
        elif isinstance(self.server.models, list):
            self.send(
                200,
                {
                    "object": "list",
                    "data": [
                        {"id": m, "object": "model", "root": self.server.root} for m in self.server.models
                    ],
                },
            )
        else:
            self.send(self.server.models, "broken", "text/plain")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            fault = self.server.faults.pop(0) if self.server.faults else ""
            self.server.requests.append(body)
        if fault == "hang":
            self.server.let_go.wait(20)
        elif fault == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "garbage":
            self.send(200, '{"choices": [{"mess', "application/json")
        elif fault == "html":
            self.send(200, "<html>hello</html>", "text/html")
        elif fault:
            self.send(int(fault), {"error": {"message": f"injected {fault}"}})
        else:
            self.complete(body)

    def complete(self, body: dict[str, Any]) -> None:
        continues = body.get("continue_final_message", False)
        if continues and self.server.rejects_continuation:
            return self.send(422, {"detail": "Unexpected fields in the request: {'continue_final_message'}"})
        if continues is not (body["messages"][-1]["role"] == "assistant"):
            return self.send(400, {"error": {"message": "the flag and the last message do not fit"}})
        if body["model"] not in ("tiny", "hidden"):
            return self.send(404, {"error": {"message": f"no model {body['model']!r}"}})
        sampling = Sampling(
            body["max_tokens"], body.get("temperature", 0), body.get("top_p", 1), body.get("seed", 0)
        )
        try:
            reply = self.server.actor.generate([as_conversation(body["messages"])], sampling)[0]
        except ActorError as error:
            return self.send(400, {"error": {"message": str(error)}})
        if reply.text is None:  # in the words of vLLM
            said = f"This model's maximum context length is {CONTEXT} tokens. However, you requested more."
            return self.send(400, {"error": {"message": said}})
        message = {"role": "assistant", "content": self.server.reply(reply.text)}
        finish = "length" if reply.truncated else "stop"
        return self.send(
            200,
            {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": finish}],
                "usage": {
                    "prompt_tokens": reply.prompt_tokens,
                    "completion_tokens": reply.completion_tokens,
                    "total_tokens": reply.prompt_tokens + reply.completion_tokens,
                },
            },
        )


@contextmanager
def running(actor: TransformersActor, port: int = 0) -> Iterator[Server]:
    """A server, on a port of its own unless one is given."""
    server = Server(actor, port)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.let_go.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server(actor: TransformersActor, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with running(actor) as server:
        yield server


def connect(server: Server, **options: Any) -> OpenAIActor:
    return OpenAIActor(server.url, "tiny", **{"max_retries": 1, "timeout_s": 20, **options})


def test_a_sample_is_asked_for_with_a_seed_unless_the_server_takes_none(server: Server) -> None:
    for seeded, sent in ((True, 2), (False, 0)):
        server.requests.clear()
        connect(server, seeded=seeded).generate([ask("1+1?"), ask("2+2?")], SAMPLED)
        assert sum("seed" in request for request in server.requests) == sent
        assert all("top_p" in request for request in server.requests)


class TestSeveralServers:
    """Chats that begin alike go to one server of several, and those of one that is away to the others."""

    @pytest.fixture
    def second(self, actor: TransformersActor) -> Iterator[Server]:
        with running(actor) as server:
            yield server

    @staticmethod
    def both(server: Server, second: Server, **options: Any) -> OpenAIActor:
        return OpenAIActor(f"{server.url}, {second.url}", "tiny", **{"timeout_s": 20, **options})

    def test_chats_that_begin_alike_go_to_one_server(
        self, server: Server, second: Server, actor: TransformersActor
    ) -> None:
        remote = self.both(server, second)
        prompts = [
            [*ask(f"{n}+1?"), {"role": "assistant", "content": "So"}, *ask(f"Critique {k}.")]
            for n in range(8)
            for k in range(3)
        ]
        assert remote.generate(prompts, GREEDY) == actor.generate(prompts, GREEDY)
        asked = [{str(r["messages"][0]) for r in s.requests} for s in (server, second)]
        assert asked[0] and asked[1] and not asked[0] & asked[1]
        assert len(server.requests) + len(second.requests) == 24
        assert remote._concurrency == 2 * connect(server)._concurrency

    def test_the_others_take_the_requests_of_one_that_is_away(
        self,
        server: Server,
        actor: TransformersActor,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr("critique_rl.actors.servers._SWITCH_S", 0.2)
        monkeypatch.setattr("critique_rl.actors.servers._REST_S", 0.5)
        prompts = [ask(f"{n}+1?") for n in range(8)]
        expected = actor.generate(prompts, GREEDY)
        with running(actor) as second:
            port, remote = second.server_port, self.both(server, second, cache_size=0)
            remote.generate(prompts, GREEDY)
            own = len(second.requests)
        assert 0 < own < 8
        assert remote.generate(prompts, GREEDY) == expected
        assert len(server.requests) == 8 - own + 8
        assert f":{port}/v1 is away (APIConnectionError" in caplog.text
        assert "1 of 2 servers answer, and take its requests" in caplog.text
        time.sleep(0.6)
        with running(actor, port) as again:
            assert remote.generate(prompts, GREEDY) == expected
            assert 0 < len(again.requests) <= own and "answers again" in caplog.text

    def test_when_all_are_away_the_run_ends_after_the_outage(
        self, actor: TransformersActor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("critique_rl.actors.servers._SWITCH_S", 0.1)
        with running(actor) as server, running(actor) as second:
            remote = self.both(server, second, outage_s=1.0)
        began = time.monotonic()
        with pytest.raises(ActorError, match="Start the server again, then the same command"):
            remote.generate([ask("1+1?")], GREEDY)
        assert 1.0 <= time.monotonic() - began < 5.0

    def test_servers_are_checked_before_they_are_asked(
        self, server: Server, second: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        second.root = "other weights"
        with pytest.raises(ActorError, match=r"'tiny' have loaded different weights: .*has other weights"):
            self.both(server, second)
        second.models = ["another"]
        with pytest.raises(ActorError, match=rf"{second.url} does not serve 'other'; it lists: another"):
            OpenAIActor(f"{server.url},{second.url}", "other", max_retries=0)
        away = "http://127.0.0.1:9/v1"
        assert OpenAIActor(f"{away},{server.url}", "tiny").name == "tiny"
        assert f"no server answers at {away}" in caplog.text
        with pytest.raises(ActorError, match="no server answers"):
            OpenAIActor(f"{away},http://127.0.0.1:10/v1", "tiny")
        for url, what in ((" , ", "no server"), (f"{server.url},{server.url}", "a server twice")):
            with pytest.raises(ActorError, match=f"base_url names {what}"):
                OpenAIActor(url, "tiny")


@pytest.mark.slow
def test_greedy_over_http_equals_greedy_in_this_process(server: Server, model_dir: Path) -> None:
    remote = connect(server)
    prompts = [*varied_prompts(), *varied_prompts()]
    assert remote.generate(prompts, GREEDY) == TransformersActor(model_dir).generate(prompts, GREEDY)
    assert len(server.requests) == remote.sequences_generated == len(prompts) // 2
    assert remote.generate(prompts[3:5], GREEDY) == remote.generate(prompts[3:5], GREEDY)
    assert len(server.requests) == len(prompts) // 2  # remembered
    assert not any("stop" in request or "seed" in request for request in server.requests)
    assert remote.generate([], GREEDY) == []


def test_each_sampled_request_has_its_own_derived_seed(server: Server) -> None:
    remote = connect(server, concurrency=1, extra_body={"min_p": 0.0})
    prompts = [ask("1+1?")] * 3
    first = remote.generate(prompts, Sampling(24, temperature=1.0, top_p=0.9, seed=7))
    assert [request["seed"] for request in server.requests] == [child_seed(7, i) for i in range(3)]
    assert all(request["top_p"] == 0.9 and request["min_p"] == 0.0 for request in server.requests)
    assert len({reply.text for reply in first}) == 3
    assert connect(server).generate(prompts, Sampling(24, temperature=1.0, top_p=0.9, seed=7)) == first
    assert remote.generate(prompts, Sampling(24, temperature=1.0, top_p=0.9, seed=8)) != first


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["500", "503", "429", "drop", "hang", "garbage", "html"])
def test_a_passing_fault_is_retried(server: Server, model_dir: Path, fault: str) -> None:
    remote = connect(server, timeout_s=1 if fault == "hang" else 20)
    server.faults = [fault]
    expected = TransformersActor(model_dir).generate([ask("1+1?")], GREEDY)
    assert remote.generate([ask("1+1?")], GREEDY) == expected
    assert len(server.requests) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "error"), [("500", "injected 500"), ("drop", "RemoteProtocolError"), ("hang", "Timeout")]
)
def test_a_lasting_fault_is_an_error_that_names_url_attempts_and_cause(
    server: Server, fault: str, error: str
) -> None:
    remote = connect(server, timeout_s=0.3 if fault == "hang" else 20, outage_s=0.5)
    server.faults = [fault] * 99
    with pytest.raises(ActorError, match=rf"(?s){server.url} failed on prompt 0 after \d+ attempts.*{error}"):
        remote.generate([ask("1+1?")], GREEDY)
    assert remote.sequences_generated == 0
    server.faults = []
    assert remote.generate([ask("1+1?")], GREEDY)[0].completion_tokens > 0  # no failure was remembered


def test_images_go_to_the_server_as_urls_before_their_text(server: Server, tmp_path: Path) -> None:
    tiny_vl.save_untrained(tmp_path, seed=0)
    server.actor = TransformersActor(tmp_path)
    file = tmp_path / "a.png"
    Image.new("RGB", (84, 56), "red").save(file)
    url = data_url(file.read_bytes())
    remote = connect(server, concurrency=1)
    shown: Conversation = [{"role": "user", "content": "Red?", "image": str(file)}]
    prefilled: Conversation = [*shown, {"role": "assistant", "content": "So "}]
    prompts = [shown, ask("Red?"), [{**shown[0], "image": url}], prefilled]
    replies = remote.generate(prompts, GREEDY)
    assert replies == server.actor.generate(prompts, GREEDY) and replies[0] == replies[2] != replies[1]
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Red?"}]
    sent = [request["messages"] for request in server.requests]
    assert sent == [
        [{"role": "user", "content": parts}],
        [{"role": "user", "content": "Red?"}],
        [{"role": "user", "content": parts}, {"role": "assistant", "content": "So "}],
    ]  # three: the same image by path and by URL is one generation
    remote.generate(prompts, GREEDY)
    assert len(server.requests) == 3
    Image.new("RGB", (84, 56), "blue").save(file)
    remote.generate([shown], GREEDY)
    assert len(server.requests) == 4 and server.requests[-1]["messages"] != sent[0]
    remote.generate([shown], SAMPLED)
    assert server.requests[-1]["messages"] == server.requests[-2]["messages"]
    assert shown == [{"role": "user", "content": "Red?", "image": str(file)}]


def test_an_image_stays_where_a_prefill_is_asked_for(server: Server, tmp_path: Path) -> None:
    tiny_vl.save_untrained(tmp_path, seed=0)
    server.actor = TransformersActor(tmp_path)
    Image.new("RGB", (84, 56)).save(tmp_path / "a.png")
    url = data_url((tmp_path / "a.png").read_bytes())
    prompt: Conversation = [{"role": "user", "content": "Red?", "image": url}, *ask("", "So")[1:]]
    connect(server, prefill="user").generate([prompt], GREEDY)
    ((message,),) = [request["messages"] for request in server.requests]
    assert message["content"][0]["image_url"]["url"] == url
    assert message["content"][1]["text"] == "Red?\n\nBegin your reply with: So"


RED_DOT = data_url(b"GIF89a\x01\0\x01\0\x80\0\0\xff\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;")


def test_an_image_that_cannot_be_sent_is_named_before_anything_is_sent(server: Server) -> None:
    remote = connect(server)
    prompt: Conversation = [{"role": "user", "content": "Red?", "image": "./absent.png"}]
    for sampling in (GREEDY, SAMPLED):
        with pytest.raises(ActorError, match=r"prompt 1: no such image file: '\./absent\.png'"):
            remote.generate([ask("Red?"), prompt], sampling)
    assert server.requests == []
    with pytest.raises(ActorError, match=r"refused prompt 0: .*has an image: .* is a model without vision"):
        remote.generate([[{"role": "user", "content": "Red?", "image": RED_DOT}]], GREEDY)


def test_a_refusal_is_an_error_at_once(server: Server) -> None:
    remote = connect(server)
    server.faults = ["400"]
    with pytest.raises(ActorError, match=rf"{server.url} .*prompt 0"):
        remote.generate([ask("1+1?")], GREEDY)
    assert len(server.requests) == 1


def test_one_failure_does_not_wait_for_the_other_requests(server: Server) -> None:
    remote = connect(server, concurrency=2, outage_s=0)
    server.faults = ["hang", "500"]
    started = time.monotonic()
    with pytest.raises(ActorError, match="injected 500"):
        remote.generate([ask(str(i)) for i in range(50)], GREEDY)
    assert time.monotonic() - started < 5
    assert len(server.requests) < 10


def test_a_prompt_that_does_not_fit_the_server_is_unknown(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    remote = connect(server, concurrency=1)
    first, none = remote.generate([ask("1"), ask("9" * 400)], GREEDY)
    assert first == server.actor.generate([ask("1")], GREEDY)[0] and none.text is None
    assert remote.unknown == 1 and len(server.requests) == 2  # asked once, not again
    assert "1 x does not fit the context; first prompt 1: does not fit the context" in caplog.text
    with pytest.raises(ActorError, match=r"1 of 1 replies cannot be used.*mend the server"):
        connect(server, max_unknown=0.0).generate([ask("9" * 400)], GREEDY)


def test_a_server_without_continuation_needs_prefill_user(server: Server) -> None:
    server.rejects_continuation = True
    with pytest.raises(ActorError, match=r'refused prompt 0.*needs prefill="user"'):
        connect(server).generate([ask("1+1?", PREFIX)], GREEDY)
    server.requests.clear()
    remote = connect(server, prefill="user")
    plain = remote.generate([ask("1+1?", PREFIX)], GREEDY)[0]
    (sent,) = server.requests
    asked = "1+1?\n\nBegin your reply with: Let's break it down step by step:"
    assert sent["messages"] == [{"role": "user", "content": asked}] and "continue_final_message" not in sent
    assert plain == server.actor.generate([ask(asked)], GREEDY)[0]
    server.reply = lambda text: "Let's break it down step by step:\nFirst, " + text
    echoed = remote.generate([ask("1+1?", PREFIX)], Sampling(23))[0]
    assert echoed.text.startswith("First, ")
    with pytest.raises(ActorError, match="before the prefill must be the user's"):
        remote.generate([[{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}]], GREEDY)


@pytest.mark.slow
def test_the_actor_can_be_called_from_many_threads_and_inside_a_running_loop(server: Server) -> None:
    remote = connect(server)
    prompts = varied_prompts()[:4]

    async def inside() -> list[Generation]:
        return remote.generate(prompts[:2], GREEDY)

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(remote.generate, prompts, SAMPLED) for _ in range(3)]
        results = [future.result() for future in futures]
    assert results == [results[0]] * 3 and remote.sequences_generated == 12
    assert asyncio.run(inside()) == server.actor.generate(prompts[:2], GREEDY)


@pytest.mark.slow
def test_the_check_at_construction(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OpenAIActor(server.url).name == "tiny"
    assert server.keys == {"Bearer EMPTY"}
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment")
    OpenAIActor(server.url)
    OpenAIActor(server.url, api_key="given")
    assert server.keys == {"Bearer EMPTY", "Bearer from-environment", "Bearer given"}
    assert OpenAIActor(server.url, "hidden").name == "hidden"  # answers although it is not listed
    with pytest.raises(ActorError, match=r"does not serve 'absent'; it lists: tiny, other"):
        OpenAIActor(server.url, "absent")
    with pytest.raises(ActorError, match=r"lists no model.*Most end in /v1"):
        OpenAIActor(server.url.removesuffix("/v1"))
    server.models = 401
    with pytest.raises(ActorError, match="refuses the API key"):
        OpenAIActor(server.url)
    server.models = 500
    assert OpenAIActor(server.url, "tiny").name == "tiny"
    for options in ({"prefill": "none"}, {"concurrency": 0}, {"timeout_s": 0}, {"max_retries": -1}):
        with pytest.raises(ActorError, match=next(iter(options))):
            OpenAIActor(server.url, **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_server_that_is_down_or_hangs_is_an_error_in_seconds(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    started = time.monotonic()
    with pytest.raises(ActorError, match=rf"(?s)no server answers at {url}.*refused.*vllm serve"):
        OpenAIActor(url)
    assert time.monotonic() - started < 10
    assert server_module._CHECK_TIMEOUT_S < 10
    monkeypatch.setattr(server_module, "_CHECK_TIMEOUT_S", 0.3)
    server.models, server.faults = [], ["hang"] * 9
    with pytest.raises(ActorError, match=r"(?s)does not serve 'tiny'.*Timeout"):
        OpenAIActor(server.url, "tiny")


# --- make_actor ---------------------------------------------------------------------------------------


def test_make_actor_builds_either_backend(server: Server, model_dir: Path) -> None:
    local = make_actor({"backend": "transformers", "model": str(model_dir), "batch_size": 2})
    for actor in (local, make_actor(str(model_dir))):
        assert isinstance(actor, TransformersActor) and actor.name == str(model_dir)
    for actor in (make_actor({"backend": "openai", "base_url": server.url}), make_actor(server.url)):
        assert isinstance(actor, OpenAIActor) and actor.name == "tiny"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"model": "x"}, "'backend' is missing; it is one of openai, transformers"),
        (
            {"backend": "transformer", "model": "x"},
            "unknown backend 'transformer'. Did you mean 'transformers'?",
        ),
        ({"backend": "openai", "url": "x"}, "unknown key 'url'. There are: base_url"),
        (
            {"backend": "transformers", "model": "x", "batchsize": 1},
            "'batchsize'. Did you mean 'batch_size'?",
        ),
        ({"backend": "transformers"}, "backend 'transformers' needs 'model'"),
        ({"backend": "openai", "model": "x"}, "backend 'openai' needs 'base_url'"),
        ("./missing", "no model at ./missing"),
    ],
)
def test_make_actor_names_what_is_wrong(spec: dict[str, Any] | str, message: str) -> None:
    with pytest.raises(UserError) as error:
        make_actor(spec)
    assert message in str(error.value)


def test_the_package_imports_no_backend() -> None:
    code = "import sys, critique_rl.actors; print(sorted({'torch', 'openai', 'tqdm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- transformers serve -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers_serve(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of `transformers serve` with the tiny model: somebody else's server, on CPU, without a hub."""
    pytest.importorskip("fastapi", reason='pip install "transformers[serving]"')
    pytest.importorskip("uvicorn", reason='pip install "transformers[serving]"')
    command = shutil.which("transformers", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("the transformers command is not installed")
    log = tmp_path_factory.mktemp("serve") / "log"
    options = ["serve", str(model_dir), "--device", "cpu", "--dtype", "float32"]
    with started_server([command, *options], log, env=environment()) as url:
        yield url


def test_greedy_from_transformers_serve_equals_greedy_in_this_process(
    transformers_serve: str, model_dir: Path
) -> None:
    remote = OpenAIActor(transformers_serve, str(model_dir), concurrency=4, max_retries=0)
    prompts = [prompt for prompt in varied_prompts() if prompt[-1]["role"] == "user"]
    local = TransformersActor(model_dir).generate(prompts, GREEDY)
    served = remote.generate(prompts, GREEDY)
    # It strips each text, and says "length" also if the end of turn is the last token; the rest is equal.
    assert [reply.text.strip() for reply in served] == [reply.text.strip() for reply in local]
    assert [reply.completion_tokens for reply in served] == [reply.completion_tokens for reply in local]
    assert [reply.prompt_tokens for reply in served] == [reply.prompt_tokens for reply in local]
    # Its temperature does nothing unless the checkpoint's generation_config samples.
    assert remote.generate(prompts[:2], SAMPLED) == served[:2]


def test_transformers_serve_takes_prefills_as_instructions_only(
    transformers_serve: str, model_dir: Path
) -> None:
    with pytest.raises(ActorError, match='needs prefill="user"'):
        OpenAIActor(transformers_serve, str(model_dir)).generate([ask("1+1?", PREFIX)], GREEDY)
    remote = OpenAIActor(transformers_serve, str(model_dir), prefill="user")
    assert remote.generate([ask("1+1?", PREFIX)], GREEDY)[0].completion_tokens > 0
    with pytest.raises(ActorError, match="does not serve 'absent'"):
        OpenAIActor(transformers_serve, "absent")
