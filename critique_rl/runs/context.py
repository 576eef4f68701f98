"""What the steps of a run share while they work: problems, actor, scorer, pool, each loaded once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from critique_rl.config.data import TaskConfig
from critique_rl.config.reading import as_dict
from critique_rl.display import Display
from critique_rl.prompts import prompt_set
from critique_rl.records import is_first_process
from critique_rl.runs.folder import RunFolder
from critique_rl.runs.problems import load_problems
from critique_rl.types import Problem, child_seed

if TYPE_CHECKING:
    from datasets import Dataset

    from critique_rl.actors import Actor
    from critique_rl.grading.scoring import Rater, Scorer


class Context:
    """Problems, models and display of a run.

    Args:
        folder: Folder of the run.
        display: Where progress is shown.
    """

    def __init__(self, folder: RunFolder, display: Display) -> None:
        self.folder, self.config, self.display = folder, folder.config, display
        self.prompts = prompt_set(self.config.prompts)
        self._problems: dict[str, list[Problem]] = {}
        self._actor: Actor | None = None
        self._scorer: Scorer | None = None

    def problems(self, task: TaskConfig) -> list[Problem]:
        """Problems of one task, loaded once.

        Raises:
            UserError: The task cannot be loaded, or has no problem.
        """
        key = json.dumps(as_dict(task), sort_keys=True)
        if key not in self._problems:
            self._problems[key] = load_problems(task, self.display)
        return self._problems[key]

    def train_problems(self, most: int | None, purpose: str) -> list[Problem]:
        """At most `most` train problems of all tasks, in an order that depends on the purpose."""
        problems = [p for task in self.config.train for p in self.problems(task)]
        if most is not None and len(problems) < most:
            self.display.note(f"{purpose}: {len(problems):,} problems, not {most:,}")
        return sorted(problems, key=lambda p: child_seed(0, purpose, p.id))[:most]

    def actor(self) -> Actor:
        """The frozen actor, loaded or connected to on first use.

        Raises:
            UserError: The server serves another model than the one that the run began with.
        """
        from critique_rl.actors import make_actor
        from critique_rl.actors.identity import check_models, identity_of
        from critique_rl.vision.models import is_vision_model, load_processor

        if self._actor is None:
            spec = dict(self.config.actor)
            if self.config.actor_server:
                spec = {"backend": "openai", "base_url": self.config.actor_server}
                spec |= self.config.actor_server_options
            if spec.setdefault("backend", "transformers") == "transformers":
                spec["model"] = self.folder.actor_path
                limits = self.config.pixel_limits
                if limits and self.config.actor.get("model") and is_vision_model(spec["model"]):
                    # the run's own actor is saved with its limits
                    spec["tokenizer"] = load_processor(spec["model"], **limits)
            self._actor = make_actor(spec)
            # What this process loads is a step's artifact. Several ranks would write the file at once.
            if is_first_process() and "served" in identity_of(self._actor):
                path = self.folder.directory / "actor.models.json"
                check_models(path, {"actor": self._actor}, begun=True)
        return self._actor

    def model(self, row: str, seed: int | None) -> Actor:
        """The model of a row as one that writes; for `no_critic` the actor."""
        from critique_rl.actors import TransformersActor

        if row == "no_critic":
            return self.actor()
        return TransformersActor(self.folder.model_path(row, seed), **self.config.evaluation.critic)

    def scorer(self) -> Scorer | None:
        """The scorer of replies, loaded on first use; None where replies are graded."""
        from critique_rl.actors.reward_model import make_scorer

        if self._scorer is None and self.config.scorer is not None:
            self._scorer = make_scorer(self.config.scorer)
        return self._scorer

    def rater(self, seed: int | None) -> Rater | None:
        """The scorer with the scale that the pool of a seed gives it; None where replies are graded."""
        from critique_rl.grading.scoring import Rater
        from critique_rl.pool import score_range

        scorer = self.scorer()
        if scorer is None:  # where replies are graded, nobody may have drawn a pool
            return None
        pool = self.pool(seed)
        return None if pool is None else Rater(scorer, score_range(pool))

    def pool(self, seed: int | None) -> Dataset | None:
        """The response pool of a seed; None in a run without train problems."""
        from datasets import load_from_disk

        if not self.config.train or seed is None:
            return None
        # In memory, or `map` would leave its cache files in the pool's folder.
        return load_from_disk(str(self.folder.pool_table(seed)), keep_in_memory=True)

    def base(self) -> str:
        """The model that actor and critic start from, as `from_pretrained` takes it."""
        made = self.config.base == "tiny" or self.config.base_gguf
        return str(self.folder.directory / "base") if made else self.config.base
