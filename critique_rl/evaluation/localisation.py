"""Whether a critique finds the first wrong step, for tasks with known steps (`Task.first_error`).

A critique can reach the right verdict for a wrong reason, so its judgments of single steps are read here. The
paper neither rewards nor measures them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.scaling import chains, mean_of_known
from critique_rl.prompts import _FENCE, _WORD_END, STEP_LABEL, PromptSet, Verdict, label_pattern
from critique_rl.types import Problem, UserError

JUDGMENT_LABEL = "Correctness of the step:"
"""Beginning of the line with the judgment of a step."""

# Emphasis, a bullet or a number may stand before a label, a quotation mark may not.
_LEAD = r"^[ \t*_#\-\d.)]*"
_STEP = re.compile(_LEAD + label_pattern(STEP_LABEL), re.MULTILINE)
_JUDGMENT = re.compile(
    rf"{_LEAD}{label_pattern(JUDGMENT_LABEL)}(Correct|Wrong){_WORD_END}"
    r"(?![ \t]*(?:/|\||,|or\b)[ \t]*(?:Correct|Wrong))",  # an echoed "[Correct/Wrong]" judges nothing
    re.MULTILINE,
)


def step_judgments(critique: str) -> list[bool | None]:
    """Judgment of each step in a critique: True correct, False wrong, None if its block has no single judgment.

    A block goes from a line that starts with `Step sentence:` to the next such line. Its judgment is on a line
    that starts with `Correctness of the step:`. Code fences are dropped, and a label after a quotation mark, a
    back-tick or `>` does not start a line. A quotation over several lines counts as the critic's own words.

    >>> step_judgments("Step sentence: 1+1=3\\nCorrectness of the step: Wrong\\nStep sentence: so 3")
    [False, None]
    """
    blocks = _STEP.split(_FENCE.sub("", critique))[1:]
    judgments = [set(_JUDGMENT.findall(block)) for block in blocks]
    return [values == {"Correct"} if len(values) == 1 else None for values in judgments]


def first_flagged_step(critique: str) -> int | None:
    """Index of the first step that a critique judges as wrong, from 0; None if there is none.

    Steps are counted in blocks: if a critic leaves out a step of the response, later indices are off by one.
    """
    return _first_wrong(step_judgments(critique))


def _first_wrong(judgments: Sequence[bool | None]) -> int | None:
    return next((i for i, judgment in enumerate(judgments) if judgment is False), None)


def problem_of(problems: Mapping[str, Problem], identity: str) -> Problem:
    """The problem of an episode.

    Raises:
        UserError: There is no problem with this identity.
    """
    if identity not in problems:
        raise UserError(
            f"there are records of problem {identity}, which is not among the {len(problems)} problems given: "
            "load the task and split that were evaluated."
        )
    return problems[identity]


def localisation(
    episodes: Iterable[Episode],
    problems: Mapping[str, Problem],
    first_error: Callable[[Problem, str], int | None],
    prompts: PromptSet,
) -> dict[str, float | None]:
    """Compare the first step that each critique flags with the first that is wrong.

    Args:
        episodes: Records; of each chain the last round counts, if it has a critique.
        problems: Problems by identity.
        first_error: Index of the first wrong step of a response, None if there is none; `Task.first_error`.
        prompts: Prompt set of the evaluation: a stored response begins with its prefill, which is no step.

    Returns:
        Shares, None where there is nothing to divide by. Of the wrong responses, with sum 1: `first_error_acc`
        (the first flagged step is the first wrong step), `flagged_early`, `flagged_late` and `not_flagged`. Of
        the right responses: `right_unflagged`. Of the critiques with a verdict: `consistent_rate` (the verdict is
        Wrong exactly if a step is flagged). Of all step blocks: `step_parse_rate`; read it beside the others,
        since a critic that judges no step looks careful.

        Counts: the denominators `n_wrong`, `n_right`, `n_parsed` and `n_steps`, and the responses that are left
        out: `n_ungraded`, `n_wrong_without_error` (wrong, but no wrong step is known), `n_right_with_error`
        (right in spite of a wrong step: flagging it is no mistake).

    Raises:
        UserError: A problem is missing.
    """
    last = [chain[-1] for samples in chains(episodes).values() for chain in samples]
    judged = [(e, step_judgments(e.critique)) for e in last if e.critique is not None]
    consistent = [
        (e.verdict == Verdict.WRONG) == (_first_wrong(steps) is not None)
        for e, steps in judged
        if e.verdict in (Verdict.CORRECT, Verdict.WRONG)
    ]
    parsed = [step is not None for _, steps in judged for step in steps]
    # First flagged and first wrong step, by (whether the response is right, whether it has a wrong step).
    steps_by: dict[tuple[bool | None, bool], list[tuple[int | None, Any]]] = defaultdict(list)
    for e, steps in judged:
        error = None
        if e.response_correct is not None:
            error = first_error(problem_of(problems, e.id), prompts.without_prefill(e.response))
        steps_by[e.response_correct, error is not None].append((_first_wrong(steps), error))
    wrong, right = steps_by[False, True], steps_by[True, False]
    return {
        "first_error_acc": mean_of_known(flagged == error for flagged, error in wrong),
        "flagged_early": mean_of_known(flagged is not None and flagged < error for flagged, error in wrong),
        "flagged_late": mean_of_known(flagged is not None and flagged > error for flagged, error in wrong),
        "not_flagged": mean_of_known(flagged is None for flagged, _ in wrong),
        "right_unflagged": mean_of_known(flagged is None for flagged, _ in right),
        "consistent_rate": mean_of_known(consistent),
        "step_parse_rate": mean_of_known(parsed),
        "n_wrong": len(wrong),
        "n_right": len(right),
        "n_parsed": len(consistent),
        "n_steps": len(parsed),
        "n_ungraded": len(steps_by[None, False]),
        "n_wrong_without_error": len(steps_by[False, False]),
        "n_right_with_error": len(steps_by[True, True]),
    }
