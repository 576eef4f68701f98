"""The rewards of LLaVA-Critic-R1 (arXiv 2509.00676): is the right response preferred, is the format kept?

The critic thinks inside `<think>...</think>` and then names the better response in `\\boxed{...}`. `r_pref` and
`r_format` are reward functions of trl: `completions` are texts or chats, columns of the data arrive as lists, and
other columns are ignored. `pairwise_reward` adds the two.

The `legacy_...` functions score like the released code, faults included, for comparison. `legacy_r_pref` needs
the extra `legacy`: mathruler, the grader of the released code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from critique_rl.types import UserError

Preference = Literal[0, 1, 2]
Completion = str | Sequence[Mapping[str, Any]]

LONGEST_LABEL = 1_000
"""Most characters of a label without its marks; a longer one names nothing."""
TIE: Literal[0] = 0
"""Label of a pair in which neither response is better."""

THINK, THINK_END = "<think>", "</think>"
"""Tags around a thought."""
_BOX = r"\boxed{"


def completion_text(completion: Completion) -> str:
    """The text of a completion; of a chat, the text of its last message.

    If trl's parser has moved the thought to a separate field, it goes back to the front.

    >>> completion_text([{"role": "assistant", "reasoning_content": "So ...", "content": "Two."}])
    '<think>So ...</think>Two.'
    """
    if isinstance(completion, str):
        return completion
    if not completion:
        return ""
    message = completion[-1]
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part.get("text") or "" for part in content)
    thought = message.get("reasoning_content") or message.get("thinking")
    return f"{THINK}{thought}{THINK_END}{content}" if thought else content


def parse_preference(text: str, *, ties: bool = False, thinking: bool = True) -> Preference | None:
    """Read which response a critic prefers; `None` is unparsed.

    Only boxes after the last `</think>` count, and all must name the same response: `1`, `(1)`, `[1]`, `A`,
    `first`, or these with a noun, as in `Answer 1`, `Response A`, `the first response`, `Answer 1 is better`.
    Letter case, LaTeX fonts and markdown emphasis make no difference. Unparsed are boxes with other contents,
    contradictory boxes, a box or thought that is never closed, and a number such as `1.0`: it is a score, no name.

    Args:
        text: The critic's reply.
        ties: Read `tie`, `equal`, `equally good` and the like as `TIE`; otherwise they are unparsed.
        thinking: Whether the prompt asked for a thought. If so, a reply without `</think>` is unparsed. If not, a
            reply without a thought is read whole.

    >>> parse_preference(r"<think>Or \\boxed{1}?</think> \\boxed{\\text{Answer 2}}")
    2
    >>> parse_preference(r"\\boxed{1}"), parse_preference(r"\\boxed{1}", thinking=False)
    (None, 1)
    """
    _, thought_ends, answer = text.rpartition(THINK_END)
    if THINK in answer or (thinking and not thought_ends):
        return None
    labels = {None if box is None else parse_label(box, ties=ties) for box in set(_boxes(answer))}
    return labels.pop() if len(labels) == 1 else None


def _boxes(text: str) -> list[str | None]:
    """Contents of the outermost boxes; the last is `None` if it is never closed."""
    boxes: list[str | None] = []
    end: int | None = 0
    while end is not None and (opening := text.find(_BOX, end)) >= 0:
        start = opening + len(_BOX)
        end = _closing_brace(text, start)
        boxes.append(None if end is None else text[start:end])
    return boxes


def _closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes the brace opened before `start`."""
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):  # "\{" is no brace of LaTeX's
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


# Marks that may stand around a name: fonts, math delimiters, spaces, emphasis and quotation marks.
_MARKUP = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|up|normal)?|math(?:bf|it|rm|sf|tt|bb|cal|normal)|boldsymbol|bm|emph|mbox|boxed"
    r"|underline|operatorname|bf(?:series)?|it|rm|large|Large|huge|Huge|left|right|quad|qquad)(?![A-Za-z])"
    r"|\\[()\[\],;:! ]|(?<!\\)[{}]|[$~`\"“”‘’]|\*\*|__"
)
_NOUN = r"(?:answer|response|option|choice|candidate)"


