"""Examples for supervised fine-tuning of actor and critic, and the training itself through trl's `SFTTrainer`.

The actor learns to reason and to refine, then it is frozen. The critic learns from critiques after which the
actor's refinement is right (paper, section 4.1). This filter does not look at the verdict: Stage I trains that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftConfig
from transformers import AutoTokenizer, PrinterCallback, TrainerCallback, TrainerState
from trl import SFTConfig

from critique_rl.actors.base import Actor
from critique_rl.actors.encoding import PromptEncoder
from critique_rl.actors.loading import init_options, load_pretrained
from critique_rl.cold_start.completion_head import CompletionSFTTrainer
from critique_rl.cold_start.teachers import Problems, ScriptedTeacher, Teacher, Texts, prompts_for
from critique_rl.grading.replies import grade_replies, items, where_replied
from critique_rl.grading.scoring import Scorer
from critique_rl.pool import select_balanced
from critique_rl.prompts import PromptSet
from critique_rl.training.config import machine_defaults
from critique_rl.training.images import with_images
from critique_rl.training.saving import save_trained
from critique_rl.training.watch import require_finite
from critique_rl.types import Conversation, Sampling, UserError, child_seed
from critique_rl.vision.models import is_vision_model, load_processor

logger = logging.getLogger(__name__)
Example = dict[str, Conversation]


def example(prompt: Conversation, text: str) -> Example:
    """A prompt and its completion; a prefill moves into the completion, so that the model learns to write it."""
    if prompt[-1]["role"] == "assistant":
        prompt, text = prompt[:-1], prompt[-1]["content"] + text
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": text}]}


def _examples(prompts: Sequence[Conversation], texts: Texts) -> list[Example]:
    return [example(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]


def actor_examples(
    problems: Problems,
    drafts: Texts,
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
        drafts: Responses before refinement, one per problem, without prefill.
        refinements: Number of problems, from the first on, that also get a refinement.
        keep_wrong: Keep refinements with a wrong answer; only for a teacher whose errors are wanted.
        judgements: Number of preferences between two of the teacher's responses.
        scorer: Scorer of replies: a refinement counts as right if it scores no less than the draft. None grades
            replies instead.
    """
    solving = _examples(prompts_for(prompts.reasoning_prompt, problems), teacher.solve(problems, seed=seed))
    refined = problems[:refinements]
    responses = [prompts.reasoning_prefill + y for y in drafts[:refinements]]
    bare = [prompts.without_prefill(y) for y in responses]
    critiques = teacher.critique(refined, bare, seed=seed, polished=True)
    texts = teacher.refine(refined, responses, critiques, seed=seed)
    kept = [
        (keep_wrong or bool(right))
        and "" not in written  # a text that a server failed to send teaches nothing
        for right, *written in zip(
            _improved(refined, responses, texts, scorer), drafts[:refinements], critiques, texts, strict=True
        )
    ]
    asked = prompts_for(prompts.refinement_prompt, refined, responses, critiques)
    refining = list(compress(_examples(asked, texts), kept))
    logger.info("actor SFT: %d solutions, %d of %d refinements kept", len(solving), sum(kept), len(kept))
    judging = judgement_examples(problems, teacher, teacher, prompts, wanted=judgements, seed=seed)
    return solving + refining + judging


