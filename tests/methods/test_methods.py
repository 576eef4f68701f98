"""The baselines on tiny models: what is kept, which way training goes, and that an interruption costs no work."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers import read_jsonl, teach, write_critique, write_response
from transformers import AutoModelForCausalLM, AutoTokenizer

from critique_rl.actors import TransformersActor
from critique_rl.cold_start.sft import fine_tune
from critique_rl.config.data import LengthConfig
from critique_rl.display import Display
from critique_rl.methods import BASELINES, Inputs, baseline
from critique_rl.methods.actor_rl import GRPO, ActorTrainer
from critique_rl.methods.sampling import Draw, JudgedCritique, judged_critiques
from critique_rl.methods.score import TURNS, ScoreConfig, ScoreTrainer, turn_reward
from critique_rl.methods.self_training import CRITIC_COT, SELF_REFINE, SFT, STAR
from critique_rl.methods.super_correct import preference_pairs
from critique_rl.prompts import COMPACT, PAPER, VERDICT_LABEL, PromptSet, Verdict, parse_verdict
from critique_rl.training.stage_config import CritiqueConfig
from critique_rl.types import Conversation, Generation, Problem, Sampling, UserError, child_seed

Make = Callable[..., Any]
MARK = f"{VERDICT_LABEL} Wrong"
FAST = {
    "learning_rate": 3e-3,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "lr_scheduler_type": "constant",
}
RL = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "per_device_train_batch_size": 16,
    "learning_rate": 2e-3,
    "temperature": 1.0,
    "num_iterations": 1,
}


class MarkActor:
    """Refines rightly exactly if the critique holds `MARK`; counts what it is asked."""

    name = "mark"

    def __init__(self, pool: Dataset) -> None:
        self.answers = {row["question"]: row["answer"] for row in pool}
        self.asked = 0

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        assert sampling.temperature == 0
        self.asked += len(prompts)
        found = [self.answers[p[0]["content"]] if MARK in p[2]["content"] else "99" for p in prompts]
        return [Generation(f"The answer is {answer}", 5, 5, False) for answer in found]


class Noted(Display):
    """A display that hands progress on."""

    def __init__(self, note: Callable[..., None]) -> None:
        super().__init__(quiet=True)
        self.take = note

    def advance(self, done: int, total: int, note: str = "") -> None:
        self.take(done, total, note)


@pytest.fixture
def inputs(critic_dir: Path, pool: Dataset, tmp_path: Path) -> Callable[..., Inputs]:
    actor = MarkActor(pool)

    def make(**changes: Any) -> Inputs:
        defaults: dict[str, Any] = {
            "start": str(critic_dir),
            "output": tmp_path / "out",
            "load_actor": lambda: actor,
            "load_pool": lambda: pool,
            "prompts": COMPACT,
            "lengths": LengthConfig(response=12, critique=20, refinement=12),
            "seed": 0,
            "options": {},
        }
        return Inputs(**(defaults | changes))

    return make


def judged(
    question: str,
    critique: str,
    *,
    o: bool,
    verdict: Verdict,
    after: bool | None,
    response: str = "y",
    prompts: PromptSet = COMPACT,
) -> JudgedCritique:
    response = prompts.reasoning_prefill + response
    return JudgedCritique("toy", question, response, o, critique, verdict.value, f"refined {critique}", after)


RIGHT, WRONG, NONE = Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSED
TABLE = [
    # critique, response right, verdict, refinement right; kept by star; by critic_cot
    (judged("a", "1", o=True, verdict=RIGHT, after=True), True, True),
    (judged("a", "2", o=True, verdict=WRONG, after=True), True, False),
    (judged("a", "3", o=True, verdict=RIGHT, after=False), False, False),
    (judged("a", "4", o=True, verdict=NONE, after=True), True, False),
    (judged("a", "5", o=True, verdict=RIGHT, after=None), False, False),  # could not be graded
    (judged("b", "6", o=False, verdict=WRONG, after=True), True, True),
    (judged("b", "7", o=False, verdict=RIGHT, after=True), True, False),
    (judged("b", "8", o=False, verdict=WRONG, after=False), False, False),
]


def load(directory: Path | str) -> tuple[Any, Any]:
    return AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory)


def sequence_logp(loaded: tuple[Any, Any], prompt: Conversation, reply: str) -> float:
    """Log-probability of a reply and its end, from nothing but the model's logits."""
    tokenizer, model = loaded
    asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    told = tokenizer(reply)["input_ids"] + [tokenizer.eos_token_id]
    with torch.no_grad():
        logps = model(input_ids=torch.tensor([asked + told])).logits.log_softmax(-1)[0]
    return sum(logps[len(asked) - 1 + t, token].item() for t, token in enumerate(told))


