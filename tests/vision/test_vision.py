"""Tests of `critique_rl.vision`, `critique_rl.tiny_vl` and of the actor in this process with images.

The models are toy-size Qwen2.5-VL and Qwen3-VL.
"""

from __future__ import annotations

import importlib.util
import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import (
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2VLConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import is_torchvision_available

from critique_rl.actors import ActorError, TransformersActor
from critique_rl.cold_start import tiny, tiny_vl
from critique_rl.runs.sizes import model_size
from critique_rl.training.checkpoints import merge_adapter
from critique_rl.types import Conversation, Generation, Message, Sampling, UserError
from critique_rl.vision.images import ImageError, data_url
from critique_rl.vision.models import is_vision_model, load_processor, load_vision_model, parts

torch.set_num_threads(1)

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
PHRASES = ("How many ", "red", " squares?")
GREEDY = Sampling(max_tokens=12)
SAMPLED = Sampling(max_tokens=12, temperature=1.0, seed=4)


def picture(width: int = 84, height: int = 56, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def ask(text: str, image: bytes | str | None = None, prefill: str | None = None) -> Conversation:
    message: Message = {"role": "user", "content": text}
    if image is not None:
        message["image"] = data_url(image) if isinstance(image, bytes) else image
    return [message] if prefill is None else [message, {"role": "assistant", "content": prefill}]


def varied_prompts() -> list[Conversation]:
    """With images of several sizes and without, in no order of length, one of them in the first of three turns."""
    refine: Conversation = [
        *ask("How many red squares?", picture(112, 56, seed=3), prefill="Two."),
        *ask("Wrong. Look again.", prefill="So:\n\n"),
    ]
    return [
        ask("How many red squares?", picture()),
        ask("1+1?"),
        refine,
        ask("How many red squares?", picture(seed=1)),
        ask("red?" * 12),
        ask("Where is the red one?", picture(56, 112, seed=2), prefill="It is "),
        ask("How many red?", picture()),
    ]


@pytest.fixture(scope="module")
def dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One directory for each family."""
    found = {}
    for family in FAMILIES:
        path = found[family] = tmp_path_factory.mktemp(family)
        tokenizer = tiny_vl.build_tokenizer(PHRASES)
        tiny_vl.build_model(tokenizer, seed=0, family=family).save_pretrained(path)
        tiny_vl.build_processor(tokenizer, family=family).save_pretrained(path)
    return found


@pytest.fixture(params=FAMILIES)
def model_dir(request: pytest.FixtureRequest, dirs: dict[str, Path]) -> Path:
    return dirs[request.param]


def encode(processor: Any, prompts: list[Conversation]) -> dict[str, torch.Tensor]:
    """What the processor itself makes of a batch: the reference for what the actor puts together."""
    texts, images = [], []
    for prompt in prompts:
        shown = parts(prompt)
        last = {"continue_final_message": True} if prompt[-1]["role"] == "assistant" else {}
        texts.append(processor.apply_chat_template(shown, add_generation_prompt=not last, **last))
        images += [
            part["image"] for message in shown for part in message["content"] if part["type"] == "image"
        ]
    return dict(processor(text=texts, images=images or None, padding=True, return_tensors="pt"))


@torch.no_grad()
def logits(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Of each row, without its padding."""
    output_BTV = model(**inputs).logits
    return [row[mask.bool()] for row, mask in zip(output_BTV, inputs["attention_mask"], strict=True)]


# --- processors -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_saved_is_what_is_loaded(model_dir: Path, tmp_path: Path) -> None:
    family = model_dir.name.rstrip("0123456789")
    assert is_vision_model(model_dir)
    tokenizer = tiny_vl.build_tokenizer(PHRASES)
    built = tiny_vl.build_processor(tokenizer, family=family)  # type: ignore[arg-type]
    loaded = load_processor(model_dir)
    assert AutoTokenizer.from_pretrained(model_dir).padding_side == "right"  # the trap
    loaded.save_pretrained(tmp_path)
    shutil.copy(model_dir / "config.json", tmp_path)
    again = load_processor(tmp_path)
    expected = encode(built, varied_prompts())
    for processor in (loaded, again):
        assert processor.tokenizer.padding_side == "left"
        assert processor.to_dict() == built.to_dict()
        inputs = encode(processor, varied_prompts())
        assert inputs.keys() == expected.keys()
        assert all(torch.equal(inputs[name], expected[name]) for name in inputs)
    assert set(expected) >= {"pixel_values", "image_grid_thw", "mm_token_type_ids"}
    one, other = load_vision_model(model_dir), load_vision_model(model_dir, dtype=torch.float32)
    for a, b in zip(logits(one, expected), logits(other, inputs), strict=True):
        assert torch.equal(a, b)


def test_saved_files_name_the_whole_processor(model_dir: Path) -> None:
    saved = json.loads((model_dir / "processor_config.json").read_text())
    loaded = load_processor(model_dir)
    assert pickle.loads(pickle.dumps(loaded)).to_dict() == loaded.to_dict()  # for worker processes
    whole = {"qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}
    assert saved["processor_class"] == whole[model_dir.name.rstrip("0123456789")]
    assert set(saved) == {"processor_class", "image_processor", "video_processor"}
    if not is_torchvision_available():  # others are told what they lack, and get no bare tokenizer
        with pytest.raises(ImportError, match="VideoProcessor requires the Torchvision library"):
            AutoProcessor.from_pretrained(model_dir)


@pytest.mark.slow
def test_the_untrained_model_is_saved_and_depends_on_its_seed_alone(tmp_path: Path) -> None:
    for family in FAMILIES:
        before = torch.random.get_rng_state()
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            tiny_vl.save_untrained(tmp_path / name, seed=seed, family=family, phrases=PHRASES)  # type: ignore[arg-type]
        assert torch.equal(torch.random.get_rng_state(), before)
        a, b, c = (TransformersActor(tmp_path / name) for name in "abc")
        assert a.fingerprint() == b.fingerprint() != c.fingerprint()
        assert sum(p.numel() for p in a._model.parameters()) < 500_000
        assert a.context == tiny_vl.CONTEXT
        built = tiny_vl.build_model(tiny_vl.build_tokenizer(PHRASES), seed=1, family=family)  # type: ignore[arg-type]
        inputs = encode(load_processor(tmp_path / "a"), varied_prompts())
        for one, other in zip(logits(a._model, inputs), logits(built.eval(), inputs), strict=True):
            assert torch.equal(one, other)
    tiny_vl.save_untrained(tmp_path / "drawings", seed=0)
    assert len(load_processor(tmp_path / "drawings").tokenizer("How many red circles?").input_ids) < 10
    with pytest.raises(UserError, match=r"family 'qwen2_vl' is unknown\. Did you mean 'qwen2_5_vl'"):
        tiny_vl.save_untrained(tmp_path, seed=0, family="qwen2_vl", phrases=())  # type: ignore[arg-type]


def test_a_drawing_is_six_tokens_and_a_phrase_one(dirs: dict[str, Path]) -> None:
    processor = load_processor(dirs["qwen2_5_vl"])
    inputs = encode(processor, [ask("How many red squares?", picture())])
    assert int(inputs["mm_token_type_ids"].sum()) == 6 and inputs["image_grid_thw"].tolist() == [[1, 4, 6]]
    # <|im_start|> user\n: 6, the image: 6 + 2, the phrases: 3, <|im_end|>, <|im_start|> assistant\n: 11
    assert inputs["input_ids"].shape[1] == 6 + 8 + 3 + 1 + 11
    mean, std = (
        torch.tensor(processor.image_processor.image_mean),
        torch.tensor(processor.image_processor.image_std),
    )
    # The first patch holds the pixels themselves: the drawing was not scaled.
    patch = inputs["pixel_values"][0].view(3, 2, 14, 14)[:, 0]
    pixels = (patch * std[:, None, None] + mean[:, None, None]) * 255
    original = np.asarray(Image.open(io.BytesIO(picture())))[:14, :14].transpose(2, 0, 1)
    assert np.abs(pixels.numpy() - original).max() < 0.01


def test_pixel_limits(dirs: dict[str, Path], tmp_path: Path) -> None:
    path = dirs["qwen2_5_vl"]
    prompt = [ask("red?", picture(280, 280))]

    def tokens(**limits: int) -> int:
        return int(encode(load_processor(path, **limits), prompt)["mm_token_type_ids"].sum())

    assert tokens() == 16
    assert tokens(max_pixels=9 * 28 * 28) == 9
    assert tokens(max_pixels=10**6) == 100
    assert tokens(min_pixels=400 * 28 * 28, max_pixels=10**6) == 400
    limited = load_processor(path, max_pixels=9 * 28 * 28)
    limited.save_pretrained(tmp_path)
    shutil.copy(path / "config.json", tmp_path)
    assert load_processor(tmp_path).image_processor.size == limited.image_processor.size
    for limits in ({"max_pixels": 100}, {"min_pixels": 10**6}, {"min_pixels": 0}):
        with pytest.raises(UserError, match="min_pixels must be positive and at most max_pixels"):
            load_processor(path, **limits)


def test_a_checkpoint_in_the_older_layout_of_the_hub_loads(dirs: dict[str, Path], tmp_path: Path) -> None:
    """Image processor in a file of its own, areas under their old names, template with the tokenizer."""
    shutil.copytree(dirs["qwen2_5_vl"], tmp_path, dirs_exist_ok=True)
    new = json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]
    del new["size"]
    old = {**new, "processor_class": "Qwen2_5_VLProcessor", "min_pixels": 3136, "max_pixels": 12544}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    tokenizer = json.loads((tmp_path / "tokenizer_config.json").read_text())
    tokenizer["chat_template"] = (tmp_path / "chat_template.jinja").read_text()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    for name in ("processor_config.json", "chat_template.jinja"):
        (tmp_path / name).unlink()
    processor = load_processor(tmp_path)
    assert processor.to_dict() == load_processor(dirs["qwen2_5_vl"]).to_dict()
    expected = TransformersActor(dirs["qwen2_5_vl"]).generate(varied_prompts(), GREEDY)
    assert TransformersActor(tmp_path).generate(varied_prompts(), GREEDY) == expected


def save_llava(path: Path) -> None:
    """A processor of another family, which needs no torchvision, and the config of its model."""
    tokenizer = tiny_vl.build_tokenizer(PHRASES)
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<|image_pad|>",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    ).save_pretrained(path)
    LlavaConfig(text_config=Qwen2Config(), vision_config=CLIPVisionConfig()).save_pretrained(path)


def test_other_families_load_whole_or_not_at_all(tmp_path: Path) -> None:
    save_llava(tmp_path)
    processor = load_processor(tmp_path)
    assert type(processor) is LlavaProcessor and processor.tokenizer.padding_side == "left"
    assert "pixel_values" in encode(processor, [ask("red?", picture())])
    with pytest.raises(
        UserError, match=r"max_pixels: the image processor of .* has no limits of area but sizes"
    ):
        load_processor(tmp_path, max_pixels=1000)
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(UserError, match="cannot load the processor of the llava model"):
        load_processor(tmp_path)


def test_a_bare_tokenizer_is_never_handed_out(tmp_path: Path) -> None:
    AutoConfig.for_model("glm_ocr").save_pretrained(tmp_path)
    tiny_vl.build_tokenizer(PHRASES).save_pretrained(tmp_path)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), PreTrainedTokenizerBase)  # the trap
    with pytest.raises(UserError, match=r"processor of the glm_ocr model at .* it has no image processor"):
        load_processor(tmp_path)


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is there")
def test_a_missing_package_is_named(dirs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(dirs["qwen2_5_vl"], tmp_path, dirs_exist_ok=True)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    (tmp_path / "processor_config.json").write_text(
        json.dumps({**saved, "processor_class": "Qwen2VLProcessor"})
    )
    Qwen2VLConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"(?s)processor of the qwen2_vl model.*torchvision is not installed"):
        load_processor(tmp_path)


