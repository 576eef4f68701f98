"""The embedded task with pictures: what is drawn, what is asked, and the scripted texts about it."""

from __future__ import annotations

import io
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers.models.qwen2 import Qwen2Tokenizer

from critique_rl.evaluation.localisation import first_flagged_step, step_judgments
from critique_rl.grading.replies import grade_replies
from critique_rl.pairwise_rewards import parse_preference, r_format
from critique_rl.prompts import COMPACT, Verdict, parse_verdict
from critique_rl.tasks import TASKS, gold_report, load_task
from critique_rl.tasks.drawings import Scene, draw, first_error, guess, reckon
from critique_rl.tasks.drawings_teacher import GLANCE, PHRASES, Annotator, Judge, Looker, misread
from critique_rl.types import Problem, UserError, problem_id
from critique_rl.vision.images import image_bytes, open_image

SPLITS = ("train", "validation", "test")
PROBLEMS = load_task("drawings", split="train", size=1200)
CHARTS = [p for p in PROBLEMS if " bar " in p.question]
GRIDS = [p for p in PROBLEMS if " bar " not in p.question]
WHITE = (255, 255, 255)


def rng(seed: int = 0) -> random.Random:
    return random.Random(seed)


def share_is(found: Sequence[bool], expected: float) -> bool:
    """Whether a share is within four standard deviations of what it should be."""
    spread = 4 * (expected * (1 - expected) / len(found)) ** 0.5
    return abs(sum(found) / len(found) - expected) <= spread


# Pictures, read from their pixels by other means than they are drawn with


def shown(problem: Problem) -> list[str]:
    """Cells row by row, or heights of bars, as the pixels have them."""
    assert problem.image is not None
    pixels_HWC = np.asarray(open_image(problem.image)).astype(int)
    assert pixels_HWC.shape == (56, 84, 3)
    black_HW = (pixels_HWC == 0).all(axis=2)
    if black_HW.any():  # a chart has an axis
        coloured_HW = ~black_HW & (pixels_HWC != 255).any(axis=2)
        axis = next(y for y in range(56) if black_HW[y].all())
        assert not coloured_HW[axis:].any()
        heights = [coloured_HW[:, 28 * i + 14].sum() / 6 for i in range(3)]
        for i, height in enumerate(heights):  # a bar stands on the axis, and has one width
            bar_HW = coloured_HW[:, 28 * i : 28 * i + 28]
            assert height == 0 or bar_HW[axis - 1].any()
            assert len(set(bar_HW.sum(axis=1)) - {0}) == (height > 0)
        return [str(int(height)) for height in heights if height.is_integer()]
    fields = [pixels_HWC[y : y + 28, x : x + 28] for y in (0, 28) for x in (0, 28, 56)]
    return [cell_of(field) for field in fields]


def cell_of(field_HWC: np.ndarray) -> str:
    inked_HW = (field_HWC != 255).any(axis=2)
    if not inked_HW.any():
        return "none"
    assert len({tuple(pixel) for pixel in field_HWC[inked_HW]}) == 1  # one colour, no antialiasing
    centre = field_HWC[14, 14]
    assert sorted(centre > 100) == [False, False, True]
    colour = ("red", "green", "blue")[int(np.argmax(centre))]
    widths = [int(row.sum()) for row in inked_HW if row.any()]
    if widths[0] == widths[-1] == max(widths):
        return f"{colour} square"
    return f"{colour} {'circle' if widths == widths[::-1] else 'triangle'}"


def answer_to(question: str, cells: list[str]) -> str:
    """The answer to a question, from what the pixels show."""
    words = question.replace("?", "").replace(",", "").split()
    if question.startswith("How many"):
        return str(sum(words[2].rstrip("s") in cell for cell in cells))
    if question.startswith("What colour"):
        colour = cells[3 * (int(words[7]) - 1) + int(words[9]) - 1].split()[0]
        return words[words.index(colour, 10) - 1].strip("()")
    bars = [int(cells["ABC".index(word)]) for word in words if word in ("A", "B", "C")]
    return str(bars[0] if len(bars) == 1 else bars[0] - bars[1])