def _names(sign: str, number: str, ordinal: str) -> re.Pattern[str]:
    # Without "one" and "a" before a noun: "a response" names neither response.
    return re.compile(
        rf"(?:(?:{_NOUN} ?[:#]? ?)?(?:{sign}|\({sign}\)|\[{sign}\])|{_NOUN} {number}"
        rf"|(?:the )?{ordinal}(?: one| {_NOUN})?)(?: is (?:the )?(?:better|best)(?: one| {_NOUN})?)?"
    )


_NAMES: dict[Preference, re.Pattern[str]] = {
    1: _names("[1a]", "one", "(?:first|1st)"),
    2: _names("[2b]", "two", "(?:second|2nd)"),
}
_TIE_NAMES = re.compile(
    r"(?:a )?(?:tie|draw)|tied|both|neither"
    rf"|(?:both )?(?:{_NOUN}s )?(?:are )?(?:equal|equally (?:good|bad)|(?:the )?same)"
)


def parse_label(text: str, *, ties: bool = False) -> Preference | None:
    """The response that a label names, such as the content of a box; `None` if it names none.

    >>> [parse_label(text, ties=True) for text in ("2", "first", "Response B", "tie", "3")]
    [2, 1, 2, 0, None]
    """
    name = " ".join(_MARKUP.sub(" ", text).casefold().split()).strip(" *_'.")
    if len(name) > LONGEST_LABEL:
        return None
    while match := re.fullmatch(r"\((.*)\)|\[(.*)\]", name):
        name = (match[1] or match[2] or "").strip()
    for label, pattern in _NAMES.items():
        if pattern.fullmatch(name):
            return label
    return TIE if ties and _TIE_NAMES.fullmatch(name) else None


def r_pref(
    completions: Sequence[Completion],
    label: Sequence[int | None],
    tie: Sequence[bool | None] | None = None,
    **columns: object,
) -> list[float | None]:
    """Preference reward: 1 if the critic names the better response, else 0; `None` if the label is unknown.

    An unparsed reply earns 0. The format counts only as far as `parse_preference` needs it: a right answer after
    a preamble earns 1.

    Args:
        completions: Replies of the critic.
        label: The better response of each pair: 1, 2, `TIE` or `None`.
        tie: Flags of pairs in which neither response is better; they override `label`.
        columns: Other columns of the data, ignored.

    Raises:
        UserError: A label has another value.

    >>> r_pref([r"<think>The dog is black.</think> \\boxed{2}"] * 3, label=[2, 1, None])
    [1.0, 0.0, None]
    """
    rewards: list[float | None] = []
    flags = [False] * len(completions) if tie is None else tie
    for i, (completion, better, tied) in enumerate(zip(completions, label, flags, strict=True)):
        gold = TIE if tied else better
        if gold is not None and (isinstance(gold, bool) or gold not in (TIE, 1, 2)):
            raise UserError(
                f"label of completion {i}: found {gold!r}, expected 1, 2, {TIE} for a tie, or None; convert the "
                "labels of the data"
            )
        preference = parse_preference(completion_text(completion), ties=True)
        rewards.append(None if gold is None else float(preference == gold))
    return rewards


def r_format(completions: Sequence[Completion], **columns: object) -> list[float]:
    """Format reward: 1 for one thought `<think>...</think>` and then an answer with one `\\boxed{...}`, else 0.

    The reply starts with the thought, after white space at most. Each tag occurs once; neither thought nor box is
    blank. Text around the box, its content and boxes inside the thought do not matter. The released code
    (`legacy_r_format`) also accepts an empty thought, several thoughts, further boxes, and a box without its
    closing brace if any brace follows.

    >>> r_format([r"<think>The dog is black.</think> \\boxed{2}", r"I think: \\boxed{2}"])
    [1.0, 0.0]
    """
    return [float(_is_well_formed(completion_text(completion))) for completion in completions]


