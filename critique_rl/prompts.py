"""Prompt sets as data, and the one parser of verdicts for training, evaluation and SFT filtering.

`PROMPT_SETS` has the sets by name. The protocol is the paper's: the actor answers, the critic critiques, the
actor refines (arXiv 2510.24320, section 3.1 and Figure 2).
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import Any, TypeVar

import yaml

from critique_rl.types import Conversation, Message, UserError, nearest

STEP_LABEL = "Step sentence:"
"""First words of a step's block; the actor reads a critique from the first block on."""
VERDICT_LABEL = "Correctness of the final answer:"
"""First words of the line with the verdict."""
RATING_LABEL = "Quality score:"
"""First words of the line with a rating."""
LOWEST, HIGHEST = 1.0, 10.0
"""Ends of the scale on which a critic rates scored replies (paper, appendix E)."""

THINK, THINK_END = "<think>", "</think>"
"""Tags around a thought."""
_THOUGHT_TAG = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)>", re.IGNORECASE)

T = TypeVar("T")
Rounds = Sequence[tuple[str, str]]
"""Responses and their critiques, oldest first."""


class Verdict(StrEnum):
    """Judgement of a critique on the whole response."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"


def label_pattern(label: str) -> str:
    """Pattern of a label that ends in a colon, and of all marks up to its value, as in `**Label**: [`."""
    return rf"{re.escape(label.removesuffix(':'))}[*_]*:[ \t*_\[]*"


_WORD_END = r"(?![^\W_])"  # unlike \b it holds before the underscore of "_Wrong_"
# The label, its value, and perhaps an alternative value behind it, as in an echoed "[Correct/Wrong]".
_VERDICT = re.compile(
    rf"{label_pattern(VERDICT_LABEL)}(Correct|Wrong){_WORD_END}"
    rf"(?:[ \t*_]*(?:,[ \t]*)?(?:[/|;&]|or\b|and\b)[ \t*_]*(Correct|Wrong){_WORD_END}"
    # "Wrong, Correct is 5" has one
    rf"|[ \t*_]*[,–—-][ \t*_]*(Correct|Wrong){_WORD_END}(?![ \t*_]+(?!or\b)[A-Za-z]))?"
)
LINE_LEAD = r"[ \t*_#\-]*(?:\d+[.)][ \t*_]*)?"
"""Pattern of the marks and numbers that may precede a label on its line."""
_LINE_LEAD = re.compile(rf"{LINE_LEAD}\Z")
_FENCE = re.compile(r"^[ \t]*(`{3,})[^`\n]*$.*?(?:^[ \t]*\1`*[ \t\r]*$|\Z)", re.MULTILINE | re.DOTALL)


def after_thought(text: str) -> str:
    """The part of a text behind its last closed thought, up to a thought that never ends.

    What stands inside a thought is no answer and no verdict. A chat template may have opened the thought.

    >>> after_thought("<think>5? No.</think> 7"), after_thought("7 <think>or"), after_thought("<think>7")
    (' 7', '7 ', '')
    """
    start, end = 0, len(text)
    for tag in _THOUGHT_TAG.finditer(text):
        start, end = (tag.end(), len(text)) if tag[1] else (start, min(end, tag.start()))
    return text[start:end]


def parse_verdict(critique: str) -> Verdict:
    """Read the verdict f(x, y, c) of a critique.

    The verdict stands on a line that starts with `Correctness of the final answer:` and goes on with `Correct` or
    `Wrong`. Thoughts and quoted text (block quote, code fence, back-ticks, quotation marks) do not count. A
    critique with both verdicts, or with none, is unparsed. The paper does not define f; this is the rule of the
    README's section on differences.

    >>> parse_verdict("Correctness of the final answer: Wrong").value
    'wrong'
    """
    word = _claimed(_VERDICT, critique, lambda match: {word for word in match.groups() if word})
    return Verdict.UNPARSED if word is None else Verdict(word.lower())


# The label and a text that starts like a number.
_RATING = re.compile(rf"{label_pattern(RATING_LABEL)}([-+~]?\.?[0-9][^\n]*)")
# A number, perhaps with `/10` behind it; a second number behind it does not match.
_NUMBER = re.compile(
    r"([0-9]+(?:\.[0-9]+)?)(?:[ \t*_]*(?:/|(?:out )?of)[ \t*_]*10)?(?![^\W_]|\.[0-9]|[ \t]*%)"
    r"(?![ \t*_]*(?:[-–—/|,~]|(?:to|or|and|(?:out )?of)\b)[ \t*_]*[0-9])"
)


def parse_rating(critique: str) -> float | None:
    """Read the rating f(x, y, c) of a critique of a scored reply, in [1, 10]; `None` is unparsed.

    The rule is that of `parse_verdict`, with lines that start with `Quality score:`. A critique may repeat its
    rating. Two ratings, a range, or a rating off the scale are unparsed.

    >>> parse_rating("Comments: no date.\\nQuality score: 7"), parse_rating("Quality score: 7-8")
    (7.0, None)
    """
    rating = _claimed(_RATING, critique, lambda m: {float(n[1]) if (n := _NUMBER.match(m[1])) else None})
    return rating if rating is not None and LOWEST <= rating <= HIGHEST else None


def _claimed(pattern: re.Pattern[str], critique: str, values: Callable[[re.Match[str]], set[T]]) -> T | None:
    """The value of all matches outside of quotations; None if they differ, or if none starts its line."""
    text = _FENCE.sub("", after_thought(critique))
    quotations = _Quotations(text)
    mentioned: set[T] = set()
    is_anchored = False
    for match in pattern.finditer(text):
        start = match.start()
        if not quotations.surround(start):
            mentioned |= values(match)
            if len(mentioned) > 1:
                return None
            is_anchored |= _LINE_LEAD.match(text, text.rfind("\n", 0, start) + 1, start) is not None
    return mentioned.pop() if is_anchored and mentioned else None


class _Quotations:
    """Quotations of a text, found in one pass: a text of a megabyte with a label in each line is read in time."""

    _PARAGRAPH_END = re.compile(r"\n[ \t]*\n")
    _QUOTED_LINE = re.compile(r"\s*>")

    def __init__(self, text: str) -> None:
        self._text = text
        self._paragraphs = [0, *(m.end() for m in self._PARAGRAPH_END.finditer(text))]
        self._places = {mark: [m.start() for m in re.finditer(mark, text)] for mark in ("`", "“", "”", '"')}
        self._opens: list[bool] = []  # after each straight mark: whether its quotation is open
        paragraph, is_open = -1, False
        for place in self._places['"']:
            start = self._paragraph(place)
            if start != paragraph:
                paragraph, is_open = start, False
            # A mark behind a digit closes a quotation, or means inches.
            is_open = not is_open and not text[max(start, place - 1) : place].isdigit()
            self._opens.append(is_open)

    def surround(self, place: int) -> bool:
        """Whether the text at `place` stands inside a quotation."""
        line, paragraph = self._text.rfind("\n", 0, place) + 1, self._paragraph(place)
        return (
            self._QUOTED_LINE.match(self._text, line, place) is not None
            or self._count("`", line, place) % 2 == 1
            or self._is_open(paragraph, place)
            or self._count("“", paragraph, place) > self._count("”", paragraph, place)
            or self._text[max(line, place - 1) : place] in ("'", "‘", "«")
        )

    def _paragraph(self, place: int) -> int:
        return self._paragraphs[bisect_right(self._paragraphs, place) - 1]

    def _count(self, mark: str, start: int, end: int) -> int:
        return bisect_left(self._places[mark], end) - bisect_left(self._places[mark], start)

    def _is_open(self, paragraph: int, place: int) -> bool:
        last = bisect_left(self._places['"'], place) - 1
        return last >= 0 and self._places['"'][last] >= paragraph and self._opens[last]


def paper_compat_judgment_is_right(critique: str, *, response_correct: bool) -> bool:
    """Whether the released code rewards the critique: a plain substring test, for comparison only.

    It rewards every critique with both markers. Source: the released `reward_func.py`, as the README's section on
    differences describes it. Training never uses it.
    """
    return f"{VERDICT_LABEL} {'Correct' if response_correct else 'Wrong'}" in critique


@dataclass(frozen=True)
class PromptSet:
    """The texts around question, response and critique; an image stands before the first text.

    Attributes:
        name: Name in `PROMPT_SETS`.
        version: Number that rises with every change of a text. Results store it and never mix versions.
        reasoning: User turn for a response, with `{question}`.
        reasoning_prefill: Start of the actor's turn; part of the stored response.
        critique: User turn for a critique, with `{question}` and `{response}`.
        next_critique: User turn for the critique of a refinement, after earlier ones, with `{response}`.
        pairwise: User turn for a preference, with `{question}`, `{first}` and `{second}`.
        pairwise_tie: Addition to `pairwise` where ties are allowed.
        refinement: Second user turn for a refinement, with `{critique}`.
        refinement_prefill: Start of the actor's second turn; part of the stored refinement.
    """

    name: str
    version: int
    reasoning: str
    reasoning_prefill: str
    critique: str
    next_critique: str
    refinement: str
    refinement_prefill: str
    pairwise: str
    pairwise_tie: str

    def reasoning_prompt(self, question: str, *, image: str | None = None) -> Conversation:
        """Chat in which the actor answers: question -> response."""
        turns = with_image([_user(self.reasoning, question=question)], image)
        return _with_prefill(turns, self.reasoning_prefill)

    def critique_prompt(
        self, question: str, response: str, past: Rounds = (), *, image: str | None = None
    ) -> Conversation:
        """Chat in which the critic criticises: question, response -> critique. It has no gold answer.

        Args:
            question: x.
            response: y, with or without its prefill.
            past: Earlier rounds.
            image: Image of the question.
        """
        turns: Conversation = []
        for y, c in [*past, (response, "")]:
            template = self.next_critique if turns else self.critique
            turns.append(_user(template, question=question, response=self.without_prefill(y)))
            turns.append({"role": "assistant", "content": c})
        return with_image(turns[:-1], image)

    def pairwise_prompt(
        self, question: str, first: str, second: str, *, image: str | None = None, ties: bool = False
    ) -> Conversation:
        """Chat in which a critic names the better of two responses, in the form that `parse_preference` reads.

        Args:
            question: x.
            first: First response in the prompt, with or without its prefill.
            second: Second response.
            image: Image of the question.
            ties: Whether the critic may answer that neither is better.
        """
        template = self.pairwise + (self.pairwise_tie if ties else "")
        first, second = self.without_prefill(first), self.without_prefill(second)
        return with_image([_user(template, question=question, first=first, second=second)], image)

    def without_prefill(self, response: str) -> str:
        """A response or refinement in the form that the critic reads."""
        return response.removeprefix(self.reasoning_prefill).removeprefix(self.refinement_prefill).strip()

    def refinement_prompt(
        self, question: str, response: str, critique: str, past: Rounds = (), *, image: str | None = None
    ) -> Conversation:
        """Chat in which the actor refines: question, response, critique -> refinement; see `critique_prompt`."""
        turns: Conversation = [_user(self.reasoning, question=question)]
        for y, c in [*past, (response, critique)]:
            turns.append({"role": "assistant", "content": y})
            turns.append(_user(self.refinement, critique=cut_critique(c)))
        return _with_prefill(with_image(turns, image), self.refinement_prefill)


def cut_critique(critique: str) -> str:
    """Drop the text before the first step: the actor reads from `Step sentence:` on."""
    start = critique.find(STEP_LABEL)
    return critique[start:] if start > 0 else critique


def prompt_set(name: str) -> PromptSet:
    """Look up a prompt set.

    Raises:
        UserError: No prompt set has that name.
    """
    if name in PROMPT_SETS:
        return PROMPT_SETS[name]
    raise UserError(f"prompts: no prompt set '{name}'. {nearest(name, PROMPT_SETS)}")


def _fill(template: str, fields: Mapping[str, str]) -> str:
    # str.format fails on braces in LaTeX. One pass: a "{question}" inside a field stays as it is.
    return re.sub(r"\{(\w+)\}", lambda m: fields.get(m[1], m[0]), template)


def _user(template: str, **fields: str) -> Message:
    return {"role": "user", "content": _fill(template, fields)}


def with_image(turns: Conversation, image: str | None) -> Conversation:
    """The chat with an image in its first turn, which all later turns refer to."""
    return turns if image is None else [{**turns[0], "image": image}, *turns[1:]]


def _with_prefill(turns: Conversation, prefill: str) -> Conversation:
    return [*turns, {"role": "assistant", "content": prefill}] if prefill else turns


def _read_sets() -> tuple[dict[str, str], dict[str, PromptSet]]:
    """Parts that several prompts share, and all prompt sets, from `assets/prompts.yaml`."""
    content = yaml.safe_load((files("critique_rl") / "assets" / "prompts.yaml").read_text("utf-8"))
    parts = content.pop("parts")

    def filled(text: Any) -> Any:
        """A text with its parts; versions are numbers."""
        return text if isinstance(text, int) else _fill(text, parts)

    sets = {
        name: PromptSet(name=name, **{field: filled(text) for field, text in texts.items()})
        for name, texts in content.items()
    }
    return parts, sets


_PARTS, PROMPT_SETS = _read_sets()
"""Prompt sets by name, the value of `prompts` in a configuration."""

PAPER, COMPACT = PROMPT_SETS["paper"], PROMPT_SETS["compact"]
SUMMARY, THINKING = PROMPT_SETS["summary"], PROMPT_SETS["thinking"]
THINK_SUFFIX = _PARTS["think"]
"""End of every prompt of LLaVA-Critic-R1, which asks for a thought and a box."""
