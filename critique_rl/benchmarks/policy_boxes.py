r"""A program that runs lmms-eval and lets its scorers see only the boxed answer of each reply.

Several scorers of lmms-eval cannot read `\boxed{B}`: in version 0.7.3 those of BLINK, MMVP, V*, AI2D and ChartQA
count it as wrong, and that of MMMU draws an option by chance. `python -m critique_rl.policy_benchmarks ARGUMENTS`
runs lmms-eval with these arguments and a filter before the tasks' own filters. The logs keep whole replies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_BOX = r"\boxed{"
_FONT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")


def boxed_answer(reply: str) -> str:
    """Content of the last box after the thought, without a font around it.

    A reply without a box loses only its thought. A reply with an unfinished thought stays as it is.

    >>> boxed_answer(r"<think>A or B?</think> So \\boxed{\\text{B}}."), boxed_answer("<think>1, 2</think> Two.")
    ('B', 'Two.')
    """
    thought, _, answer = reply.rpartition("</think>")
    if not thought and "<think>" in answer:
        return reply
    _, box, rest = answer.rpartition(_BOX)
    depth = 1
    for end, sign in enumerate(rest if box else ""):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth == 0:
            content = rest[:end].strip()
            font = _FONT.fullmatch(content)
            return font[1].strip() if font else content
    return answer.strip()


class _BoxFilter:
    """A filter of lmms-eval, applied before a task's own filters."""

    def apply(self, resps: Iterable[Iterable[Any]], docs: Any) -> list[list[Any]]:
        return [[boxed_answer(r) if isinstance(r, str) else r for r in replies] for replies in resps]


def unpack_boxes() -> None:
    """Have lmms-eval, in this process, give its filters and scorers the result of `boxed_answer`.

    The only override of lmms-eval: it has no option for a filter that applies to all tasks.
    """
    from lmms_eval.api.filter import FilterEnsemble

    original = FilterEnsemble.apply

    def apply(self: Any, instances: Any, docs: Any) -> None:
        if not any(isinstance(f, _BoxFilter) for f in self.filters):
            self.filters = [_BoxFilter(), *self.filters]
        original(self, instances, docs)

    FilterEnsemble.apply = apply


def main() -> None:
    """Run lmms-eval with its own arguments, and `unpack_boxes`."""
    from lmms_eval.__main__ import cli_evaluate

    unpack_boxes()
    cli_evaluate()


if __name__ == "__main__":
    main()