def judgement_examples(
    problems: Problems, writer: Teacher, judge: Teacher, prompts: PromptSet, *, wanted: int, seed: int
) -> list[Example]:
    """Preferences between a right and a wrong response to one problem, in either order.

    Args:
        problems: Train problems, used in turn until there are enough pairs.
        writer: Writer of two responses per problem; only pairs with one right and one wrong response are judged.
        judge: Writer of the preferences, a `ScriptedTeacher`.
        wanted: Number of preferences.

    Raises:
        UserError: The judge is another teacher, or `4 * wanted` pairs of responses hold too few right-wrong pairs.
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
            f"judgements: only {len(decided)} of {len(asked)} pairs have one right and one wrong response, but "
            f"{wanted} are needed: lower judgements, or take a solver that is right more or less often."
        )
    asked = [asked[i] for i in decided]
    first, second = ([replies[i] for i in decided] for replies in (first, second))
    written = judge.judge(asked, first, second, seed=seed)
    return _examples(prompts_for(prompts.pairwise_prompt, asked, first, second), written)


def critic_examples(
    problems: Problems,
    actor: Actor,
    teacher: Teacher,
    prompts: PromptSet,
    *,
    response: Sampling,
    refinement: Sampling,
    seed: int,
    scorer: Scorer | None = None,
) -> list[Example]:
    """Critiques after which the actor's refinement is right, as many of right as of wrong responses.

    With a scorer: all critiques after which the refinement scores no less than the response; the paper does not
    describe the cold start of a task with scores.

    Raises:
        UserError: The filter leaves no critique of right responses, or none of wrong ones.
    """
    draw = Sampling(response.max_tokens, response.temperature, response.top_p, child_seed(seed, "critic SFT"))
    generated = actor.generate(prompts_for(prompts.reasoning_prompt, problems), draw)
    replies = [g.after(prompts.reasoning_prefill) for g in generated]
    before: Sequence[bool | None] = [None] * len(problems) if scorer else grade_replies(problems, replies)
    responses = [reply or "" for reply in replies]
    bare = [prompts.without_prefill(y) for y in responses]
    critiques = teacher.critique(problems, bare, seed=seed, polished=False)
    asked = prompts_for(prompts.refinement_prompt, problems, responses, critiques)
    refinements = [g.after(prompts.refinement_prefill) for g in actor.generate(asked, refinement)]
    after = _improved(problems, replies, refinements, scorer)
    asked = prompts_for(prompts.critique_prompt, problems, responses)
    rows: list[dict[str, Any]] = [
        {"dataset": p.dataset, "response_correct": o, "prompt": prompt, "critique": c}
        for p, prompt, c, o, o2 in zip(problems, asked, critiques, before, after, strict=True)
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
    problems: Problems,
    before: Sequence[str | None],
    after: Sequence[str | None],
    scorer: Scorer | None,
) -> list[bool | None]:
    """Whether refinements are right or, with a scorer, score no less than the responses `before` them."""
    if scorer is None:
        return grade_replies(problems, after)
    scores = [where_replied(scorer.score, items(problems, replies)) for replies in (before, after)]
    return [None if s is None or s2 is None else s2 >= s for s, s2 in zip(*scores, strict=True)]


def fine_tune(
    model: str,
    examples: Sequence[Example],
    output: Path,
    *,
    seed: int,
    options: Mapping[str, Any],
    lora: PeftConfig | None = None,
    limits: Mapping[str, int] | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, float]:
    """Fine-tune on the completions only, and save model and tokenizer, or the adapter alone, to `output`.

    The model learns to end its turn as its chat template does, and its generation config lists that token.

    Args:
        model: Directory or hub id to start from.
        seed: Seed of order and dropout.
        options: Fields of trl's `SFTConfig`.
        lora: Adapter to train; None trains all weights.
        limits: Those of a processor on the area of images, see `load_processor`.
        on_progress: Called at every log with the optimizer steps done, all of them, and the loss.

    Returns:
        Number of examples, of those that `max_length` has cut if there are any, and of optimizer steps; mean loss;
        the last token accuracy that trl logged.

    Raises:
        UserError: An option is no field of `SFTConfig`, its value is not valid, or the chat template is missing,
            fails, or ends a turn without a special token.
    """
    args = sft_args(output, seed=seed, options=options)
    reader: Any = load_processor(model, **(limits or {})) if is_vision_model(model) else None
    encoder = PromptEncoder.of(model, reader or load_pretrained(AutoTokenizer, "tokenizer", model))
    trainer = CompletionSFTTrainer(
        model=model,
        args=args,
        train_dataset=sft_dataset(_plain(examples, encoder)),
        processing_class=reader,
        peft_config=lora,
    )
    _let_turns_end(trainer.model, encoder)
    cut = _count_cut(trainer, encoder, examples)
    if cut:
        logger.warning(
            "SFT of %s: max_length=%d cuts the end off %d of %d examples, which teach no end of a turn; raise it",
            model,
            args.max_length,
            cut,
            len(examples),
        )
    trainer.remove_callback(PrinterCallback)  # it prints every log to stdout where there is no bar
    if on_progress is not None:
        trainer.add_callback(_Progress(on_progress))
    trained = trainer.train()
    tuned: Any = trainer.model
    require_finite(tuned, f"SFT of {model}", "not saved; lower learning_rate, and start the step anew.")
    save_trained(trainer, output)
    trainer.accelerator.wait_for_everyone()  # no process may read a file before it is complete
    accuracy = [entry["mean_token_accuracy"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "examples": len(examples),
        **({"cut by max_length": cut} if cut else {}),
        "steps": trained.global_step,
        "loss": trained.training_loss,
        **({"token accuracy": accuracy[-1]} if accuracy else {}),
    }


class _Progress(TrainerCallback):
    """Tells how far a supervised training is."""

    def __init__(self, tell: Callable[[int, int, str], None]) -> None:
        self.tell = tell

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Called by the trainer at every log."""
        last = state.log_history[-1]
        if "loss" in last and state.is_world_process_zero:  # the log at the end of a training has none
            self.tell(state.global_step, state.max_steps, f"loss {last['loss']:.3f}")


