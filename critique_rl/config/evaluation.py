"""TODO docstring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from critique_rl.config.checks import _at_least
from critique_rl.config.data import TaskConfig
from critique_rl.types import UserError, nearest

HISTORIES = ("markov", "full")
"""Values of `Course.history`."""

CRITIQUES = ("critic", "empty", "verdict", "shuffled", "oracle")
"""Values of `Course.critiques`."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """What a problem goes through, whatever writes the texts; the defaults are the paper's main protocol.

    Attributes:
        samples: Independent chains for each problem.
        rounds: Critiques and refinements, one after the other, in a chain.
        history: What later rounds see: `markov` the latest response alone (released code), `full` all earlier
            responses and critiques (paper, section 5.3).
        critiques: What the actor is shown. `critic`: the critic's critique. The others are controls: `empty`
            no text at all, `verdict` its verdict line alone, `shuffled` its critique of another problem,
            `oracle` the true verdict with `ADVICE`; `empty` and `oracle` ask no critic.
        spare_correct: Keep right responses as they are, as an oracle verifier would (paper, Figure 5).
    """

    samples: int = 1
    rounds: int = 1
    history: str = "markov"
    critiques: str = "critic"
    spare_correct: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1 or self.rounds < 1:
            raise UserError(
                f"samples and rounds must be at least 1, got samples={self.samples}, rounds={self.rounds}."
            )
        if self.critiques == "shuffled" and self.spare_correct:
            raise UserError("critiques='shuffled' goes with all responses: set spare_correct to false.")
        for name, known in (("history", HISTORIES), ("critiques", CRITIQUES)):
            if getattr(self, name) not in known:
                raise UserError(
                    f"{name}={getattr(self, name)!r} is unknown. {nearest(getattr(self, name), known)}"
                )

    @property
    def asks_critic(self) -> bool:
        """Whether a critic is needed at all."""
        return self.critiques in ("critic", "verdict", "shuffled")


@dataclass(frozen=True)
class ProtocolConfig(Course):
    """How problems go through the protocol: a course, see `critique_rl.evaluation.Course`, and its temperatures.

    Attributes:
        response_temperature: 0 is greedy.
        critique_temperature: The same for critiques.
        refinement_temperature: The same for refinements.
    """

    response_temperature: float = 0.0
    critique_temperature: float = 0.0
    refinement_temperature: float = 0.0


@dataclass(frozen=True)
class PairEvaluationConfig:
    """How the models of a table are measured as critics of pairs.

    Attributes:
        samples: Candidates of each problem.
        temperature: Sampling temperature of the candidates.
        problems: Most problems of a task, a subsample by its seed; None takes all.
        pairs: Most held-out pairs, a subsample by the seed; None takes all.
        both_orders: Whether the knock-out judges each pair in both orders; held-out pairs always are.
        thinking: Whether a judgement without `</think>` is unparsed.
    """

    samples: int = 128
    temperature: float = 1.0
    problems: int | None = None
    pairs: int | None = None
    both_orders: bool = True
    thinking: bool = True

    def __post_init__(self) -> None:
        for name in ("samples", "problems", "pairs"):
            value = getattr(self, name)
            if value is not None and value < (2 if name == "samples" else 1):
                raise UserError(f"evaluation.pairwise.{name}={value} is too small.")


@dataclass(frozen=True)
class BenchmarkConfig:
    """A reward benchmark, judged in both orders, see `critique_rl.reward_benchmarks`.

    Attributes:
        name: `VL-RewardBench` or `MM-RLHF-RewardBench`.
        origin: Local file in the published layout; None is the hub.
        image_root: Where relative image paths start.
        thinking: Whether a judgement without `</think>` is unparsed.
    """

    name: str
    origin: str | None = None
    image_root: str | None = None
    thinking: bool = True


@dataclass(frozen=True)
class PolicyBenchmarksConfig:
    """Benchmarks of policies that lmms-eval measures, see `critique_rl.policy_benchmarks.command`.

    Attributes:
        benchmarks: Names from the paper; None takes all that have a task and are scored without another model.
        python: Interpreter of an environment with lmms-eval and this package; None is that of the run.
        model: Name of the model class in lmms-eval.
        model_args: Further arguments of that class, for instance `max_pixels`.
        thinking: Whether each question ends with the suffix of training, and what is boxed is scored.
        processes: Processes, one for each GPU.
        batch_size: Questions at once in each process.
        max_new_tokens: Most tokens of a reply.
    """

    benchmarks: list[str] | None = None
    python: str | None = None
    model: str = "qwen2_5_vl"
    model_args: dict[str, Any] = field(default_factory=dict)
    thinking: bool = True
    processes: int = 1
    batch_size: int = 1
    max_new_tokens: int = 2048

    def __post_init__(self) -> None:
        _at_least(
            1,
            "evaluation.policy_benchmarks.",
            processes=self.processes,
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
        )


@dataclass(frozen=True)
class EvaluationConfig:
    """How the rows of the table are measured.

    Attributes:
        tasks: What is asked; never used before. May be empty where there are benchmarks.
        protocol: How.
        out_of_domain: Tasks unlike those of training, for the tables alone.
        rows: Critics that are measured, of `no_critic`, `sft` and the stages; None takes all.
        pairwise: How they are measured as critics of pairs; None leaves it out.
        benchmarks: Reward benchmarks whose pairs they judge.
        policy_benchmarks: Benchmarks that lmms-eval asks those of them that are policies; None leaves it out.
        most_samples: Largest K of the scaling curves of the tables.
        sampled_problems: Problems of a task that these curves use; None takes all.
    """

    tasks: list[TaskConfig]
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    out_of_domain: list[TaskConfig] = field(default_factory=list)
    most_samples: int = 128
    sampled_problems: int | None = None
    rows: list[str] | None = None
    pairwise: PairEvaluationConfig | None = None
    benchmarks: list[BenchmarkConfig] = field(default_factory=list)
    policy_benchmarks: PolicyBenchmarksConfig | None = None

    def __post_init__(self) -> None:
        _at_least(1, "evaluation.", most_samples=self.most_samples, sampled_problems=self.sampled_problems)
        names = [f"{task.title}, {task.split}" for task in [*self.tasks, *self.out_of_domain]]
        if not names and not self.benchmarks:
            raise UserError("evaluation.tasks is empty.")
        if twice := _twice(names):  # name and split call the file of records
            raise UserError(f"evaluation.tasks names {twice} twice.")
        for key, tasks in (("tasks", self.tasks), ("out_of_domain", self.out_of_domain)):
            if twice := _twice([task.title for task in tasks]):  # it calls the rows of a table
                raise UserError(f"evaluation.{key} names {twice} twice: give one of them a `label`.")


def _twice(names: Sequence[str]) -> str | None:
    """The first name that stands there more than once."""
    return next((name for name in names if names.count(name) > 1), None)