def test_models_without_vision_and_without_files(tmp_path: Path) -> None:
    tiny.save_untrained(tmp_path / "text", seed=0)
    assert not is_vision_model(tmp_path / "text")
    for load in (load_processor, load_vision_model):
        with pytest.raises(UserError, match="text is a qwen2 model without vision"):
            load(tmp_path / "text")
    (tmp_path / "empty").mkdir()
    for load in (is_vision_model, load_processor, load_vision_model):
        with pytest.raises(UserError, match=r"no config of a model at .*empty"):
            load(tmp_path / "empty")


# --- conversations --------------------------------------------------------------------------------------


def test_parts_hold_the_opened_image_before_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    prompt = ask("red?", str(tmp_path / "a.png"), prefill="So")
    user, assistant = parts(prompt)
    image, text = user["content"]
    assert image["type"] == "image" and text == {"type": "text", "text": "red?"}
    assert image["image"].tobytes() == Image.open(tmp_path / "a.png").tobytes()
    assert assistant == {"role": "assistant", "content": [{"type": "text", "text": "So"}]}
    assert prompt[0]["content"] == "red?"  # and the conversation stays as it is
    with pytest.raises(ImageError, match=r"no such image file: 'b\.png'"):
        parts(ask("red?", "b.png"))
    assert parts(ask("red?", "b.png"), images="placeholders")[0]["content"][0] == {"type": "image"}