@pytest.mark.slow
def test_pixels_questions_and_gold_answers_agree() -> None:
    for problem in [
        *PROBLEMS,
        *load_task("drawings", split="test", size=500, kinds=["colour"], shuffle=True),
    ]:
        cells = shown(problem)
        scene = Scene.parse(problem.solution)
        assert [mark for row in scene.rows for mark in row] == cells
        assert answer_to(problem.question, cells) == problem.answer
        assert reckon(problem.question, scene)[1] == problem.answer


@pytest.mark.slow
def test_all_that_there_is_to_draw_and_to_ask_occurs() -> None:
    cells = Counter(cell for p in GRIDS for cell in shown(p))
    assert len(cells) == 10
    assert share_is([cell == "none" for cell, n in cells.items() for _ in range(n)], 0.3)
    assert {height for p in CHARTS for height in shown(p)} == set("012345678")
    kinds = Counter(
        "count" if "many" in p.question else "chart" if p in CHARTS else "colour" for p in PROBLEMS
    )
    assert max(kinds.values()) - min(kinds.values()) < 80  # 400 each, 70 % of which are in train
    assert {p.answer for p in PROBLEMS if p.kind == "choice"} == set("ABC")
    assert {p.answer for p in CHARTS} == set("012345678")  # no difference is negative


def test_a_picture_is_a_small_png_with_the_same_bytes_each_time() -> None:
    image = PROBLEMS[0].image
    assert image is not None and image.startswith("data:image/png;base64,")
    with Image.open(io.BytesIO(image_bytes(image))) as opened:
        assert opened.format == "PNG"
    scene = Scene((("3", "5", "0"),))
    assert draw(scene) == draw(scene) != draw(scene, ("blue", "green", "red"))
    assert max(len(p.image or "") for p in PROBLEMS) < 1000


def test_letters_stand_under_their_bars() -> None:
    pixels = np.asarray(open_image(draw(Scene((("0", "0", "0"),)))))
    letters = [(pixels[50:, x : x + 28] == 0).all(axis=2) for x in (0, 28, 56)]
    assert all(5 < letter.sum() < 15 for letter in letters)
    assert len({letter.tobytes() for letter in letters}) == 3


# Loading


def test_the_draw_is_fixed_by_the_seed() -> None:
    def load(seed: int) -> list[Problem]:
        return load_task("drawings", size=200, seed=seed)

    assert load(3) == load(3)
    assert not {p.id for p in load(3)} & {p.id for p in load(4)}


@pytest.mark.slow
def test_problems_are_distinct_and_identified_by_question_and_picture() -> None:
    parts = [load_task("drawings", split=split, size=3000) for split in SPLITS]
    everything = [p for part in parts for p in part]
    assert len({p.id for p in everything}) == len({(p.question, p.image) for p in everything}) == 3000
    assert all(p.id == problem_id(p.question, p.image) for p in everything)
    for part, share in zip(parts, (0.7, 0.1, 0.2), strict=True):
        assert share_is([i < len(part) for i in range(3000)], share)


@pytest.mark.slow
def test_no_picture_is_in_two_splits_whatever_is_asked_and_drawn() -> None:
    drawn: dict[str, set[str | None]] = {split: set() for split in SPLITS}
    heights: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for seed, kinds in (
            (0, ["chart"]),
            (1, ["chart"]),
            (0, ["count", "colour"]),
            (2, ["chart", "count"]),
        ):
            part = load_task("drawings", split=split, size=3000, seed=seed, kinds=kinds)
            drawn[split] |= {p.image for p in part}
            heights[split] |= {p.solution.split("\n")[0] for p in part if " bar " in p.question}
    assert sum(map(len, drawn.values())) == len(set.union(*drawn.values()))
    assert sum(map(len, heights.values())) == len(set.union(*heights.values())) == 729


