"""Train critics with reinforcement learning: Critique-RL (arXiv 2510.24320), LLaVA-Critic-R1 (arXiv 2509.00676).

Names are imported on first use: `import critique_rl` stays fast, and so do the grading workers that run it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from critique_rl.moved import FormerPaths, find

if TYPE_CHECKING:
    from critique_rl.actors import OpenAIActor, TransformersActor
    from critique_rl.training.checkpoints import load_critic
    from critique_rl.training.pairwise import PairwiseCriticConfig, PairwiseCriticTrainer
    from critique_rl.training.stage_config import CritiqueConfig, Stage1Config, Stage2Config
    from critique_rl.training.stages import CritiqueTrainer, Stage1Trainer, Stage2Trainer

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
    "load_critic",
]
_HOMES = ("actors", "training.checkpoints", "training.stages", "training.pairwise")


def __getattr__(name: str) -> Any:
    return find(name, __name__, _HOMES if name in __all__ else ())


sys.meta_path.insert(0, FormerPaths())  # first: an older version may have left a folder of a former name