@pytest.mark.parametrize("template", ["ours", *FAMILIES])
def test_templates_take_parts_and_strings_alike(template: str, dirs: dict[str, Path]) -> None:
    processor = load_processor(dirs["qwen2_5_vl"])
    if template != "ours":
        trl = importlib.util.find_spec("trl")
        assert trl is not None and trl.origin is not None
        processor.chat_template = (
            Path(trl.origin).parent / "chat_templates" / f"{template}.jinja"
        ).read_text()
    seen = TransformersActor(load_vision_model(dirs["qwen2_5_vl"]), processor)
    plain = ask("How many red squares?", prefill="So:\n\n")
    rendered = seen.render(plain)
    assert rendered.endswith("<|im_start|>assistant\nSo:\n\n")
    kept: list[Any] = list(plain)
    assert processor.apply_chat_template(kept, continue_final_message=True) == rendered
    shown = seen.render(ask("How many red squares?", picture(), prefill="So:\n\n"))
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert shown == rendered.replace("How many", f"{image}How many")


# --- what a model sees ----------------------------------------------------------------------------------


def test_the_plan_counts_the_weights_of_models(model_dir: Path, tmp_path: Path) -> None:
    weights = sum(p.numel() for p in load_vision_model(model_dir).parameters())
    assert model_size(str(model_dir)).parameters == weights
    tasks = ("modular_chain", "made_up_facts", "drawings")  # each with words, and so with weights, of its own
    counts = [model_size("tiny", task=task).parameters for task in tasks]
    for name, count in zip(tasks, counts, strict=True):
        tiny.save_untrained(tmp_path / name, seed=0, task=name)
        assert model_size(str(tmp_path / name)).parameters == count
    assert len(set(counts)) == len(tasks)