def test_kinds_choose_what_is_asked() -> None:
    assert all("How many" in p.question for p in load_task("drawings", size=50, kinds=["count"]))
    some = load_task("drawings", size=50, kinds=["colour", "chart"])
    assert {p.question.split()[0] for p in some} == {"What", "How"}
    assert not any("How many" in p.question for p in some)


def test_options_stand_in_order_unless_shuffled() -> None:
    def orders(shuffle: bool) -> set[tuple[str, ...]]:
        part = load_task("drawings", size=300, kinds=["colour"], shuffle=shuffle)
        return {tuple(re.findall(r"\) (\w+)", p.question)) for p in part}

    assert orders(False) == {("red", "green", "blue")}
    assert len(orders(True)) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 3}, "no option 'steps'"),
        ({"source": "here"}, "remove `source`"),
        ({"split": "dev"}, "no split 'dev'.*train"),
        ({"kinds": ["charts"]}, "no kind 'charts'.*'chart'"),
        ({"kinds": "chart"}, "expected a list"),
        ({"kinds": []}, "expected a list"),
        ({"kinds": [["count"]]}, "no kind"),
        ({"kinds": ["count", "count"]}, "twice"),
        ({"size": 0}, "size=0"),
        ({"size": True}, "size=True"),
        ({"size": 13_852, "kinds": ["chart"]}, "expected 1 to 13851"),
        ({"shuffle": "yes"}, "shuffle='yes'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_task("drawings", **options)


def test_unknown_options_of_the_loader_itself_are_refused() -> None:
    with pytest.raises(UserError, match=r"unknown option \['colour'\]; there are size"):
        TASKS["drawings"].load(source=None, split="train", seed=0, colour="red")


# Descriptions


def test_a_description_parses_back() -> None:
    for problem in PROBLEMS:
        scene = Scene.parse(problem.solution)
        assert Scene.parse("Well, " + " and ".join(scene.lines())) == scene
        assert problem.solution.startswith("<think>" + "\n".join(scene.lines()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "row 1: none none none",
        "row 1: none none none\nrow 2: red circle none",
        "row 1: none none none\nrow 2: red circle none nonesuch",
        "bars A 3 B 5 C 9",
        "bars A 3 B 5 C 01",
        "row 1: none none none\nrow 2: none none none\nbars A 1 B 1 C 1",
    ],
)
def test_what_is_no_whole_description_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="no whole description"):
        Scene.parse(text)


def test_a_question_about_the_other_sort_of_picture_is_refused() -> None:
    with pytest.raises(UserError, match="no question of this task about a chart"):
        reckon("How many circles?", Scene.parse("bars A 1 B 1 C 1"))
    with pytest.raises(UserError, match="no question of this task about a grid"):
        reckon("How high is bar A?", Scene((("none",) * 3,) * 2))


# Responses


def test_every_gold_response_and_answer_passes_and_any_other_box_does_not() -> None:
    assert grade_replies(PROBLEMS, [p.solution for p in PROBLEMS]) == [True] * len(PROBLEMS)
    assert gold_report(PROBLEMS).correct == len(PROBLEMS)
    for other in "012345678":
        replies = [re.sub(r"\{.*\}", "{" + other + "}", p.solution) for p in PROBLEMS if p.kind == "number"]
        numbers = [p for p in PROBLEMS if p.kind == "number"]
        assert grade_replies(numbers, replies) == [p.answer == other for p in numbers]


