"""Checks before hours are spent: problems, golds, models, servers, prompts, and those of each kind of step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from critique_rl.adapters import is_adapter
from critique_rl.config.data import TaskConfig
from critique_rl.runs.context import Context
from critique_rl.runs.steps import STEP_KINDS
from critique_rl.runs.steps.cold_start import check_actor
from critique_rl.tasks import TASKS, gold_report
from critique_rl.types import Conversation, Problem, UserError


def check(context: Context) -> None:
    """Check all that the steps of a run will need; what is slow to import comes last.

    Raises:
        UserError: Data, a model, a server or an option is missing or invalid.
    """
    check_data(context)
    context.scorer()
    check_models(context)
    for kind in STEP_KINDS.values():
        kind.check(context)


def check_data(context: Context) -> None:
    """Load all problems, grade their gold answers, and check that no train problem is evaluated.

    Raises:
        UserError: Data cannot be loaded, a gold answer cannot be earned, or a problem is in both.
    """
    train = {p.id for task in context.config.train for p in context.problems(task)}
    for task in context.folder.tasks():
        shared = [p for p in context.problems(task) if p.id in train]
        if shared:
            raise UserError(
                f"evaluation task {task.name} ({task.split}) shares {len(shared)} problem(s) with train, "
                f"for instance: {shared[0].question[:80]!r}. Leave them out of the train task with "
                f"`exclude: [{{name: {task.name}, split: {task.split}}}]`."
            )
    every = [*context.config.train, *context.folder.tasks()]
    for task in every:
        problems = context.problems(task)
        scored = problems[0].kind == "score"
        other = next((p for p in problems if (p.kind == "score") != scored), None)
        if other is not None:
            raise UserError(
                f"task {task.name}: {problems[0].question[:60]!r} is of kind {problems[0].kind} and "
                f"{other.question[:60]!r} of kind {other.kind}: a run grades all replies or scores all."
            )
        if scored != (context.config.scorer is not None):
            raise UserError(
                f"task {task.name}: its replies are scored, set `scorer`."
                if scored
                else f"task {task.name}: its replies are right or wrong, and this run has a `scorer`."
            )
    for task in every if context.config.scorer is None else []:
        if task.source is not None or TASKS[task.name].hub is not None:  # others are right by construction
            _check_golds(context, task)


def _place(task: TaskConfig, problem: Problem) -> str:
    return f"task {task.name}, problem {problem.id} ({problem.question[:60]!r})"


def _check_golds(context: Context, task: TaskConfig) -> None:
    problems = context.problems(task)
    failures = gold_report(problems).failures
    if failures:
        asked = {p.id: p.question for p in problems}
        lines = [f"\n  {f.id} ({asked[f.id][:60]!r}), answer {f.gold!r}: {f.reason}" for f in failures[:5]]
        raise UserError(
            f"task {task.name}, split '{task.split}' of {task.source or 'the hub'}: {len(failures)} of "
            f"{len(problems)} gold answers cannot be graded, so no reply to them could ever be right; "
            "`ungradable: drop` leaves them out:" + "".join(lines)
        )


def check_models(context: Context) -> None:
    """Check that the actor's server answers, that the base can be read, and that images and prompts fit it.

    Raises:
        UserError: The server does not answer, the base or an image cannot be read, the base takes no images, or a
            prompt is too long.
    """
    config = context.config
    check_actor(config.actor, "actor")
    if not config.loads_actor:
        context.actor()
    # The tokenizer of a GGUF file is inside; opening it takes as long as loading it.
    reader, window = (None, None) if config.base_gguf else _reader(context)
    tasks = [*config.train, *context.folder.tasks()]
    for task in tasks:
        _check_pictures(context, task, reader)
    if window is not None:
        _check_lengths(context, tasks, reader, window)


def _check_lengths(context: Context, tasks: Sequence[TaskConfig], reader: Any, window: int) -> None:
    """Check that prompts fit a context of `window` tokens, and note it where they only fit if texts stay short.

    Raises:
        UserError: A prompt does not fit even with an empty response and critique.
    """
    config, prompts, lengths = context.config, context.prompts, context.config.lengths
    for task in tasks:
        could_be = dict[str, int]()
        longest = sorted(context.problems(task), key=lambda p: len(p.question))[-20:]  # hardly more in tokens
        for p in longest:
            # each with its limit, and the most tokens of the texts that will stand in the prompt
            asked = {"critique": (prompts.critique_prompt(p.question, "", image=p.image), lengths.response)}
            if config.own_actor:
                user = prompts.reasoning_prompt(p.question, image=p.image)[:1]
                after = prompts.refinement_prompt(p.question, "", "", image=p.image)
                asked |= {"response": (user, 0), "refinement": (after, lengths.response + lengths.critique)}
            for what, (prompt, texts) in asked.items():
                tokens, most = _length(reader, prompt), getattr(lengths, what)
                if tokens + most > window:
                    raise UserError(
                        f"{_place(task, p)}: the prompt for its {what} has at least {tokens} tokens; with "
                        f"lengths.{what}={most} that exceeds the context of {window} tokens of {config.base}."
                    )
                could_be[what] = max(could_be.get(what, 0), tokens + texts + most)
        for what, tokens in could_be.items():
            if tokens > window:
                context.display.note(
                    f"task {task.name}: a {what} with its prompt may need {tokens:,} tokens if all texts reach "
                    f"their limits, and the context has {window:,}: where it does not fit the {what} is unknown."
                )


def _check_pictures(context: Context, task: TaskConfig, reader: Any) -> None:
    """Check that each image of a task can be read, by its header, and that the trained model takes it.

    `reader` is the tokenizer or processor of the trained model; None where it is not known yet.

    Raises:
        UserError: An image cannot be read, the model has no vision, its processor refuses a size, or a question to
            train on holds a token that stands for an image.
    """
    problems = context.problems(task)
    if all(p.image is None for p in problems):
        return
    from critique_rl.vision.images import image_size
    from critique_rl.vision.models import check_shown, placeholder_in

    sees = hasattr(reader, "image_processor")
    if not sees and reader is not None and context.config.stages:
        raise UserError(
            f"task {task.name} has images, and base: {context.config.base} is no model with vision."
        )
    for p in problems:
        if sees and task in context.config.train and (token := placeholder_in(p.question, reader)):
            raise UserError(
                f"{_place(task, p)}: {token} stands for an image and must not be part of a question; remove it "
                "or write it in other words."
            )
        if p.image is not None:
            size = image_size(p.image, _place(task, p))
            if sees:
                check_shown(size, reader, _place(task, p))


def _length(reader: Any, prompt: Conversation) -> int:
    """Tokens of a prompt, those of its image included."""
    if not hasattr(reader, "image_processor"):
        return len(reader.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"])
    from critique_rl.vision.models import parts

    encoded = reader.apply_chat_template(
        [parts(prompt)], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return len(encoded["input_ids"][0])


def _reader(context: Context) -> tuple[Any, int | None]:
    """Tokenizer or processor of the trained model, and its context in tokens; no weights are loaded."""
    base = context.config.base if context.folder.shipped is None else str(context.folder.shipped / "actor")
    if base == "tiny":
        from critique_rl.cold_start import tiny

        model, reader = tiny.untrained(context.config.train[0].name, seed=0)
        return reader, model.config.get_text_config().max_position_embeddings
    if is_adapter(base):
        raise UserError(
            f"base: {base} is an adapter, and a run starts from whole weights: merge it, "
            "critique_rl.load_critic(folder).merge_and_unload().save_pretrained(...), and save its tokenizer too."
        )
    from transformers import AutoConfig, AutoTokenizer

    from critique_rl.vision.models import is_vision_model, load_processor

    try:
        window = getattr(AutoConfig.from_pretrained(base).get_text_config(), "max_position_embeddings", None)
        vision = is_vision_model(base)
        tokenizer: Any = load_processor(base) if vision else AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"base: {base} is no directory of a model, and as a hub id: {reason}") from error
    if vision and context.config.stages:
        from critique_rl.training.images import check_inputs

        check_inputs(base, tokenizer)
    if not tokenizer.chat_template:
        raise UserError(f"base: the tokenizer of {base} has no chat template; take a model that has one.")
    return tokenizer, window