def _count_cut(trainer: CompletionSFTTrainer, encoder: PromptEncoder, examples: Sequence[Example]) -> int:
    """Number of examples that `max_length` cuts before the token that ends their turn."""
    args: Any = trainer.args
    if args.max_length is None or args.packing or args.truncation_mode != "keep_start":
        return 0
    if encoder.processor is not None:  # trl cuts these when it makes a batch
        whole = encoder.encode([[*e["prompt"], *e["completion"]] for e in examples])
        return sum(len(e.ids) + 1 > args.max_length for e in whole)
    model: Any = trainer.model
    stop = set(encoder.stop_ids(model.generation_config))
    rows: Any = trainer.train_dataset
    return len(examples) - sum(not stop.isdisjoint(labels) for labels in rows["labels"])


def _plain(examples: Sequence[Example], encoder: PromptEncoder) -> list[Example]:
    """The examples with special tokens inside texts as plain text, which are counted."""
    encoder.check_template()
    encoder.warn_of_control_tokens([[*e["prompt"], *e["completion"]] for e in examples], "examples")
    return [{name: encoder.plain(turns) for name, turns in e.items()} for e in examples]


def _let_turns_end(model: Any, encoder: PromptEncoder) -> None:
    """List the token that ends a turn in the model's generation config, whatever serves the model later.

    Raises:
        UserError: The template ends turns without such a token: the model could not learn to stop.
    """
    declared = model.generation_config
    stop = encoder.stop_ids(declared)
    if not set(stop) & set(encoder.closing_ids()):
        raise UserError(
            f"the chat template of {encoder.name} ends a turn without an end-of-sequence token, so no model could "
            "learn to stop: let the template write eos_token behind an assistant's message."
        )
    listed = declared.eos_token_id
    listed = [] if listed is None else [listed] if isinstance(listed, int) else listed
    if not set(stop) <= {*listed, encoder.tokenizer.eos_token_id}:
        declared.eos_token_id = stop


def sft_dataset(examples: Sequence[Example]) -> Dataset:
    """Examples as trl takes them: the image of the first turn moves to a column `images`.

    Raises:
        UserError: Some examples have an image and some have none.
    """
    rows, with_image = [], any(e["prompt"][0].get("image") is not None for e in examples)
    for e in examples:
        first, *later = e["prompt"]
        text: Conversation = [{"role": first["role"], "content": first["content"]}, *later]
        rows.append({**e, "prompt": text, **({"image": first.get("image")} if with_image else {})})
    dataset = with_images(Dataset.from_list(rows), "examples")
    return dataset.remove_columns("image") if with_image else dataset


def sft_args(output: Path, *, seed: int, options: Mapping[str, Any], where: str = "SFT options") -> SFTConfig:
    """trl's configuration of one supervised training; the options win over the defaults of this project.

    Raises:
        UserError: An option is no field of `SFTConfig` or not valid; the message begins with `where`.
    """
    defaults = {"disable_tqdm": True, "report_to": "none", "save_strategy": "no", **machine_defaults()}
    fixed = {"output_dir": str(output), "seed": seed, "completion_only_loss": True}
    if "model_init_kwargs" in options:
        fixed["model_init_kwargs"] = init_options(options["model_init_kwargs"])
    try:
        return SFTConfig(**(defaults | dict(options) | fixed))
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from error


def base_examples(
    problems: Problems,
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
    """Examples for an untrained base: it learns task and formats from a teacher without faults.

    Args:
        problems: Train problems, used in turn until there are enough examples.
        teacher: Writer of reasoning, critiques and refinements; refinements follow its polished critiques.
        faulty: Writer of the responses that are criticised, refined and compared.
        reasoning: Number of reasoning examples; `critiques`, `refinements` and `judgements` count the others.
    """
    asked = [problems[i % len(problems)] for i in range(max(reasoning, critiques, refinements))]
    drafts = faulty.solve(asked, seed=seed)
    written = teacher.critique(asked[:critiques], drafts[:critiques], seed=seed, polished=False)
    solved = teacher.solve(asked[:reasoning], seed=seed)
    refined = (asked[:refinements], drafts[:refinements])
    followed = (*refined, teacher.critique(*refined, seed=seed, polished=True))
    return [
        *_examples(prompts_for(prompts.reasoning_prompt, asked[:reasoning]), solved),
        *_examples(prompts_for(prompts.critique_prompt, asked[:critiques], drafts[:critiques]), written),
        *_examples(prompts_for(prompts.refinement_prompt, *followed), teacher.refine(*followed, seed=seed)),
        *judgement_examples(problems, faulty, teacher, prompts, wanted=judgements, seed=seed),
    ]
