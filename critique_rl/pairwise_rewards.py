"""The rewards of LLaVA-Critic-R1 (arXiv 2509.00676): which of two responses is better, and is the format kept?

The critic thinks inside `<think>...</think>` and then names the better response in `\\boxed{...}`. `r_pref` and
`r_format` are reward functions of trl: `completions` are texts or chats, the data's columns arrive as lists, and
what is not named is ignored. `pairwise_reward` adds the two.

The `legacy_...` functions score as the released code does, faults included, for comparison. `legacy_r_pref` needs
the extra `legacy`: mathruler, with which the released code grades.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from critique_rl.types import UserError

Preference = Literal[0, 1, 2]
Completion = str | Sequence[Mapping[str, Any]]

TIE: Literal[0] = 0
"""The label of two responses of which neither is better."""

_THINK, _THINK_END, _BOX = "<think>", "</think>", r"\boxed{"


def completion_text(completion: Completion) -> str:
    """Return what the model wrote: a text as it is, of a chat the last message.

    Where trl's parser has put the thought into a field of its own it is put back in front.

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
    return f"{_THINK}{thought}{_THINK_END}{content}" if thought else content


def parse_preference(text: str, *, ties: bool = False, thinking: bool = True) -> Preference | None:
    """Read which response a critic prefers; `None` is unparsed.

    Only boxes after the last `</think>` count, and each of them must hold a name of the same response: `1`, `(1)`,
    `[1]`, `A`, `first`, or these with a noun as in `Answer 1`, `Response A`, `the first response`, `Answer 1 is
    better`. Letter case, LaTeX fonts and markdown emphasis make no difference. A box with anything else in it,
    two boxes that contradict each other, a box that is never closed and a thought that is never closed are
    unparsed, and so is a number such as `1.0`, which is a score and no name.

    Args:
        text: The critic's reply.
        ties: Read `tie`, `equal`, `equally good` and the like, as `TIE`; else they are unparsed.
        thinking: Whether the critic was told to think first. If so a reply without `</think>` is unparsed; if not,
            a reply without a thought is read whole.

    >>> parse_preference(r"<think>Or \\boxed{1}?</think> \\boxed{\\text{Answer 2}}")
    2
    >>> parse_preference(r"\\boxed{1}"), parse_preference(r"\\boxed{1}", thinking=False)
    (None, 1)
    """
    _, thought_ends, answer = text.rpartition(_THINK_END)
    if _THINK in answer or (thinking and not thought_ends):
        return None
    named = {None if box is None else parse_label(box, ties=ties) for box in _boxes(answer)}
    return named.pop() if len(named) == 1 else None


def _boxes(text: str) -> list[str | None]:
    """Contents of the outermost boxes; `None`, as the last one, if one is never closed."""
    boxes: list[str | None] = []
    start = text.find(_BOX)
    while start >= 0:
        start += len(_BOX)
        end = _closing_brace(text, start)
        if end is None:
            return [*boxes, None]
        boxes.append(text[start:end])
        start = text.find(_BOX, end)
    return boxes


def _closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes the one opened before `start`."""
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):  # "\{" is no brace of LaTeX's
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


# Fonts, math delimiters, spaces, emphasis and quotation marks: all that may stand around a name.
_MARKUP = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|up|normal)?|math(?:bf|it|rm|sf|tt|bb|cal|normal)|boldsymbol|bm|emph|mbox|boxed"
    r"|underline|operatorname|bf(?:series)?|it|rm|large|Large|huge|Huge|left|right|quad|qquad)(?![A-Za-z])"
    r"|\\[()\[\],;:! ]|(?<!\\)[{}]|[$~`\"“”‘’]|\*\*|__"
)
_NOUN = r"(?:answer|response|option|choice|candidate)"


def _names(sign: str, number: str, ordinal: str) -> re.Pattern[str]:
    # "one" and "a" before a noun are not among them: "a response" names neither.
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
    """The response that a label, such as the content of a box, names; `None` if it names none.

    >>> [parse_label(text, ties=True) for text in ("2", "first", "Response B", "tie", "3")]
    [2, 1, 2, 0, None]
    """
    name = " ".join(_MARKUP.sub(" ", text).casefold().split()).strip(" *_'.")
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
    """Preference reward: 1 if the critic names the better response, else 0; `None` where nobody knows which.

    An unparsed reply is not right: 0. The reward does not ask for the format beyond what `parse_preference`
    does, so that a right answer after a preamble earns it.

    Args:
        completions: Replies of the critic.
        label: The better response, 1 or 2, `TIE` or `None`, a value for each completion.
        tie: Flag of pairs in which neither is better, whatever `label` says of them.
        columns: The other columns of the data, ignored.

    Raises:
        UserError: A label is something else.

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
                "data, or map its labels to these"
            )
        read = parse_preference(completion_text(completion), ties=True)
        rewards.append(None if gold is None else float(read == gold))
    return rewards


