"""The layouts in which preference pairs are published, each with the function that reads one row of it.

The strings of LLaVA-Critic-113k are those of its pairwise rows; the column names of the other sets are those of
their files on the Hugging Face hub.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from critique_rl.pairwise_rewards import TIE, parse_label
from critique_rl.tasks.base import DataError
from critique_rl.tasks.rows import HubSplit, Row

ASPECTS = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
"""What VLFeedback rates each response on."""

IMAGE_MARKER = "<image>"

_FAMILIES = (
    ("Response 1", "Response 2"),
    ("Response A", "Response B"),
    ("The first response", "The second response"),
    ("Answer 1", "Answer 2"),
    ("Answer A", "Answer B"),
    ("The first answer", "The second answer"),
)
_BLOCKS = [
    re.compile(
        rf"\bQuestion:\s*\[(?P<question>.*?)\]\s*\b{first}:\s*\[(?P<response_1>.*?)\]\s*\b{second}:\s*\[",
        re.DOTALL | re.IGNORECASE,
    )
    for first, second in _FAMILIES
]
_JUDGEMENT = re.compile(r"The better response:\s*\[\s*(\w+)\s*\]", re.IGNORECASE)
_EQUAL = re.compile(r"(?<!\bnot )\bequally good\b", re.IGNORECASE)


@dataclass(frozen=True)
class Candidate:
    """One pair as a row states it, in the row's order.

    Attributes:
        question: What both respond to.
        response_1: The first response.
        response_2: The second.
        label: The better one, as in `PreferencePair`.
    """

    question: str
    response_1: str
    response_2: str
    label: int


@dataclass(frozen=True)
class Unused:
    """A pair that a row holds and that the set's own rule leaves out.

    Attributes:
        reason: Why, in a few words by which such pairs are counted.
        detail: What it was about this one.
    """

    reason: str
    detail: str


@dataclass(frozen=True)
class Options:
    """What the user may set about reading.

    Attributes:
        min_gap: VLFeedback: by how much the mean ratings must differ, exclusively.
        block: Other place of question and responses in a judge prompt: groups question, response_1, response_2.
    """

    min_gap: float = 0.6
    block: re.Pattern[str] | None = None


@dataclass(frozen=True)
class Layout:
    """One layout.

    Attributes:
        name: Name in `LAYOUTS`, and the source of its pairs if the row does not name one.
        fields: The fields by which it is known, in one or more variants.
        read: Pairs of one row.
    """

    name: str
    fields: tuple[tuple[str, ...], ...]
    read: Callable[[Row, Options], Iterator[Candidate | Unused]]


def parse_judgement(text: str) -> int | None:
    """Read the preference from a judgement of LLaVA-Critic-113k, 0 for a tie; None if there is none.

    `The better response: [X]` decides; two that differ are none. Without it, a last sentence that says
    `equally good` is a tie.

    >>> parse_judgement("The better response: [B]. It is shorter."), parse_judgement("I like both.")
    (2, None)
    """
    named = {parse_label(name) for name in _JUDGEMENT.findall(text)}
    if named:
        return named.pop() if len(named) == 1 else None
    last = re.split(r"(?<=[.!?])\s+", text.strip())[-1]
    return TIE if _EQUAL.search(last) else None


def split_prompt(text: str, block: re.Pattern[str] | None = None) -> tuple[str, str, str] | None:
    """Take question and both responses out of a judge prompt; what surrounds them is dropped.

    Only the bracketed blocks of LLaVA-Critic-113k are read. Without brackets nothing says where the second
    response ends, and instructions behind it would become a part of it.

    Args:
        text: The prompt.
        block: Pattern for another kind of prompt, with groups question, response_1 and response_2.

    Returns:
        Question, first and second response, or None if there is no such block.

    >>> split_prompt("Judge.\\nQuestion: [What?]\\nResponse A: [A cat.]\\nResponse B: [A dog [brown].]")
    ('What?', 'A cat.', 'A dog [brown].')
    """
    if block is not None:
        found = block.search(text)
        return None if found is None else (found["question"], found["response_1"], found["response_2"])
    for pattern in _BLOCKS:
        found = pattern.search(text)
        if found is None:
            continue
        rest = text[found.end() :].rstrip()
        end = _closing_bracket(rest)
        return None if end is None else (found["question"], found["response_1"], rest[:end])
    return None


def _closing_bracket(rest: str) -> int | None:
    """Place of the bracket that ends the last response: responses may hold brackets, unbalanced ones too."""
    depth, balanced = 1, None
    for found in re.finditer(r"[\[\]]", rest):
        depth += 1 if found[0] == "[" else -1
        if depth == 0:
            balanced = found.start()
            break
    # Text that ends with a bracket ends with this one, unless it goes on to state the format of the reply.
    if rest.endswith("]") and (balanced is None or "better response" not in rest[balanced:].lower()):
        return len(rest) - 1
    if balanced is not None and re.match(r"[ \t]*(\n|\Z)", rest[balanced + 1 :]):
        return balanced
    line_end = rest.rfind("]\n")
    return line_end if line_end >= 0 else None


def structs(row: Row, field: str) -> list[Mapping[str, Any]]:
    """A field that holds a list of objects, which old versions of `datasets` turn into an object of lists."""
    value = row.fields[field]
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise row.error(field, "a list of objects, as JSON text or not") from error
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]  # some files of LLaVA-RLHF nest the conversation once more
    if isinstance(value, Mapping) and value and all(isinstance(v, list) for v in value.values()):
        if len({len(v) for v in value.values()}) != 1:
            raise row.error(field, "lists of one length")
        value = [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
    if not isinstance(value, list) or not value or not all(isinstance(item, Mapping) for item in value):
        raise row.error(field, "a list of objects")
    return value


def _part(row: Row, field: str, item: Any, key: str, where: str = "") -> str:
    """Text of one key of an object inside a field."""
    value = item.get(key) if isinstance(item, Mapping) else None
    if not isinstance(value, str):
        raise DataError(f"{row.place}, field {field!r}{where}: found {value!r} as {key!r}, expected text")
    return value


def _turns(row: Row, field: str = "conversations") -> list[tuple[bool, str]]:
    """Turns of a conversation: whether the user's, and the text."""
    turns = []
    for i, turn in enumerate(structs(row, field)):
        speaker = _part(row, field, turn, "from", f", turn {i}").lower()
        if speaker == "system":
            continue
        turns.append((speaker in ("human", "user"), _part(row, field, turn, "value", f", turn {i}")))
    return turns


