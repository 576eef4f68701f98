"""Tests of `critique_rl.pairwise` on a tiny critic: its objective, what it learns, leaves out and refuses."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from datasets import Dataset
from helpers import THINKING, plain_logps, push, retold, teach, write_response
from pyarrow import parquet
from transformers import AutoModelForCausalLM

from critique_rl import PairwiseCriticConfig, PairwiseCriticTrainer
from critique_rl.actors import TransformersActor
from critique_rl.critic_data import PreferencePair, to_dataset
from critique_rl.pairwise_rewards import parse_preference
from critique_rl.prompts import COMPACT
from critique_rl.training.pairwise import PairwiseReward
from critique_rl.types import Problem, Sampling, UserError
from critique_rl.view.entries import of_training

Make = Callable[..., Any]
GROUP = 4


@pytest.fixture(scope="session")
def pairs(problems: list[Problem]) -> Dataset:
    """A right and a wrong response to each question, the better one first in half of them."""
    rows = []
    for i, problem in enumerate(problems):
        responses = [write_response(problem, int(problem.answer)), write_response(problem, 0)]
        better = 1 + i % 2
        first, second = responses if better == 1 else responses[::-1]
        rows.append(
            {"question": problem.question, "response_1": first, "response_2": second, "label": better}
        )
    return Dataset.from_list(rows)


@pytest.fixture(scope="session")
def judge_dir(tmp_path_factory: pytest.TempPathFactory, pairs: Dataset) -> Path:
    """A critic that is right in 60 %, says nothing of use in 10 %, and forgets to think in a fifth."""
    rng, chats = random.Random(0), []
    for row in list(pairs) * 6:
        named = rng.choices([row["label"], 3 - row["label"], 7], [6, 3, 1])[0]
        thought = rng.choice(["<think>Hm.</think> ", "<think>Hm.</think> ", "So "])
        prompt = COMPACT.pairwise_prompt(row["question"], row["response_1"], row["response_2"])
        chats.append((prompt, f"{thought}\\boxed{{{named}}}"))
    directory = tmp_path_factory.mktemp("models") / "judge"
    teach(directory, chats, seed=0, steps=150)
    return directory


def build(judge_dir: Path, pairs: Dataset, config: Make, **settings: Any) -> PairwiseCriticTrainer:
    short = {"num_generations": GROUP, "max_completion_length": 32}
    args = config(PairwiseCriticConfig, **(short | settings))
    return PairwiseCriticTrainer(judge_dir, args=args, train_dataset=pairs)


@pytest.mark.parametrize("loss_type", ["dapo", "bnpo"])
def test_the_gradient_is_that_of_the_paper(
    judge_dir: Path, pairs: Dataset, config: Make, loss_type: str
) -> None:
    """Token by token: asymmetric clip, dual clip for negative advantages, k3 with its argument clamped."""
    beta, dual, limit = 0.1, 1.35, 0.3
    trainer = build(
        judge_dir,
        pairs,
        config,
        beta=beta,
        delta=dual,
        kl_clip=limit,
        loss_type=loss_type,
        num_iterations=2,
        per_device_train_batch_size=32,
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer.state.global_step = 1  # the policy is meant to be away from its reference here
    push(trainer.model, 0.1, seed=1)
    rows = next(iter(trainer.get_train_dataloader()))
    output = trainer._generate_and_score_completions(rows)
    mask_NT = output["completion_mask"].bool()
    reference, policy = (AutoModelForCausalLM.from_pretrained(judge_dir) for _ in range(2))
    policy.load_state_dict(trainer.model.state_dict())
    with torch.no_grad():
        old_NT, ref_NT = (plain_logps(m, output) for m in (policy, reference))
    texts = trainer.processing_class.batch_decode(output["completion_ids"], skip_special_tokens=True)
    rewards = [
        0.9 * (f"</think> \\boxed{{{row['label']}}}" in text)
        + 0.1 * text.startswith("<think>Hm.</think> \\boxed{")
        for text, row in zip(texts, rows, strict=True)
    ]
    push(trainer.model, 1.3, seed=2)  # as after some optimizer steps
    policy.load_state_dict(trainer.model.state_dict())
    trainer.model.zero_grad()
    trainer._compute_loss(trainer.model, output).backward()

    logps_NT = plain_logps(policy, output)
    terms, seen = [], set()
    for i in range(len(rewards)):
        group = torch.tensor(rewards[i - i % GROUP : i - i % GROUP + GROUP])
        advantage = (rewards[i] - group.mean().item()) / (group.std().item() + 1e-6)
        for t in torch.nonzero(mask_NT[i]).flatten().tolist():
            ratio = (logps_NT[i, t] - old_NT[i, t]).exp()
            loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.3))
            if advantage < 0:
                loss = torch.minimum(loss, torch.tensor(-advantage * dual))
                seen |= {"dual"} if ratio > dual else set()
            x = (ref_NT[i, t] - logps_NT[i, t]).clamp(-limit, limit)
            seen |= {"clamped"} if x.abs() == limit else {"free"}
            seen |= {"high"} if 1.2 < ratio < 1.3 and advantage > 0 else set()
            terms.append(loss + beta * (x.exp() - x - 1))
    torch.stack(terms).mean().backward()
    assert seen == {"dual", "clamped", "free", "high"}, "otherwise this would prove nothing"
    by_hand = dict(policy.named_parameters())
    ours = {name: p.grad for name, p in trainer.model.named_parameters()}
    norm = torch.stack([grad.norm() for grad in ours.values()]).norm()
    assert norm > 1e-2
    assert max((grad - by_hand[name].grad).abs().max() for name, grad in ours.items()) / norm < 1e-4


def test_it_learns_what_is_rewarded(judge_dir: Path, pairs: Dataset, config: Make, tmp_path: Path) -> None:
    """Where the second response is always better it comes to say so, after a thought."""
    second = pairs.filter(lambda label: label == 2, input_columns="label")
    trainer = build(
        judge_dir, second, config, rl_steps=40, learning_rate=5e-4, generation_batch_size=64, beta=0.0
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "trained"))
    logs = [entry for entry in trainer.state.log_history if "reward" in entry]
    for entry in logs:
        both = 0.9 * entry["reward/r_pref"] + 0.1 * entry["reward/r_format"]
        assert entry["reward"] == pytest.approx(both, abs=1e-5)
    assert logs[0]["reward/r_pref"] < 0.6 and logs[0]["reward/r_format"] < 0.85
    assert logs[-1]["reward/r_pref"] > 0.95 and logs[-1]["reward/r_format"] > 0.95
    assert logs[-1]["critic/said_first"] < 0.05 < 0.2 < logs[0]["critic/said_first"]
    row = pairs[0]  # of those where the first is better
    prompt = COMPACT.pairwise_prompt(row["question"], row["response_1"], row["response_2"])
    (said,) = TransformersActor(tmp_path / "trained").generate([prompt], Sampling(32))
    assert parse_preference(said.text) == 2 != row["label"]


def test_a_thought_that_the_prompt_opens_can_earn_the_whole_reward(
    judge_dir: Path, pairs: Dataset, config: Make, tmp_path: Path
) -> None:
    thinking = retold(judge_dir, tmp_path / "thinking", template=THINKING)
    trainer = build(thinking, pairs, config, rl_steps=3)
    trainer.train()
    table = pd.concat(map(pd.read_parquet, sorted((tmp_path / "run" / "completions").glob("*.parquet"))))
    texts = [turns[0]["content"] for turns in table["completion"]]
    assert all(text.startswith("<think>\n") for text in texts)
    assert table["r_format"].max() == 1.0
    whole = table[(table["r_format"] == 1.0) & (table["r_pref"] == 1.0)]
    assert len(whole) and (whole["pairwise_reward"] == 1.0).all()


def test_format_alone_leaves_the_preference_alone(judge_dir: Path, pairs: Dataset, config: Make) -> None:
    trainer = build(judge_dir, pairs, config, alpha=0.0)
    rows = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    trainer._generate_and_score_completions(rows)
    found = trainer._gathered_rewards.flatten().tolist()
    assert set(found) == {0.0, 1.0}
    assert [m for m in trainer._metrics["train"]["reward/r_format"]] != []


def test_ties_are_left_out_or_named(
    judge_dir: Path, pairs: Dataset, config: Make, caplog: pytest.LogCaptureFixture
) -> None:
    tied = Dataset.from_list([{**row, "label": 0 if i < 5 else row["label"]} for i, row in enumerate(pairs)])
    without = build(judge_dir, tied, config)
    assert 0 not in without.train_dataset["label"]
    assert len(without.train_dataset) == len(tied) - 5 and "left out 5 ties" in caplog.text
    kept = build(judge_dir, tied, config, ties=True)
    assert kept.train_dataset["label"].count(0) == 5
    prompts = [t.train_dataset[0]["prompt"][0]["content"] for t in (without, kept)]
    assert "tie" not in prompts[0] and "tie" in prompts[1]
    reward = kept.reward_funcs[0]
    log: dict[str, Any] = {"log_extra": lambda *_: None, "log_metric": lambda *_: None}
    replies = [r"<think>Same.</think> \boxed{tie}", r"<think>Same.</think> \boxed{1}"]
    shown = {name: ["x", "x"] for name in ("question", "response_1", "response_2")}
    assert reward(replies, label=[0, 0], **shown, **log) == [1.0, 0.1]


def test_the_legacy_reward_is_that_of_the_released_code(config: Make) -> None:
    pytest.importorskip("mathruler", reason='pip install "critique_rl[legacy]"')
    log: dict[str, Any] = {"log_extra": lambda *_: None, "log_metric": lambda *_: None}
    shown = {name: ["x", "x"] for name in ("question", "response_1", "response_2")}
    # An empty thought, and a box inside the thought: both pass there, neither here.
    replies = [r"<think></think>\boxed{1}", r"<think>So \boxed{2}</think> Answer 1"]
    for name, expected in (("legacy", [1.0, 0.9]), ("strict", [0.9, 0.0])):
        reward = PairwiseReward(config(PairwiseCriticConfig, reward=name))
        assert reward(replies, label=[1, 2], **shown, **log) == pytest.approx(expected)


def test_each_rollout_is_written_with_its_rewards(
    judge_dir: Path, pairs: Dataset, config: Make, tmp_path: Path
) -> None:
    build(judge_dir, pairs, config, rl_steps=2).train()
    files = sorted((tmp_path / "run" / "completions").glob("*.parquet"))
    assert len(files) == 2
    asked = {row["question"]: row for row in pairs}
    for row in (row for path in files for row in parquet.read_table(path).to_pylist()):
        pair = asked[row["question"]]
        assert all(row[column] == pair[column] for column in ("response_1", "response_2", "label"))
        named = parse_preference(row["completion"][0]["content"])
        # a column in which some rows have no preference is one of floats
        assert (None if pd.isna(row["preference"]) else row["preference"]) == named
        assert row["r_pref"] == float(named == row["label"])
        assert row["pairwise_reward"] == pytest.approx(0.9 * row["r_pref"] + 0.1 * row["r_format"])
        entry = of_training(row, 0, None)
        assert (entry.verdict_right, entry.expected) == (named == row["label"], f"response {row['label']}")


def test_pairs_of_the_schema_are_taken_as_they_are(judge_dir: Path, config: Make, pairs: Dataset) -> None:
    """What `to_dataset` gives, but for the image, which a model without vision does not take."""
    schema = [
        PreferencePair(str(i), "toy", "x.png", r["question"], r["response_1"], r["response_2"], r["label"])
        for i, r in enumerate(pairs)
    ]
    found = to_dataset(schema)
    trainer = build(judge_dir, found.remove_columns("image"), config)
    shown = trainer.train_dataset[3]["prompt"][0]["content"]
    assert (
        shown
        == COMPACT.pairwise_prompt(pairs[3]["question"], pairs[3]["response_1"], pairs[3]["response_2"])[0][
            "content"
        ]
    )
    with pytest.raises(UserError, match=r"train_dataset has images, but .* is no model with vision"):
        build(judge_dir, found, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 3}, "row 2, column 'label': 3 is none of 1, 2 and 0"),
        ({"response_2": " "}, "row 2, column 'response_2': ' ' is no text"),
    ],
)
def test_a_bad_row_is_named(
    judge_dir: Path, pairs: Dataset, config: Make, change: dict[str, Any], message: str
) -> None:
    rows = list(pairs)
    rows[2] = {**rows[2], **change}
    with pytest.raises(UserError, match=f"train_dataset, {message}"):
        build(judge_dir, Dataset.from_list(rows), config)


def test_a_column_that_is_missing_is_named(judge_dir: Path, pairs: Dataset, config: Make) -> None:
    with pytest.raises(UserError, match=r"train_dataset lacks the column\(s\) label"):
        build(judge_dir, pairs.remove_columns("label"), config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.1}, "alpha=1.1"),
        ({"reward": "lenient"}, "reward='lenient' is none of"),
        ({"reward": "legacy", "ties": True}, "has no label for ties"),
        ({"kl_clip": 0.0}, "kl_clip=0.0 must be above 0"),
        ({"kl_placement": "reward"}, "kl_clip=10.0 .* is for kl_placement='loss' alone"),
    ],
)
def test_settings_without_a_meaning_are_refused(config: Make, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(PairwiseCriticConfig, **settings)


def test_defaults_are_those_of_the_released_scripts(tmp_path: Path) -> None:
    args = PairwiseCriticConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        generation_batch_size=2048,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=256,
    )
    assert args.optimizer_steps_per_rl_step == 2  # 256 prompts x 8, in mini-batches of 128 prompts
    wanted = {
        "learning_rate": 1e-6,
        "num_generations": 8,
        "beta": 0.01,
        "epsilon": 0.2,
        "epsilon_high": 0.3,
        "delta": 3.0,
        "temperature": 1.0,
        "top_p": 0.99,
        "max_completion_length": 2048,
        "weight_decay": 0.01,
        "adam_beta2": 0.999,
        "max_grad_norm": 1.0,
        "num_iterations": 1,
        "use_bias_correction_kl": False,
        "lr_scheduler_type": "constant",
        "alpha": 0.9,
    }
    assert {name: getattr(args, name) for name in wanted} == wanted
