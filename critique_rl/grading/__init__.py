"""Grade replies against gold answers; the only place that decides what counts as right.

A grade is True, False or `None`: `None` means that it could not be decided (gold does not parse, a limit was
hit), and a reply without an answer is False. The last answer that a reply states counts; two different ones
in a statement are none. Plain numbers, letters, words and equal strings are graded here, in under 1 ms;
what needs algebra goes to Math-Verify in worker processes that are killed at their limit, see `workers`.

Conventions where data sets disagree: a per cent sign on one side only is read both ways (gold `50` and gold
`0.5` both accept `50%`), units and degree signs are dropped, `x = 5` is `5`, a base may be left out (`52` is
`52_8`) but not be another one. `paper_compat` grades as the paper's released code does.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import get_args

from critique_rl.grading.prepare import GradeResult, Question, prepare
from critique_rl.grading.prepare import extract_answer as _extract_answer
from critique_rl.grading.workers import SHARED
from critique_rl.types import GradedKind

__all__ = ["GradeResult", "explain", "extract_answer", "grade", "grade_batch"]

_KINDS = get_args(GradedKind)
_known_answer = lru_cache(maxsize=20_000)(_extract_answer)
"""Samples of one problem often end in the same words."""


class _Cache:
    """The last answers of the workers, by question; thread-safe.

    Time and memory limits are kept too: a poisoned answer comes back often in one group of samples, and 5 s
    is some hundred times what an honest one takes. A worker that died is not kept, the cause may lie outside.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: OrderedDict[Question, tuple[bool | None, str]] = OrderedDict()
        self.renew()

    def renew(self) -> None:
        """Replace the lock, which another thread may have held when this process was forked."""
        self._lock = threading.Lock()

    def answer(self, question: Question) -> tuple[bool | None, str]:
        with self._lock:
            if question in self._known:
                self._known.move_to_end(question)
                return self._known[question]
        outcome = SHARED.pool.ask(question.task, question.gold, question.answer)
        if outcome[1] != "worker died":
            with self._lock:
                self._known[question] = outcome
                if len(self._known) > self._size:
                    self._known.popitem(last=False)
        return outcome


_CACHE = _Cache(size=20_000)
os.register_at_fork(after_in_child=_CACHE.renew)


def _check(kind: str, **texts: str) -> None:
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, not {kind!r}")
    for name, text in texts.items():
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a str, not {type(text).__name__}: {text!r:.80}")


def _finish(result: GradeResult | Question) -> GradeResult:
    if isinstance(result, GradeResult):
        return result
    equal, reason = _CACHE.answer(result)
    return GradeResult(equal, result.answer, result.gold, reason)


def explain(*, gold: str, reply: str, kind: str) -> GradeResult:
    """Grade one reply and say why; the arguments and errors are those of `grade`."""
    _check(kind, gold=gold, reply=reply)
    return _finish(prepare(gold, reply, kind))


def grade(*, gold: str, reply: str, kind: str) -> bool | None:
    """Whether the answer that `reply` states is `gold`; for any text, from any thread, within seconds.

    Args:
        gold: The gold answer, or a gold solution that ends in one.
        reply: What the model wrote; its last 20,000 characters are read.
        kind: `math` LaTeX up to algebra; `number` one number, relative tolerance 1e-6, integers exactly;
            `choice` a letter A to J; `yes_no` yes, no, true or false; `mixed` the TheoremQA type that gold
            has the form of, floats as in `read.same_float`.

    Returns:
        True or False, `None` if it could not be decided; `explain` has the reason.

    Raises:
        ValueError: `kind` is unknown.
        TypeError: `gold` or `reply` is not a `str`.
        RuntimeError: Workers cannot be started, for instance because math-verify is not installed.

    >>> grade(gold="18", reply="16 - 3 - 4 = 9, times 2. The answer is: $18.00.", kind="number")
    True
    """
    return explain(gold=gold, reply=reply, kind=kind).grade


def grade_batch(items: Sequence[Mapping[str, str]]) -> list[bool | None]:
    """Grade many replies, each a mapping with the keywords of `grade`; in order, equal items once."""
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
    """Return the answer that `reply` states in one spelling per value, `None` if it states no single answer.

    Meant for majority votes: `1,234.50` and `$1234.5$` both give `1234.5`, and `(b)` gives `B`. No algebra is
    done: `2x + 2` and `2(x + 1)` are different votes.
    """
    _check(kind, reply=reply)
    return _known_answer(reply, kind)