def _candidate(row: Row, fields: tuple[str, ...], label: int) -> Candidate:
    question, response_1, response_2 = (row.text(field, may_be_empty=True) for field in fields)
    return Candidate(question, response_1, response_2, label)


def _read_own(row: Row, options: Options) -> Iterator[Candidate | Unused]:
    label, tie = row.fields["label"], row.fields.get("tie", False)
    if not isinstance(tie, bool):
        raise row.error("tie", "true or false")
    if isinstance(label, bool) or label not in ((TIE,) if tie else (1, 2)):
        raise row.error("label", "0, for `tie` is true" if tie else "1 or 2, for `tie` is not true")
    if not isinstance(row.fields.get("swapped", False), bool):
        raise row.error("swapped", "true or false")
    yield _candidate(row, ("question", "response_1", "response_2"), label)


def _read_llava_critic(row: Row, options: Options) -> Iterator[Candidate | Unused]:
    turns = _turns(row)
    if [is_user for is_user, _ in turns] != [True, False]:
        raise row.error("conversations", "one human turn and one gpt turn")
    parts = split_prompt(turns[0][1], options.block)
    if parts is None:
        expected = "a human turn with `Question: [...]` and two responses in brackets"
        raise row.error("conversations", f"{expected}; another kind of prompt needs `block`")
    label = parse_judgement(turns[1][1])
    if label is None:
        raise row.error("conversations", "a gpt turn with `The better response: [X]` or `equally good`")
    yield Candidate(*parts, label=label)


def _read_critic_grpo(row: Row, options: Options) -> Iterator[Candidate | Unused]:
    parts = split_prompt(row.text("question"), options.block)
    if parts is None:
        expected = "`Question: [...]` and two responses in brackets"
        raise row.error("question", f"{expected}; another kind of prompt needs `block`")
    answer = row.fields["answer"]
    label = parse_label(str(answer), ties=True) if isinstance(answer, str | int) else None
    if label is None:
        raise row.error("answer", "1, 2, first, second, A, B, Answer 1, Response 1 and so on, or tie")
    yield Candidate(*parts, label=label)


def _read_vlfeedback(row: Row, options: Options) -> Iterator[Candidate | Unused]:
    question = row.text("prompt", may_be_empty=True)
    rated = [_rated(row, i, item) for i, item in enumerate(structs(row, "completions"))]
    for (i, (one, score_1)), (j, (two, score_2)) in itertools.combinations(enumerate(rated), 2):
        which = f"{row.place}, responses {i} and {j}"
        if score_1 is None or score_2 is None:
            yield Unused("no rating", f"{which}: an aspect is not rated with a number")
        elif score_1 != score_2 and abs(score_1 - score_2) <= options.min_gap:
            yield Unused("small gap", f"{which}: mean ratings {score_1:.2f} and {score_2:.2f}")
        else:
            label = TIE if score_1 == score_2 else 1 if score_1 > score_2 else 2
            yield Candidate(question, one, two, label)


