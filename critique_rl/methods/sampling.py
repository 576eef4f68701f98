"""Critiques of pool responses with the frozen actor's refinements after them; checks that methods share."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from critique_rl.adapters import is_adapter
from critique_rl.config.reading import check_options
from critique_rl.grading import grade_batch
from critique_rl.grading.replies import where_replied
from critique_rl.methods.base import Inputs
from critique_rl.prompts import Verdict, parse_verdict
from critique_rl.records import written_once
from critique_rl.rewards import r_dis
from critique_rl.types import Sampling, UserError, child_seed

logger = logging.getLogger(__name__)
Options = TypeVar("Options")


@dataclass(frozen=True)
class Draw:
    """Number of critiques to draw, and their sampling.

    Attributes:
        samples: Critiques of each response; equal ones count once.
        temperature: Sampling temperature.
        problems: Number of pool responses, drawn by seed; None takes all.
    """

    samples: int = 4
    temperature: float = 0.7
    problems: int | None = None

    def __post_init__(self) -> None:
        if self.samples < 1 or (self.problems is not None and self.problems < 1):
            raise UserError(f"samples and problems must be at least 1, got {self.samples}, {self.problems}.")
        if self.temperature < 0 or (self.temperature == 0 and self.samples > 1):
            raise UserError(
                f"temperature={self.temperature} with samples={self.samples}: it must be positive where a "
                "response has more than one critique."
            )


@dataclass(frozen=True)
class JudgedCritique:
    """A critique of a pool response, and the frozen actor's refinement after it.

    Attributes:
        dataset: Data set of the question, `""` if the pool does not say.
        question: x.
        response: y, with its prefill.
        response_correct: o = r_oracle(x, y).
        critique: c.
        verdict: f(x, y, c), a value of `Verdict`.
        refinement: y' as the actor wrote it, without the prefill.
        refinement_correct: o' = r_oracle(x, y'); None if it could not be graded.
    """

    dataset: str
    question: str
    response: str
    response_correct: bool
    critique: str
    verdict: str
    refinement: str
    refinement_correct: bool | None

    @property
    def refines(self) -> bool:
        """Whether the refinement is known to be right."""
        return bool(self.refinement_correct)

    @property
    def judges(self) -> bool:
        """Whether the verdict is right."""
        return r_dis(Verdict(self.verdict), self.response_correct) == 1.0


def judged_critiques(
    inputs: Inputs, critic: str, path: Path, draw: Draw, *, seed: int
) -> list[JudgedCritique]:
    """Let a critic criticise pool responses and the frozen actor refine greedily after each critique.

    Critiques that are empty or cut at the token limit are left out: training on them teaches to stop short.

    Args:
        inputs: Pool, actor, prompts and lengths of the training.
        critic: Directory of the critic.
        path: JSON-lines file; it is written once, later calls read it.
        draw: Number of critiques, and sampling.
        seed: Seed of the choice of responses and of the draw.
    """
    records = written_once(path, lambda: _judge(inputs, critic, draw, seed))
    judged = [JudgedCritique(**record) for record in records]
    logger.info(
        "%s: %d critiques, %d before a right refinement, %d with a right verdict",
        path,
        len(judged),
        sum(c.refines for c in judged),
        sum(c.judges for c in judged),
    )
    return judged


def _judge(inputs: Inputs, critic: str, draw: Draw, seed: int) -> list[dict[str, Any]]:
    """Draw critiques, refine after them and grade; return the fields of `JudgedCritique`."""
    prompts, responses = inputs.prompts, list(inputs.pool or [])
    if draw.problems is not None and draw.problems < len(responses):
        responses = random.Random(child_seed(seed, "rows")).sample(responses, draw.problems)
    drawn = [(responses[i], critique) for i, critique in _draw(inputs, critic, draw, seed, responses)]
    refinements = inputs.actor.generate(
        [prompts.refinement_prompt(row["question"], row["response"], critique) for row, critique in drawn],
        Sampling(inputs.lengths.refinement),
    )
    grades = where_replied(
        grade_batch,
        [
            {"gold": row["answer"], "reply": y.after(prompts.refinement_prefill), "kind": row["kind"]}
            for (row, _), y in zip(drawn, refinements, strict=True)
        ],
    )
    return [
        asdict(
            JudgedCritique(
                dataset=row.get("dataset", ""),
                question=row["question"],
                response=row["response"],
                response_correct=row["response_correct"],
                critique=critique,
                verdict=parse_verdict(critique).value,
                refinement=y.text or "",
                refinement_correct=grade,
            )
        )
        for (row, critique), y, grade in zip(drawn, refinements, grades, strict=True)
    ]


def _draw(
    inputs: Inputs, critic: str, draw: Draw, seed: int, responses: Sequence[Mapping[str, Any]]
) -> Iterable[tuple[int, str]]:
    """Draw critiques of each response; return (number of the response, critique) without repeats, in order."""
    from critique_rl.actors import TransformersActor

    asked = [inputs.prompts.critique_prompt(row["question"], row["response"]) for row in responses]
    model, critiques = TransformersActor(critic), dict[tuple[int, str], None]()
    for sample in range(draw.samples):
        child = child_seed(seed, "critique", sample)
        sampling = Sampling(inputs.lengths.critique, draw.temperature, seed=child)
        for i, generation in enumerate(model.generate(asked, sampling)):
            text = generation.text or ""
            if text.strip() and not generation.truncated:
                critiques[i, text] = None
    return critiques


def read_options(cls: type[Options], options: Mapping[str, Any], where: str) -> Options:
    """Read options into a dataclass that checks its values.

    Raises:
        UserError: An option is unknown, of another type or out of range.
    """
    check_options(cls, options, where)
    try:
        return cls(**options)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def require_mapping(name: str, value: object) -> None:
    """Raise a `UserError` unless nested options are a mapping."""
    if not isinstance(value, Mapping):
        raise UserError(f"{name} must be a mapping of settings, got {value!r}.")


def require_full_weights(inputs: Inputs) -> None:
    """Raise a `UserError` if the start is an adapter: supervised training would add a second one to its base."""
    if is_adapter(inputs.start):
        raise UserError(
            f"{inputs.start} is an adapter; this baseline starts from full weights: merge it "
            "(`PeftModel.merge_and_unload`), save it, and start from that."
        )