def _is_well_formed(text: str) -> bool:
    text = text.lstrip()
    if not text.startswith(THINK) or text.count(THINK) != 1 or text.count(THINK_END) != 1:
        return False
    thought, _, answer = text.removeprefix(THINK).partition(THINK_END)
    boxes = _boxes(answer)
    return bool(thought.strip() and len(boxes) == 1 and boxes[0] and boxes[0].strip())


def pairwise_reward(preference: float | None, format_kept: float, *, alpha: float = 0.9) -> float | None:
    """Reward of a pairwise critic: alpha * r_pref + (1 - alpha) * r_format.

    Paper and released code use alpha = 0.9: the reward is 0, 0.1, 0.9 or 1. With alpha = 0 (the format alone) the
    preference may be `None`. Compute the sum in one reward function: with two, trl takes a `None` of `r_pref`
    beside a value of `r_format` for 0.

    Raises:
        UserError: `alpha` is not in [0, 1].

    >>> [pairwise_reward(pref, kept) for pref, kept in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (None, 1.0))]
    [1.0, 0.9, 0.1, None]
    """
    if not 0.0 <= alpha <= 1.0:
        raise UserError(f"alpha must be between 0 and 1, got {alpha}")
    # In floats 1 - 0.9 is not 0.1, the weight of the format in the released code.
    format_weight = round(1.0 - alpha, 12)
    if format_weight == 1.0:
        return format_kept
    return None if preference is None else (1.0 - format_weight) * preference + format_weight * format_kept


def legacy_clean(text: str) -> str:
    """Drop white space around each `<`, `>` and `/`, like the released code before it scores a reply.

    This changes reasoning and answer too: `1 / 2` becomes `1/2`, `a < b` becomes `a<b`.
    """
    # Two expressions: a single one that starts with white space takes quadratic time on a long run of spaces.
    return re.sub(r"(?<!\s)\s+([<>/])", r"\1", re.sub(r"([<>/])\s+", r"\1", text))


def legacy_r_format(completions: Sequence[Completion], **columns: object) -> list[float]:
    """Format reward of the released code: 1 if the cleaned reply is `<think>.*</think>.*\\boxed{.*}.*`, else 0.

    `.*` matches anything: line ends, tags, boxes, the empty text.

    >>> legacy_r_format([r"<think></think>\\boxed{} or so", r"So: <think></think>\\boxed{1}"])
    [1.0, 0.0]
    """
    return [float(_legacy_is_well_formed(legacy_clean(completion_text(c)))) for c in completions]


def _legacy_is_well_formed(text: str) -> bool:
    # Equal to a full match of the pattern with DOTALL, which takes cubic time on a repetitive reply.
    place = 0 if text.startswith(THINK) else -1
    for mark in (THINK_END, _BOX, "}"):
        if place >= 0:
            place = text.find(mark, place)
    return place >= 0


def legacy_r_pref(
    completions: Sequence[Completion], label: Sequence[str | int | None], **columns: object
) -> list[float | None]:
    """Preference reward of the released code: 1 if mathruler finds the last box equal to the label, else 0.

    The last `\\boxed{` of the whole cleaned reply counts, inside a thought too; without a closed box the answer is
    `None`. The spelling of the labels in the released data is unknown. With labels `1` and `2` the answers `1.0`,
    `\\text{1}` and `(1]` earn 1, and `Answer 1` earns 0.

    With labels such as `A` mathruler may run sympy on the reply, in this process and without a time limit; with
    `1` and `2` sympy only sees numbers.

    Args:
        completions: Replies of the critic.
        label: The text or number that the box must equal; `None` gives `None`.
        columns: Other columns of the data, ignored.

    Raises:
        UserError: mathruler is not installed, or a package that it imports without declaring it.
    """
    try:
        from mathruler.grader import extract_boxed_content, grade_answer
    except ImportError as error:
        advice = "pip install 'critique_rl[legacy]'"
        raise UserError(f"legacy_r_pref needs an extra: {advice} ({error})") from error
    rewards: list[float | None] = []
    for completion, wanted in zip(completions, label, strict=True):
        answer = extract_boxed_content(legacy_clean(completion_text(completion)))
        rewards.append(None if wanted is None else float(grade_answer(answer, str(wanted))))
    return rewards
