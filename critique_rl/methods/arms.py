"""Every critic of the papers' tables and of our controls, made from the stages of one configuration.

An arm differs from a stage of the configuration only in what its name says: same start, same pool, same lengths.
An arm of Stage II that leaves out Stage I is as long as both, so that all arms have the same budget of RL steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

from critique_rl.config.methods import METHODS
from critique_rl.config.run import RunConfig
from critique_rl.config.training import StageConfig
from critique_rl.methods.options import CRITIC_ONLY
from critique_rl.types import UserError, nearest


class Arm(NamedTuple):
    """An arm of Critique-RL's tables.

    Attributes:
        label: Row of the result table.
        like: Stage of the configuration, `stage1` or `stage2`, that gives every other setting.
        start: Arm or model that the training starts from.
        options: Options of the trainer that differ.
    """

    label: str
    like: str
    start: str
    options: Mapping[str, Any] = {}


KL_OFF = {"beta": 0.0}
GATED = {"combination": "gated"}
NO_DIS = {"refinement_reward": "r_refine", "beta_1": 0.0}
CORRECTION = {"refinement_reward": "r_correction"}
DELTA_ALONE = {"refinement_reward": "r_delta", "beta_1": 0.0}
GRPO = {"advantage": "grpo", "kl_placement": "loss", "kl_estimator": "k3", "whiten": False}

STAGES = {
    "stage1": Arm("Stage I", "stage1", "sft"),
    "stage2": Arm("Critique-RL", "stage2", "stage1"),
}
TABLE_1 = {  # one indirect reward, one stage; the paper's CTRL is GRPO, its Retroformer PPO
    "r_refine": Arm("r_refine, RLOO", "stage2", "sft", NO_DIS),
    "ctrl": Arm("CTRL", "stage2", "sft", {**NO_DIS, **GRPO}),
    "r_delta": Arm("Retroformer (RLOO)", "stage2", "sft", DELTA_ALONE),
    "r_correction": Arm("r_correction, RLOO", "stage2", "sft", {**CORRECTION, "beta_1": 0.0}),
    "retroformer": Arm("Retroformer", "stage2", "sft", {**DELTA_ALONE, "advantage": "gae"}),
}
TABLE_3 = {
    "one_stage": Arm("w/o Stage I", "stage2", "sft"),
    "no_discrimination": Arm("Stage II w/o discrimination", "stage2", "stage1", {**NO_DIS, **KL_OFF}),
    "stage2_r_delta": Arm("Stage II w/ r_delta", "stage2", "stage1", {"refinement_reward": "r_delta"}),
    "stage2_r_correction": Arm("Stage II w/ r_correction", "stage2", "stage1", CORRECTION),
}
TABLE_2 = {
    "iteration2_stage1": Arm("Iteration 2, Stage I", "stage1", "stage2"),
    "iteration2_stage2": Arm("Iteration 2, Stage II", "stage2", "iteration2_stage1"),
}
FACTORIAL = {  # ours: stages x combination of the rewards x KL
    "two_gated": Arm("two stages, gated", "stage2", "stage1", GATED),
    "two_none": Arm("two stages, r_refine alone in Stage II", "stage2", "stage1", NO_DIS),
    "one_gated": Arm("one stage, gated", "stage2", "sft", GATED),
    "stage1_no_kl": Arm("Stage I without KL", "stage1", "sft", KL_OFF),
    "two_additive_no_kl": Arm("two stages, additive, no KL", "stage2", "stage1_no_kl", KL_OFF),
    "two_gated_no_kl": Arm("two stages, gated, no KL", "stage2", "stage1_no_kl", {**GATED, **KL_OFF}),
    "two_none_no_kl": Arm(
        "two stages, r_refine alone in Stage II, no KL", "stage2", "stage1_no_kl", {**NO_DIS, **KL_OFF}
    ),
    "one_additive_no_kl": Arm("one stage, additive, no KL", "stage2", "sft", KL_OFF),
    "one_gated_no_kl": Arm("one stage, gated, no KL", "stage2", "sft", {**GATED, **KL_OFF}),
    "one_none_no_kl": Arm("one stage, r_refine alone, no KL", "stage2", "sft", {**NO_DIS, **KL_OFF}),
}
SENSITIVITY = {"beta": (0.8, 1.2), "beta_1": (0.5, 2.0), "beta_2": (0.5, 2.0)}
"""Factors on each coefficient. Table 12 moves beta by 20 % and the others by 2 %, which is within its noise."""
NOISE = (0.1, 0.2)
"""Shares of wrong labels in our control."""
VALUE_RATE = 18.0
"""Learning rate of the value model over the policy's: the released script's 9e-6 over 5e-7."""
SIZES = ("learning_rate", "generation_batch_size", "per_device_train_batch_size")
"""Settings of Stage I that the baselines share."""
MACHINE = ("bf16", "gradient_checkpointing", "use_cpu", "dataloader_pin_memory")
"""Settings of a trainer that depend on the machine."""


def arms(config: RunConfig) -> dict[str, StageConfig]:
    """All arms of Critique-RL's tables by name, each after the one it starts from.

    Args:
        config: Configuration with the stages `stage1` and `stage2`.

    Raises:
        UserError: A stage is missing or does not say its length, or Stage I lacks a setting of `SIZES`.
    """
    for name, settings in {"stage1": ("rl_steps", *SIZES), "stage2": ("rl_steps",)}.items():
        for setting in settings:
            if name not in config.stages or not config.stages[name].trainer.get(setting):
                raise UserError(f"config {config.name}: the tables need stages.{name}.trainer.{setting}.")
    first = config.stages["stage1"].trainer
    both = {"rl_steps": first["rl_steps"] + config.stages["stage2"].trainer["rl_steps"]}

    def stage(arm: Arm) -> StageConfig:
        like = config.stages[arm.like]
        alone = both if (arm.like, arm.start) == ("stage2", "sft") else {}
        return StageConfig(
            label=arm.label,
            start=arm.start,
            trainer={**like.trainer, **alone, **arm.options},
            lora=like.lora,
            checkpoint_rl_steps=like.checkpoint_rl_steps,
        )

    own = {name: stage(arm) for name, arm in {**STAGES, **TABLE_1}.items()}
    for name in STAGES:
        kept = config.stages[name].keep_rl_steps
        own[name] = replace(
            own[name], keep_rl_steps=_fifths(own[name].trainer["rl_steps"]) if kept is None else kept
        )
    own["retroformer"].trainer["value_learning_rate"] = VALUE_RATE * first["learning_rate"]
    long = {"stage1_long": Arm("Stage I, steps of both", "stage1", "sft", both)}  # compute-matched
    rest = {**TABLE_3, **TABLE_2, **FACTORIAL, **long, **_sensitivity(config), **_noise()}
    return {**own, **_baselines(config), **{name: stage(arm) for name, arm in rest.items()}}


def _fifths(rl_steps: int) -> list[int]:
    """RL steps after each fifth of a training but the last, for Table 13."""
    return [step for step in dict.fromkeys(rl_steps * i // 5 for i in range(1, 5)) if step]


def _sensitivity(config: RunConfig) -> dict[str, Arm]:
    """Arms of Table 12, see `coefficients`."""
    variants = {}
    for coefficient, values in coefficients(config).items():
        for name, value in values.items():
            if name == "stage2":
                continue
            start, label = "stage1", f"{coefficient} {value:g}"
            options = {"beta" if coefficient == "beta_2" else coefficient: value}
            if coefficient == "beta":
                start = name.replace("stage2", "stage1")
                variants[start] = Arm(f"Stage I, {label}", "stage1", "sft", options)
            variants[name] = Arm(label, "stage2", start, options)
    return variants


def _noise() -> dict[str, Arm]:
    """Both stages with a share of wrong labels."""
    variants = {}
    for share in NOISE:
        options, wrong = {"oracle_noise": share}, f"{share:.0%} of labels wrong"
        start = noisy("stage1", share)
        variants[start] = Arm(f"Stage I, {wrong}", "stage1", "sft", options)
        variants[noisy("stage2", share)] = Arm(f"Critique-RL, {wrong}", "stage2", start, options)
    return variants


def _baselines(config: RunConfig) -> dict[str, StageConfig]:
    """Methods of their own, with as many critiques drawn as in the RL of both stages."""
    first, second = config.stages["stage1"].trainer, config.stages["stage2"].trainer
    rl_steps = first["rl_steps"] + second["rl_steps"]
    group = first.get("num_generations", 4)
    responses = rl_steps * first["generation_batch_size"] // group
    sft = dict(config.cold_start.critic_sft)
    draw = {"samples": group, "temperature": first.get("temperature", 0.7)}
    machine = {name: first[name] for name in MACHINE if name in first}
    dpo = {**machine, **{name: first[name] for name in SIZES if name != "generation_batch_size"}}
    of_actors = {name: value for name, value in first.items() if name not in CRITIC_ONLY}
    rl = {**of_actors, "rl_steps": rl_steps}
    score = {**of_actors, "first_rl_steps": first["rl_steps"], "rl_steps": second["rl_steps"]}

    def arm(label: str, method: str, start: str = "sft", **options: Any) -> StageConfig:
        return StageConfig(label=label, start=start, method=method, trainer=options)

    return {
        "star": arm("STaR", "star", problems=responses // 3, iterations=3, sft=sft, **draw),
        "critic_cot": arm("Critic-CoT", "critic_cot", problems=responses // 3, iterations=3, sft=sft, **draw),
        "super_correct": arm("SuperCorrect", "super_correct", problems=responses, dpo=dpo, **draw),
        "self_refine": arm("Self-Refine", "self_refine", problems=responses, sft=sft, **draw),
        "actor_rl": replace(arm("Directly RL", "actor_rl", "actor", **rl), lora=config.stages["stage1"].lora),
        "score": arm("SCoRe", "score", "self_refine", **score),
    }


def coefficients(config: RunConfig) -> dict[str, dict[str, float]]:
    """Values of each coefficient of Table 12 by arm, from small to large; the middle one is the configuration's.

    `beta` moves in both stages, `beta_1` and `beta_2`, which is the KL of Stage II, only in Stage II.
    """
    first, second = config.stages["stage1"].trainer, config.stages["stage2"].trainer
    beta_1, beta_2 = second.get("beta_1", 0.2), second.get("beta", 0.01)
    own = {"beta": first.get("beta", 0.01), "beta_1": beta_1, "beta_2": beta_2}
    return {
        name: {
            f"stage2_{name}_x{100 * low:g}": low * own[name],
            "stage2": own[name],
            f"stage2_{name}_x{100 * high:g}": high * own[name],
        }
        for name, (low, high) in SENSITIVITY.items()
    }


def noisy(arm: str, share: float) -> str:
    """Name of an arm with a share of wrong labels."""
    return f"{arm}_noise{100 * share:g}"


ALPHAS = (0.5, 0.7, 1.0)
"""Weights of r_pref in our control; the paper tries 0.9 alone."""
NOT_SHARED = ("pairs", "alpha", "reward", "ties", "prompts", "max_completion_length")
"""Settings of the pairwise critic that its controls without pairs lack, or get from the run."""


def pairwise_arms(config: RunConfig) -> dict[str, StageConfig]:
    """All arms of LLaVA-Critic-R1's tables by name, each after the one it starts from.

    Args:
        config: Configuration with a stage `critic` of method `pairwise_critic`, which gives every other setting.

    Raises:
        UserError: The stage is missing, of another method, or does not say its length.
    """
    critic = config.stages.get("critic")
    if critic is None or critic.method != "pairwise_critic" or not critic.trainer.get("rl_steps"):
        raise UserError(
            f"config {config.name}: the tables need a stage `critic` of method pairwise_critic with rl_steps."
        )
    pairs, without_pairs = critic.trainer.get("pairs", {}), _without_pairs(critic.trainer)

    def arm(
        label: str, method: str = critic.method, start: str = critic.start, **options: Any
    ) -> StageConfig:
        trainer = {**(critic.trainer if METHODS[method].pairs else without_pairs), **options}
        every = critic.checkpoint_rl_steps
        if METHODS[method].checkpoints:  # there it is an option of the stage
            every = trainer.pop("checkpoint_rl_steps", every)
        return replace(
            critic,
            label=label,
            start=start,
            method=method,
            trainer=trainer,
            checkpoint_rl_steps=every,
            keep_rl_steps=None,
        )

    table_8 = {  # strategies, and a control of the same size on questions instead of pairs
        "policy": arm("Policy RL", "actor_rl"),
        "policy_then_critic": arm("Policy RL, then critic RL", start="policy"),
        "critic_then_policy": arm("Critic RL, then policy RL", "actor_rl", "critic"),
        "mixed": arm("Mixed", "mixed"),
    }
    stages = {  # ours: the two stages of Critique-RL on single responses
        "stage1": arm("Stage I", "critique_rl", "sft"),
        "stage2": arm("Critique-RL", "critique_rl", "stage1", refinement_reward="r_refine"),
    }
    ties = pairs if pairs.get("origin") else {**pairs, "ties": True}
    return {
        "critic": replace(critic, keep_rl_steps=_fifths(critic.trainer["rl_steps"])),
        # Table 5: where the gain of the policy comes from
        "format_only": arm("Format reward alone", alpha=0.0),
        **({**table_8, **stages} if config.train else {}),
        "label_sft": replace(arm("SFT on labels", "label_sft"), trainer=_label_sft(critic), lora=None),
        # ours
        **{f"alpha_{100 * a:g}": arm(f"alpha {a:g}", alpha=a) for a in ALPHAS},
        "quarter": arm("a quarter of the pairs", pairs={**pairs, "share": 0.25}),
        "half": arm("half of the pairs", pairs={**pairs, "share": 0.5}),
        "ties": arm("with ties", ties=True, pairs={**ties}),
    }


def _without_pairs(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the pairwise critic for a trainer of single responses, whose defaults are another paper's."""
    from critique_rl.training.config import CriticConfig
    from critique_rl.training.pairwise import PairwiseCriticConfig

    defaults = {f.name: f.default for f in fields(PairwiseCriticConfig)}
    differing = {f.name: defaults[f.name] for f in fields(CriticConfig) if f.default != defaults[f.name]}
    return {name: value for name, value in {**differing, **trainer}.items() if name not in NOT_SHARED}


def _label_sft(critic: StageConfig) -> dict[str, Any]:
    """Options of supervised training on the labels: one epoch over the same pairs."""
    shared = (*MACHINE, "learning_rate", "per_device_train_batch_size")
    options = {name: critic.trainer[name] for name in shared if name in critic.trainer}
    return {**options, "num_train_epochs": 1, "max_length": None, "pairs": critic.trainer.get("pairs", {})}


def with_ancestors(known: Mapping[str, StageConfig], wanted: Iterable[str]) -> dict[str, StageConfig]:
    """The wanted arms and all that they start from, in the order of `known`.

    Raises:
        UserError: An arm is unknown; the message names the nearest.
    """
    needed: set[str] = set()
    for name in wanted:
        while name not in ("actor", "sft", "no_critic") and name not in needed:
            if name not in known:
                raise UserError(f"no arm '{name}'. {nearest(name, known)}")
            needed.add(name)
            name = known[name].start
    return {name: stage for name, stage in known.items() if name in needed}
