"""Grading of replies against gold answers; only this folder decides which answer is right.

A grade is True, False or `None`. `None` means undecided: gold does not parse, or a worker hit its limit. A reply
without an answer is False. The last stated answer counts; a statement with two different answers has none.
Plain numbers, letters, words and equal strings are graded in this process, in under 1 ms. Answers that need
algebra go to Math-Verify in worker processes, which are killed at their limit, see `workers`.

Conventions where data sets disagree: a per cent sign on one side only is read both ways (gold `50` and gold `0.5`
both accept `50%`); units and degree signs are dropped; `x = 5` is `5`; a reply may leave out the base (`52` is
`52_8`), but may not state another base. A scale word counts: `7 thousand` is 7000. Where gold is 7 the grade
of `7 thousand` is `None`, as gold may count in thousands. Named values and solutions have no order. An equation in
several unknowns may be multiplied by a constant.

What counts of a reply: the text behind its last thought (`</think>`); of a thought that never ends, nothing. A
base model that runs on into a next problem (a line such as `Question:` after a stated answer) is read up to it.
Signs that look alike are written in one way first, see `signs`, so that `7²`, `7½` or a figure dash before 7 is
not 7.

`paper_compat` grades as the paper's released code does. This folder may import prompts, rewards and types.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import get_args

from critique_rl.grading.prepare import GradeResult, Question, prepare, stated_answer
from critique_rl.grading.workers import SHARED
from critique_rl.types import GradedKind

__all__ = ["GradeResult", "explain", "extract_answer", "grade", "grade_batch"]

_KINDS = get_args(GradedKind)
_known_answer = lru_cache(maxsize=20_000)(stated_answer)  # samples of one problem often end in the same words


class _Cache:
    """Latest outcomes of the workers, by question; thread-safe. Holds time and memory limits too.

    One group of samples often repeats a poisoned answer, and 5 s is some hundred times the cost of an honest one.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._outcomes: OrderedDict[Question, tuple[bool | None, str]] = OrderedDict()
        self.renew()

    def renew(self) -> None:
        """Replace the lock: another thread may have held it when this process was forked."""
        self._lock = threading.Lock()

    def answer(self, question: Question) -> tuple[bool | None, str]:
        with self._lock:
            if question in self._outcomes:
                self._outcomes.move_to_end(question)
                return self._outcomes[question]
        outcome = SHARED.pool.ask(question.task, question.gold, question.answer)
        if outcome[1] != "worker died":  # the cause of a death may lie outside
            with self._lock:
                self._outcomes[question] = outcome
                if len(self._outcomes) > self._size:
                    self._outcomes.popitem(last=False)
        return outcome


_CACHE = _Cache(size=20_000)
os.register_at_fork(after_in_child=_CACHE.renew)


def _check(kind: str, **texts: str) -> None:
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, not {kind!r}")
    for name, text in texts.items():
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a str, not {type(text).__name__}: {text!r:.80}")


def explain(*, gold: str, reply: str, kind: str) -> GradeResult:
    """Grade one reply and give the reason; arguments and errors as in `grade`."""
    _check(kind, gold=gold, reply=reply)
    result = prepare(gold, reply, kind)
    if isinstance(result, GradeResult):
        return result
    equal, reason = _CACHE.answer(result)
    return GradeResult(equal, result.answer, result.gold, reason)


def grade(*, gold: str, reply: str, kind: str) -> bool | None:
    """Say whether `reply` states the answer `gold`; for any text, from any thread, within seconds.

    Args:
        gold: The gold answer, or a gold solution that ends in one.
        reply: Text of the model; the grader reads its last 20,000 characters.
        kind: `math` compares LaTeX up to algebra; `number` compares one number, with a relative tolerance of 1e-6,
            integers exactly; `choice` a letter A to J; `yes_no` yes, no, true or false; `mixed` compares by the
            TheoremQA type that the form of gold shows, floats as in `read.same_float`.

    Returns:
        True or False; `None` if undecided, `explain` gives the reason.

    Raises:
        ValueError: `kind` is unknown.
        TypeError: `gold` or `reply` is not a `str`.
        RuntimeError: Workers cannot start, for instance because math-verify is not installed.

    >>> grade(gold="18", reply="16 - 3 - 4 = 9, times 2. The answer is: $18.00.", kind="number")
    True
    """
    return explain(gold=gold, reply=reply, kind=kind).grade


def grade_batch(items: Sequence[Mapping[str, str]]) -> list[bool | None]:
    """Grade many replies, in order. Each item holds the keywords of `grade`; equal items are graded once."""
    results: dict[tuple[str, str, str], GradeResult | Question] = {}
    keys = []
    for item in items:
        gold, reply, kind = item["gold"], item["reply"], item["kind"]
        _check(kind, gold=gold, reply=reply)
        keys.append((gold, reply, kind))
        if keys[-1] not in results:
            results[keys[-1]] = prepare(gold, reply, kind)
    questions = list(dict.fromkeys(r for r in results.values() if isinstance(r, Question)))
    outcomes: dict[Question, tuple[bool | None, str]] = {}
    if questions:
        with ThreadPoolExecutor(SHARED.pool.size) as threads:
            outcomes = dict(zip(questions, threads.map(_CACHE.answer, questions), strict=True))
    grades = {k: outcomes[r][0] if isinstance(r, Question) else r.grade for k, r in results.items()}
    return [grades[key] for key in keys]


def extract_answer(reply: str, kind: str) -> str | None:
    """Return the answer stated in `reply`, in one spelling per value; `None` without a single answer.

    Meant for majority votes: `1,234.50` and `$1234.5$` both give `1234.5`, and `(b)` gives `B`. Without algebra:
    `2x + 2` and `2(x + 1)` are different votes.
    """
    _check(kind, reply=reply)
    return _known_answer(reply, kind)