# -- names and options ------------------------------------------------------------------------------------


def test_every_baseline_is_found_and_has_defaults_that_pass_its_own_check() -> None:
    assert len(BASELINES) == 9
    for name in BASELINES:
        baseline(name).check({})
    with pytest.raises(UserError, match=r"no method 'stra'. Did you mean 'star'\?"):
        baseline("stra")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("star", {"iteration": 2}, "star: setting 'iteration' is unknown. Did you mean 'iterations'"),
        ("star", {"iterations": 0}, "star: iterations must be at least 1, got 0"),
        ("star", {"iterations": 2.5}, "star: iterations must be int"),
        ("star", {"problems": 0}, "samples and problems must be at least 1"),
        ("star", {"temperature": 0.0}, "it must be positive"),
        ("star", {"sft": [1]}, "sft must be a mapping"),
        ("critic_cot", {"sft": {"epochs": 1}}, "critic_cot: sft: .*epochs"),
        ("self_refine", {"sft": {"lr_scheduler_type": "cosin"}}, "self_refine: sft: .*cosin"),
        ("super_correct", {"samples": 1}, "samples=1 at least 2"),
        ("super_correct", {"dpo": {"betta": 1.0}}, "super_correct: dpo: setting 'betta' is unknown.*'beta'"),
        ("actor_rl", {"rl_step": 5}, "actor_rl: setting 'rl_step' is unknown. Did you mean 'rl_steps'"),
        ("actor_rl", {"beta_1": 0.2}, "actor_rl: beta_1 cannot be set here"),
        ("actor_rl", {"oracle_noise": 0.2}, "actor_rl: oracle_noise cannot be set here"),
        ("actor_rl", {"max_steps": 5}, "max_steps cannot be set here. Set rl_steps"),
        ("actor_rl", {"checkpoint_rl_steps": 0}, "checkpoint_rl_steps must be a whole number"),
        ("actor_rl", {"num_generations": 3}, "actor_rl: "),
        ("actor_rl", {"alpha": 10.0}, "setting 'alpha' is unknown"),
        ("score", {"beta": 0.0}, "score: SCoRe weighs the KL by turn"),
        ("score", {"alpha": -1.0}, "must not be negative"),
        ("score", {"stage": 2}, "both stages are run"),
        ("score", {"use_vllm": True, "vllm_mode": "server"}, "a prompt of its own.*vllm_mode='colocate'"),
    ],
)
def test_bad_options_are_refused_with_what_to_do(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        baseline(name).check(options)


@pytest.mark.parametrize(
    "launch",
    [
        {"ACCELERATE_USE_FSDP": "true"},
        {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
    ],
)
def test_score_is_refused_where_the_launch_cuts_weights_into_parts(
    launch: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"score: .*(FSDP|ZeRO-3) leaves it a part.*launch/ddp\.yaml"):
        baseline("score").check({})


def test_supervised_baselines_refuse_an_adapter(inputs: Make, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    for name in ("star", "super_correct", "score", "label_sft"):
        with pytest.raises(UserError, match=r"is an adapter.*merge"):
            baseline(name).train(inputs(start=str(tmp_path)))


# -- the filter -------------------------------------------------------------------------------------------


def test_each_filter_keeps_exactly_what_it_should() -> None:
    rows = [row for row, _, _ in TABLE]
    for method, column in ((STAR, 1), (CRITIC_COT, 2)):
        kept = method.select(rows, balanced=False, seed=0)
        assert [c.critique for c in kept] == [entry[0].critique for entry in TABLE if entry[column]]
    # star keeps three of right and two of wrong responses; one of the three goes.
    balanced = STAR.select(rows, balanced=True, seed=0)
    assert Counter(c.response_correct for c in balanced) == {True: 2, False: 2}
    assert balanced == STAR.select(rows, balanced=True, seed=0)


def test_nothing_kept_or_one_class_kept_is_refused() -> None:
    with pytest.raises(UserError, match="keeps none of 1 critiques: draw more `samples`"):
        STAR.select([TABLE[2][0]], balanced=False, seed=0)
    with pytest.raises(UserError, match=r"1 right and 0 wrong.*or set `balanced: false`"):
        STAR.select([TABLE[0][0]], balanced=True, seed=0)


def test_critiques_are_drawn_judged_and_written_once(inputs: Make, tmp_path: Path) -> None:
    given = inputs()
    path = tmp_path / "critiques.jsonl"
    found = judged_critiques(given, given.start, path, Draw(samples=2, temperature=1.0, problems=30), seed=3)
    assert len({(c.question, c.response) for c in found}) > 25  # of 30 rows; cut critiques are left out
    assert len({(c.question, c.response, c.critique) for c in found}) == len(found) == given.actor.asked
    for c in found:
        assert c.refinement_correct is (MARK in c.critique) is c.refines
        assert c.verdict == parse_verdict(c.critique)
        assert c.judges is ((c.verdict == "correct") if c.response_correct else (c.verdict == "wrong"))
    assert {c.refines for c in found} == {c.judges for c in found} == {True, False}
    again = judged_critiques(given, "no such model", path, Draw(), seed=3)
    assert (again, given.actor.asked) == (found, len(found))


def test_a_critique_that_was_cut_is_not_learned_from(inputs: Make, tmp_path: Path) -> None:
    given = inputs(lengths=LengthConfig(response=12, critique=3, refinement=12))
    draw = Draw(samples=1, problems=5)
    assert judged_critiques(given, given.start, tmp_path / "c.jsonl", draw, seed=0) == []


@pytest.mark.parametrize("prompts", [COMPACT, PAPER], ids=lambda p: p.name)
def test_self_refine_learns_all_three_turns(prompts: PromptSet) -> None:
    kept = [
        judged("a", "c1", o=True, verdict=RIGHT, after=True, prompts=prompts),
        judged("a", "c2", o=True, verdict=RIGHT, after=True, prompts=prompts),
        judged("b", "c3", o=False, verdict=WRONG, after=True, prompts=prompts),
    ]
    found = [(len(e["prompt"]), e["completion"][0]["content"]) for e in SELF_REFINE.examples(kept, prompts)]
    first, second = prompts.reasoning_prefill, prompts.refinement_prefill
    assert found == [
        *((1, c) for c in ("c1", "c2", "c3")),
        (1, first + "y"),  # once, and not the wrong response to b
        *((3, f"{second}refined {c}") for c in ("c1", "c2", "c3")),
    ]
    assert [len(e["prompt"]) for e in STAR.examples(kept, prompts)] == [1, 1, 1]


# -- self-training ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_star_learns_what_it_keeps_from_the_start_again_and_goes_on(inputs: Make) -> None:
    options = {"iterations": 2, "samples": 2, "temperature": 1.0, "problems": 40}
    notes: list[tuple[int, int]] = []
    given = inputs(
        options={**options, "sft": {**FAST, "num_train_epochs": 3}},
        display=Noted(lambda done, total, note: notes.append((done, total))),
    )
    STAR.train(given)
    rounds = [read_jsonl(given.output / f"iteration{i}" / "critiques.jsonl") for i in (0, 1)]
    marked = [sum(MARK in row["critique"] for row in rows) / len(rows) for rows in rounds]
    assert marked[1] > marked[0] + 0.2  # the second round was drawn by a critic that learned the first
    assert notes == [(1, 2), (2, 2)]
    kept = [row for row in rounds[1] if row["refinement_correct"]]
    other = [row for row in rounds[0] if not row["refinement_correct"]]
    models = load(given.start), load(given.output)
    for rows, sign in ((kept[:10], 1), (other[:10], -1)):
        change = 0.0
        for row in rows:
            prompt = COMPACT.critique_prompt(row["question"], row["response"])
            before, after = (sequence_logp(m, prompt, row["critique"]) for m in models)
            change += after - before
        assert sign * change > 0
    # The last model is the start, fine-tuned on what the last round kept, and nothing else.
    seed = child_seed(given.seed, "star", 1)
    selected = STAR.select([JudgedCritique(**row) for row in rounds[1]], balanced=True, seed=seed)
    examples = STAR.examples(selected, COMPACT)
    alone = given.output.parent / "alone"
    fine_tune(given.start, examples, alone, seed=seed, options=SFT | given.options["sft"])
    weights = (given.output / "model.safetensors").read_bytes()
    assert (alone / "model.safetensors").read_bytes() == weights

    # Interrupted in the second fine-tuning: no critique is drawn, no finished iteration trained again.
    made = (given.output / "iteration0" / "model" / "model.safetensors").stat().st_mtime_ns
    (given.output / "model.safetensors").unlink()
    (given.output / "iteration1" / "model").rename(given.output / "iteration1" / "model.new")
    (given.output / "iteration1" / "model.new" / "model.safetensors").write_bytes(b"half")
    asked = given.actor.asked
    STAR.train(given)
    assert given.actor.asked == asked
    assert (given.output / "iteration0" / "model" / "model.safetensors").stat().st_mtime_ns == made
    assert (given.output / "model.safetensors").read_bytes() == weights
    AutoTokenizer.from_pretrained(given.output)


# -- preference pairs -------------------------------------------------------------------------------------


def test_pairs_are_the_right_way_round_and_hold_no_critique_twice() -> None:
    # Response a: chosen 1; rejected 2 (verdict), 3 (refinement), 4 (unparsed); 5 could not be graded.
    # Response b: chosen 6; rejected 7, 8.
    more = judged("a", "9", o=True, verdict=RIGHT, after=True)
    pairs = preference_pairs([*(row for row, _, _ in TABLE), more], COMPACT, most=2)
    assert [(p["prompt"], p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs] == [
        (COMPACT.critique_prompt("a", "y"), "1", "2"),
        (COMPACT.critique_prompt("a", "y"), "9", "3"),
        (COMPACT.critique_prompt("b", "y"), "6", "7"),
    ]
    assert len(preference_pairs([row for row, _, _ in TABLE], COMPACT, most=1)) == 2
    assert preference_pairs([TABLE[0][0], TABLE[5][0]], COMPACT, most=1) == []  # of two responses


@pytest.mark.slow
def test_super_correct_prefers_the_chosen_critiques(inputs: Make) -> None:
    options = {"samples": 4, "temperature": 1.0, "problems": 40}
    given = inputs(options={**options, "dpo": {**FAST, "learning_rate": 1e-3, "num_train_epochs": 2}})
    baseline("super_correct").train(given)
    judged = [JudgedCritique(**row) for row in read_jsonl(given.output / "critiques.jsonl")]
    pairs = preference_pairs(judged, COMPACT, most=2)
    assert len(pairs) > 10
    margins = [
        sum(
            sequence_logp(m, p["prompt"], p["chosen"][0]["content"])
            - sequence_logp(m, p["prompt"], p["rejected"][0]["content"])
            for p in pairs[:10]
        )
        for m in (load(given.start), load(given.output))
    ]
    assert margins[1] > margins[0] + 10  # nats, over ten pairs


def test_super_correct_without_a_pair_says_so(inputs: Make, pool: Dataset) -> None:
    given = inputs(options={"samples": 2, "problems": 2})
    given.actor.answers = dict.fromkeys(given.actor.answers, "99")  # no refinement is ever right
    with pytest.raises(UserError, match="no response has both a right and a wrong one"):
        baseline("super_correct").train(given)


@pytest.fixture(scope="module")
def few(pool: Dataset) -> Dataset:
    """Both responses to eight questions, so that a tiny model soon knows which of two answers is right."""
    questions = sorted(set(pool["question"]))[:8]
    return pool.filter(lambda row: row["question"] in questions)


@pytest.fixture(scope="module")
def solo_dir(tmp_path_factory: pytest.TempPathFactory, problems: list[Problem], few: Dataset) -> Path:
    """One model for all three turns: its responses and its critiques are right half of the time."""
    rng, chats = random.Random(2), list[tuple[Conversation, str]]()
    for problem in [p for p in problems if p.question in set(few["question"])] * 12:
        answer = int(problem.answer)
        response, said = write_response(problem, rng.choice([0, answer])), rng.choice([0, answer])
        critique = write_critique(response, said, rng.choice(["Correct", "Wrong"]))
        refined = write_response(problem, said)
        chats += [
            (COMPACT.reasoning_prompt(problem.question), response),
            (COMPACT.critique_prompt(problem.question, response), critique),
            (COMPACT.refinement_prompt(problem.question, response, critique), refined),
        ]
    directory = tmp_path_factory.mktemp("models") / "solo"
    teach(directory, chats, seed=2, steps=100)
    return directory


# -- RL of the actor --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_actor_rl_raises_the_share_of_right_responses(inputs: Make, solo_dir: Path, few: Dataset) -> None:
    notes: list[tuple[int, int, str]] = []
    given = inputs(
        start=str(solo_dir),
        load_pool=lambda: few,
        options={
            **RL,
            "rl_steps": 7,
            "learning_rate": 1e-3,
            "num_generations": 8,
            "per_device_train_batch_size": 32,
        },
        display=Noted(lambda *note: notes.append(note)),
    )
    baseline("actor_rl").train(given)
    asked = [COMPACT.reasoning_prompt(row["question"]) for row in few] * 8

    def accuracy(directory: Path | str) -> float:
        replies = TransformersActor(str(directory)).generate(asked, Sampling(12, 1.0, seed=5))
        right = [g.text.endswith(f"is {a}") for g, a in zip(replies, few["answer"][:] * 8, strict=True)]
        return sum(right) / len(right)

    before, after = accuracy(given.start), accuracy(given.output)
    assert 0.2 < before < after - 0.2
    assert [note[:2] for note in notes] == [(i, 7) for i in range(1, 8)]


@pytest.mark.slow
def test_actor_rl_goes_on_from_its_last_checkpoint(
    inputs: Make, solo_dir: Path, few: Dataset, tmp_path: Path
) -> None:
    options = {**RL, "rl_steps": 4, "checkpoint_rl_steps": 1, "save_total_limit": 5}  # two epochs of `few`
    whole = inputs(start=str(solo_dir), load_pool=lambda: few, options=options, output=tmp_path / "whole")
    baseline("actor_rl").train(whole)
    halves = replace(whole, output=tmp_path / "halves")
    baseline("actor_rl").train(halves)
    (halves.output / "checkpoint-4" / "trainer_state.json").unlink()  # killed while it was written
    notes: list[int] = []
    baseline("actor_rl").train(replace(halves, display=Noted(lambda done, total, note: notes.append(done))))
    assert notes == [4]
    one, other = ((g.output / "model.safetensors").read_bytes() for g in (whole, halves))
    assert one == other


@pytest.mark.parametrize("prompts", [COMPACT, PAPER], ids=lambda p: p.name)
def test_the_actor_is_asked_with_its_prefill_and_graded_with_it(
    prompts: PromptSet, solo_dir: Path, few: Dataset, config: Make
) -> None:
    trainer = ActorTrainer(
        str(solo_dir), args=config(CritiqueConfig, **GRPO, prompts=prompts.name), train_dataset=few
    )
    questions = trainer.train_dataset["question"]
    assert len(questions) == len(set(questions)) == len(set(few["question"]))
    asked = trainer.train_dataset["prompt"][:3]
    ids, _, _ = trainer._tokenize_prompts(asked)
    frozen = TransformersActor(str(solo_dir))
    for found, question in zip(ids, questions, strict=False):
        text = trainer.processing_class.decode(found)
        assert text == frozen.render(prompts.reasoning_prompt(question))
        assert text.endswith("assistant\n" + prompts.reasoning_prefill)


def test_the_oracle_reward_knows_right_wrong_and_ungradable(
    solo_dir: Path, few: Dataset, config: Make
) -> None:
    trainer = ActorTrainer(str(solo_dir), args=config(CritiqueConfig, **GRPO), train_dataset=few)
    logged: list[tuple[str, float]] = []
    rewards = trainer.reward(
        [[{"content": f"The answer is {value}"}] for value in ("7", "8", "7")],
        answer=["7", "7", "no number"],
        kind=["number"] * 3,
        log_metric=lambda name, value: logged.append((name, value)),
    )
    assert rewards == [1.0, 0.0, None]
    assert [value for _, value in logged] == [1.0, 1.0, 0.0]
    assert trainer.reward_func_names == ["r_oracle"]


# -- SCoRe ------------------------------------------------------------------------------------------------


def score_trainer(solo: Path, few: Dataset, config: Make, **settings: Any) -> ScoreTrainer:
    defaults = {"response_max_tokens": 12, "refinement_max_tokens": 12, "num_iterations": 1}
    args = config(ScoreConfig, **(defaults | settings))
    trainer = ScoreTrainer(str(solo), args=args, train_dataset=few)
    trainer.model.train()
    return trainer


@pytest.mark.parametrize(
    ("turn", "before", "after", "stage", "expected"),
    [
        ("response", None, True, 1, 0.0),  # held, not rewarded
        ("response", None, None, 1, 0.0),
        ("refinement", False, True, 1, 1.0),
        ("critique", True, False, 1, 0.0),
        ("refinement", None, True, 1, 1.0),  # stage one does not ask what the response was
        ("response", None, True, 2, 1.0),
        ("critique", False, True, 2, 11.0),  # 1 + 10 (1 - 0)
        ("refinement", True, True, 2, 1.0),  # 1 + 10 (1 - 1)
        ("refinement", True, False, 2, -10.0),  # 0 + 10 (0 - 1)
        ("refinement", None, True, 2, None),
        ("critique", True, None, 2, None),
    ],
)
def test_the_reward_of_each_turn(
    turn: str, before: bool | None, after: bool | None, stage: int, expected: float | None
) -> None:
    assert turn_reward(turn, before, after, stage=stage, alpha=10.0) == expected


def test_the_turns_before_the_trained_one_are_drawn_for_each_member_of_a_group(
    solo_dir: Path, few: Dataset, config: Make
) -> None:
    trainer = score_trainer(solo_dir, few, config)
    assert Counter(trainer.train_dataset["turn"]) == dict.fromkeys(TURNS, len(set(few["question"])))
    question = few["question"][0]
    asked = [row for row in trainer.train_dataset if row["question"] == question]
    rows = trainer.unrolled([row for row in asked for _ in range(8)])
    assert [row["turn"] for row in rows] == [turn for turn in TURNS for _ in range(8)]
    for row in rows[:8]:
        assert row["prompt"] == COMPACT.reasoning_prompt(question)
    for row in rows[8:]:
        right = row["response"].endswith(f"is {row['answer']}")
        assert row["response_correct"] is right
    for row in rows[8:16]:
        assert row["prompt"] == COMPACT.critique_prompt(question, row["response"])
    for row in rows[16:]:
        assert row["prompt"] == COMPACT.refinement_prompt(question, row["response"], row["critique"])
        assert row["critique"].startswith("Step sentence: ")
    heads = [row for row in trainer.train_dataset if row["turn"] == "critique"]
    rows = trainer.unrolled([row for row in heads for _ in range(4)])
    groups = [rows[i : i + 4] for i in range(0, len(rows), 4)]
    assert any(len({row["response_correct"] for row in group}) == 2 for group in groups)


def test_stage_one_holds_the_response_by_its_own_weight(solo_dir: Path, few: Dataset, config: Make) -> None:
    settings = {"beta": 0.02, "beta_first": 0.5, "num_generations": 4}
    trainer = score_trainer(solo_dir, few, config, **settings)
    with torch.no_grad():  # away from the start, or every KL is 0
        for parameter in trainer.model.parameters():
            parameter.mul_(1.02)
    trainer._anchor_checked = True
    row = next(iter(trainer.train_dataset))
    rows = [row | {"turn": turn} for turn in TURNS for _ in range(4)]
    output = trainer._generate_and_score_completions(rows)
    mask_NT = output["completion_mask"]
    k1_NT = (trainer._old_logps(output) - output["ref_per_token_logps"]) * mask_NT
    to_go_NT = torch.stack([k1_NT[:, t:].sum(1) for t in range(mask_NT.size(1))], dim=1)
    assert to_go_NT[:4].abs().max() > 0.01
    # No reward: what is left of a response is its KL, with the weight of the first turn.
    torch.testing.assert_close(output["advantages"][:4], -0.5 * to_go_NT[:4] * mask_NT[:4])
    rest = output["advantages"][4:] + 0.02 * to_go_NT[4:] * mask_NT[4:]
    for i in range(8):  # the reward's part is one number on all tokens of a sequence
        values = rest[i][mask_NT[4 + i].bool()]
        torch.testing.assert_close(values, values[:1].expand_as(values), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_stage_two_raises_the_accuracy_of_the_second_turn(solo_dir: Path, few: Dataset, config: Make) -> None:
    settings = {"stage": 2, "alpha": 1.0, "rl_steps": 20, "num_generations": 8}
    trainer = score_trainer(solo_dir, few, config, **settings, per_device_train_batch_size=64)
    trainer.train()
    found = [row["actor/acc_refine"] for row in trainer.state.log_history if "actor/acc_refine" in row]
    assert sum(found[-8:]) / 8 > sum(found[:2]) / 2 + 0.15, found


@pytest.mark.slow
def test_score_runs_both_stages_and_does_not_repeat_the_first(
    inputs: Make, solo_dir: Path, few: Dataset
) -> None:
    notes: list[tuple[int, int]] = []
    given = inputs(
        start=str(solo_dir),
        load_pool=lambda: few,
        options={**RL, "rl_steps": 2, "first_rl_steps": 1},
        display=Noted(lambda done, total, note: notes.append((done, total))),
    )
    baseline("score").train(given)
    assert notes == [(1, 1), (1, 2), (2, 2)]
    start, first, last = (
        AutoModelForCausalLM.from_pretrained(d).lm_head.weight
        for d in (given.start, given.output / "first", given.output)
    )
    assert not first.equal(start) and not last.equal(first)
    (given.output / "trainer_state.json").unlink()
    (given.output / "model.safetensors").unlink()
    for name in ("trainer_state.json", "manifest.json"):
        for path in given.output.glob(f"checkpoint-*/{name}"):
            path.unlink()
    notes.clear()
    baseline("score").train(given)
    assert notes == [(1, 2), (2, 2)]
    assert AutoModelForCausalLM.from_pretrained(given.output).lm_head.weight.equal(last)
    weights = given.output / "first" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(
        UserError, match=r"first is not as it was left: model.safetensors has other content. Delete"
    ):
        baseline("score").train(given)
