"""Whether a critique finds the first wrong step, for tasks whose steps are known (`Task.first_error`).

A critique can get the verdict right for a wrong reason; here its judgments of the single steps are read. The
paper neither rewards nor measures them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.scaling import chains
from critique_rl.prompts import _FENCE, _WORD_END, STEP_LABEL, PromptSet, Verdict, label_pattern
from critique_rl.types import Problem, UserError

JUDGMENT_LABEL = "Correctness of the step:"
"""What the line of a step's judgment begins with."""

_LEAD = (
    r"^[ \t*_#\-\d.)]*"  # emphasis, a bullet or a number may stand before a label, a quotation mark may not
)
_STEP = re.compile(_LEAD + label_pattern(STEP_LABEL), re.MULTILINE)
_JUDGMENT = re.compile(
    rf"{_LEAD}{label_pattern(JUDGMENT_LABEL)}(Correct|Wrong){_WORD_END}"
    r"(?![ \t]*(?:/|\||,|or\b)[ \t]*(?:Correct|Wrong))",  # an echoed "[Correct/Wrong]" judges nothing
    re.MULTILINE,
)


def step_judgments(critique: str) -> list[bool | None]:
    """What a critique says of each step: True correct, False wrong, None if its block holds no single judgment.

    A block goes from a line that starts with `Step sentence:` to the next such line; its judgment is on any
    line in it that starts with `Correctness of the step:`. Code fences are dropped, and a label that stands
    behind a quotation mark, a back-tick or `>` starts no line. A quotation over several lines is read as the
    critic's own words.

    >>> step_judgments("Step sentence: 1+1=3\\nCorrectness of the step: Wrong\\nStep sentence: so 3")
    [False, None]
    """
    blocks = _STEP.split(_FENCE.sub("", critique))[1:]
    found = [set(_JUDGMENT.findall(block)) for block in blocks]
    return [values == {"Correct"} if len(values) == 1 else None for values in found]


def first_flagged_step(critique: str) -> int | None:
    """Index of the first step that a critique judges as wrong, from 0; None if there is none.

    Steps are counted in blocks: a critic that leaves out a step of the response is off by one after it.
    """
    return next((i for i, judged in enumerate(step_judgments(critique)) if judged is False), None)


def problem_of(problems: Mapping[str, Problem], identity: str) -> Problem:
    """The problem of an episode.

    Raises:
        UserError: There is none.
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
        episodes: Records; the last round of each chain counts, ones without a critique do not.
        problems: Problems by identity.
        first_error: Index of the first wrong step of a response, None if there is none; `Task.first_error`.
        prompts: Prompt set of the evaluation: its prefill is part of a stored response and no step.

    Returns:
        Shares, None where there is nothing to divide by. Of the wrong responses, where they sum to 1:
        `first_error_acc` (the first flagged step is the first wrong one), `flagged_early`, `flagged_late` and
        `not_flagged`. Of the right responses: `right_unflagged`. Of the critiques with a verdict:
        `consistent_rate` (the verdict is Wrong just if a step is flagged). Of all step blocks: `step_parse_rate`;
        without it a critic that judges no step looks careful.

        Counts: `n_wrong` and `n_right` (what is divided by above), `n_parsed`, `n_steps`, and what is left out:
        `n_ungraded`, `n_wrong_without_error` (wrong, but no step is known to be), `n_right_with_error` (right
        in spite of a wrong step: flagging it is no mistake).

    Raises:
        UserError: A problem is missing.
    """
    last = [chain[-1] for samples in chains(episodes).values() for chain in samples]
    wrong: list[tuple[int | None, int]] = []  # the first step that is flagged, the first that is wrong
    unflagged: list[bool] = []
    consistent: list[bool] = []
    judged: list[bool] = []
    left_out = {"n_ungraded": 0, "n_wrong_without_error": 0, "n_right_with_error": 0}
    for e in last:
        if e.critique is None:
            continue
        flagged = first_flagged_step(e.critique)
        judged += [j is not None for j in step_judgments(e.critique)]
        if e.verdict in (Verdict.CORRECT, Verdict.WRONG):
            consistent.append((e.verdict == Verdict.WRONG) == (flagged is not None))
        if e.response_correct is None:
            left_out["n_ungraded"] += 1
            continue
        error = first_error(problem_of(problems, e.id), prompts.without_prefill(e.response))
        if e.response_correct:
            if error is None:
                unflagged.append(flagged is None)
            else:
                left_out["n_right_with_error"] += 1
        elif error is None:
            left_out["n_wrong_without_error"] += 1
        else:
            wrong.append((flagged, error))
    return {
        "first_error_acc": _share(flagged == error for flagged, error in wrong),
        "flagged_early": _share(flagged is not None and flagged < error for flagged, error in wrong),
        "flagged_late": _share(flagged is not None and flagged > error for flagged, error in wrong),
        "not_flagged": _share(flagged is None for flagged, _ in wrong),
        "right_unflagged": _share(unflagged),
        "consistent_rate": _share(consistent),
        "step_parse_rate": _share(judged),
        "n_wrong": len(wrong),
        "n_right": len(unflagged),
        "n_parsed": len(consistent),
        "n_steps": len(judged),
        **left_out,
    }


def _share(holds: Iterable[bool]) -> float | None:
    values = list(holds)
    return sum(values) / len(values) if values else None
