"""Tests of the trainers on models that see: both stages and the pairwise critic, with Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForImageTextToText
from transformers.models.mllama import MllamaConfig, MllamaImageProcessorPil, MllamaTextConfig

from critique_rl import PairwiseCriticConfig, PairwiseCriticTrainer
from critique_rl.actors import TransformersActor
from critique_rl.cold_start.sft import actor_examples, base_examples, fine_tune
from critique_rl.cold_start.teachers import ScriptedTeacher
from critique_rl.cold_start.tiny_vl import save_untrained
from critique_rl.prompts import COMPACT
from critique_rl.tasks import load_task
from critique_rl.tasks.drawings_teacher import Annotator, Judge, Looker
from critique_rl.training.images import check_inputs
from critique_rl.training.stage_config import Stage1Config, Stage2Config
from critique_rl.training.stages import Stage1Trainer, Stage2Trainer
from critique_rl.training.trainer import CriticTrainer
from critique_rl.types import Problem, UserError
from critique_rl.vision.images import data_url, image_bytes, open_image
from critique_rl.vision.models import load_processor

Make = Callable[..., Any]
FAMILIES = ("qwen2_5_vl", "qwen3_vl")
LENGTH = 48


@pytest.fixture(scope="session")
def drawings() -> list[Problem]:
    """Charts, every third of them in another size."""
    found = load_task("drawings", split="train", size=80, kinds=["chart"])
    return [_enlarged(p) if i % 3 == 0 else p for i, p in enumerate(found)]


def _enlarged(problem: Problem) -> Problem:
    content = BytesIO()
    shown = open_image(problem.image or "")
    shown.resize((2 * shown.width, shown.height), Image.Resampling.NEAREST).save(content, "PNG")
    return replace(problem, image=data_url(content.getvalue()))


@pytest.fixture(scope="session", params=FAMILIES)
def seeing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, drawings: Any) -> Path:
    """A model that has learned the form of every kind of text, and hardly what they should say."""
    root = tmp_path_factory.mktemp(request.param)
    save_untrained(root / "untrained", seed=0, family=request.param)
    teacher = ScriptedTeacher(
        Looker(misread=0.3), Annotator(misread=0.2), Annotator(), Judge(glance=0.5, flip=0.3)
    )
    kinds = {"reasoning": 24, "critiques": 48, "refinements": 24, "judgements": 48}
    examples = base_examples(drawings, teacher, teacher, COMPACT, seed=0, **kinds)
    options = {
        "use_cpu": True,
        "gradient_checkpointing": False,
        "learning_rate": 8e-3,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 5,
        "per_device_train_batch_size": 16,
        "num_train_epochs": 5,
        "max_length": None,
    }
    fine_tune(str(root / "untrained"), examples, root / "model", seed=0, options=options)
    return root / "model"


@pytest.fixture(scope="session")
def shown_pairs(drawings: list[Problem]) -> Dataset:
    """A right and a wrong response to each drawing, with its picture."""
    rows = []
    for i, p in enumerate(drawings):
        responses, better = [p.solution, Looker(glance=1.0).solve(p, random.Random(i))], 1 + i % 2
        first, second = responses if better == 1 else responses[::-1]
        rows.append(
            {
                "question": p.question,
                "response_1": first,
                "response_2": second,
                "label": better,
                "image": p.image,
            }
        )
    return Dataset.from_list(rows)


@pytest.fixture(scope="session")
def shown_pool(drawings: list[Problem]) -> Dataset:
    """Each drawing with a right or a wrong response."""
    return Dataset.from_list(
        [
            {
                "question": p.question,
                "answer": p.answer,
                "kind": p.kind,
                "response": p.solution
                if i % 2
                else f"<think>a glance</think> \\boxed{{{int(p.answer) + 1}}}",
                "response_correct": i % 2 == 1,
                "image": p.image,
            }
            for i, p in enumerate(drawings)
        ]
    )


def pairwise(
    model: Path, pairs: Dataset, config: Make, held_out: Dataset | None = None, **settings: Any
) -> PairwiseCriticTrainer:
    few = {"num_generations": 4, "max_completion_length": LENGTH, "per_device_train_batch_size": 16}
    args = config(PairwiseCriticConfig, **(few | settings))
    return PairwiseCriticTrainer(model, args=args, train_dataset=pairs, eval_dataset=held_out)


def test_limits_of_an_image_reach_the_processor(seeing: Path, shown_pairs: Dataset, config: Make) -> None:
    limited = pairwise(seeing, shown_pairs, config, max_pixels=8192).processing_class.image_processor.size
    assert limited == load_processor(seeing, max_pixels=8192).image_processor.size
    assert limited != load_processor(seeing).image_processor.size


def moved(trainer: CriticTrainer, start: Path) -> dict[str, bool]:
    """Whether the language part and the vision part have moved."""
    before = dict(AutoModelForImageTextToText.from_pretrained(start).named_parameters())
    found = {"visual": False, "language": False}
    for name, parameter in trainer.model.named_parameters():
        part = "visual" if ".visual." in f".{name}" else "language"
        found[part] |= not torch.equal(before[name], parameter)
    return found


def test_a_pairwise_step_moves_both_parts(seeing: Path, shown_pairs: Dataset, config: Make) -> None:
    """Pictures of two sizes are in its batch; what the reward says is in the log."""
    trainer = pairwise(seeing, shown_pairs, config, rl_steps=2)
    sizes = {image.size for row in trainer.train_dataset for image in row["images"]}
    assert len(sizes) == 2
    trainer.train()
    log = trainer.state.log_history[0]
    assert 0 < log["reward"] < 1 and log["grad_norm"] > 0 and log["critic/parse_rate"] > 0
    assert moved(trainer, seeing) == {"visual": True, "language": True}


def test_the_vision_tower_can_be_frozen(seeing: Path, shown_pairs: Dataset, config: Make) -> None:
    trainer = pairwise(seeing, shown_pairs, config, rl_steps=1, freeze_vision_tower=True)
    trainer.train()
    assert moved(trainer, seeing) == {"visual": False, "language": True}


def test_without_images_the_part_that_reads_them_is_left_out(
    seeing: Path, shown_pairs: Dataset, config: Make
) -> None:
    """It would get no gradient, and FSDP2 could not resume; see `test_several_processes.py`."""
    for pairs, seen in ((shown_pairs, True), (shown_pairs.remove_columns("image"), False)):
        named = list(pairwise(seeing, pairs, config).model.named_parameters())
        assert {p.requires_grad for name, p in named if ".visual." in f".{name}"} == {seen}
        assert all(p.requires_grad for name, p in named if ".visual." not in f".{name}")


def test_log_probabilities_in_a_batch_are_those_of_single_rows(
    seeing: Path, shown_pairs: Dataset, config: Make
) -> None:
    """With padding and pictures of two sizes; a leak between rows would show here."""
    trainer = pairwise(seeing, shown_pairs, config, num_iterations=2)
    trainer.model.train()
    trainer.state.global_step = 1
    rows = next(iter(trainer.get_train_dataloader()))
    output = trainer._generate_and_score_completions(rows)
    processor = load_processor(seeing)
    model = AutoModelForImageTextToText.from_pretrained(seeing)
    lengths = output["prompt_mask"].sum(1)
    assert len(set(lengths.tolist())) > 1, "no padding"
    for i, row in enumerate(rows):
        parts = [
            {"type": "image", "image": row["images"][0]},
            {"type": "text", "text": row["prompt"][0]["content"]},
        ]
        alone = processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        told = output["completion_ids"][i][output["completion_mask"][i].bool()][None]
        asked = alone["input_ids"].size(1)
        assert asked == lengths[i]
        alone["input_ids"] = torch.cat([alone["input_ids"], told], dim=1)
        alone["attention_mask"] = torch.ones_like(alone["input_ids"])
        alone["mm_token_type_ids"] = torch.cat([alone["mm_token_type_ids"], torch.zeros_like(told)], dim=1)
        with torch.no_grad():
            logits = model(**alone).logits[:, asked - 1 : -1].float()
        single = logits.log_softmax(-1).gather(2, told[..., None]).flatten()
        batched = output["old_per_token_logps"][i][: told.size(1)]
        torch.testing.assert_close(batched, single, atol=1e-4, rtol=0.0)


def test_both_stages_on_pictures(seeing: Path, shown_pool: Dataset, config: Make, tmp_path: Path) -> None:
    """Stage I, then Stage II whose actor sees the picture when it refines."""
    few = {"max_completion_length": 64, "rl_steps": 1, "per_device_train_batch_size": 16}
    first = Stage1Trainer(seeing, args=config(Stage1Config, **few), train_dataset=shown_pool)
    first.train()
    log = first.state.log_history[0]
    assert 0 < log["reward"] < 1 and log["grad_norm"] > 0
    assert moved(first, seeing) == {"visual": True, "language": True}
    first.save_model(str(tmp_path / "stage1"))
    actor = Watched(seeing)
    second = Stage2Trainer(
        tmp_path / "stage1",
        actor=actor,
        args=config(Stage2Config, **few, refinement_max_tokens=LENGTH),
        train_dataset=shown_pool,
    )
    second.train()
    pictures = set(shown_pool["image"])
    assert actor.asked and all(prompt[0]["image"] in pictures for prompt in actor.asked)
    log = second.state.log_history[0]
    assert log["grad_norm"] > 0 and log["kl"] == pytest.approx(0.0, abs=1e-6)
    assert log["actor/graded_rate"] == 1.0


class Watched(TransformersActor):
    """The actor, with what it was asked."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked: list[Any] = []

    def generate(self, prompts: Any, sampling: Any) -> Any:
        self.asked += prompts
        return super().generate(prompts, sampling)


