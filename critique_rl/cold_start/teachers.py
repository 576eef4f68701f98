"""Teachers: writers of the reasoning, critiques and refinements that the cold start fine-tunes on.

All three have one interface. `ModelTeacher` is the paper's recipe. `ReferenceTeacher` is for models that are too
small to write the critique format without training. `ScriptedTeacher` serves the embedded tasks.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Protocol

from critique_rl.actors.base import Actor
from critique_rl.prompts import STEP_LABEL, VERDICT_LABEL, PromptSet
from critique_rl.tasks.scripted import SCRIPTED, Annotator, Judge, Solver
from critique_rl.types import Conversation, Problem, Sampling, UserError, child_seed

Problems = Sequence[Problem]
Texts = Sequence[str]
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_OPERATION = re.compile(r"(\d+(?:\.\d+)?) ?([-+*/x]) ?(\d+(?:\.\d+)?)( ?= ?\$?)")


def prompts_for(write: Callable[..., Conversation], problems: Problems, *texts: Texts) -> list[Conversation]:
    """Prompts for problems, each with its own of the texts; `write` is a method of `PromptSet`."""
    return [write(p.question, *own, image=p.image) for p, *own in zip(problems, *texts, strict=True)]


class Teacher(Protocol):
    """Writes texts to fine-tune on: one text per problem, in order, without prefills; `""` if there is none."""

    def solve(self, problems: Problems, *, seed: int) -> list[str]:
        """Reasoning that ends in the answer: the data set's own, unless a teacher writes another."""
        return [gold_reasoning(problem) for problem in problems]

    def draft(self, problems: Problems, *, seed: int) -> list[str]:
        """Responses that the actor learns to refine; some of them wrong, or it learns to copy."""
        return self.solve(problems, seed=seed)

    def critique(self, problems: Problems, responses: Texts, *, seed: int, polished: bool) -> list[str]:
        """Critiques of responses; `polished` ones may lack the faults that the critic shall start with."""

    def refine(self, problems: Problems, responses: Texts, critiques: Texts, *, seed: int) -> list[str]:
        """Refinements that follow the critiques."""


class ModelTeacher(Teacher):
    """The paper's recipe: published reasoning; critiques and refinements by a model of the same size.

    Args:
        model: Writer of critiques and refinements, for instance the -Instruct version of the base.
        max_tokens: Largest number of tokens of a text.
    """

    def __init__(self, model: Actor, prompts: PromptSet, *, max_tokens: int, temperature: float) -> None:
        self.model, self.prompts = model, prompts
        self.max_tokens, self.temperature = max_tokens, temperature

    def critique(self, problems: Problems, responses: Texts, *, seed: int, polished: bool) -> list[str]:
        """Critiques by the model, which does not see the gold answer."""
        return self._write(prompts_for(self.prompts.critique_prompt, problems, responses), seed, "critique")

    def refine(self, problems: Problems, responses: Texts, critiques: Texts, *, seed: int) -> list[str]:
        """Refinements by the model, in the actor's place."""
        prompts = prompts_for(self.prompts.refinement_prompt, problems, responses, critiques)
        return self._write(prompts, seed, "refine")

    def draft(self, problems: Problems, *, seed: int) -> list[str]:
        """Responses by the model."""
        return self._write(prompts_for(self.prompts.reasoning_prompt, problems), seed, "draft")

    def _write(self, prompts: list[Conversation], seed: int, purpose: str) -> list[str]:
        sampling = Sampling(self.max_tokens, self.temperature, seed=child_seed(seed, f"teacher {purpose}"))
        return [generation.text or "" for generation in self.model.generate(prompts, sampling)]


class ReferenceTeacher(Teacher):
    """Critiques and refinements composed from the gold reasoning, without a model; not the paper's recipe.

    A critique solves the problem first, with the gold reasoning, and judges the lines of the response by it: a
    small model sees an error by comparison. A line counts as right if its last number occurs in the gold reasoning
    or the question; the critique ends at the first other line. A last line that states the answer is no step of
    its own: the verdict judges it. This is rough, but it teaches a small model the format, which the prompt alone
    does not.
    """

    def critique(self, problems: Problems, responses: Texts, *, seed: int, polished: bool) -> list[str]:
        """Critiques from the gold reasoning."""
        return [self._critique(p, y) for p, y in zip(problems, responses, strict=True)]

    def refine(self, problems: Problems, responses: Texts, critiques: Texts, *, seed: int) -> list[str]:
        """The gold reasoning again."""
        return self.solve(problems, seed=seed)

    def draft(self, problems: Problems, *, seed: int) -> list[str]:
        """The gold reasoning, every other time with another result; see `with_wrong_result`."""
        return [
            gold_reasoning(p) if i % 2 else with_wrong_result(p, random.Random(child_seed(seed, "draft", i)))
            for i, p in enumerate(problems)
        ]

    @staticmethod
    def _critique(problem: Problem, response: str) -> str:
        gold = f"{problem.question} {problem.solution} {problem.answer}"
        known, blocks = set(_numbers(gold)), list[str]()
        why = f"\nExplanation: It should be: {' '.join(gold_reasoning(problem).split())}"
        *steps, last = [line for line in map(str.strip, response.split("\n")) if line] or [""]
        if not steps or "answer is" not in last:
            steps, last = [*steps, last], ""

        def differs(line: str) -> bool:
            return bool(numbers := _numbers(line)) and numbers[-1] not in known

        for line in steps:
            judged = f"Correctness of the step: {'Wrong' if differs(line) else 'Correct'}"
            blocks.append(f"{STEP_LABEL} {line}{'' if blocks else why}\n{judged}")
            if differs(line):
                break
        wrong = any(map(differs, [*steps, last]))
        return "\n".join([*blocks, f"\n{VERDICT_LABEL} {'Wrong' if wrong else 'Correct'}"])