def test_a_response_is_graded_right_exactly_when_it_is() -> None:
    looker, draws = Looker(glance=0.3, misread=0.15), rng(1)
    replies = [looker.solve(p, draws) for p in PROBLEMS]
    right = []
    for problem, reply in zip(PROBLEMS, replies, strict=True):
        box = re.fullmatch(r"<think>.+</think> \\boxed\{(.+)\}", reply, re.DOTALL)
        assert box is not None
        if GLANCE not in reply:
            read = [mark for row in Scene.parse(reply).rows for mark in row]
            try:
                assert box[1] == answer_to(problem.question, read)
            except ValueError:  # the field asked for is empty in this reader's eyes
                assert "it is none, " in reply
        right.append(box[1] == problem.answer)
    assert grade_replies(PROBLEMS, replies) == right
    assert {True, False} <= set(right)


def test_a_faultless_looker_writes_the_gold_response() -> None:
    assert all(Looker().solve(p, rng()) == p.solution for p in PROBLEMS)


def test_a_glance_knows_the_question_alone() -> None:
    blind = [replace(p, solution="", answer="", image=None) for p in PROBLEMS]
    replies = [Looker(glance=1.0).solve(p, rng(i)) for i, p in enumerate(blind)]
    for i, (problem, reply) in enumerate(zip(blind, replies, strict=True)):
        draws = rng(i)
        draws.random()  # whether to glance
        assert reply == f"<think>a glance</think> \\boxed{{{guess(problem.question, draws)}}}"
    choices = [(p, y) for p, y in zip(PROBLEMS, replies, strict=True) if p.kind == "choice"]
    assert share_is([bool(o) for o in grade_replies(*zip(*choices, strict=True))], 1 / 3)
    numbers = [y for p, y in zip(PROBLEMS, replies, strict=True) if p.kind == "number"]
    assert not any("{-" in y for y in numbers)
    assert sum(map(bool, grade_replies(PROBLEMS, replies))) < 0.4 * len(PROBLEMS)


def test_lookers_glance_and_misread_as_often_as_they_say() -> None:
    draws = rng(2)
    replies = [Looker(glance=0.3, misread=0.2).solve(p, draws) for p in PROBLEMS]
    assert share_is([GLANCE in y for y in replies], 0.3)
    for pictures in (GRIDS, CHARTS):
        wrong = []
        for p in pictures:
            y = Looker(misread=0.2).solve(p, draws)
            pairs = zip(Scene.parse(y).rows, Scene.parse(p.solution).rows, strict=True)
            wrong += [a != b for one, other in pairs for a, b in zip(one, other, strict=True)]
        assert share_is(wrong, 0.2)


def test_all_is_misread_as_anything_else() -> None:
    draws = rng()
    seen = {misread(Scene((("3", "5", "0"),)), 1.0, draws).rows[0] for _ in range(500)}
    assert {a for a, _, _ in seen} == set("012345678") - {"3"}


# Judgements


def test_a_faultless_judge_prefers_the_right_response_and_picks_at_random_among_equals() -> None:
    draws, looker = rng(3), Looker(glance=0.5, misread=0.2)
    picked = []
    for problem in PROBLEMS:
        pair = [looker.solve(problem, draws) for _ in range(2)]
        text = Judge().judge(problem, pair[0], pair[1], draws)
        right = grade_replies([problem, problem], pair)
        assert text.startswith(problem.solution.partition("</think>")[0])
        said = [f"Answer {i} {'right' if o else 'wrong'}." for i, o in enumerate(right, 1)]
        assert f"\n{' '.join(said)}</think>" in text
        preferred = parse_preference(text)
        if right[0] != right[1]:
            assert preferred == (1 if right[0] else 2)
        else:
            picked.append(preferred == 1)
    assert len(picked) > 200 and share_is(picked, 0.5)


