"""Methods of training by name, with the facts that configurations, plans and reports need without an import.

The methods themselves are in `critique_rl.methods`. A new method is one module there and one entry here.
"""

from __future__ import annotations

from typing import NamedTuple

CRITIQUE_CONFIG = "critique_rl.training.stage_config:CritiqueConfig"
PAIRWISE_CONFIG = "critique_rl.training.pairwise:PairwiseCriticConfig"


class MethodInfo(NamedTuple):
    """Facts about one method.

    Attributes:
        module: Module below `critique_rl.methods` with the functions `check` and `train`.
        attribute: Object in that module that has them; None is the module itself.
        roles: Roles that the trained model has in the protocol: `critic`, `actor`.
        images: Whether questions may have images.
        by_rl: Whether it is RL by our trainer, so that it takes `lora` and `keep_rl_steps`.
        scored: Whether it works where replies are scored instead of graded.
        checkpoints: Whether it takes `checkpoint_rl_steps` of the stage; others by RL have it among their options.
        pairs: Whether it learns from preference pairs, as LLaVA-Critic-R1 does.
        problems: Whether it needs train problems even where its pairs come from a data set.
        options: Dataclass of its options as `module:name`; None where the method has options of its own.
    """

    module: str
    attribute: str | None = None
    roles: tuple[str, ...] = ("critic",)
    images: bool = False
    by_rl: bool = False
    scored: bool = False
    checkpoints: bool = False
    pairs: bool = False
    problems: bool = True
    options: str | None = None


_MIXED = MethodInfo("mixed", roles=("actor",), images=True, by_rl=True, pairs=True, options=PAIRWISE_CONFIG)
METHODS = {
    "critique_rl": MethodInfo(
        "critique_rl", images=True, by_rl=True, scored=True, checkpoints=True, options=CRITIQUE_CONFIG
    ),
    "star": MethodInfo("self_training", "STAR"),
    "critic_cot": MethodInfo("self_training", "CRITIC_COT"),
    "self_refine": MethodInfo("self_training", "SELF_REFINE", ("actor", "critic")),
    "super_correct": MethodInfo("super_correct"),
    "actor_rl": MethodInfo("actor_rl", roles=("actor",), images=True, by_rl=True, options=CRITIQUE_CONFIG),
    "score": MethodInfo("score", roles=("actor", "critic"), options=CRITIQUE_CONFIG),
    "pairwise_critic": _MIXED._replace(module="pairwise_critic", problems=False),
    "mixed": _MIXED,
    "label_sft": MethodInfo("label_sft", roles=("actor",), images=True, pairs=True, problems=False),
}
"""All methods by name, as `method` of a stage has it."""