def test_a_batch_of_several_sizes_gives_the_logits_of_each_prompt_alone(model_dir: Path) -> None:
    model, processor = load_vision_model(model_dir).eval(), load_processor(model_dir)
    prompts = varied_prompts()
    together = logits(model, encode(processor, prompts))
    for prompt, row in zip(prompts, together, strict=True):
        (alone,) = logits(model, encode(processor, [prompt]))
        assert alone.shape == row.shape and float((alone - row).abs().max()) < 1e-4
    # Without the types of the tokens an image would be placed like text, and silently so.
    inputs = encode(processor, prompts)
    del inputs["mm_token_type_ids"]
    try:
        untyped = logits(model, inputs)
    except ValueError:
        return  # Qwen3-VL says so
    assert float((untyped[0] - together[0]).abs().max()) > 1e-2


def test_the_image_is_seen_and_by_its_own_row_alone(model_dir: Path) -> None:
    model, processor = load_vision_model(model_dir).eval(), load_processor(model_dir)
    prompts = varied_prompts()
    before = logits(model, encode(processor, prompts))
    prompts[3] = ask("How many red squares?", picture(seed=9))
    after = logits(model, encode(processor, prompts))
    for index, (one, other) in enumerate(zip(before, after, strict=True)):
        change = float((one.log_softmax(-1) - other.log_softmax(-1))[-1].abs().max())
        assert change > 0.1 if index == 3 else change == 0.0


# --- the actor ------------------------------------------------------------------------------------------


