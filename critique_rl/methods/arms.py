"""Every critic of the paper's tables and of our controls, made from the two stages of one configuration.

An arm is a stage that differs from the configuration's `stage1` or `stage2` in what its name says, and in
nothing else: same critic to start from, same pool, same lengths. Arms without Stage I are as long as both stages
together, so that no row has a smaller budget of RL steps than another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from critique_rl.config.run import RunConfig
from critique_rl.config.training import StageConfig
from critique_rl.types import UserError, nearest

KL_OFF = {"beta": 0.0}
NO_DIS = {"refinement_reward": "r_refine", "beta_1": 0.0}
SENSITIVITY = {"beta": (0.8, 1.2), "beta_1": (0.5, 2.0), "beta_2": (0.5, 2.0)}
"""Factors on each coefficient. Table 12 moves beta by 20 % and the others by 2 %, which is within its noise."""
NOISE = (0.1, 0.2)
VALUE_RATE = 18.0
"""Learning rate of the value model over the policy's: the released script's 9e-6 over 5e-7."""
SIZES = ("learning_rate", "generation_batch_size", "per_device_train_batch_size")
"""Settings of Stage I from which the baselines have theirs."""
MACHINE = ("bf16", "gradient_checkpointing", "use_cpu", "dataloader_pin_memory")
"""Settings of a trainer that say what it runs on."""


def arms(config: RunConfig) -> dict[str, StageConfig]:
    """All arms by name, each after the one it starts from.

    Args:
        config: It has the stages `stage1` and `stage2`, which give every setting that an arm does not change.

    Raises:
        UserError: One of the two stages is missing, or does not say its length, or Stage I its batch sizes and its
            learning rate, from which the baselines have theirs.
    """
    needed = {"stage1": ("rl_steps", *SIZES), "stage2": ("rl_steps",)}
    for name, settings in needed.items():
        for setting in settings:
            if name not in config.stages or not config.stages[name].trainer.get(setting):
                raise UserError(f"config {config.name}: the tables need stages.{name}.trainer.{setting}.")
    first, second = config.stages["stage1"], config.stages["stage2"]
    steps = {"rl_steps": first.trainer["rl_steps"] + second.trainer["rl_steps"]}

    def arm(label: str, like: StageConfig, start: str, **trainer: Any) -> StageConfig:
        return StageConfig(
            label=label,
            start=start,
            trainer={**like.trainer, **trainer},
            lora=like.lora,
            checkpoint_rl_steps=like.checkpoint_rl_steps,
        )

    def kept(stage: StageConfig) -> StageConfig:
        """With its critics after each fifth, for Table 13."""
        fifths = [stage.trainer["rl_steps"] * i // 5 for i in range(1, 5)]
        return replace(stage, keep_rl_steps=[step for step in dict.fromkeys(fifths) if step])

    made = {
        "stage1": kept(arm("Stage I", first, "sft")),
        "stage2": kept(arm("Critique-RL", second, "stage1")),
        # Table 1: one indirect reward, one stage. The paper's CTRL is GRPO, its Retroformer PPO.
        "r_refine": arm("r_refine, RLOO", second, "sft", **steps, **NO_DIS),
        "ctrl": arm(
            "CTRL",
            second,
            "sft",
            **steps,
            **NO_DIS,
            advantage="grpo",
            kl_placement="loss",
            kl_estimator="k3",
            whiten=False,
        ),
        "r_delta": arm("Retroformer (RLOO)", second, "sft", **steps, refinement_reward="r_delta", beta_1=0.0),
        "r_correction": arm(
            "r_correction, RLOO", second, "sft", **steps, refinement_reward="r_correction", beta_1=0.0
        ),
        "retroformer": arm(
            "Retroformer",
            second,
            "sft",
            **steps,
            refinement_reward="r_delta",
            beta_1=0.0,
            advantage="gae",
            value_learning_rate=VALUE_RATE * first.trainer["learning_rate"],
        ),
        **_baselines(config),
        # Table 3
        "one_stage": arm("w/o Stage I", second, "sft", **steps),
        "no_discrimination": arm("Stage II w/o discrimination", second, "stage1", **NO_DIS, **KL_OFF),
        "stage2_r_delta": arm("Stage II w/ r_delta", second, "stage1", refinement_reward="r_delta"),
        "stage2_r_correction": arm(
            "Stage II w/ r_correction", second, "stage1", refinement_reward="r_correction"
        ),
        # Table 2
        "iteration2_stage1": arm("Iteration 2, Stage I", first, "stage2"),
        "iteration2_stage2": arm("Iteration 2, Stage II", second, "iteration2_stage1"),
        # Factorial: stages x joining of the rewards x KL
        "two_gated": arm("two stages, gated", second, "stage1", combination="gated"),
        "two_none": arm("two stages, r_refine alone in Stage II", second, "stage1", **NO_DIS),
        "one_gated": arm("one stage, gated", second, "sft", **steps, combination="gated"),
        "stage1_no_kl": arm("Stage I without KL", first, "sft", **KL_OFF),
        "two_additive_no_kl": arm("two stages, additive, no KL", second, "stage1_no_kl", **KL_OFF),
        "two_gated_no_kl": arm(
            "two stages, gated, no KL", second, "stage1_no_kl", combination="gated", **KL_OFF
        ),
        "two_none_no_kl": arm(
            "two stages, r_refine alone in Stage II, no KL", second, "stage1_no_kl", **NO_DIS, **KL_OFF
        ),
        "one_additive_no_kl": arm("one stage, additive, no KL", second, "sft", **steps, **KL_OFF),
        "one_gated_no_kl": arm(
            "one stage, gated, no KL", second, "sft", **steps, combination="gated", **KL_OFF
        ),
        "one_none_no_kl": arm("one stage, r_refine alone, no KL", second, "sft", **steps, **NO_DIS, **KL_OFF),
        # Compute-matched: Stage I alone for as many steps as both
        "stage1_long": arm("Stage I, steps of both", first, "sft", **steps),
    }
    for name, values in coefficients(config).items():
        for arm_name, value in values.items():
            if name == "beta" and arm_name != "stage2":
                before = arm_name.replace("stage2", "stage1")
                made[before] = arm(f"Stage I, beta {value:g}", first, "sft", beta=value)
                made[arm_name] = arm(f"beta {value:g}", second, before, beta=value)
            elif arm_name != "stage2":
                option = "beta" if name == "beta_2" else name
                made[arm_name] = arm(f"{name} {value:g}", second, "stage1", **{option: value})
    for share in NOISE:
        wrong = f"{share:.0%} of labels wrong"
        made[noisy("stage1", share)] = arm(f"Stage I, {wrong}", first, "sft", oracle_noise=share)
        made[noisy("stage2", share)] = arm(
            f"Critique-RL, {wrong}", second, noisy("stage1", share), oracle_noise=share
        )
    return made


ALPHAS = (0.5, 0.7, 1.0)
"""Weights of r_pref beside the paper's 0.9, of which no other was tried there."""
NOT_SHARED = ("pairs", "alpha", "reward", "ties", "prompts", "max_completion_length")
"""Settings of the pairwise critic that its controls without pairs do not have, or get from the run."""


