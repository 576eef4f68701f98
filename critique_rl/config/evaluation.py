"""Settings of evaluation: the protocol, pairs of responses, and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from critique_rl.config.checks import at_least, one_of, repeated
from critique_rl.config.data import TaskConfig
from critique_rl.types import UserError

HISTORIES = ("markov", "full")
"""Values of `Course.history`."""

CRITIQUES = ("critic", "empty", "verdict", "shuffled", "oracle")
"""Values of `Course.critiques`."""


TURNS = ("response", "critique", "refinement")
"""Texts of a chain, each with a temperature of its own."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """Rounds and critiques that a problem goes through; the defaults are the paper's main protocol.

    Attributes:
        samples: Independent chains for each problem.
        rounds: Critiques and refinements, one after the other, in a chain.
        history: Earlier texts in the prompts of later rounds: `markov` only the latest response (released code),
            `full` all earlier responses and critiques (paper, section 5.3).
        critiques: Critique that the actor reads. `critic`: the critic's critique. The others are controls: `empty`
            no text at all, `verdict` only its verdict line, `shuffled` the critic's critique of another problem,
            `oracle` the true verdict with `ADVICE`; `empty` and `oracle` ask no critic.
        spare_correct: Keep right responses as they are, as an oracle verifier would (paper, Figure 5).
    """

    samples: int = 1
    rounds: int = 1
    history: str = "markov"
    critiques: str = "critic"
    spare_correct: bool = False

    def check(self) -> None:
        """Refuse unknown choices, and choices that exclude each other."""
        at_least(1, "", samples=self.samples, rounds=self.rounds)
        one_of("history", self.history, HISTORIES)
        one_of("critiques", self.critiques, CRITIQUES)
        if self.critiques == "shuffled" and self.spare_correct:
            raise UserError("critiques 'shuffled' needs all responses: set spare_correct to false.")

    @property
    def asks_critic(self) -> bool:
        """Whether a critic is needed at all."""
        return self.critiques in ("critic", "verdict", "shuffled")


@dataclass(frozen=True)
class ProtocolConfig(Course):
    """Protocol of an evaluation: a course, see `critique_rl.evaluation.Course`, and its temperatures.

    Attributes:
        response_temperature: Sampling temperature of responses; 0 is greedy.
        critique_temperature: Sampling temperature of critiques; 0 is greedy.
        refinement_temperature: Sampling temperature of refinements; 0 is greedy.
    """

    response_temperature: float = 0.0
    critique_temperature: float = 0.0
    refinement_temperature: float = 0.0

    def check(self) -> None:
        """Refuse what `Course.check` refuses, and samples that are all alike."""
        super().check()
        if self.samples > 1 and not any(getattr(self, f"{turn}_temperature") for turn in TURNS):
            raise UserError(
                f"samples={self.samples} at temperature 0 are all alike: set a temperature above 0."
            )


@dataclass(frozen=True)
class PairEvaluationConfig:
    """Evaluation of the models in a table as critics of pairs.

    Attributes:
        samples: Candidates of each problem, at least two.
        temperature: Sampling temperature of the candidates.
        problems: Largest number of problems of a task, a subsample by its seed; None takes all.
        pairs: Largest number of held-out pairs, a subsample by the seed; None takes all.
        both_orders: Whether the knock-out judges each pair in both orders; held-out pairs always are.
        thinking: Whether a judgement without `</think>` is unparsed.
    """

    samples: int = 128
    temperature: float = 1.0
    problems: int | None = None
    pairs: int | None = None
    both_orders: bool = True
    thinking: bool = True

    def check(self) -> None:
        """Refuse numbers that are too small."""
        at_least(2, "evaluation.pairwise.", samples=self.samples)
        at_least(1, "evaluation.pairwise.", problems=self.problems, pairs=self.pairs)


@dataclass(frozen=True)
class BenchmarkConfig:
    """A reward benchmark, judged in both orders, see `critique_rl.benchmarks`.

    Attributes:
        name: `VL-RewardBench` or `MM-RLHF-RewardBench`.
        origin: Local file in the published layout; None loads from the hub.
        image_root: Folder that relative image paths start from.
        thinking: Whether a judgement without `</think>` is unparsed.
    """

    name: str
    origin: str | None = None
    image_root: str | None = None
    thinking: bool = True


@dataclass(frozen=True)
class PolicyBenchmarksConfig:
    """Benchmarks of policies that lmms-eval measures, see `critique_rl.benchmarks.policy.command`.

    Attributes:
        benchmarks: Names from the paper; None takes all that have a task and are scored without another model.
        python: Interpreter of an environment with lmms-eval and this package; None takes the run's interpreter.
        model: Name of the model class in lmms-eval.
        model_args: Further arguments of that class, for instance `max_pixels`.
        thinking: End each question with the suffix of training, and score the boxed text.
        processes: Number of processes, one for each GPU.
        batch_size: Questions at once in each process.
        max_new_tokens: Largest number of tokens of a reply.
    """

    benchmarks: list[str] | None = None
    python: str | None = None
    model: str = "qwen2_5_vl"
    model_args: dict[str, Any] = field(default_factory=dict)
    thinking: bool = True
    processes: int = 1
    batch_size: int = 1
    max_new_tokens: int = 2048

    def check(self) -> None:
        """Refuse numbers below one."""
        limits = {name: getattr(self, name) for name in ("processes", "batch_size", "max_new_tokens")}
        at_least(1, "evaluation.policy_benchmarks.", **limits)


@dataclass(frozen=True)
class EvaluationConfig:
    """Measurements for the rows of the result table.

    Attributes:
        tasks: Tasks that no training has used. May be empty if there are benchmarks.
        protocol: Protocol of these tasks.
        out_of_domain: Tasks unlike those of training; only for the table scripts.
        critic: Settings of `TransformersActor` for the trained models of the rows, such as `dtype`; empty takes
            its defaults.
        rows: Rows to measure, from `no_critic`, `sft` and the stages; None takes all.
        pairwise: Evaluation of the rows as critics of pairs; None leaves it out.
        benchmarks: Reward benchmarks whose pairs the rows judge.
        policy_benchmarks: Benchmarks by lmms-eval for the rows that are policies; None leaves them out.
        most_samples: Largest K of the scaling curves of the tables.
        sampled_problems: Number of problems of a task in these curves; None takes all.
    """

    tasks: list[TaskConfig]
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    out_of_domain: list[TaskConfig] = field(default_factory=list)
    most_samples: int = 128
    sampled_problems: int | None = None
    critic: dict[str, Any] = field(default_factory=dict)
    rows: list[str] | None = None
    pairwise: PairEvaluationConfig | None = None
    benchmarks: list[BenchmarkConfig] = field(default_factory=list)
    policy_benchmarks: PolicyBenchmarksConfig | None = None

    def check(self) -> None:
        """Refuse an evaluation without tasks or benchmarks, and two tasks of the same name."""
        for part in (*self.tasks, *self.out_of_domain, self.protocol, self.pairwise, self.policy_benchmarks):
            if part is not None:
                part.check()
        at_least(1, "evaluation.", most_samples=self.most_samples, sampled_problems=self.sampled_problems)
        names = [f"{task.title}, {task.split}" for task in [*self.tasks, *self.out_of_domain]]
        if not names and not self.benchmarks:
            raise UserError("evaluation.tasks is empty: name a task, or one of evaluation.benchmarks.")
        if name := repeated(names):  # title and split name the file of records
            raise UserError(f"evaluation.tasks names {name} twice.")
        for key, tasks in (("tasks", self.tasks), ("out_of_domain", self.out_of_domain)):
            if name := repeated([task.title for task in tasks]):  # the title names the row of a table
                raise UserError(f"evaluation.{key} names {name} twice: give one of them a `label`.")