def naive_greedy(model_dir: Path, prompt: Conversation, max_tokens: int) -> Generation:
    """The definition: the processor's own inputs, no batch, no cache, no `generate`."""
    model, processor = load_vision_model(model_dir).eval(), load_processor(model_dir)
    inputs = encode(processor, [prompt])
    ids = inputs["input_ids"][0].tolist()
    hidden = [processor.tokenizer.convert_tokens_to_ids(token) for token in tiny_vl._VISION_SPECIALS]
    stop, reply = processor.tokenizer.eos_token_id, []
    while len(reply) < max_tokens and reply[-1:] != [stop]:
        text = torch.tensor([ids + reply])
        inputs |= {"input_ids": text, "attention_mask": torch.ones_like(text)}
        types = inputs["mm_token_type_ids"]
        more = torch.zeros(1, text.shape[1] - types.shape[1], dtype=types.dtype)
        inputs["mm_token_type_ids"] = torch.cat([types, more], dim=1)
        scores = logits(model, inputs)[0][-1]
        scores[hidden] = -torch.inf
        reply.append(int(scores.argmax()))
    text = processor.tokenizer.decode(reply, skip_special_tokens=True)
    return Generation(text, len(ids), len(reply), truncated=reply[-1] != stop)


@pytest.mark.slow
def test_greedy_replies_are_those_of_each_prompt_alone(model_dir: Path) -> None:
    prompts = varied_prompts()
    replies = TransformersActor(model_dir).generate(prompts, GREEDY)
    assert replies == [naive_greedy(model_dir, prompt, GREEDY.max_tokens) for prompt in prompts]
    assert len({reply.text for reply in replies}) == len(prompts)
    for batch_size in (1, 3):
        assert TransformersActor(model_dir, batch_size=batch_size).generate(prompts, GREEDY) == replies


@pytest.mark.slow
def test_samples_depend_on_the_seed_and_the_image(model_dir: Path) -> None:
    prompts = varied_prompts()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = TransformersActor(model_dir).generate(prompts, SAMPLED)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert TransformersActor(model_dir, batch_size=2).generate(prompts, SAMPLED) == first
    prompts[0] = ask("How many red squares?", picture(seed=9))
    second = TransformersActor(model_dir).generate(prompts, SAMPLED)
    assert second[0] != first[0] and second[1:] == first[1:]


def test_a_model_in_memory_reads_its_processor(dirs: dict[str, Path]) -> None:
    path = dirs["qwen3_vl"]
    model = load_vision_model(path).train()
    expected = TransformersActor(path).generate(varied_prompts(), GREEDY)
    processor = load_processor(path)
    processor.tokenizer.padding_side = "right"
    for given in (processor, path):
        borrowed = TransformersActor(model, given)
        assert borrowed.generate(varied_prompts(), GREEDY) == expected
        assert all(module.training for module in model.modules())
    assert processor.tokenizer.padding_side == "right"
    assert borrowed.fingerprint() == TransformersActor(path).fingerprint()
    inputs = encode(load_processor(path), varied_prompts()[:2])
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert all(p.grad is not None for p in model.model.visual.patch_embed.parameters())


@pytest.mark.slow
def test_an_adapter_sees_what_its_base_sees(dirs: dict[str, Path], tmp_path: Path) -> None:
    path = dirs["qwen2_5_vl"]
    config = LoraConfig(target_modules=r".*language_model.*q_proj", init_lora_weights=False)
    torch.manual_seed(0)
    adapted = get_peft_model(load_vision_model(path), config)
    adapted.save_pretrained(tmp_path)
    load_processor(path).save_pretrained(tmp_path)
    assert is_vision_model(tmp_path) and not (tmp_path / "config.json").exists()
    saved = TransformersActor(tmp_path).generate(varied_prompts(), GREEDY)
    assert saved == TransformersActor(adapted, load_processor(path)).generate(varied_prompts(), GREEDY)
    assert saved != TransformersActor(path).generate(varied_prompts(), GREEDY)
    merged = Path(merge_adapter(str(tmp_path), tmp_path / "merged"))
    assert (merged / "config.json").exists() and not (merged / "adapter_config.json").exists()
    assert saved == TransformersActor(merged).generate(varied_prompts(), GREEDY)


def test_the_cache_knows_images_by_their_content(dirs: dict[str, Path], tmp_path: Path) -> None:
    actor = TransformersActor(dirs["qwen2_5_vl"])
    file = tmp_path / "a.png"
    file.write_bytes(picture())
    prompts = [ask("red?", picture()), ask("red?", str(file)), ask("red?", picture(seed=1)), ask("red?")]
    one, same, other, none = actor.generate(prompts, GREEDY)
    assert actor.sequences_generated == 3 and one == same and len({one, other, none}) == 3
    assert actor.generate(prompts, GREEDY) == [one, same, other, none] and actor.sequences_generated == 3
    file.write_bytes(picture(seed=1))
    assert actor.generate([prompts[1]], GREEDY) == [other] and actor.sequences_generated == 3