def _rated(row: Row, i: int, item: Mapping[str, Any]) -> tuple[str, float | None]:
    """A response of VLFeedback and the mean of its ratings, None if one of them is no number (`N/A`)."""
    where = f", response {i}"
    annotations = item.get("annotations")
    ratings = []
    for aspect in ASPECTS:
        opinion = annotations.get(aspect) if isinstance(annotations, Mapping) else None
        if not isinstance(opinion, Mapping) or "Rating" not in opinion:
            raise DataError(
                f"{row.place}, field 'completions'{where}: no rating of {aspect!r} in its annotations"
            )
        try:
            ratings.append(float(opinion["Rating"]))
        except (TypeError, ValueError):
            ratings.append(math.nan)
    mean = statistics.fmean(ratings)
    return _part(row, "completions", item, "response", where), mean if math.isfinite(mean) else None


def _read_rlhf_v(row: Row, options: Options) -> Iterator[Candidate | Unused]:
    if "text" in row.fields and "chosen" not in row.fields:  # as published: three texts inside JSON
        value = row.fields["text"]
        try:
            inner = json.loads(value) if isinstance(value, str) else value
        except json.JSONDecodeError as error:
            raise row.error("text", "JSON with question, chosen and rejected") from error
        row = Row(fields=inner if isinstance(inner, Mapping) else {}, place=f"{row.place}, field 'text'")
    fields = row.layout(("question", "chosen", "rejected"), ("prompt", "chosen", "rejected"))
    yield _candidate(row, fields, label=1)


def _read_llava_rlhf(row: Row, options: Options) -> Iterator[Candidate | Unused]:
    turns = _turns(row)
    while turns and not turns[-1][0]:  # the last reply is the place of the two outputs
        turns.pop()
    if not turns:
        raise row.error("conversations", "a human turn")
    label = row.fields["preference"]
    if isinstance(label, bool) or label not in (1, 2):
        raise row.error("preference", "1 or 2")
    speakers = {True: "User", False: "Assistant"}
    shown = [text.replace(IMAGE_MARKER, "").strip() for _, text in turns]
    if len(turns) > 1:
        shown = [f"{speakers[is_user]}: {text}" for (is_user, _), text in zip(turns, shown, strict=True)]
    yield Candidate("\n".join(shown), _output(row, "output_1"), _output(row, "output_2"), label)


def _output(row: Row, field: str) -> str:
    value = row.fields[field]
    return value if isinstance(value, str) else _part(row, field, value, "value")


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "pairs", (("id", "source", "image", "question", "response_1", "response_2", "label"),), _read_own
        ),
        Layout("llava_rlhf", (("conversations", "output_1", "output_2", "preference"),), _read_llava_rlhf),
        Layout("llava_critic", (("conversations", "image"),), _read_llava_critic),
        Layout("vlfeedback", (("prompt", "completions"),), _read_vlfeedback),
        Layout(
            "rlhf_v",
            (("text", "image"), ("question", "chosen", "rejected"), ("prompt", "chosen", "rejected")),
            _read_rlhf_v,
        ),
        Layout("critic_grpo", (("question", "answer", "image"),), _read_critic_grpo),
    )
}
"""By name, the more telling first: a row belongs to the first layout whose fields it has."""

HUB = {
    "llava_critic": HubSplit("lmms-lab/LLaVA-Critic-113k", ("pairwise",), "train"),
    "critic_grpo": HubSplit("lmms-lab/LLaVA-Critic-GRPO-dataset", ("default",), "train"),
    "rlhf_v": HubSplit("openbmb/RLHF-V-Dataset", ("default",), "train"),
}
"""Sets that the hub serves with their images. The files of VLFeedback and LLaVA-RLHF name images that have to be
downloaded apart: give their path and `image_root`."""


def layout_of(row: Row) -> Layout:
    """The layout of a row, by its fields.

    Raises:
        DataError: It has none of the layouts; the message names what the closest one misses.
    """
    for layout in LAYOUTS.values():
        if any(all(name in row.fields for name in variant) for variant in layout.fields):
            return layout
    row.layout(*(variant for layout in LAYOUTS.values() for variant in layout.fields))
    raise AssertionError("a row without layout was accepted")  # not reached: the line above raises
