"""Directly RL: the actor itself is trained with r_oracle(x, y); there is no critic.

The trainer is the critic's, with other prompts and another reward, so that both spend a rollout alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset
from peft import PeftConfig
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from critique_rl.actors.transformers_actor import TransformersActor
from critique_rl.artifacts import is_first_process
from critique_rl.baselines.base import Inputs
from critique_rl.callbacks import KeepCallback
from critique_rl.cold_start import machine_defaults
from critique_rl.config import check_options
from critique_rl.stages import CritiqueConfig, CritiqueTrainer
from critique_rl.trainer import CriticConfig, CriticTrainer, load_critic
from critique_rl.types import UserError, child_seed

Config = TypeVar("Config", bound=CriticConfig)

# GRPO as published: normalised by the group, KL in the loss. CritiqueConfig's own defaults are RLOO's.
GRPO: dict[str, Any] = {"advantage": "grpo", "whiten": False, "kl_placement": "loss", "kl_estimator": "k3"}
# What the run sets itself, and what has no effect where no critic is trained.
FIXED = ("output_dir", "seed", "prompts", "max_steps", "response_max_tokens", "refinement_max_tokens")
CRITIC_ONLY = (
    "refinement_reward",
    "combination",
    "beta_1",
    "signed_dis",
    "oracle_noise",
    "response_source",
    "response_temperature",
    "refinement_temperature",
)


class ActorTrainer(CritiqueTrainer):
    """Trains the actor on r_oracle of its own responses.

    Args:
        model: The actor to start from: a directory, or a `PeftModel` with a trainable adapter.
        args: The configuration; terms that only a critic has are ignored.
        train_dataset: As for `CritiqueTrainer`; each question is used once.
        callbacks: As in `Trainer`.
        peft_config: Adapter to train instead of the full model.

    Raises:
        UserError: As `CritiqueTrainer`.
    """

    def __init__(
        self,
        model: Any,
        *,
        args: CritiqueConfig,
        train_dataset: Dataset,
        callbacks: list[TrainerCallback] | None = None,
        peft_config: PeftConfig | None = None,
    ) -> None:
        super().__init__(
            model=model, args=args, train_dataset=train_dataset, callbacks=callbacks, peft_config=peft_config
        )
        self.reward_funcs, self.reward_func_names = [self.reward], ["r_oracle"]
        size = args.per_device_train_batch_size
        self.policy = TransformersActor(self.model, self.processing_class, batch_size=size)

    def reward(self, completions: list[Any], **columns: Any) -> list[float | None]:
        """1 or 0 for each completion, None where it cannot be graded; see trl's reward functions."""
        replies = [self._prompts.reasoning_prefill + c[0]["content"] for c in completions]
        grades = self.graded(replies, columns["answer"], columns["kind"])
        for grade in grades:
            columns["log_metric"]("actor/graded_rate", float(grade is not None))
        return [None if grade is None else float(grade) for grade in grades]

    def graded(self, replies: list[str], answers: list[str], kinds: list[str]) -> list[bool | None]:
        """r_oracle of each reply."""
        items = [
            {"gold": answer, "reply": reply, "kind": kind}
            for answer, reply, kind in zip(answers, replies, kinds, strict=True)
        ]
        return [None if grade is None else bool(grade) for grade in self.grader(items)]

    def _with_prompts(self, dataset: Dataset, name: str) -> Dataset:
        """Each question, about each image, once, with the actor's prompt."""
        rows = {(row["question"], row.get("image")): row for row in super()._with_prompts(dataset, name)}
        prompts = self._prompts
        if prompts.reasoning_prefill and "image" in dataset.column_names:
            raise UserError(
                f"prompts: '{prompts.name}' begins the reply for the actor, which trl does not do where there "
                "are images; take 'thinking' or 'compact'."
            )
        return Dataset.from_list(
            [row | {"prompt": prompts.reasoning_prompt(question)} for (question, _), row in rows.items()]
        )

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        """The actor's own rendering: trl would close a prefill and open another turn after it."""
        if isinstance(prompts[0][0]["content"], list):  # with images, and then without a prefill
            return super()._tokenize_prompts(prompts)
        texts = [self.policy.render(prompt) for prompt in prompts]
        return self.processing_class(texts, add_special_tokens=False)["input_ids"], None, {}