def pairwise_arms(config: RunConfig) -> dict[str, StageConfig]:
    """All arms of LLaVA-Critic-R1's tables by name, each after the one it starts from.

    Args:
        config: It has a stage `critic` of method `pairwise_critic`, which gives every setting that an arm does not
            change.

    Raises:
        UserError: It has none.
    """
    from critique_rl.training.config import CriticConfig
    from critique_rl.training.pairwise import PairwiseCriticConfig

    critic = config.stages.get("critic")
    if critic is None or critic.method != "pairwise_critic" or not critic.trainer.get("rl_steps"):
        raise UserError(
            f"config {config.name}: the tables need a stage `critic` of method pairwise_critic with rl_steps."
        )
    given = critic.trainer
    pairs = given.get("pairs", {})
    # What is not given has another default in the trainer of the other paper.
    defaults = {f.name: f.default for f in fields(PairwiseCriticConfig)}
    differing = {f.name: defaults[f.name] for f in fields(CriticConfig) if f.default != defaults[f.name]}
    without_pairs = {k: v for k, v in {**differing, **given}.items() if k not in NOT_SHARED}

    def arm(label: str, start: str = critic.start, **trainer: Any) -> StageConfig:
        return replace(critic, label=label, start=start, trainer={**given, **trainer}, keep_rl_steps=[])

    def control(method: str, label: str, start: str = critic.start, **trainer: Any) -> StageConfig:
        trainer = {**without_pairs, **trainer}
        return replace(critic, label=label, start=start, method=method, trainer=trainer, keep_rl_steps=[])

    def two_stages(label: str, start: str, **trainer: Any) -> StageConfig:
        made = control("critique_rl", label, start, **trainer)
        every = made.trainer.pop("checkpoint_rl_steps", made.checkpoint_rl_steps)  # there of the stage itself
        return replace(made, checkpoint_rl_steps=every)

    fifths = [given["rl_steps"] * i // 5 for i in range(1, 5)]
    machine = {name: given[name] for name in MACHINE if name in given}
    sft: dict[str, Any] = {
        **machine,
        **{name: given[name] for name in ("learning_rate", "per_device_train_batch_size") if name in given},
        "num_train_epochs": 1,
        "max_length": None,
        "pairs": pairs,
    }
    of_problems = {
        # Strategies (Table 8), and the control of same size on questions instead of pairs
        "policy": control("actor_rl", "Policy RL"),
        "policy_then_critic": arm("Policy RL, then critic RL", start="policy"),
        "critic_then_policy": control("actor_rl", "Critic RL, then policy RL", start="critic"),
        "mixed": replace(arm("Mixed"), method="mixed"),
        # Ours: the two stages of Critique-RL on single responses
        "stage1": two_stages("Stage I", "sft"),
        "stage2": two_stages("Critique-RL", "stage1", refinement_reward="r_refine"),
    }
    return {
        "critic": replace(critic, keep_rl_steps=[step for step in dict.fromkeys(fifths) if step]),
        # Where the gain of the policy comes from (Table 5)
        "format_only": arm("Format reward alone", alpha=0.0),
        **(of_problems if config.train else {}),
        "label_sft": replace(
            critic, label="SFT on labels", method="label_sft", trainer=sft, lora=None, keep_rl_steps=[]
        ),
        # Ours
        **{f"alpha_{100 * a:g}": arm(f"alpha {a:g}", alpha=a) for a in ALPHAS},
        "quarter": arm("a quarter of the pairs", pairs={**pairs, "share": 0.25}),
        "half": arm("half of the pairs", pairs={**pairs, "share": 0.5}),
        "ties": arm(
            "with ties", ties=True, pairs={**pairs, **({} if pairs.get("origin") else {"ties": True})}
        ),
    }


def _baselines(config: RunConfig) -> dict[str, StageConfig]:
    """Arms that are no configuration of our trainer, with as many critiques drawn as the RL of both stages."""
    first, second = config.stages["stage1"].trainer, config.stages["stage2"].trainer
    rl_steps = first["rl_steps"] + second["rl_steps"]
    group = first.get("num_generations", 4)
    responses = rl_steps * first["generation_batch_size"] // group
    machine = {name: first[name] for name in MACHINE if name in first}
    sft = dict(config.cold_start.critic_sft)
    draw = {"samples": group, "temperature": first.get("temperature", 0.7)}
    rl = {**first, "rl_steps": rl_steps}
    dpo = {
        **machine,
        "learning_rate": first["learning_rate"],
        "per_device_train_batch_size": first["per_device_train_batch_size"],
    }

    def arm(
        method: str, label: str, start: str = "sft", lora: dict[str, Any] | None = None, **options: Any
    ) -> StageConfig:
        return StageConfig(label=label, start=start, method=method, trainer=options, lora=lora)

    return {
        "star": arm("star", "STaR", problems=responses // 3, iterations=3, sft=sft, **draw),
        "critic_cot": arm("critic_cot", "Critic-CoT", problems=responses // 3, iterations=3, sft=sft, **draw),
        "super_correct": arm("super_correct", "SuperCorrect", problems=responses, dpo=dpo, **draw),
        "self_refine": arm("self_refine", "Self-Refine", problems=responses, sft=sft, **draw),
        "actor_rl": arm("actor_rl", "Directly RL", "actor", config.stages["stage1"].lora, **rl),
        "score": arm(
            "score",
            "SCoRe",
            start="self_refine",
            **{**rl, "first_rl_steps": first["rl_steps"], "rl_steps": second["rl_steps"]},
        ),
    }


def coefficients(config: RunConfig) -> dict[str, dict[str, float]]:
    """Values of each coefficient of Table 12 by arm, from small to large; the middle one is the preset's own.

    `beta` moves in both stages, `beta_1` and `beta_2`, which is the KL of Stage II, in Stage II alone.
    """
    first, second = config.stages["stage1"].trainer, config.stages["stage2"].trainer
    own = {
        "beta": first.get("beta", 0.01),
        "beta_1": second.get("beta_1", 0.2),
        "beta_2": second.get("beta", 0.01),
    }
    return {
        name: {
            f"stage2_{name}_x{100 * low:g}": low * own[name],
            "stage2": own[name],
            f"stage2_{name}_x{100 * high:g}": high * own[name],
        }
        for name, (low, high) in SENSITIVITY.items()
    }


def noisy(arm: str, share: float) -> str:
    """Name of an arm whose labels are partly wrong."""
    return f"{arm}_noise{100 * share:g}"


def with_ancestors(known: Mapping[str, StageConfig], wanted: Iterable[str]) -> dict[str, StageConfig]:
    """The wanted arms and all that they start from, in the order of `known`.

    Raises:
        UserError: An arm is unknown.
    """
    needed: set[str] = set()
    for name in wanted:
        while name not in ("actor", "sft", "no_critic") and name not in needed:
            if name not in known:
                raise UserError(f"no arm '{name}'. {nearest(name, known)}")
            needed.add(name)
            name = known[name].start
    return {name: stage for name, stage in known.items() if name in needed}
