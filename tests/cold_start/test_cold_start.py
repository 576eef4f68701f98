"""Supervised fine-tuning: the texts, the filter, and a loss on the completions only."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers import CHATML, ToyActor, retold
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTTrainer

from critique_rl.actors import TransformersActor, decoding
from critique_rl.cold_start.completion_head import CompletionSFTTrainer
from critique_rl.cold_start.sft import (
    actor_examples,
    base_examples,
    critic_examples,
    example,
    fine_tune,
    sft_args,
    sft_dataset,
)
from critique_rl.cold_start.teachers import ModelTeacher, ReferenceTeacher, ScriptedTeacher
from critique_rl.cold_start.tiny import save_untrained
from critique_rl.grading import grade
from critique_rl.prompts import COMPACT, PAPER, PROMPT_SETS, PromptSet, Verdict, parse_verdict
from critique_rl.tasks import load_task
from critique_rl.tasks.modular_chain_teacher import Annotator, Solver
from critique_rl.types import NO_REPLY, Conversation, Generation, Problem, Sampling, UserError

DRAW = Sampling(20, 0.7)
FAST = {"learning_rate": 5e-3, "per_device_train_batch_size": 8, "gradient_checkpointing": False}


def toy_actor(rule: Callable[[int, bool], str]) -> ToyActor:
    """Replies by a rule: on the number in the question, and on whether the prompt asks for a refinement."""

    def reply(prompt: Conversation) -> str:
        number = int(prompt[0]["content"].split("apples")[0].split()[-1])
        return rule(number, sum(message["role"] == "user" for message in prompt) > 1)

    return ToyActor(reply)


class ToyTeacher(ReferenceTeacher):
    """Critiques that name their problem; refinements that are right on even numbers."""

    def critique(
        self, problems: Sequence[Problem], responses: Sequence[str], *, seed: int, polished: bool
    ) -> list[str]:
        return [f"Critique of {p.id}" for p in problems]

    def refine(
        self, problems: Sequence[Problem], responses: Sequence[str], critiques: Sequence[str], *, seed: int
    ) -> list[str]:
        return [f"The answer is {p.answer if i % 2 == 0 else 99}." for i, p in enumerate(problems)]


@pytest.fixture
def apples() -> list[Problem]:
    return [
        Problem(
            f"p{i}", "toy", f"Tom has {i} apples and gets one.", f"{i} + 1 = {i + 1}", str(i + 1), "number"
        )
        for i in range(12)
    ]


def texts(found: dict[str, Conversation]) -> tuple[list[str], str]:
    return [m["content"] for m in found["prompt"]], found["completion"][0]["content"]


# -- formats ----------------------------------------------------------------------------------------------


def test_a_prefill_moves_from_the_prompt_to_the_completion() -> None:
    user: Conversation = [{"role": "user", "content": "Q"}]
    with_prefill = example([*user, {"role": "assistant", "content": "Let's go: "}], "42")
    assert with_prefill == {"prompt": user, "completion": [{"role": "assistant", "content": "Let's go: 42"}]}
    assert example(user, "42") == {"prompt": user, "completion": [{"role": "assistant", "content": "42"}]}


@pytest.mark.parametrize("prompts", PROMPT_SETS.values(), ids=lambda p: p.name)
def test_actor_examples_are_what_the_actor_will_be_asked_and_should_say(
    apples: list[Problem], prompts: PromptSet
) -> None:
    drafts = ["A draft." for _ in apples]
    found = actor_examples(apples, drafts, ToyTeacher(), prompts, refinements=6, keep_wrong=False, seed=0)
    reasoning, refinements = found[:12], found[12:]
    asked, said = texts(reasoning[3])
    assert asked == [prompts.reasoning_prompt(apples[3].question)[0]["content"]]
    assert said == prompts.reasoning_prefill + "3 + 1 = 4\nThe answer is 4."
    # Of the first six problems, the refinements of 0, 2 and 4 are right.
    assert len(refinements) == 3
    asked, said = texts(refinements[1])
    assert [m["role"] for m in refinements[1]["prompt"]] == ["user", "assistant", "user"]
    assert asked[1] == prompts.reasoning_prefill + "A draft."
    assert "Critique of p2" in asked[2]
    assert said == prompts.refinement_prefill + "The answer is 3."
    every = actor_examples(apples, drafts, ToyTeacher(), prompts, refinements=6, keep_wrong=True, seed=0)
    assert len(every) == 12 + 6


def test_texts_that_a_server_failed_to_send_teach_nothing(apples: list[Problem]) -> None:
    class Served(ToyActor):
        def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
            return [NO_REPLY, *super().generate(prompts[1:], sampling)]

    teacher = ModelTeacher(Served(lambda _: "The answer is 3."), COMPACT, max_tokens=9, temperature=0.7)
    found = actor_examples(
        apples, ["", *["A draft."] * 11], teacher, COMPACT, refinements=3, keep_wrong=True, seed=0
    )
    assert len(found) == 12 + 2


# -- the filter -------------------------------------------------------------------------------------------


def right(i: int) -> str:
    return f"The answer is {i + 1}."


@pytest.mark.parametrize("prompts", PROMPT_SETS.values(), ids=lambda p: p.name)
def test_exactly_the_critiques_before_a_right_refinement_are_kept(
    apples: list[Problem], prompts: PromptSet
) -> None:
    # Responses to 0..5 are right, to 6..11 wrong; refinements are right for multiples of three: 0, 3, 6, 9.
    actor = toy_actor(
        lambda i, refining: right(i) if (i % 3 == 0 if refining else i < 6) else "The answer is 99."
    )
    found = critic_examples(apples, actor, ToyTeacher(), prompts, response=DRAW, refinement=DRAW, seed=0)
    assert sorted(texts(e)[1] for e in found) == [f"Critique of p{i}" for i in (0, 3, 6, 9)]
    for e in found:
        i = int(texts(e)[1].removeprefix("Critique of p"))
        response = right(i) if i < 6 else "The answer is 99."
        assert e["prompt"] == prompts.critique_prompt(
            apples[i].question, prompts.reasoning_prefill + response
        )
    assert "Critique of p7" in actor.asked[12 + 7][2]["content"]  # the actor refined after the critique


def test_kept_critiques_are_balanced_between_right_and_wrong_responses(apples: list[Problem]) -> None:
    # Nine right and three wrong responses, all refined rightly.
    actor = toy_actor(lambda i, refining: right(i) if refining or i < 9 else "The answer is 99.")
    found = critic_examples(apples, actor, ToyTeacher(), COMPACT, response=DRAW, refinement=DRAW, seed=0)
    kept = Counter(int(texts(e)[1].removeprefix("Critique of p")) < 9 for e in found)
    assert kept == {True: 3, False: 3}


@pytest.mark.parametrize(
    ("rule", "counts"),
    [
        (lambda i, refining: "The answer is 99." if refining else right(i), "0 were followed"),
        (
            lambda i, refining: right(i),
            "12 were followed by a right refinement; 12 right and 0 wrong responses",
        ),
    ],
)
def test_nothing_or_one_class_kept_is_refused(apples: list[Problem], rule: Callable, counts: str) -> None:
    with pytest.raises(UserError, match=f"critic SFT: of 12 critiques, {counts}"):
        critic_examples(
            apples, toy_actor(rule), ToyTeacher(), COMPACT, response=DRAW, refinement=DRAW, seed=0
        )


# -- teachers ---------------------------------------------------------------------------------------------


def test_the_model_teacher_asks_a_model_and_shows_it_no_gold_answer(apples: list[Problem]) -> None:
    model = toy_actor(lambda i, refining: "refined" if refining else "criticised")
    teacher = ModelTeacher(model, PAPER, max_tokens=9, temperature=0.7)
    assert teacher.solve(apples[:1], seed=0) == ["0 + 1 = 1\nThe answer is 1."]
    critiques = teacher.critique(apples, ["My draft."] * 12, seed=0, polished=False)
    refined = teacher.refine(apples, ["My draft."] * 12, critiques, seed=0)
    assert (set(critiques), set(refined)) == ({"criticised"}, {"refined"})
    assert not any(p.solution in m["content"] for p in apples for prompt in model.asked for m in prompt)


def test_the_reference_teacher_flags_the_first_line_that_the_gold_reasoning_does_not_bear_out() -> None:
    problem = Problem("p", "toy", "A tray holds 6 cups, 4 trays?", "6 * 4 = 24", "24", "number")
    teacher = ReferenceTeacher()
    responses = [
        "6 * 4 = 25\nThe answer is 25",
        "6 * 4 = 24\nThe answer is 24",
        "6 * 4 = 24\nThe answer is 25",
        "25",
    ]
    wrong, fine, slip, bare = teacher.critique([problem] * 4, responses, seed=0, polished=False)
    assert parse_verdict(wrong) is Verdict.WRONG and wrong.count("Step sentence:") == 1
    assert parse_verdict(fine) is Verdict.CORRECT and fine.count("Correctness of the step: Correct") == 1
    # The answer is no step of its own, unless there is nothing else.
    assert parse_verdict(slip) is Verdict.WRONG and "Correctness of the step: Wrong" not in slip
    assert bare.count("Step sentence:") == 1 and parse_verdict(bare) is Verdict.WRONG
    for critique in (wrong, fine, slip, bare):  # solves first, judges then, and solves once
        solved = critique.index("Explanation: It should be: 6 * 4 = 24 The answer is 24.")
        assert solved < critique.index("Correctness of the step:") and critique.count("Explanation") == 1
    steps = "He has 6.\nThat makes 4 + 6 = 11.\nSo 24.\nThe answer is 24."
    (several,) = teacher.critique([problem], [steps], seed=0, polished=False)
    assert several.count("Step sentence:") == 2 and parse_verdict(several) is Verdict.WRONG


def test_every_other_draft_of_the_reference_teacher_has_a_wrong_result() -> None:
    solutions = {
        "6 * 4 = 24": "24",
        "He has 6 - 2 = $4 left.": "4",
        "Half of 10 is 5.": "5",
        "8 / 3 = 2.5": "2.5",
    }
    problems = [Problem(s, "toy", "?", s, a, "number") for s, a in solutions.items() for _ in range(2)]
    problems += [Problem(str(i), "toy", "?", "x + y", "x + y", "math") for i in range(2)]
    drafts = ReferenceTeacher().draft(problems, seed=0)
    assert drafts[1::2] == ReferenceTeacher().solve(problems, seed=0)[1::2]
    grades = [grade(gold=p.answer, reply=y, kind=p.kind) for p, y in zip(problems, drafts, strict=True)]
    assert grades[::2] == [False] * 4 + [True]  # no number, no other result
    # Another operation, with its own result, and the same value in both lines.
    first = drafts[0].split("\n")
    sign, value = re.fullmatch(r"6 ([-+/*]) 4 = (\d+)", first[0]).groups()
    assert sign in "+-" and int(value) == {"+": 10, "-": 2}[sign] and first[1] == f"The answer is {value}."
    assert drafts[2].startswith("He has 6 ") and "4" not in drafts[2]
    assert drafts[0] != drafts[1] and drafts == ReferenceTeacher().draft(problems, seed=0)


def test_the_scripted_teacher_without_faults_makes_none_and_with_faults_does() -> None:
    problems = load_task("modular_chain", split="train", steps=3, size=200)[:100]
    flawless = ScriptedTeacher(Solver(), Annotator(), Annotator())
    faulty = ScriptedTeacher(Solver(wrong_facts=0.3, conviction=0.9), Annotator(miss=0.5), Annotator())
    solved, drafts = flawless.solve(problems, seed=0), faulty.solve(problems, seed=0)
    assert solved == [p.solution for p in problems]
    marks = [
        bool(grade(gold=p.answer, reply=y, kind="number")) for p, y in zip(problems, drafts, strict=True)
    ]
    assert 20 < sum(marks) < 80
    verdicts = [parse_verdict(c) for c in flawless.critique(problems, drafts, seed=0, polished=False)]
    # Two wrong steps may cancel out, so the verdict goes by the steps and not by the answer.
    assert [v is Verdict.CORRECT for v in verdicts] == [
        y == p.solution for p, y in zip(problems, drafts, strict=True)
    ]
    unreliable = [parse_verdict(c) for c in faulty.critique(problems, drafts, seed=0, polished=False)]
    assert sum(v is Verdict.CORRECT for v in unreliable) > sum(marks) + 5
    refined = flawless.refine(
        problems, drafts, flawless.critique(problems, drafts, seed=0, polished=False), seed=0
    )
    assert refined == solved
    assert faulty.solve(problems, seed=0) == drafts != faulty.solve(problems, seed=1)


# -- training ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "untrained"
    save_untrained(directory, seed=0)
    return directory


def chain_examples(count: int) -> list[dict[str, Conversation]]:
    problems = load_task("modular_chain", split="train", steps=1, size=60)
    flawless = ScriptedTeacher(Solver(), Annotator(), Annotator())
    faulty = ScriptedTeacher(Solver(wrong_facts=0.5, conviction=1.0), Annotator(), Annotator())
    return base_examples(
        problems, flawless, faulty, COMPACT, reasoning=count, critiques=count, refinements=count, seed=0
    )


def test_base_examples_have_as_many_of_each_kind_as_asked() -> None:
    problems = load_task("modular_chain", split="train", steps=1, size=60)
    flawless = ScriptedTeacher(Solver(), Annotator(), Annotator())
    found = base_examples(
        problems, flawless, flawless, COMPACT, reasoning=len(problems) + 3, critiques=4, refinements=5, seed=0
    )
    turns = Counter(len(e["prompt"]) for e in found)
    critiques = [e for e in found if "Solution:" in e["prompt"][0]["content"]]
    assert (turns[3], len(critiques), turns[1] - len(critiques)) == (5, 4, len(problems) + 3)


def test_a_base_may_learn_to_follow_critiques_that_are_wrong() -> None:
    """Plain critiques stay right; refinements follow the polished critiques, also their wrong values."""
    problems = load_task("modular_chain", split="train", steps=1, size=60)
    teacher = ScriptedTeacher(Solver(), Annotator(), Annotator(wrong_value=1.0))
    found = base_examples(
        problems, teacher, teacher, COMPACT, reasoning=1, critiques=30, refinements=30, seed=0
    )
    answers = {p.question: p.answer for p in problems}
    right = {"critique": 0, "refinement": 0}
    for e in found:
        written = e["completion"][0]["content"]
        if len(e["prompt"]) == 3:
            value = e["prompt"][2]["content"].partition("Explanation: ")[2][0]
            assert written.endswith(f"={value}\nThe answer is {value}")
            right["refinement"] += value == answers[e["prompt"][0]["content"]]
        elif "Explanation: " in written:
            question = e["prompt"][0]["content"].removeprefix("Question: ").split("\n")[0]
            right["critique"] += written.partition("Explanation: ")[2][0] == answers[question]
    assert right["critique"] == 30 and right["refinement"] < 15  # one in ten is right by chance


def test_examples_of_which_some_alone_have_an_image_are_refused() -> None:
    plain = example(COMPACT.reasoning_prompt("1 + 1?"), "2")
    picture = example(COMPACT.reasoning_prompt("How many dots?", image="dots.png"), "2")
    for mixed in ([plain, picture], [picture, plain]):  # whichever comes first
        with pytest.raises(UserError, match=r"examples, row [01], column 'image': None"):
            sft_dataset(mixed)
    assert "image" not in sft_dataset([plain, plain]).column_names


@pytest.mark.parametrize("prompts", PROMPT_SETS.values(), ids=lambda p: p.name)
def test_only_completions_are_trained_on(untrained: Path, tmp_path: Path, prompts: PromptSet) -> None:
    problem = load_task("modular_chain", split="train", steps=1, size=60)[0]
    examples = [
        example(prompts.reasoning_prompt(problem.question), problem.solution),
        example(prompts.refinement_prompt(problem.question, "First try.", "Bad."), problem.solution),
    ]
    args = sft_args(tmp_path, seed=0, options={**FAST, "max_length": 2048})
    trainer = SFTTrainer(model=str(untrained), args=args, train_dataset=Dataset.from_list(examples))
    tokenizer = AutoTokenizer.from_pretrained(untrained)
    batch = next(iter(trainer.get_train_dataloader()))
    learned = {
        tokenizer.decode(ids[labels != -100])
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)
    }
    solution = problem.solution + "<|im_end|>"  # the model learns to stop, too
    assert learned == {prompts.reasoning_prefill + solution, prompts.refinement_prefill + solution}
    assert (batch["labels"][batch["labels"] != -100] == batch["input_ids"][batch["labels"] != -100]).all()


@pytest.mark.parametrize(
    "lora", [None, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)]
)
def test_the_head_that_scores_completions_alone_gives_the_loss_and_gradient_of_the_plain_pass(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: LoraConfig | None
) -> None:
    problems = load_task("modular_chain", split="train", steps=2, size=60)[:3]
    texts = [
        example(COMPACT.reasoning_prompt(p.question * (i + 1)), "7 " * i) for i, p in enumerate(problems)
    ]
    args = sft_args(tmp_path, seed=0, options={**FAST, "per_device_train_batch_size": 3, "max_length": None})
    results: list[tuple[Any, ...]] = []
    for kind in (SFTTrainer, CompletionSFTTrainer):
        torch.manual_seed(0)  # of the adapter
        data = Dataset.from_list(texts)
        trainer = kind(model=str(untrained), args=args, train_dataset=data, peft_config=lora)
        model: Any = trainer.model
        batch = next(iter(trainer.get_train_dataloader()))
        scored: list[int] = []
        layers = decoding.without_adapter(model).base_model
        layers.register_forward_hook(
            lambda *call, seen=scored: seen.append(call[2].last_hidden_state.size(1))
        )
        loss = trainer.compute_loss(model, batch, num_items_in_batch=20)
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((loss.detach(), gradients, dict(trainer._metrics["train"]), scored))
    (loss, gradients, metrics, whole), (own_loss, own_gradients, own_metrics, parts) = results
    torch.testing.assert_close(own_loss, loss, rtol=1e-5, atol=1e-6)
    assert own_gradients.keys() == gradients.keys() and gradients
    for name, expected in gradients.items():
        torch.testing.assert_close(own_gradients[name], expected, rtol=1e-3, atol=1e-6)
    for name, values in metrics.items():
        assert own_metrics[name] == pytest.approx(values, rel=1e-4)
    assert len(parts) == 2 and parts[1] < whole[0] / 2  # the head sees the second part


def completion_loss(directory: Path, examples: list[dict[str, Conversation]]) -> float:
    """Mean loss over the completions, computed without trl."""
    tokenizer, model = (
        AutoTokenizer.from_pretrained(directory),
        AutoModelForCausalLM.from_pretrained(directory),
    )
    losses = []
    for e in examples:
        asked = tokenizer.apply_chat_template(e["prompt"], add_generation_prompt=True)["input_ids"]
        told = tokenizer(e["completion"][0]["content"] + "<|im_end|>")["input_ids"]
        labels = torch.tensor([[-100] * len(asked) + told])
        with torch.no_grad():
            losses.append(model(input_ids=torch.tensor([asked + told]), labels=labels).loss.item())
    return sum(losses) / len(losses)


@pytest.mark.slow
def test_fine_tuning_lowers_the_loss_on_completions_and_saves_a_loadable_model(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = chain_examples(40)
    random.Random(0).shuffle(examples)
    before = completion_loss(untrained, examples[:20])
    figures = fine_tune(
        str(untrained), examples, tmp_path / "tuned", seed=0, options={**FAST, "num_train_epochs": 3}
    )
    after = completion_loss(tmp_path / "tuned", examples[:20])
    assert before > 5.0  # ln(302 tokens) = 5.7
    assert after < before / 2
    assert (figures["examples"], figures["steps"]) == (120, 45)  # 3 epochs of 15 batches of 8
    assert figures["loss"] > after  # the mean over training
    assert capsys.readouterr().out == ""
    assert not list((tmp_path / "tuned").glob("checkpoint-*"))


@pytest.mark.slow
def test_fine_tuning_is_reproducible_and_depends_on_its_seed(untrained: Path, tmp_path: Path) -> None:
    examples = chain_examples(8)
    runs = [("a", 0), ("b", 0), ("c", 1)]
    for name, seed in runs:
        fine_tune(str(untrained), examples, tmp_path / name, seed=seed, options={**FAST, "max_steps": 2})
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name, _ in runs)
    assert a == b != c


def test_a_tuned_model_ends_its_turns_and_its_files_say_how(untrained: Path, tmp_path: Path) -> None:
    source = retold(untrained, tmp_path / "source", end="<|endoftext|>")
    examples = [*chain_examples(2)[:3], example(COMPACT.reasoning_prompt("1?<|im_end|>"), "2")]
    fine_tune(str(source), examples, tmp_path / "tuned", seed=0, options={**FAST, "max_steps": 1})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tuned")
    declared = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned").generation_config.eos_token_id
    assert declared == tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])


def test_examples_that_lose_their_end_are_counted_and_named(
    untrained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(untrained)
    examples = [example(COMPACT.reasoning_prompt("1?"), "2 " * n) for n in (1, 2, 9)]
    chats = [[*e["prompt"], *e["completion"]] for e in examples]
    lengths = [
        tokenizer.apply_chat_template(chat)["input_ids"].index(tokenizer.eos_token_id, -3 + len(ids)) + 1
        for chat in chats
        for ids in [tokenizer.apply_chat_template(chat)["input_ids"]]
    ]
    for most, cut in ((lengths[2], 0), (lengths[2] - 1, 1), (lengths[1] - 1, 2)):
        caplog.clear()
        options = {**FAST, "max_steps": 1, "max_length": most}
        figures = fine_tune(str(untrained), examples, tmp_path / str(most), seed=0, options=options)
        assert figures.get("cut by max_length", 0) == cut
        assert (f"max_length={most} cuts the end off {cut} of 3 examples" in caplog.text) == (cut > 0)


def test_a_tokenizer_that_loses_the_tags_of_thoughts_is_refused(untrained: Path, tmp_path: Path) -> None:
    source = retold(untrained, tmp_path / "source")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    tokenizer.save_pretrained(source)
    message = f'{source} marks <think> and </think> as special, .* set "special" to false'
    with pytest.raises(UserError, match=message):
        fine_tune(
            str(source), chain_examples(1), tmp_path / "tuned", seed=0, options={**FAST, "max_steps": 1}
        )
    with pytest.raises(UserError, match=message):
        TransformersActor(source)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "has no chat template"),
        (CHATML.replace("message.content + '<|im_end|>'", "message.content"), "ends a turn without an end"),
    ],
)
def test_a_template_from_which_no_model_learns_to_stop_is_refused(
    untrained: Path, tmp_path: Path, template: str, message: str
) -> None:
    source = retold(untrained, tmp_path / "source", template=template)
    with pytest.raises(UserError, match=f"{source} {message}"):
        fine_tune(
            str(source), chain_examples(1), tmp_path / "tuned", seed=0, options={**FAST, "max_steps": 1}
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 3}, "epochs"),
        ({"fp16": True, "bf16": True}, "bf16"),
        ({"lr_scheduler_type": "cosin"}, "cosin"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"SFT options: .*{message}"):
        sft_args(tmp_path, seed=0, options=options)
