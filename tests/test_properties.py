"""Properties that hold for any input, tried on drawn ones."""

from __future__ import annotations

import dataclasses
import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from critique_rl.critic_data import PreferencePair, balance, load_pairs, swap, write_pairs
from critique_rl.critic_data.layouts import LAYOUTS
from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.metrics import metrics
from critique_rl.grading import extract_answer, grade
from critique_rl.grading.signs import canonical
from critique_rl.pairwise_rewards import parse_preference, r_format
from critique_rl.prompts import (
    PROMPT_SETS,
    RATING_LABEL,
    STEP_LABEL,
    VERDICT_LABEL,
    after_thought,
    parse_rating,
    parse_verdict,
    prompt_set,
)
from critique_rl.records import Journal, read_records, written_once
from critique_rl.tasks.base import DataError, split_of
from critique_rl.training.objectives import grpo_advantages, rloo_advantages
from critique_rl.types import Conversation
from critique_rl.vision.images import data_url, image_bytes

# The same examples in each run, without a clock: machines differ.
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=100, database=None)
settings.load_profile("fixed")

PROSE = st.text(st.characters(categories=["Lu", "Ll", "Nd"], include_characters=" .,+=-\n"), max_size=200)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
# With what templates, patterns and splitters of lines might take for their own.
TEMPLATES = ("{question}", "{response}", "{critique}", "{0} {} {{x}}", r"\g<0> \1", "%s", r"\frac{1}{2}")
SIGNS = ("\r\n", "\x85", "\u2028", "\x1c", "\0", "π", "🙂", "\u202e", "e\u0301", '"', "\\", "\ufeff")
ODD = st.sampled_from([*TEMPLATES, *SIGNS])
ANY = st.lists(st.one_of(TEXT, ODD), max_size=4).map("".join)
FILLED = ANY.map(str.strip).filter(bool)
JUDGED = st.tuples(st.booleans(), st.sampled_from(["correct", "wrong", "unparsed"]), st.booleans())
REWARDS = st.lists(st.lists(st.floats(-4, 4, width=32), min_size=4, max_size=4), min_size=1, max_size=5).map(
    lambda rows: torch.tensor(rows, dtype=torch.float64)
)


# -- parsers -------------------------------------------------------------------------------------------------


@given(PROSE, st.sampled_from(["Correct", "Wrong"]), st.sampled_from(["", "**", "- ", "3. "]))
def test_a_critique_that_ends_in_a_verdict_has_it(prose: str, word: str, lead: str) -> None:
    critique = f"{STEP_LABEL} {prose}\n{lead}{VERDICT_LABEL} {word}"
    assert parse_verdict(critique) == word.lower()
    assert parse_verdict(f"<think>{VERDICT_LABEL} Wrong</think>{critique}") == word.lower()
    other = {"Correct": "Wrong", "Wrong": "Correct"}[word]
    assert parse_verdict(f"{critique}\n{VERDICT_LABEL} {other}") == "unparsed"


@given(PROSE, st.integers(1, 10))
def test_a_critique_that_ends_in_a_rating_has_it(prose: str, rating: int) -> None:
    assert parse_rating(f"{prose}\n{RATING_LABEL} {rating}/10") == rating


@given(PROSE, st.sampled_from([1, 2]), st.sampled_from(["{}", "({})", "Answer {}", "\\text{{Response {}}}"]))
def test_a_boxed_name_behind_a_thought_is_the_preference(prose: str, label: int, name: str) -> None:
    reply = f"<think>{prose}</think> \\boxed{{{name.format(label)}}}"
    assert parse_preference(reply) == label
    assert r_format([reply]) == [1.0 if prose.strip() else r_format([reply])[0]]


@given(TEXT)
def test_no_text_breaks_a_parser(text: str) -> None:
    parse_verdict(text)
    parse_rating(text)
    parse_preference(text)
    assert r_format([text]) in ([0.0], [1.0])
    assert after_thought(f"<think>{text.replace('<', '')}</think>7") == "7"


# -- grading -------------------------------------------------------------------------------------------------


