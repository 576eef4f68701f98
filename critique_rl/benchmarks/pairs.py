"""A model of a run as critic of pairs: its accuracy on held-out pairs, and its choices among its own samples.

A held-out pair is a right and a wrong response of the frozen actor to one problem; all rows have the same pairs.
In the knock-out the candidates are the model's own samples, so it is policy and critic at once (LLaVA-Critic-R1,
arXiv 2509.00676, test-time self-critique).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from critique_rl.actors.base import Actor
from critique_rl.benchmarks.reward_measures import pair_accuracy
from critique_rl.config.evaluation import PairEvaluationConfig
from critique_rl.critic_data import pairs_of_responses, subsample_pairs
from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.intervals import ByProblem
from critique_rl.prompts import PromptSet
from critique_rl.self_critique.judges import ActorJudge
from critique_rl.self_critique.knockout import Judge
from critique_rl.self_critique.records import self_critique
from critique_rl.self_critique.results import by_item, items_of, metrics_by_item
from critique_rl.types import UserError

METHOD = "self_critique"


@dataclass(frozen=True)
class PairEvaluation:
    """One row of one seed.

    Attributes:
        config: How the model is measured.
        name: Name of the judge in its records.
        held_out: Sampled records of the frozen actor, from which pairs are made.
        own: Sampled records of the model.
        seed: Seed of draw, pairing and coins.
        directory: Folder in which judgements are written, and from which they are read back.
    """

    config: PairEvaluationConfig
    name: str
    held_out: Sequence[Episode]
    own: Sequence[Episode]
    seed: int
    directory: Path

    def run(
        self, model: Actor, prompts: PromptSet, max_tokens: int, on_progress: Callable[[int, int], None]
    ) -> None:
        """Have the model judge the pairs that are not on disk."""
        judge = ActorJudge(model, prompts=prompts, thinking=self.config.thinking, max_tokens=max_tokens)
        self._values(judge, on_progress)

    def values(self) -> ByProblem:
        """Metrics by pair or problem: `critic_...`, see `reward_measures.metrics_by_item`, and METHOD_at_N.

        Raises:
            UserError: Judgements are missing.
        """
        return self._values(self._refuse, None)

    def _values(self, judge: Judge, on_progress: Callable[[int, int], None] | None) -> ByProblem:
        pairs = pairs_of_responses(asdict(e) for e in self.held_out)
        if self.config.pairs is not None:
            pairs = subsample_pairs(pairs, self.config.pairs, self.seed)
        settings: dict[str, Any] = {"name": self.name, "seed": self.seed, "on_progress": on_progress}
        critic = pair_accuracy(pairs, judge, records=self.directory / "pairs.jsonl", **settings)
        items = items_of(self.own)
        settings |= {"both_orders": self.config.both_orders, "records": self.directory / "knockout.jsonl"}
        brackets = self_critique(items, judge, **settings)
        chosen = metrics_by_item(by_item(items, {METHOD: brackets}, seed=self.seed))
        return {**critic.by_item, **chosen}

    def _refuse(self, asked: Sequence[object]) -> list[None]:
        raise UserError(f"{self.directory}: {len(asked)} judgements are missing; run the evaluation first.")
