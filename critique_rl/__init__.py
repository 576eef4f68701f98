"""Train critics with reinforcement learning: Critique-RL (arXiv 2510.24320), LLaVA-Critic-R1 (arXiv 2509.00676).

Names are imported on first use, so that `import critique_rl` costs nothing and the grading workers, which
start with it, stay light.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from critique_rl.moved import FormerPaths

if TYPE_CHECKING:
    from critique_rl.actors import OpenAIActor, TransformersActor
    from critique_rl.training.pairwise import PairwiseCriticConfig, PairwiseCriticTrainer
    from critique_rl.training.stage_config import CritiqueConfig, Stage1Config, Stage2Config
    from critique_rl.training.stages import CritiqueTrainer, Stage1Trainer, Stage2Trainer

_HOMES = {
    "CritiqueConfig": "training.stages",
    "CritiqueTrainer": "training.stages",
    "OpenAIActor": "actors",
    "PairwiseCriticConfig": "training.pairwise",
    "PairwiseCriticTrainer": "training.pairwise",
    "Stage1Config": "training.stages",
    "Stage1Trainer": "training.stages",
    "Stage2Config": "training.stages",
    "Stage2Trainer": "training.stages",
    "TransformersActor": "actors",
}
__all__ = [
    "CritiqueConfig",
    "CritiqueTrainer",
    "OpenAIActor",
    "PairwiseCriticConfig",
    "PairwiseCriticTrainer",
    "Stage1Config",
    "Stage1Trainer",
    "Stage2Config",
    "Stage2Trainer",
    "TransformersActor",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'critique_rl' has no attribute '{name}'")
    return getattr(import_module(f"critique_rl.{_HOMES[name]}"), name)


sys.meta_path.insert(0, FormerPaths())  # before a stale folder that an older version left
