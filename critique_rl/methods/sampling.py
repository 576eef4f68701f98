"""Critiques of pool responses that a critic writes itself, with what became of them; and checks of options."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from critique_rl.config.reading import check_options
from critique_rl.grading import grade_batch
from critique_rl.methods.base import Inputs
from critique_rl.prompts import Verdict, parse_verdict
from critique_rl.records import written_once
from critique_rl.rewards import r_dis
from critique_rl.types import Sampling, UserError, child_seed

logger = logging.getLogger(__name__)
Options = TypeVar("Options")


@dataclass(frozen=True)
class Draw:
    """How many critiques are drawn, and how.

    Attributes:
        samples: Critiques of each response; equal ones count once.
        temperature: Of the draw.
        problems: Rows of the pool that are criticised, drawn by seed; None takes all.
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
    """A critique of a pool response, and what the frozen actor made of it.

    Attributes:
        dataset: Data set of the question, `""` if the pool does not say.
        question: x.
        response: y, with its prefill.
        response_correct: o = r_oracle(x, y).
        critique: c.
        verdict: f(x, y, c), a value of `Verdict`.
        refinement: y' as the actor wrote it, without its prefill.
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
        """Whether the refinement after it is known to be right."""
        return bool(self.refinement_correct)

    @property
    def judges(self) -> bool:
        """Whether its verdict is right."""
        return r_dis(Verdict(self.verdict), self.response_correct) == 1.0


def judged_critiques(
    inputs: Inputs, critic: str, path: Path, draw: Draw, *, seed: int
) -> list[JudgedCritique]:
    """Let a critic criticise pool responses and the frozen actor refine greedily after each critique.

    Critiques that are empty or cut at the token limit are left out: who learns from them learns to stop short.

    Args:
        inputs: Pool, actor, prompts and lengths of the baseline.
        critic: Directory of the critic.
        path: JSON-lines file that is written once and read back from then on.
        draw: How many, and how.
        seed: Seed of the choice of rows and of the draw.
    """

    def make() -> list[dict[str, Any]]:
        from critique_rl.actors import TransformersActor

        rows: list[dict[str, Any]] = list(inputs.pool or [])
        if draw.problems is not None and draw.problems < len(rows):
            rows = random.Random(child_seed(seed, "rows")).sample(rows, draw.problems)
        asked = [inputs.prompts.critique_prompt(row["question"], row["response"]) for row in rows]
        model, found = TransformersActor(critic), dict[tuple[int, str], None]()
        for sample in range(draw.samples):
            child = child_seed(seed, "critique", sample)
            sampling = Sampling(inputs.lengths.critique, draw.temperature, seed=child)
            for i, generation in enumerate(model.generate(asked, sampling)):
                if generation.text.strip() and not generation.truncated:
                    found[i, generation.text] = None
        refined = inputs.actor.generate(
            [inputs.prompts.refinement_prompt(rows[i]["question"], rows[i]["response"], c) for i, c in found],
            Sampling(inputs.lengths.refinement),
        )
        prefill = inputs.prompts.refinement_prefill
        grades = grade_batch(
            [
                {"gold": rows[i]["answer"], "reply": prefill + g.text, "kind": rows[i]["kind"]}
                for (i, _), g in zip(found, refined, strict=True)
            ]
        )
        return [
            asdict(
                JudgedCritique(
                    dataset=rows[i].get("dataset", ""),
                    question=rows[i]["question"],
                    response=rows[i]["response"],
                    response_correct=rows[i]["response_correct"],
                    critique=critique,
                    verdict=parse_verdict(critique).value,
                    refinement=generation.text,
                    refinement_correct=grade,
                )
            )
            for (i, critique), generation, grade in zip(found, refined, grades, strict=True)
        ]

    judged = [JudgedCritique(**row) for row in written_once(path, make)]
    logger.info(
        "%s: %d critiques, %d before a right refinement, %d with a right verdict",
        path,
        len(judged),
        sum(c.refines for c in judged),
        sum(c.judges for c in judged),
    )
    return judged


def read_options(cls: type[Options], options: Mapping[str, Any], where: str) -> Options:
    """Options as a dataclass that checks its own values.

    Raises:
        UserError: A name is unknown, or a value is of another type or out of range.
    """
    check_options(cls, options, where)
    try:
        return cls(**options)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def require_mapping(name: str, value: object) -> None:
    """Refuse nested options that are no mapping.

    Raises:
        UserError: It is none.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"{name} must be a mapping of settings, got {value!r}.")


def require_full_weights(inputs: Inputs) -> None:
    """Refuse a start that is an adapter: supervised training would add a second one to its base.

    Raises:
        UserError: It is one.
    """
    if (Path(inputs.start) / "adapter_config.json").exists():
        raise UserError(
            f"{inputs.start} is an adapter; this baseline starts from full weights: merge it "
            "(`PeftModel.merge_and_unload`), save it, and start from that."
        )