def test_each_image_is_preprocessed_once_for_a_call(
    dirs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = TransformersActor(dirs["qwen2_5_vl"], batch_size=2)
    seen: list[int] = []
    preprocess = type(actor._encoder.processor.image_processor).preprocess

    def counted(self: Any, images: Any, **options: Any) -> Any:
        seen.append(len(images))
        return preprocess(self, images, **options)

    monkeypatch.setattr(type(actor._encoder.processor.image_processor), "preprocess", counted)
    prompts = [ask("red?" * i, picture(seed=i % 2)) for i in range(6)]
    actor.generate(prompts, SAMPLED)
    assert seen == [1, 1]
    actor.generate([ask("red?")], SAMPLED)
    assert seen == [1, 1]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_tokens_that_stand_for_images_are_never_written(dirs: dict[str, Path], sampling: Sampling) -> None:
    actor = TransformersActor(dirs["qwen2_5_vl"], cache_size=0)
    prompts = varied_prompts()
    before = actor.generate(prompts, sampling)
    ids = [actor._tokenizer.convert_tokens_to_ids(token) for token in tiny_vl._VISION_SPECIALS]
    bias = torch.zeros(len(actor._tokenizer))
    bias[ids] = 1e4
    handle = actor._model.lm_head.register_forward_hook(lambda _module, _input, output: output + bias)
    assert actor.generate(prompts, sampling) == before
    handle.remove()


def test_images_that_cannot_be_shown(
    dirs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = dirs["qwen2_5_vl"]
    actor = TransformersActor(path)
    (tmp_path / "broken.png").write_bytes(picture()[:50])
    wrong: list[tuple[Conversation, str]] = [
        (ask("red?", "./absent.png"), r"prompt 1: no such image file: '\./absent\.png'"),
        (ask("red?", str(tmp_path / "broken.png")), r"prompt 1: .*broken\.png: not a readable image"),
        (ask("red?", picture(2010, 10)), "prompt 1: absolute aspect ratio"),
        (
            [*ask("red?"), {"role": "assistant", "content": "", "image": data_url(picture())}],
            "prompt 1 has an image outside of a user message",
        ),
    ]
    for prompt, message in wrong:
        with pytest.raises(ActorError, match=message):
            actor.generate([ask("red?"), prompt], GREEDY)
    assert actor.sequences_generated == 0
    assert actor.render(ask("<|image_pad|>?")) == actor.render(ask("< |image_pad|>?"))  # a text is no image
    length = actor.generate([ask("red?", picture())], GREEDY)[0].prompt_tokens
    room = tiny_vl.CONTEXT - length
    (reply,) = actor.generate([ask("red?", picture())], Sampling(room + 1))
    assert reply.text is None  # the tokens of the image count
    assert f"does not fit the context: {length} tokens" in caplog.text


def test_models_that_cannot_see_say_so_and_read_text(dirs: dict[str, Path], tmp_path: Path) -> None:
    tiny.save_untrained(tmp_path / "text", seed=0)
    text_only = TransformersActor(tmp_path / "text")
    with pytest.raises(ActorError, match=r"prompt 1 has an image: .*text is a model without vision"):
        text_only.generate([ask("red?"), ask("red?", picture())], GREEDY)
    assert len(text_only.generate([ask("red?")], GREEDY)) == 1

    path = dirs["qwen2_5_vl"]
    expected = TransformersActor(path).generate([ask("red?")], GREEDY)
    bare = TransformersActor(load_vision_model(path), AutoTokenizer.from_pretrained(path))
    shutil.copytree(path, tmp_path / "half")
    (tmp_path / "half" / "processor_config.json").unlink()
    half = TransformersActor(tmp_path / "half")
    for actor, reason in ((bare, "images need its processor"), (half, "cannot load the processor")):
        assert actor.generate([ask("red?")], GREEDY) == expected
        with pytest.raises(ActorError, match=f"prompt 0 has an image: .*{reason}"):
            actor.generate([ask("red?", picture())], GREEDY)
    save_llava(tmp_path / "llava")
    other = TransformersActor(load_vision_model(path), tmp_path / "llava")
    with pytest.raises(ActorError, match=r"prompt 0 has an image: .*use OpenAIActor"):
        other.generate([ask("red?", picture())], GREEDY)
