"""The lenient parser of a critic's reply, as in the standard harnesses.

The strict parser is `pairwise_rewards.parse_preference`.
"""

from __future__ import annotations

import re

# The last such sentence counts: both quantifiers take as much as they can.
_SENTENCE = re.compile(
    r"\b(?:overall judge?ment|therefore)\b.*\banswer ?([12]) is (?:the )?(?:(?:slightly|clearly|much) )?better\b",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\boxed\s*\{[^{}]*?(?:\{[^{}]*?)?\b([12])\b")


def parse_lenient(reply: str) -> int | None:
    """Read 1 or 2 as the standard scorers of VL-RewardBench do, and from a box anywhere; None is unparsed.

    The last sentence `Overall Judgment: ... Answer k is better`, or one with `Therefore`, counts; emphasis and
    line ends are ignored. Without such a sentence the first 1 or 2 in the last box that has one counts, also
    inside the thought. For other replies lmms-eval and VLMEvalKit ask another model, and toss a coin if that
    fails; here such a reply is unparsed, and counts as wrong.

    >>> parse_lenient("**Overall Judgment**: clearly, Answer 2 is better."), parse_lenient("I like the first.")
    (2, None)
    """
    flat = " ".join(reply.replace("*", "").split())
    sentence = _SENTENCE.search(flat)
    if sentence is not None:
        return int(sentence[1])
    boxes = _BOX.findall(flat)
    return int(boxes[-1]) if boxes else None