@given(TEXT)
def test_signs_are_written_in_one_way_at_once(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_equal_integers_and_no_others_are_right(number: int, other: int) -> None:
    wide = str.maketrans("0123456789-", "０１２３４５６７８９－")
    for said in (f"{number}", f"{number:,}", f"{number}.0", f"${number}$", str(number).translate(wide)):
        for kind in ("number", "math", "mixed"):
            reply = f"The answer is {said}."
            assert grade(gold=str(number), reply=reply, kind=kind) is True, said
            assert grade(gold=str(other), reply=reply, kind=kind) is (number == other), said
            assert extract_answer(reply, kind) == str(number), said


@given(st.fractions(max_denominator=50).filter(lambda f: f.denominator > 1 and abs(f) < 1000))
def test_a_fraction_is_right_in_each_spelling(value: object) -> None:
    top, bottom = value.numerator, value.denominator  # type: ignore[attr-defined]
    sign, whole, rest = "-" if top < 0 else "", abs(top) // bottom, abs(top) % bottom
    spellings = [
        f"{top}/{bottom}",
        f"\\frac{{{top}}}{{{bottom}}}",
        f"{sign}\\dfrac{{{abs(top)}}}{{{bottom}}}",
    ]
    spellings += (
        [f"{sign}{whole} {rest}/{bottom}", f"{sign}{whole}\\frac{{{rest}}}{{{bottom}}}"] if whole else []
    )
    for said in spellings:
        for kind in ("number", "math"):
            assert grade(gold=f"{top}/{bottom}", reply=f"The answer is {said}", kind=kind) is True, said
            wrong = grade(gold=f"{top + 1}/{bottom}", reply=f"The answer is {said}", kind=kind)
            assert wrong is False, said


# -- metrics, advantages, splits --------------------------------------------------------------------------------


@given(st.lists(JUDGED, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_the_metrics_of_refinements_add_up(judged: list[tuple[bool, str, bool]], random: object) -> None:
    episodes = [
        Episode(str(i), "toy", "q", "1", "number", "y", right, "c", verdict, "z", refined, 5)
        for i, (right, verdict, refined) in enumerate(judged)
    ]
    values = {name: math.nan if value is None else value for name, value in metrics(episodes).items()}
    assert values["delta"] == pytest.approx(values["acc_refine"] - values["acc"])
    assert values["delta"] == pytest.approx(values["delta_ic"] - values["delta_ci"])
    assert 0 <= values["acc_dis"] <= values["parse_rate"] <= 1
    if values["parse_rate"]:
        assert values["acc_dis"] == pytest.approx(values["acc_dis_parsed"] * values["parse_rate"])
    random.shuffle(episodes)  # type: ignore[attr-defined]
    shuffled = {name: math.nan if value is None else value for name, value in metrics(episodes).items()}
    assert shuffled == pytest.approx(values, nan_ok=True)


@given(REWARDS, st.floats(-3, 3), st.permutations(range(4)))
def test_advantages_know_neither_level_nor_order(
    rewards: torch.Tensor, shift: float, order: list[int]
) -> None:
    for advantages in (rloo_advantages, grpo_advantages):
        plain = advantages(rewards)
        torch.testing.assert_close(advantages(rewards + shift), plain, atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(advantages(rewards[:, order]), plain[:, order], atol=1e-9, rtol=1e-7)
        torch.testing.assert_close(
            plain.sum(1), torch.zeros(len(rewards), dtype=plain.dtype), atol=1e-6, rtol=0
        )
    torch.testing.assert_close(rloo_advantages(2 * rewards), 2 * rloo_advantages(rewards))


@given(st.lists(TEXT, min_size=1, max_size=30, unique=True), st.integers(1, 9), TEXT)
def test_each_problem_is_in_one_split_whatever_stands_beside_it(ids: list[str], part: int, salt: str) -> None:
    fractions = {"train": part / 10, "test": 1 - part / 10}
    turned = dict(reversed(fractions.items()))
    for name in ids:
        assert split_of(name, fractions, salt) == split_of(name, turned, salt)
        assert split_of(name, {"all": 1.0}, salt) == "all"


# -- preference pairs --------------------------------------------------------------------------------------------


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(buffer, "PNG")
    return buffer.getvalue()


PNG = _png()


def _pair(label: int, responses: Sequence[str], **fields: Any) -> PreferencePair:
    first, second = responses
    return PreferencePair(response_1=first, response_2=second, label=label, tie=label == 0, **fields)


def pairs_of(least: int) -> st.SearchStrategy[list[PreferencePair]]:
    pair = st.builds(
        _pair,
        label=st.sampled_from([0, 1, 2]),
        responses=st.lists(FILLED, min_size=2, max_size=2, unique=True),
        id=FILLED,
        source=FILLED,
        image=st.sampled_from([None, PNG, data_url(PNG)]),
        question=FILLED,
        swapped=st.booleans(),
    )
    return st.lists(pair, min_size=least, max_size=4, unique_by=lambda p: p.id)


def better(pair: PreferencePair) -> set[str]:
    """The better response; of a tie both."""
    both = (pair.response_1, pair.response_2)
    return set(both) if pair.tie else {both[pair.label - 1]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drawn")


@given(pairs_of(1), st.data())
def test_the_better_response_is_the_same_in_each_order(
    pairs: list[PreferencePair], data: st.DataObject
) -> None:
    for pair in pairs:
        assert swap(swap(pair)) == pair != swap(pair) and swap(pair).swapped is not pair.swapped
        assert better(swap(pair)) == better(pair) and (swap(pair).id, swap(pair).tie) == (pair.id, pair.tie)
        assert (swap(pair).response_1, swap(pair).response_2) == (pair.response_2, pair.response_1)
    turned = [data.draw(st.sampled_from([p, swap(p)])) for p in pairs]
    assert balance(turned) == balance(balance(pairs)) == [balance([p])[0] for p in pairs]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@given(pairs=pairs_of(1))
def test_the_pairs_written_are_the_pairs_read(folder: Path, suffix: str, pairs: list[PreferencePair]) -> None:
    def shown(pair: PreferencePair) -> PreferencePair:  # bytes become a file beside JSON lines
        return dataclasses.replace(pair, image=None if pair.image is None else image_bytes(pair.image))

    write_pairs(pairs, path := folder / f"pairs{suffix}")
    read = load_pairs(path, keep_ties=True)
    assert list(map(shown, read.pairs)) == list(map(shown, balance(pairs))) and not read.drops
    write_pairs(read.pairs, path)
    assert load_pairs(path, keep_ties=True) == read


@given(
    pairs=pairs_of(2),
    name=st.sampled_from(["question", "response_1", "response_2"]),
    blank=st.text(" \t\n\u3000\u2028"),
)
def test_a_pair_with_an_empty_text_is_counted_and_the_others_stay(
    folder: Path, pairs: list[PreferencePair], name: str, blank: str
) -> None:
    spoiled = dataclasses.replace(pairs[0], **{name: blank})
    write_pairs([spoiled, *pairs[1:]], path := folder / "spoiled.parquet")
    read = load_pairs(path, keep_ties=True)
    assert read.pairs == balance(pairs[1:])
    reason = "no question" if name == "question" else "empty response"
    assert [(d.id, d.source, d.reason) for d in read.drops] == [(spoiled.id, spoiled.source, reason)]
    write_pairs([spoiled], path)
    with pytest.raises(DataError, match=f"no pair is left; left out: {reason}"):
        load_pairs(path, keep_ties=True)


def _turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": who, "value": text} for who, text in zip(("human", "gpt"), texts, strict=False)]


def _judged(question: str, first: str, second: str) -> str:
    return f"<image>\nJudge.\nQuestion: [{question}]\nResponse 1: [{first}]\nResponse 2: [{second}]\nASSISTANT:\n"


def _rated(*responses: tuple[str, int]) -> list[dict[str, Any]]:
    aspects = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
    return [{"response": y, "annotations": {a: {"Rating": str(r)} for a in aspects}} for y, r in responses]


ROWS: dict[str, Callable[[str, str, str, int], dict[str, Any]]] = {
    "pairs": lambda x, y, z, label: {
        **{"id": "1", "source": "toy", "question": x, "response_1": y, "response_2": z},
        **{"label": label, "tie": label == 0},
    },
    "llava_rlhf": lambda x, y, z, label: {
        **{"conversations": _turns(f"<image>\n{x}"), "output_1": {"value": y}, "output_2": {"value": z}},
        **{"preference": label},
    },
    "llava_critic": lambda x, y, z, label: {
        "conversations": _turns(
            _judged(x, y, z), f"The better response: [{label}]" if label else "They are equally good."
        )
    },
    "vlfeedback": lambda x, y, z, label: {
        "prompt": x,
        "completions": _rated((y, 4 if label == 1 else 3), (z, 4 if label == 2 else 3)),
    },
    "rlhf_v": lambda x, y, z, label: {
        "question": f"<image>\n{x}",
        **dict(zip(("chosen", "rejected"), (y, z) if label == 1 else (z, y), strict=True)),
    },
    "critic_grpo": lambda x, y, z, label: {"question": _judged(x, y, z), "answer": str(label or "tie")},
}
"""By layout: a row with a question, two responses, and the better one."""
BARE = ANY.map(lambda text: re.sub(r"[\[\]]", "", text).strip()).filter(bool)
# Where the brackets of a text are balanced, the judge prompt around it tells where it ends.
BRACKETED = st.one_of(BARE, st.builds("{} [{}]".format, BARE, BARE))


@pytest.mark.parametrize("layout", LAYOUTS)
@given(texts=st.lists(BRACKETED, min_size=3, max_size=3, unique=True), label=st.sampled_from([0, 1, 2]))
def test_each_layout_keeps_question_responses_and_the_better_one(
    folder: Path, layout: str, texts: list[str], label: int
) -> None:
    question, first, second = texts
    label = label or (1 if layout in ("llava_rlhf", "rlhf_v") else 0)  # these have no ties
    rows = [(question, first, second, label), (question, second, first, label and 3 - label)]
    read = []
    for row in rows:
        path = write_jsonl(folder / "rows.jsonl", [{**ROWS[layout](*row), "image": data_url(PNG)}])
        (pair,) = load_pairs(path, keep_ties=True).pairs
        assert (pair.question, pair.image) == (question, data_url(PNG))
        assert {pair.response_1, pair.response_2} == {first, second} and pair.tie is (label == 0)
        assert better(pair) == ({first, second} if label == 0 else {(first, second)[label - 1]})
        if layout != "rlhf_v":  # its rows have but one order
            assert pair.response_1 == row[2 if pair.swapped else 1]
        read.append(pair)
    assert (read[0].id, read[0].swapped) == (read[1].id, read[1].swapped)


# -- prompts -----------------------------------------------------------------------------------------------------


def put_in(marked: Conversation, texts: dict[str, str]) -> Conversation:
    """The chat with texts in the place of marks, of which it holds each once."""
    whole = "".join(turn["content"] for turn in marked)
    assert [whole.count(mark) for mark in texts] == [1] * len(texts)
    marks = re.compile("|".join(map(re.escape, texts)))
    return [{**turn, "content": marks.sub(lambda m: texts[m[0]], turn["content"])} for turn in marked]


@pytest.mark.parametrize("name", PROMPT_SETS)
@given(x=ANY, y=ANY, z=ANY, c=ANY)
def test_a_prompt_holds_each_text_once_as_it_is(name: str, x: str, y: str, z: str, c: str) -> None:
    prompts = prompt_set(name)
    texts = {"<x>": x, "<y>": y.strip(), "<c>": c, "<z>": z.strip()}
    marked = prompts.critique_prompt("<x>", "<z>", [("<y>", "<c>")])
    for prefill in (prompts.reasoning_prefill, prompts.refinement_prefill):
        assert prompts.critique_prompt(x, z, [(prefill + y, c)]) == put_in(marked, texts)
    marked = prompts.pairwise_prompt("<x>", "<y>", "<z>", ties=True)
    del texts["<c>"]
    assert prompts.pairwise_prompt(x, y, z, ties=True) == put_in(marked, texts)
    marked = prompts.refinement_prompt("<x>", "<y>", "<c>")  # the actor reads on from its own words
    texts = {"<x>": x, "<y>": y, "<c>": f"{STEP_LABEL} {c}"}
    assert prompts.refinement_prompt(x, y, f"{c.replace(STEP_LABEL, '')}{texts['<c>']}") == put_in(
        marked, texts
    )


# -- records -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Note:
    number: int
    text: str
    more: dict[str, Any]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ANY, st.lists, max_leaves=4
)
NOTES = st.lists(ANY, min_size=1, max_size=8).flatmap(
    lambda texts: st.permutations([Note(i, text, {text: [text, i]}) for i, text in enumerate(texts)])
)


@given(notes=NOTES, size=st.integers(1, 3), cut=st.integers(0, 10**6))
def test_the_records_written_are_the_records_read_wherever_a_kill_cuts_them(
    folder: Path, notes: list[Note], size: int, cut: int
) -> None:
    def journal() -> Journal[int, Note]:
        return Journal(path, Note, lambda n: n.number, known=order.__contains__, others="other notes")

    def fill(journal: Journal[int, Note]) -> None:
        journal.fill(journal.missing(order, size), lambda _, keys: [by_number[k] for k in keys], None, 1)

    by_number, order = {n.number: n for n in notes}, [n.number for n in notes]
    path = folder / "notes.jsonl"
    path.unlink(missing_ok=True)
    fill(journal())
    assert read_records(path, Note) == notes == list(journal().done.values())
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % (len(whole) + 1)])
    fill(again := journal())
    assert path.read_bytes() == whole and list(again.done.values()) == notes


@given(rows=st.lists(st.dictionaries(ANY, JSON, max_size=3), max_size=4))
def test_rows_that_are_written_once_are_the_rows_read(folder: Path, rows: list[dict[str, Any]]) -> None:
    path = folder / "once.jsonl"
    path.unlink(missing_ok=True)
    assert written_once(path, lambda: rows) == rows == written_once(path, list)