def test_judgements_are_well_formed_and_faults_as_frequent_as_said() -> None:
    draws, judge = rng(4), Judge(glance=0.3, misread=0.1, flip=0.25)
    texts = [judge.judge(p, p.solution, Looker(misread=0.3).solve(p, draws), draws) for p in PROBLEMS]
    assert r_format(texts) == [1.0] * len(texts)
    assert None not in [parse_preference(text) for text in texts]
    glances = [text for text in texts if GLANCE in text]
    assert share_is([GLANCE in text for text in texts], 0.3)
    assert share_is([parse_preference(text) == 1 for text in glances], 0.5)
    assert all(re.fullmatch(r"<think>a glance</think> \\boxed\{[12]\}", text) for text in glances)
    flipped = []
    for text in texts:
        stated = re.findall(r"Answer (\d) right", text)
        if GLANCE not in text and len(stated) == 1:
            flipped.append(str(parse_preference(text)) != stated[0])
    assert len(flipped) > 200 and share_is(flipped, 0.25)


def test_a_judge_goes_by_its_own_description() -> None:
    draws, split = rng(5), Counter[bool]()
    for problem in CHARTS:
        text = Judge(misread=0.5).judge(
            problem, problem.solution, r"<think>a glance</think> \boxed{2}", draws
        )
        own = answer_to(problem.question, list(Scene.parse(text).rows[0]))
        assert (f"Answer 1 {'right' if own == problem.answer else 'wrong'}." in text) is True
        assert (f"Answer 2 {'right' if own == '2' else 'wrong'}." in text) is True
        split[own == problem.answer] += 1
    assert min(split[True], split[False]) > 50


def test_a_response_without_a_box_is_wrong() -> None:
    problem = PROBLEMS[0]
    for bad in ("", "<think>so 3", "<think>\\boxed{3}", problem.solution.replace("boxed", "box")):
        assert parse_preference(Judge().judge(problem, bad, problem.solution, rng())) == 2
        assert parse_verdict(Annotator().critique(problem, bad, rng())) is Verdict.WRONG


# Critiques and refinements


def test_a_faultless_critique_finds_the_first_error_and_the_right_verdict() -> None:
    draws, looker = rng(6), Looker(glance=0.2, misread=0.1)
    errors = []
    for problem in PROBLEMS:
        response = looker.solve(problem, draws)
        critique = Annotator().critique(problem, response, draws)
        (right,) = grade_replies([problem], [response])
        assert parse_verdict(critique) is (Verdict.CORRECT if right else Verdict.WRONG)
        assert first_flagged_step(critique) == first_error(problem, response)
        assert len(step_judgments(critique)) == (
            1 if GLANCE in response else len(problem.solution.split("\n"))
        )
        assert Looker(glance=1.0, misread=1.0).refine(problem, critique, draws) == problem.solution
        errors.append(first_error(problem, response))
    assert set(errors) == {None, 0, 1}


def test_the_first_error_may_be_the_reckoning_and_a_right_answer_with_a_wrong_description() -> None:
    problem = next(p for p in CHARTS if "higher" in p.question)
    assert first_error(problem, problem.solution) is None
    lines = problem.solution.split("\n")
    assert first_error(problem, f"{lines[0]}\nso 9-9=0</think> \\boxed{{0}}") == 1
    assert first_error(problem, f"{lines[0]}</think> \\boxed{{0}}") == 1
    assert first_error(problem, f"<think>a glance</think> \\boxed{{{problem.answer}}}") is None
    assert first_error(problem, r"<think>a glance</think> \boxed{9}") == 0
    read = Scene.parse(problem.solution).rows[0]
    other = Scene((tuple("1" if h == "0" else "0" for h in read),)).lines()[0]
    assert first_error(problem, f"<think>{other}\n{lines[1]}") == 0


def test_an_annotator_misses_and_raises_alarms_as_often_as_it_says() -> None:
    draws, annotator = rng(7), Annotator(miss=0.3, false_alarm=0.2)
    found: dict[bool, list[bool]] = {True: [], False: []}
    verdicts: dict[bool, list[bool]] = {True: [], False: []}
    for problem in PROBLEMS:
        response = Looker(misread=0.15).solve(problem, draws)
        critique = annotator.critique(problem, response, draws)
        for block in critique.split("Step sentence: ")[1:]:
            said, explained, judged = block.split("\n")[:3]
            found[said != explained.removeprefix("Explanation: ")].append(judged.endswith("Wrong"))
        (right,) = grade_replies([problem], [response])
        verdicts[not right].append(parse_verdict(critique) is Verdict.WRONG)
    assert all(share_is(of[True], 0.7) and share_is(of[False], 0.2) for of in (found, verdicts))