def r_format(completions: Sequence[Completion], **columns: object) -> list[float]:
    """Format reward: 1 for one thought `<think>...</think>` and then an answer with one `\\boxed{...}`, else 0.

    The reply starts with the thought (white space may precede it), each tag occurs once, and neither thought nor
    box is blank; text may stand around the box. What is in the box does not matter here, nor do boxes inside the
    thought. The released code (`legacy_r_format`) also lets pass: an empty thought, several thoughts, further
    boxes and a box without its closing brace if any brace follows.

    >>> r_format([r"<think>The dog is black.</think> \\boxed{2}", r"I think: \\boxed{2}"])
    [1.0, 0.0]
    """
    return [float(_is_well_formed(completion_text(completion))) for completion in completions]


def _is_well_formed(text: str) -> bool:
    text = text.lstrip()
    if not text.startswith(_THINK) or text.count(_THINK) != 1 or text.count(_THINK_END) != 1:
        return False
    thought, _, answer = text.removeprefix(_THINK).partition(_THINK_END)
    boxes = _boxes(answer)
    return bool(thought.strip() and len(boxes) == 1 and boxes[0] and boxes[0].strip())


def pairwise_reward(preference: float | None, format_kept: float, *, alpha: float = 0.9) -> float | None:
    """Reward of a pairwise critic: alpha * r_pref + (1 - alpha) * r_format.

    The paper and the released code have alpha = 0.9, which gives 0, 0.1, 0.9 or 1. With alpha = 0 (training on
    the format alone) the preference does not matter and may be `None`.

    Compute it in one reward function: trl would take a `None` of `r_pref` beside a value of `r_format` for 0.

    Raises:
        UserError: `alpha` is not in [0, 1].

    >>> [pairwise_reward(pref, kept) for pref, kept in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (None, 1.0))]
    [1.0, 0.9, 0.1, None]
    """
    if not 0.0 <= alpha <= 1.0:
        raise UserError(f"alpha must be between 0 and 1, got {alpha}")
    # In floats 1 - 0.9 is not 0.1, with which the released code weighs the format.
    format_weight = round(1.0 - alpha, 12)
    if format_weight == 1.0:
        return format_kept
    return None if preference is None else (1.0 - format_weight) * preference + format_weight * format_kept


def legacy_clean(text: str) -> str:
    """Drop white space around each `<`, `>` and `/`, as the released code does before it scores a reply.

    It does so in the reasoning and in the answer as well: `1 / 2` becomes `1/2`, `a < b` becomes `a<b`.
    """
    # Not in one expression that starts with white space: it would take quadratic time on a long run of spaces.
    return re.sub(r"(?<!\s)\s+([<>/])", r"\1", re.sub(r"([<>/])\s+", r"\1", text))


def legacy_r_format(completions: Sequence[Completion], **columns: object) -> list[float]:
    """Format reward of the released code: 1 if `<think>.*</think>.*\\boxed{.*}.*` is the cleaned reply, else 0.

    The dots stand for anything: line ends, tags, boxes, nothing at all.

    >>> legacy_r_format([r"<think></think>\\boxed{} or so", r"So: <think></think>\\boxed{1}"])
    [1.0, 0.0]
    """
    return [float(_legacy_is_well_formed(legacy_clean(completion_text(c)))) for c in completions]


def _legacy_is_well_formed(text: str) -> bool:
    # The same as a full match of the pattern with DOTALL, which takes cubic time on a reply that repeats itself.
    place = 0 if text.startswith(_THINK) else -1
    for following in (_THINK_END, _BOX, "}"):
        if place >= 0:
            place = text.find(following, place)
    return place >= 0


def legacy_r_pref(
    completions: Sequence[Completion], label: Sequence[str | int | None], **columns: object
) -> list[float | None]:
    """Preference reward of the released code: mathruler finds the last box equal to the label as mathematics.

    The last `\\boxed{` of the whole cleaned reply counts, inside a thought too; a reply without a closed one has
    the answer `None`. The spelling of the released data's labels is not known. With `1` and `2` an answer
    `Answer 1` earns nothing, and `1.0`, `\\text{1}` and `(1]` do.

    With labels such as `A` mathruler may run sympy on the reply, in this process and without a limit of time;
    with `1` and `2` sympy only ever sees numbers.

    Args:
        completions: Replies of the critic.
        label: The text that the box must equal, or a number; `None` gives `None`.
        columns: The other columns of the data, ignored.

    Raises:
        UserError: mathruler, or a package that it imports without declaring it, is not installed.
    """
    try:
        from mathruler.grader import extract_boxed_content, grade_answer
    except ImportError as error:
        raise UserError(
            f"legacy_r_pref needs an extra: pip install 'critique_rl[legacy]' ({error})"
        ) from error
    rewards: list[float | None] = []
    for completion, wanted in zip(completions, label, strict=True):
        answer = extract_boxed_content(legacy_clean(completion_text(completion)))
        rewards.append(None if wanted is None else float(grade_answer(answer, str(wanted))))
    return rewards
