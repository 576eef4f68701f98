"""Published layouts of preference pairs, each with a function that reads one row.

The strings of LLaVA-Critic-113k come from its pairwise rows, the column names of the other sets from their files
on the Hugging Face hub.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critique_rl.pairwise_rewards import TIE, parse_label
from critique_rl.tasks.base import DataError
from critique_rl.tasks.rows import HubSplit, Row

ASPECTS = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
"""Aspects that VLFeedback rates for each response."""

IMAGE_MARKER = "<image>"

_BLOCKS = [
    re.compile(
        rf"\bQuestion:\s*\[(?P<question>.*?)\]\s*\b{first}:\s*\[(?P<response_1>.*?)\]\s*\b{second}:\s*\[",
        re.DOTALL | re.IGNORECASE,
    )
    for noun in ("Response", "Answer")
    for first, second in (
        (f"{noun} 1", f"{noun} 2"),
        (f"{noun} A", f"{noun} B"),
        (f"The first {noun}", f"The second {noun}"),
    )
]
_JUDGEMENT = re.compile(r"The better response:\s*\[\s*(\w+)\s*\]", re.IGNORECASE)
_EQUAL = re.compile(r"(?<!\bnot )\bequally good\b", re.IGNORECASE)


@dataclass(frozen=True)
class Candidate:
    """One pair as in its row, in the row's order.

    Attributes:
        question: The question, with image markers.
        response_1: First response of the row.
        response_2: Second response of the row.
        label: 1 or 2, the better response; 0 for a tie.
    """

    question: str
    response_1: str
    response_2: str
    label: int


@dataclass(frozen=True)
class Unused:
    """A pair that a rule of the published set leaves out.

    Attributes:
        reason: A few words, as in `Drop`.
        detail: Values of this pair.
    """

    reason: str
    detail: str


@dataclass(frozen=True)
class Options:
    """Settings of the user for reading.

    Attributes:
        min_gap: VLFeedback: the mean ratings must differ by more than this.
        block: Pattern for another judge prompt, with groups question, response_1 and response_2.
    """

    min_gap: float = 0.6
    block: re.Pattern[str] | None = None


@dataclass(frozen=True)
class Layout:
    """One published layout.

    Attributes:
        name: Name in `LAYOUTS`, and the source of pairs from rows without a source.
        fields: Fields that identify the layout, in one or more variants.
        read: Reads the pairs of one row.
    """

    name: str
    fields: tuple[tuple[str, ...], ...]
    read: Callable[[Row, Options], Iterator[Candidate | Unused]]


def parse_judgement(text: str) -> int | None:
    """Read the preference from a judgement of LLaVA-Critic-113k: 1, 2, 0 for a tie, or None without one.

    `The better response: [X]` decides; two different ones give None. Otherwise a last sentence with `equally good`
    is a tie.

    >>> parse_judgement("The better response: [B]. It is shorter."), parse_judgement("I like both.")
    (2, None)
    """
    named = {parse_label(name) for name in _JUDGEMENT.findall(text)}
    if named:
        return named.pop() if len(named) == 1 else None
    last = re.split(r"(?<=[.!?])\s+", text.strip())[-1]
    return TIE if _EQUAL.search(last) else None


def split_prompt(text: str, block: re.Pattern[str] | None = None) -> tuple[str, str, str] | None:
    """Return question, first and second response of a judge prompt, or None without a matching block.

    Reads only the bracketed blocks of LLaVA-Critic-113k, or the pattern `block`, see `Options`. Without brackets
    the end of the second response is unknown, and the instructions behind it would join it.

    >>> split_prompt("Judge.\\nQuestion: [What?]\\nResponse A: [A cat.]\\nResponse B: [A dog [brown].]")
    ('What?', 'A cat.', 'A dog [brown].')
    """
    if block is not None:
        match = block.search(text)
        return None if match is None else (match["question"], match["response_1"], match["response_2"])
    match = next((m for m in (pattern.search(text) for pattern in _BLOCKS) if m), None)
    if match is None:
        return None
    rest = text[match.end() :].rstrip()
    end = _closing_bracket(rest)
    return None if end is None else (match["question"], match["response_1"], rest[:end])


def _closing_bracket(rest: str) -> int | None:
    """Return the index of the bracket that ends the last response; responses may hold unbalanced brackets."""
    depth, balanced = 1, None
    for bracket in re.finditer(r"[\[\]]", rest):
        depth += 1 if bracket[0] == "[" else -1
        if depth == 0:
            balanced = bracket.start()
            break
    # A bracket at the end of the text ends the response, unless the text goes on with the format of the reply.
    if rest.endswith("]") and (balanced is None or "better response" not in rest[balanced:].lower()):
        return len(rest) - 1
    if balanced is not None and re.match(r"[ \t]*(\n|\Z)", rest[balanced + 1 :]):
        return balanced
    line_end = rest.rfind("]\n")
    return line_end if line_end >= 0 else None


def structs(row: Row, field: str) -> list[Mapping[str, Any]]:
    """Return the list of objects in a field; old versions of `datasets` store it as an object of lists."""
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
    """Return the text under one key of an object inside a field."""
    value = item.get(key) if isinstance(item, Mapping) else None
    if not isinstance(value, str):
        raise DataError(f"{row.place}, field {field!r}{where}: found {value!r} as {key!r}, expected text")
    return value


def _turns(row: Row) -> list[tuple[bool, str]]:
    """Return the turns of field `conversations` without the system's: whether the user speaks, and the text."""
    turns = []
    for i, turn in enumerate(structs(row, "conversations")):
        where = f", turn {i}"
        speaker = _part(row, "conversations", turn, "from", where).lower()
        if speaker != "system":
            turns.append((speaker in ("human", "user"), _part(row, "conversations", turn, "value", where)))
    return turns