def test_a_refinement_takes_over_even_a_misread_description() -> None:
    draws, differs = rng(8), 0
    for problem in PROBLEMS:
        response = Looker(glance=0.5).solve(problem, draws)
        critique = Annotator(misread=0.3).critique(problem, response, draws)
        explained = "\n".join(re.findall(r"Explanation: (.*)", critique))
        refinement = Looker().refine(problem, critique, draws)
        assert Scene.parse(refinement) == Scene.parse(explained)
        differs += Scene.parse(refinement) != Scene.parse(problem.solution)
    assert differs > 300


def test_a_refinement_reads_what_is_not_explained_and_never_takes_over_a_step() -> None:
    problem = GRIDS[0]
    first, second = Scene.parse(problem.solution).lines()
    wrong = "row 1: none none none" if first != "row 1: none none none" else "row 1: red circle none none"
    critique = f"Step sentence: row 2: none none none\nExplanation: {wrong}\nCorrectness of the step: Wrong"
    assert Looker().refine(problem, critique, rng()).startswith(f"<think>{wrong}\n{second}\n")
    unexplained = f"Step sentence: {wrong}\nCorrectness of the step: Wrong"
    assert Looker().refine(problem, unexplained, rng()) == problem.solution
    assert GLANCE in Looker(glance=1.0).refine(problem, unexplained, rng())


# Tokens


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    alphabet = sorted(ByteLevel.alphabet())
    made = Qwen2Tokenizer(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[])
    made.add_tokens([AddedToken(phrase, special=False, normalized=False) for phrase in PHRASES])
    return made


@pytest.mark.slow
def test_texts_consist_of_phrases_and_single_characters(tokenizer: Qwen2Tokenizer) -> None:
    assert len(set(PHRASES)) == len(PHRASES)
    known = {*PHRASES, *"0123456789ABC+-=()}?\n "}
    draws, used = rng(9), set[str]()
    looker, judge = Looker(0.2, 0.1), Judge(0.2, 0.1, 0.1)
    for problem in PROBLEMS:
        response = looker.solve(problem, draws)
        critique = Annotator(misread=0.1).critique(problem, response, draws)
        judgement = judge.judge(problem, response, problem.solution, draws)
        asked = COMPACT.critique_prompt(problem.question, response)[0]["content"]
        for text in (problem.question, response, critique, judgement, asked):
            ids = tokenizer(text)["input_ids"]
            pieces = [tokenizer.decode([i]) for i in ids]
            assert "".join(pieces) == text
            assert set(pieces) <= known, [piece for piece in pieces if piece not in known]
            used |= set(pieces)
    assert set(PHRASES) - used == {"user\n", "assistant\n"}


def test_texts_are_short(tokenizer: Qwen2Tokenizer) -> None:
    def longest(texts: Sequence[str]) -> int:
        return max(len(tokenizer(text)["input_ids"]) for text in texts)

    sizes = []
    for pictures in (GRIDS, CHARTS):
        responses = [p.solution for p in pictures]
        judgements = [Judge().judge(p, p.solution, p.solution, rng()) for p in pictures]
        critiques = [Annotator().critique(p, p.solution, rng()) for p in pictures]
        sizes.append([longest(texts) for texts in (responses, judgements, critiques)])
    assert sizes == [[27, 33, 54], [18, 24, 34]]
    assert longest([p.question for p in PROBLEMS]) == 16
    assert longest([r"<think>a glance</think> \boxed{1}"]) == 6