class ScriptedTeacher(Teacher):
    """A faulty solver and an unreliable annotator for an embedded task, see `critique_rl.tasks.scripted.SCRIPTED`.

    Args:
        solver: Writer of responses and refinements.
        annotator: Writer of critiques.
        polished: Writer of the critiques that the actor learns to follow.
        judge: Writer of preferences; None if the task has none.
    """

    def __init__(
        self, solver: Solver, annotator: Annotator, polished: Annotator, judge: Judge | None = None
    ) -> None:
        self.solver, self.annotator, self.polished, self.judging = solver, annotator, polished, judge

    def solve(self, problems: Problems, *, seed: int) -> list[str]:
        """Responses with the solver's errors."""
        return _scripted(self.solver.solve, seed, "solve", problems)

    def critique(self, problems: Problems, responses: Texts, *, seed: int, polished: bool) -> list[str]:
        """Critiques with the annotator's faults."""
        annotator = self.polished if polished else self.annotator
        return _scripted(annotator.critique, seed, "critique", problems, responses)

    def refine(self, problems: Problems, responses: Texts, critiques: Texts, *, seed: int) -> list[str]:
        """Refinements with the values that the critiques explain."""
        return _scripted(self.solver.refine, seed, "refine", problems, critiques)

    def judge(self, problems: Problems, first: Texts, second: Texts, *, seed: int) -> list[str]:
        """Preferences between two responses, with the judge's faults.

        Raises:
            UserError: The task has no judge.
        """
        if self.judging is None:
            tasks = ", ".join(name for name, scripts in SCRIPTED.items() if scripts.judge)
            raise UserError(f"this task has no scripted judge: set judgements to 0, or train on {tasks}.")
        return _scripted(self.judging.judge, seed, "judge", problems, first, second)


def _scripted(write: Callable[..., str], seed: int, kind: str, *columns: Sequence[object]) -> list[str]:
    """One text per row of problems and earlier texts; each row has its own random stream."""
    rows = enumerate(zip(*columns, strict=True))
    return [write(*row, random.Random(child_seed(seed, "scripted", kind, i))) for i, row in rows]


def _numbers(text: str) -> list[str]:
    return _NUMBER.findall(text.replace(",", ""))


def gold_reasoning(problem: Problem) -> str:
    """The data set's reasoning, ending in a sentence with the answer; a task with scores has no such sentence."""
    solution = problem.solution.strip()
    if problem.kind == "score" or (problem.answer in solution.split("\n")[-1] and "answer is" in solution):
        return solution
    return f"{solution}\nThe answer is {problem.answer}.".strip()


def with_wrong_result(problem: Problem, random_numbers: random.Random) -> str:
    """The gold reasoning with another result: of another operation on its last numbers, or a number near it.

    Reasoning whose result is no number stays as it is.

    >>> problem = Problem("id", "toy", "How many are left?", "4 - 3 = 1", "1", "number")
    >>> with_wrong_result(problem, random.Random(1))
    '4 * 3 = 12\\nThe answer is 12.'
    """
    text, answer = gold_reasoning(problem), problem.answer.replace(",", "")
    if not _NUMBER.fullmatch(answer):
        return text
    gold = float(answer)
    wrong = {f"{gold + step:g}": "" for step in (-10, -2, -1, 1, 2, 10)}
    operation = next(
        (m for m in reversed([*_OPERATION.finditer(text)]) if text.startswith(answer, m.end())), None
    )
    if operation:
        first, _, second, _ = operation.groups()
        a, b = float(first), float(second)
        results = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else gold}
        whole = {f"{r:g}": sign for sign, r in results.items() if r != gold and r >= 0 and r == int(r)}
        wrong = whole or wrong
    value = random_numbers.choice(sorted(wrong))
    if operation and wrong[value]:
        text = text[: operation.start(2)] + wrong[value] + text[operation.end(2) :]
    start = operation.end() if operation else text.rstrip().rfind("\n") + 1
    shown = re.compile(rf"(?<![\d.,]){re.escape(answer)}(?![\d]|[.,]\d)")
    return text[:start] + shown.sub(value, text[start:])