class _Progress(TrainerCallback):
    """Reports finished RL steps."""

    def __init__(self, report: Callable[[int, int, str], None], block: int) -> None:
        self.report, self.block = report, block

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the trainer at every log."""
        last = state.log_history[-1]
        if "reward" in last and state.is_world_process_zero:
            note = f"reward {last['reward']:.3f}"
            self.report(state.global_step // self.block, state.max_steps // self.block, note)


def check(options: Mapping[str, Any]) -> None:
    """See `Baseline.check`."""
    rl_args(CritiqueConfig, "actor_rl", GRPO, options, output=Path("unused"), seed=0)


def train(inputs: Inputs) -> None:
    """See `Baseline.train`; it goes on from the last checkpoint."""
    args = rl_args(
        CritiqueConfig,
        "actor_rl",
        GRPO | {"max_completion_length": inputs.lengths.response},
        inputs.options,
        output=inputs.output,
        seed=child_seed(inputs.seed, "actor_rl"),
        prompts=inputs.prompts.name,
    )
    start = load_critic(inputs.start)
    lora = inputs.lora if isinstance(start, str) else None
    run(ActorTrainer(start, args=args, train_dataset=inputs.pool, peft_config=lora), inputs)


def rl_args(
    cls: type[Config],
    where: str,
    defaults: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    output: Path,
    seed: int,
    **fixed: Any,
) -> Config:
    """The trainer's configuration.

    Args:
        cls: Its class.
        where: How messages call the options.
        defaults: Settings that options win over.
        options: Fields of `cls` but for `FIXED` and `CRITIC_ONLY`, and `checkpoint_rl_steps` (50).
        output: Directory of the run.
        seed: Its seed.
        fixed: Settings that win over all.

    Raises:
        UserError: An option is unknown, invalid or has no effect here.
    """
    settings = dict(options)
    every = settings.pop("checkpoint_rl_steps", 50)
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise UserError(f"{where}: checkpoint_rl_steps must be a whole number from 1 on, got {every!r}.")
    check_options(cls, settings, where)
    for name in (*FIXED, *CRITIC_ONLY):
        if name in settings:
            instead = " Set rl_steps." if name == "max_steps" else ""
            raise UserError(f"{where}: {name} cannot be set here.{instead}")
    merged = {
        "disable_tqdm": True,
        "report_to": "tensorboard",
        "save_total_limit": 1,
        "rl_steps": 500,  # of either stage of Critique-RL
        **machine_defaults(),
        **defaults,
        **settings,
        "output_dir": str(output),
        "seed": seed,
        **fixed,
    }
    try:
        args = cls(**merged)
        if "save_strategy" not in merged:
            steps = every * args.optimizer_steps_per_rl_step
            args = cls(**merged, save_strategy="steps", save_steps=steps)
    except (TypeError, ValueError, UserError) as error:
        raise UserError(f"{where}: {error}") from error
    return args


def run(trainer: CriticTrainer, inputs: Inputs) -> None:
    """Train from the last checkpoint on, if there is one, and save; the last file is `trainer_state.json`."""
    from critique_rl.pipeline import last_checkpoint

    output = Path(str(trainer.args.output_dir))
    trainer.remove_callback(PrinterCallback)  # it prints every log to stdout where there is no bar
    block = trainer.args.optimizer_steps_per_rl_step
    trainer.add_callback(_Progress(inputs.on_progress, block))
    trainer.add_callback(
        KeepCallback(
            inputs.keep_rl_steps, block, lambda step: trainer.save_model(str(output / f"rl_step-{step}"))
        )
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(output))
    trainer.save_model(str(output))
    if is_first_process():
        trainer.state.save_to_json(str(output / "trainer_state.json"))
    trainer.accelerator.wait_for_everyone()  # no process may read what another still writes
