"""What can be found wrong with a run before hours are spent on it: data, models, servers, options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from critique_rl.benchmarks import policy as policy_benchmarks
from critique_rl.config.checks import unknown
from critique_rl.config.data import TaskConfig
from critique_rl.config.methods import PLACES
from critique_rl.config.reading import check_options
from critique_rl.methods import baseline
from critique_rl.tasks import TASKS, gold_report
from critique_rl.tasks.scripted import SCRIPTED
from critique_rl.types import Conversation, UserError

if TYPE_CHECKING:
    from critique_rl.runs.run import Run


def check(run: Run) -> None:
    """Look at all that the steps of a run will need; what is slow to import comes last.

    Raises:
        UserError: Data, a model, a server or an option is missing or not as it should be.
    """
    check_data(run)
    run.scorer()
    check_models(run)
    check_cold_start(run)
    if run.policies:
        check_policy_benchmarks(run)
    for name, stage in run.config.stages.items():
        if stage.method == "critique_rl":
            run.stage_args(run.config.seeds[0], name)
            continue
        pictured = any(p.image is not None for task in run.config.train for p in run.problems(task))
        if pictured and not PLACES[stage.method].images:
            raise UserError(f"stages.{name}.method: '{stage.method}' is not made for questions with images.")
        try:
            baseline(stage.method).check(stage.trainer)
        except UserError as error:
            raise UserError(f"stages.{name}.trainer: {error}") from error


def check_data(run: Run) -> None:
    """Load all problems, grade their golds, and see that none of train is evaluated.

    Raises:
        UserError: Data cannot be loaded, a gold answer cannot be earned, or a problem is in both.
    """
    train = {p.id for task in run.config.train for p in run.problems(task)}
    for task in run.measured_tasks:
        shared = [p for p in run.problems(task) if p.id in train]
        if shared:
            raise UserError(
                f"evaluation task {task.name} ({task.split}) shares {len(shared)} problem(s) with train, "
                f"for instance: {shared[0].question[:80]!r}. Leave them out of the train task with "
                f"`exclude: [{{name: {task.name}, split: {task.split}}}]`."
            )
    every = [*run.config.train, *run.measured_tasks]
    for task in every:
        scored = run.problems(task)[0].kind == "score"
        if scored != (run.config.scorer is not None):
            raise UserError(
                f"task {task.name}: its replies are scored, set `scorer`."
                if scored
                else f"task {task.name}: its replies are right or wrong, and this run has a `scorer`."
            )
    for task in every if run.config.scorer is None else []:
        if task.source is not None or TASKS[task.name].hub is not None:  # others are right by construction
            _check_golds(run, task)


def _check_golds(run: Run, task: TaskConfig) -> None:
    problems = run.problems(task)
    failures = gold_report(problems).failures
    if failures:
        asked = {p.id: p.question for p in problems}
        lines = [f"\n  {f.id} ({asked[f.id][:60]!r}), answer {f.gold!r}: {f.reason}" for f in failures[:5]]
        raise UserError(
            f"task {task.name}, split '{task.split}' of {task.source or 'the hub'}: {len(failures)} of "
            f"{len(problems)} gold answers cannot be graded, so no reply to them could ever be right; "
            "`ungradable: drop` leaves them out:" + "".join(lines)
        )


def check_models(run: Run) -> None:
    """See that the actor's server answers, that the base can be read and that prompts fit its context.

    Raises:
        UserError: It is not so.
    """
    config = run.config
    check_actor(config.actor, "actor")
    if not config.loads_actor:
        run.actor()
    if config.base_gguf:
        return  # its tokenizer is inside; opening it takes as long as loading it
    reader, context = _reader(run)
    if context is None:
        return
    for task in [*config.train, *run.measured_tasks]:
        longest = sorted(run.problems(task), key=lambda p: len(p.question))[-20:]  # hardly more in tokens
        for p in longest:
            asked: list[tuple[str, Conversation, int]] = [
                (
                    "critique",
                    run.prompts.critique_prompt(p.question, "", image=p.image),
                    config.lengths.critique,
                )
            ]
            if config.own_actor:
                user = run.prompts.reasoning_prompt(p.question, image=p.image)[:1]
                asked.append(("response", user, config.lengths.response))
            for what, prompt, most in asked:
                tokens = _length(reader, prompt)
                if tokens + most > context:
                    raise UserError(
                        f"task {task.name}, problem {p.id} ({p.question[:60]!r}): the prompt for its {what} "
                        f"has at least {tokens} tokens; with lengths.{what}={most} that exceeds the context "
                        f"of {context} tokens of {config.base}."
                    )


def _length(reader: Any, prompt: Conversation) -> int:
    """Tokens of a prompt, those of its image included."""
    if not hasattr(reader, "image_processor"):
        return len(reader.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"])
    from critique_rl.vision.models import parts

    encoded = reader.apply_chat_template(
        [parts(prompt)], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return len(encoded["input_ids"][0])


def _reader(run: Run) -> tuple[Any, int | None]:
    """Tokenizer or processor, and context, of the model that is trained, without loading its weights."""
    base = run.config.base if run.shipped is None else str(run.shipped / "actor")
    if base == "tiny":
        from critique_rl.cold_start import tiny

        model, reader = tiny.untrained(run.config.train[0].name, seed=0)
        return reader, model.config.get_text_config().max_position_embeddings
    from transformers import AutoConfig, AutoTokenizer

    from critique_rl.vision.models import is_vision_model, load_processor

    try:
        context = getattr(AutoConfig.from_pretrained(base).get_text_config(), "max_position_embeddings", None)
        vision = is_vision_model(base)
        tokenizer: Any = load_processor(base) if vision else AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"base: {base} is no directory of a model, and as a hub id: {reason}") from error
    if not tokenizer.chat_template:
        raise UserError(f"base: the tokenizer of {base} has no chat template; take a model that has one.")
    return tokenizer, context


def check_actor(spec: Mapping[str, Any], where: str) -> None:
    """Check the options of an actor by name, which `make_actor` would do hours later.

    Raises:
        UserError: An option is unknown.
    """
    if spec.get("backend", "transformers") == "transformers" and spec:
        from critique_rl.actors import TransformersActor

        known = [*inspect.signature(TransformersActor).parameters, "backend"]
        for key in spec:
            if key not in known:
                raise UserError(unknown(f"{where}: setting", key, known))


def check_policy_benchmarks(run: Run) -> None:
    """See that lmms-eval is there and can be asked for these benchmarks of these models.

    Raises:
        UserError: It is not, or cannot.
    """
    settings = run.policy_benchmarks()
    policy_benchmarks.command(run.model_path("actor"), run.config.directory, **settings)
    policy_benchmarks.check_installed(settings["python"])
    if "no_critic" in run.policies and not run.config.loads_actor:
        raise UserError(
            "evaluation.policy_benchmarks: lmms-eval loads the actor itself and cannot ask a server; give `actor` "
            "a model, or leave no_critic out of `evaluation.rows`."
        )


def check_cold_start(run: Run) -> None:
    """Check who teaches, and all options of supervised training.

    Raises:
        UserError: A teacher is incomplete, or an option unknown or not valid.
    """
    cold = run.config.cold_start
    if run.shipped is not None:
        return
    if cold.actor_sft or cold.critic_sft:
        if cold.teacher.kind == "model" and not cold.teacher.actor:
            raise UserError("cold_start.teacher.actor: say which model writes the texts.")
        check_actor(cold.teacher.actor, "cold_start.teacher.actor")
    known = next((SCRIPTED[task.name] for task in run.config.train if task.name in SCRIPTED), None)
    solver, annotator, judge = known or SCRIPTED["modular_chain"]
    check_options(solver, cold.teacher.solver, "cold_start.teacher.solver")
    check_options(annotator, cold.teacher.annotator, "cold_start.teacher.annotator")
    check_options(annotator, cold.teacher.polished, "cold_start.teacher.polished")
    if judge is not None:
        check_options(judge, cold.teacher.judge, "cold_start.teacher.judge")
    elif cold.teacher.judge or cold.judgements:
        raise UserError("cold_start.judgements: the task has no judge; leave it out.")
    given = {"cold_start.actor_sft": cold.actor_sft, "cold_start.critic_sft": cold.critic_sft}
    if cold.base is not None:
        check_options(solver, cold.base.solver, "cold_start.base.solver")
        check_options(annotator, cold.base.annotator, "cold_start.base.annotator")
        for i, part in enumerate(cold.base.passes):
            check_options(annotator, part.polished, f"cold_start.base.passes[{i}].polished")
            given |= {f"cold_start.base.passes[{i}].sft": part.sft}
    from trl import SFTConfig

    from critique_rl.cold_start.sft import sft_args

    for where, options in given.items():
        check_options(SFTConfig, options, where)
        sft_args(run.config.directory, seed=0, options=options, where=where)