def test_a_resumed_run_ends_where_an_unbroken_one_does(
    seeing: Path, shown_pairs: Dataset, config: Make, tmp_path: Path
) -> None:
    settings = {"learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 1}
    whole = pairwise(seeing, shown_pairs, config, rl_steps=2, output_dir=str(tmp_path / "whole"), **settings)
    whole.train()
    resumed = pairwise(
        seeing, shown_pairs, config, rl_steps=2, output_dir=str(tmp_path / "again"), **settings
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    other = dict(resumed.model.named_parameters())
    for name, parameter in whole.model.named_parameters():
        torch.testing.assert_close(parameter, other[name], atol=1e-6, rtol=0.0, msg=name)


def test_columns_of_images_in_every_form(
    seeing: Path, shown_pairs: Dataset, config: Make, tmp_path: Path
) -> None:
    """A path and what `datasets.Image` holds are seen as the `data:` URL is."""
    paths = []
    for i, image in enumerate(shown_pairs["image"]):
        paths.append(str(tmp_path / f"{i}.png"))
        Path(paths[-1]).write_bytes(image_bytes(image))
    plain = shown_pairs.remove_columns("image")
    from_paths = plain.add_column("image", paths)
    decoded = from_paths.cast_column("image", datasets.Image())
    forms = [pairwise(seeing, rows, config).train_dataset[5] for rows in (shown_pairs, from_paths, decoded)]
    pixels = [(row["images"][0] if "images" in row else row["image"]).tobytes() for row in forms]
    assert pixels[0] == pixels[1] == pixels[2] and len(pixels[0]) > 1000


def test_what_would_fail_silently_is_refused(seeing: Path, shown_pairs: Dataset, config: Make) -> None:
    rows = list(shown_pairs)
    rows[7] = {**rows[7], "image": None}
    with pytest.raises(UserError, match="train_dataset, row 7, column 'image': None; either all rows"):
        pairwise(seeing, Dataset.from_list(rows), config)
    processor: Any = load_processor(seeing)
    processor.tokenizer.padding_side = "right"
    args = config(PairwiseCriticConfig, num_generations=4)
    with pytest.raises(UserError, match="pads on the right"):
        PairwiseCriticTrainer(seeing, args=args, train_dataset=shown_pairs, processing_class=processor)
    with pytest.raises(UserError, match=r"row \d+: a prompt of \d+ tokens and max_completion_length=1000"):
        pairwise(seeing, shown_pairs, config, max_completion_length=1000)


def test_broken_rows_are_named_before_training(
    seeing: Path, shown_pairs: Dataset, config: Make, tmp_path: Path
) -> None:
    """Also in rows that are far from the longest."""

    def with_row(**fields: Any) -> Dataset:
        rows = list(shown_pairs) * 10
        rows[3] = {**rows[3], **fields}
        return Dataset.from_list(rows)

    cut, narrow = tmp_path / "cut.png", tmp_path / "narrow.png"
    cut.write_bytes(image_bytes(shown_pairs[3]["image"])[:120])
    Image.new("RGB", (4000, 8)).save(narrow)
    wrong = [
        (
            {"question": "How <|image_pad|>?"},
            r"row 3, column 'question': <\|image_pad\|> stands for an image",
        ),
        ({"response_2": "<|video_pad|>"}, r"row 3, column 'response_2': <\|video_pad\|>"),
        ({"image": str(cut)}, r"row 3, column 'image': .*truncated"),
        ({"image": str(tmp_path / "gone.png")}, r"row 3, column 'image': no such image file: .*gone.png"),
        (
            {"image": str(narrow)},
            r"row 3, column 'image' .*narrow.png\): an image of 4000 x 8 pixels .*ratio",
        ),
    ]
    for fields, message in wrong:
        with pytest.raises(UserError, match=f"(?s)train_dataset, {message}"):
            pairwise(seeing, with_row(**fields), config)
    with pytest.raises(UserError, match=f"(?s)eval_dataset, {wrong[0][1]}"):
        pairwise(seeing, shown_pairs, config, held_out=with_row(**wrong[0][0]))


def test_a_transparent_picture_is_white_in_training(
    seeing: Path, shown_pairs: Dataset, config: Make, tmp_path: Path
) -> None:
    Image.new("RGBA", (84, 56), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    rows = Dataset.from_list([{**row, "image": str(tmp_path / "clear.png")} for row in shown_pairs])
    for form in (rows, rows.cast_column("image", datasets.Image())):
        row = pairwise(seeing, form, config).train_dataset[5]
        picture = row["images"][0] if "images" in row else row["image"]
        assert picture.getpixel((0, 0)) == (255, 255, 255)


def test_cold_start_texts_show_the_picture(drawings: list[Problem]) -> None:
    teacher = ScriptedTeacher(Looker(glance=0.5), Annotator(), Annotator(), Judge())
    problems = drawings[:20]
    drafts = teacher.solve(problems, seed=1)
    made = actor_examples(
        problems, drafts, teacher, COMPACT, refinements=5, keep_wrong=True, judgements=10, seed=0
    )
    assert len(made) == 20 + 5 + 10
    assert all(e["prompt"][0]["image"].startswith("data:image/png") for e in made)
    judged = made[-10:]
    assert all("Answer 2: " in e["prompt"][0]["content"] for e in judged)
    assert {e["completion"][0]["content"][-2] for e in judged} == {"1", "2"}


def test_a_model_with_inputs_that_trl_leaves_out_is_refused(tmp_path: Path, seeing: Path) -> None:
    """Llama 3.2 Vision: its forward pass reads the aspect ratios of images."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = MllamaTextConfig(**small, num_key_value_heads=1, cross_attention_layers=[1], vocab_size=32)
    MllamaConfig(text_config=text.to_dict()).save_pretrained(tmp_path)
    processor = SimpleNamespace(image_processor=MllamaImageProcessorPil())
    with pytest.raises(UserError, match="also reads aspect_ratio_ids, aspect_ratio_mask, which trl"):
        check_inputs(str(tmp_path), processor)
    check_inputs(str(seeing), load_processor(seeing))
