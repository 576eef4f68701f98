"""Cold start: supervised fine-tuning of the actor and of the critic, through trl's `SFTTrainer`.

The actor learns to reason and to refine, then it is frozen. The critic learns from critiques that are kept if
the actor's refinement after them is right (paper, section 4.1; the filter is on the refinement, not on the
verdict, so what the verdicts are worth is left to Stage I).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from critique_rl.actors.base import Actor
from critique_rl.cold_start.teachers import ScriptedTeacher, Teacher
from critique_rl.grading.replies import grade_replies, items
from critique_rl.grading.scoring import Scorer
from critique_rl.pool import select_balanced
from critique_rl.prompts import PromptSet
from critique_rl.training.config import machine_defaults
from critique_rl.training.images import with_images
from critique_rl.types import Conversation, Problem, Sampling, UserError, child_seed
from critique_rl.vision.models import is_vision_model, load_processor

logger = logging.getLogger(__name__)
Example = dict[str, Conversation]


def example(prompt: Conversation, text: str) -> Example:
    """A prompt and its completion; a prefill moves there, so that the model learns to begin with it."""
    if prompt[-1]["role"] == "assistant":
        return {
            "prompt": prompt[:-1],
            "completion": [{"role": "assistant", "content": prompt[-1]["content"] + text}],
        }
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": text}]}


def actor_examples(
    problems: Sequence[Problem],
    drafts: Sequence[str],
    teacher: Teacher,
    prompts: PromptSet,
    *,
    refinements: int,
    keep_wrong: bool,
    seed: int,
    judgements: int = 0,
    scorer: Scorer | None = None,
) -> list[Example]:
    """Reasoning for every problem, refinements and judgements for some.

    Args:
        problems: Train problems.
        drafts: Responses, one per problem and without prefill, that the refinements start from.
        teacher: Writes the texts.
        prompts: Prompt set.
        refinements: How many refinements to ask for, from the first problems on.
        keep_wrong: Keep refinements with a wrong answer; only for a teacher whose errors are wanted.
        seed: Seed of the teacher.
        judgements: How many preferences between two of the teacher's responses.
        scorer: Scores replies, of which those that are no worse than the draft count as right; None grades them.
    """
    solutions = teacher.solve(problems, seed=seed)
    examples = [
        example(prompts.reasoning_prompt(p.question, image=p.image), y)
        for p, y in zip(problems, solutions, strict=True)
    ]
    some, first = problems[:refinements], [prompts.reasoning_prefill + y for y in drafts[:refinements]]
    shown = [prompts.without_prefill(y) for y in first]
    critiques = teacher.critique(some, shown, seed=seed, polished=True)
    refined = teacher.refine(some, first, critiques, seed=seed)
    grades = _improved(some, first, refined, scorer)
    kept = [
        example(prompts.refinement_prompt(p.question, y, c, image=p.image), z)
        for p, y, c, z, grade in zip(some, first, critiques, refined, grades, strict=True)
        if grade or keep_wrong
    ]
    logger.info("actor SFT: %d solutions, %d of %d refinements kept", len(examples), len(kept), len(some))
    judged = judgement_examples(problems, teacher, teacher, prompts, wanted=judgements, seed=seed)
    return examples + kept + judged


def judgement_examples(
    problems: Sequence[Problem],
    writer: Teacher,
    judge: Teacher,
    prompts: PromptSet,
    *,
    wanted: int,
    seed: int,
) -> list[Example]:
    """Preferences between a right and a wrong response to one problem, in either order.

    Args:
        problems: Train problems, used again and again in turn.
        writer: Answers each twice; of what it writes only such pairs are judged.
        judge: Says which is better.
        prompts: Prompt set.
        wanted: How many.
        seed: Seed of both.

    Raises:
        UserError: The judge is none, or four times as many problems have too few such pairs.
    """
    if not wanted:
        return []
    if not isinstance(judge, ScriptedTeacher):
        raise UserError("judgements: only the teacher `scripted` writes them; set them to 0.")
    asked = [problems[i % len(problems)] for i in range(4 * wanted)]
    first, second = (writer.solve(asked, seed=child_seed(seed, "judged", n)) for n in (1, 2))
    grades = [grade_replies(asked, replies) for replies in (first, second)]
    decided = [i for i, (a, b) in enumerate(zip(*grades, strict=True)) if {a, b} == {True, False}][:wanted]
    if len(decided) < wanted:
        raise UserError(
            f"judgements: of {len(asked)} pairs {len(decided)} have one right and one wrong response, fewer than "
            f"{wanted}: ask for fewer, or take a solver that is right more or less often."
        )
    asked = [asked[i] for i in decided]
    first, second = [first[i] for i in decided], [second[i] for i in decided]
    written = judge.judge(asked, first, second, seed=seed)
    return [
        example(prompts.pairwise_prompt(p.question, a, b, image=p.image), text)
        for p, a, b, text in zip(asked, first, second, written, strict=True)
    ]


def critic_examples(
    problems: Sequence[Problem],
    actor: Actor,
    teacher: Teacher,
    prompts: PromptSet,
    *,
    response: Sampling,
    refinement: Sampling,
    seed: int,
    scorer: Scorer | None = None,
) -> list[Example]:
    """Critiques after which the actor refines rightly, balanced between right and wrong responses.

    With a scorer, those after which the refinement scores no less than the response; of this task the paper says
    nothing.

    Raises:
        UserError: No critique of right, or none of wrong responses is kept.
    """
    draw = Sampling(response.max_tokens, response.temperature, response.top_p, child_seed(seed, "critic SFT"))
    asked = [prompts.reasoning_prompt(p.question, image=p.image) for p in problems]
    generated = actor.generate(asked, draw)
    responses = [prompts.reasoning_prefill + g.text for g in generated]
    before: Sequence[bool | None] = [None] * len(problems) if scorer else grade_replies(problems, responses)
    shown = [prompts.without_prefill(y) for y in responses]
    critiques = teacher.critique(problems, shown, seed=seed, polished=False)
    refined = actor.generate(
        [
            prompts.refinement_prompt(p.question, y, c, image=p.image)
            for p, y, c in zip(problems, responses, critiques, strict=True)
        ],
        refinement,
    )
    refinements = [prompts.refinement_prefill + g.text for g in refined]
    after = _improved(problems, responses, refinements, scorer)
    rows: list[dict[str, Any]] = [
        {
            "dataset": p.dataset,
            "response_correct": o,
            "prompt": prompts.critique_prompt(p.question, y, image=p.image),
            "critique": c,
        }
        for p, y, c, o, o2 in zip(problems, responses, critiques, before, after, strict=True)
        if (o is not None or scorer) and o2 and c.strip()
    ]
    logger.info("critic SFT: %d of %d critiques kept by the refinement filter", len(rows), len(problems))
    try:
        selected = rows if scorer and rows else select_balanced(rows, seed=seed)
    except UserError as error:
        raise UserError(
            f"critic SFT: of {len(problems)} critiques, {len(rows)} were followed by a right refinement; "
            f"{error} Use more problems, a stronger teacher, or `teacher: {{kind: reference}}`."
        ) from error
    return [example(row["prompt"], row["critique"]) for row in selected]


def _improved(
    problems: Sequence[Problem], before: Sequence[str], after: Sequence[str], scorer: Scorer | None
) -> list[bool | None]:
    """Whether refinements are right or, where a scorer is given, score no less than what they refine."""
    if scorer is None:
        return grade_replies(problems, after)
    scores = [scorer.score(items(problems, replies)) for replies in (before, after)]
    return [None if s is None or s2 is None else s2 >= s for s, s2 in zip(*scores, strict=True)]


def fine_tune(
    model: str, examples: Sequence[Example], output: Path, *, seed: int, options: Mapping[str, Any]
) -> dict[str, float]:
    """Fine-tune on completions alone and save model and tokenizer to `output`.

    Args:
        model: Directory or hub id to start from.
        examples: Prompt-completion pairs.
        output: Directory to write.
        seed: Seed of order and dropout.
        options: Fields of trl's `SFTConfig`.

    Returns:
        Number of examples and of steps, mean loss, and the token accuracy that trl logged last.

    Raises:
        UserError: An option is no field of `SFTConfig`, or its value is not valid.
    """
    args = sft_args(output, seed=seed, options=options)
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=sft_dataset(examples),
        processing_class=load_processor(model) if is_vision_model(model) else None,
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log to stdout where there is no bar
    trained = trainer.train()
    trainer.save_model(str(output))
    trainer.accelerator.wait_for_everyone()  # no process may read what another still writes
    figures: dict[str, float] = {
        "examples": len(examples),
        "steps": trained.global_step,
        "loss": trained.training_loss,
    }
    accuracy = [entry["mean_token_accuracy"] for entry in trainer.state.log_history if "loss" in entry]
    return figures | ({"token accuracy": accuracy[-1]} if accuracy else {})


def sft_dataset(examples: Sequence[Example]) -> Dataset:
    """Examples as trl takes them: images in a column of their own, which stand before the first turn.

    Raises:
        UserError: Some examples alone have an image.
    """
    rows, seen = [], any(e["prompt"][0].get("image") is not None for e in examples)
    for e in examples:
        first, *later = e["prompt"]
        text: Conversation = [{"role": first["role"], "content": first["content"]}, *later]
        rows.append({**e, "prompt": text, **({"image": first.get("image")} if seen else {})})
    shown = with_images(Dataset.from_list(rows), "examples")
    return shown.remove_columns("image") if "image" in shown.column_names else shown


def sft_args(output: Path, *, seed: int, options: Mapping[str, Any], where: str = "SFT options") -> SFTConfig:
    """trl's configuration of one supervised training.

    Args:
        output: As in `fine_tune`, as are the next two.
        seed: Seed.
        options: Fields of `SFTConfig`, which win over the defaults here.
        where: How the configuration calls the options.

    Raises:
        UserError: An option is no field of `SFTConfig`, or its value is not valid.
    """
    defaults = {"disable_tqdm": True, "report_to": "none", "save_strategy": "no", **machine_defaults()}
    fixed = {"output_dir": str(output), "seed": seed, "completion_only_loss": True}
    try:
        return SFTConfig(**(defaults | dict(options) | fixed))
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from error


def base_examples(
    problems: Sequence[Problem],
    teacher: Teacher,
    faulty: Teacher,
    prompts: PromptSet,
    *,
    reasoning: int,
    critiques: int,
    refinements: int,
    seed: int,
    judgements: int = 0,
) -> list[Example]:
    """Texts for a base that is made from nothing: it learns task and formats from a teacher without faults.

    Args:
        problems: Train problems, used again and again in turn.
        teacher: Solves, criticises and refines; its polished critiques are those that the refinements follow.
        faulty: Writes the responses that are criticised, refined and compared.
        prompts: Prompt set.
        reasoning: Examples of reasoning.
        critiques: Examples of critiques.
        refinements: Examples of refinements.
        seed: Seed of both teachers.
        judgements: Examples of preferences.
    """
    asked = [problems[i % len(problems)] for i in range(max(reasoning, critiques, refinements))]
    drafts = faulty.solve(asked, seed=seed)
    written = teacher.critique(asked, drafts, seed=seed, polished=False)
    followed = teacher.critique(asked[:refinements], drafts[:refinements], seed=seed, polished=True)
    solved = teacher.solve(asked[:reasoning], seed=seed)
    refined = teacher.refine(asked[:refinements], drafts[:refinements], followed, seed=seed)
    return [
        *(
            example(prompts.reasoning_prompt(p.question, image=p.image), y)
            for p, y in zip(asked, solved, strict=False)
        ),
        *(
            example(prompts.critique_prompt(p.question, y, image=p.image), c)
            for p, y, c in list(zip(asked, drafts, written, strict=True))[:critiques]
        ),
        *(
            example(prompts.refinement_prompt(p.question, y, c, image=p.image), z)
            for p, y, c, z in zip(asked, drafts, followed, refined, strict=False)
        ),
        *judgement_examples(problems, faulty, teacher, prompts, wanted=judgements, seed=seed),
    ]