def _prompt_parts(row: Row, field: str, text: str, options: Options, where: str = "") -> tuple[str, str, str]:
    parts = split_prompt(text, options.block)
    if parts is None:
        expected = f"{where}`Question: [...]` and two responses in brackets"
        raise row.error(field, f"{expected}; another kind of prompt needs `block`")
    return parts


def image_cell(row: Row, field: str, value: Any) -> str | bytes | None:
    """Return the path or the bytes in an image field, None if empty; `datasets` puts both into one object.

    Raises:
        DataError: The field holds something else.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if value is None or value == "":
        return None
    if not isinstance(value, str | bytes):
        raise row.error(field, "a path, or an object with bytes or path")
    return value


def image_folder(origin: Path | HubSplit, image_root: str | Path | None) -> Path:
    """Return the folder that relative image paths start from: `image_root`, else the folder of the file."""
    if image_root is not None:
        return Path(image_root)
    return origin.parent if isinstance(origin, Path) else Path()


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
    parts = _prompt_parts(row, "conversations", turns[0][1], options, "a human turn with ")
    label = parse_judgement(turns[1][1])
    if label is None:
        raise row.error("conversations", "a gpt turn with `The better response: [X]` or `equally good`")
    yield Candidate(*parts, label=label)


def _read_critic_grpo(row: Row, options: Options) -> Iterator[Candidate | Unused]:
    parts = _prompt_parts(row, "question", row.text("question"), options)
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
    """Return a response of VLFeedback and its mean rating; None if one rating is no number (`N/A`)."""
    where = f", response {i}"
    annotations = item.get("annotations")
    ratings = []
    for aspect in ASPECTS:
        opinion = annotations.get(aspect) if isinstance(annotations, Mapping) else None
        if not isinstance(opinion, Mapping) or "Rating" not in opinion:
            problem = f"no rating of {aspect!r} in its annotations"
            raise DataError(f"{row.place}, field 'completions'{where}: {problem}")
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
    while turns and not turns[-1][0]:  # the two outputs take the place of the last reply
        turns.pop()
    if not turns:
        raise row.error("conversations", "a human turn")
    label = row.fields["preference"]
    if isinstance(label, bool) or label not in (1, 2):
        raise row.error("preference", "1 or 2")
    texts = [text.replace(IMAGE_MARKER, "").strip() for _, text in turns]
    if len(turns) > 1:
        speakers = ["User" if is_user else "Assistant" for is_user, _ in turns]
        texts = [f"{speaker}: {text}" for speaker, text in zip(speakers, texts, strict=True)]
    outputs = [(field, row.fields[field]) for field in ("output_1", "output_2")]
    first, second = (v if isinstance(v, str) else _part(row, field, v, "value") for field, v in outputs)
    yield Candidate("\n".join(texts), first, second, label)


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
"""Layouts by name, the most specific first: a row belongs to the first layout whose fields it has."""

HUB = {
    "llava_critic": HubSplit("lmms-lab/LLaVA-Critic-113k", ("pairwise",), "train"),
    "critic_grpo": HubSplit("lmms-lab/LLaVA-Critic-GRPO-dataset", ("default",), "train"),
    "rlhf_v": HubSplit("openbmb/RLHF-V-Dataset", ("default",), "train"),
}
"""Sets on the hub with their images. VLFeedback and LLaVA-RLHF name images that need a separate download: pass the
path of their file and `image_root`."""


def layout_of(row: Row) -> Layout:
    """Find the layout of a row by its fields.

    Raises:
        DataError: No layout fits; the message names the fields that the closest layout misses.
    """
    for layout in LAYOUTS.values():
        if any(all(name in row.fields for name in variant) for variant in layout.fields):
            return layout
    row.layout(*(variant for layout in LAYOUTS.values() for variant in layout.fields))
    raise AssertionError("a row without layout was accepted")  # not reached: the line above raises
