"""Preference pairs on images: each published layout and string, order, files, length, leaks, bad data."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from helpers import write_jsonl
from PIL import Image, ImageDraw
from transformers import ProcessorMixin
from transformers.models.qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from critique_rl.cold_start.tiny import build_tokenizer
from critique_rl.critic_data import (
    BenchmarkItem,
    ImageError,
    MissingImageError,
    PreferencePair,
    Selection,
    balance,
    decontaminate,
    drop_long,
    drop_unreadable,
    load_benchmark,
    load_pairs,
    markdown_table,
    open_image,
    pairs_of_responses,
    parse_judgement,
    pixel_hash,
    split_prompt,
    subsample_pairs,
    to_dataset,
    token_length,
    write_pairs,
)
from critique_rl.pairwise_rewards import parse_label
from critique_rl.tasks.base import DataError
from critique_rl.tasks.rows import HubSplit
from critique_rl.types import Conversation, UserError
from critique_rl.vision.images import data_url

# -- images and files, made on the spot ---------------------------------------------------------------------


def draw(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """Four shapes on white paper."""
    rng = random.Random(seed)
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    for _ in range(4):
        x, y, side = rng.randrange(size[0] - 20), rng.randrange(size[1] - 20), rng.randrange(10, 30)
        colour = tuple(rng.randrange(200) for _ in range(3))
        (pen.ellipse if rng.random() < 0.5 else pen.rectangle)((x, y, x + side, y + side), fill=colour)
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(seed: int) -> bytes:
    return encoded(draw(seed))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the images 0.png to 3.png."""
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    return tmp_path


def prompt(first: str, second: str, question: str = "What is it?", tail: str = "") -> str:
    head = "<image>\nBe a fair judge of accuracy and clarity. Your task is provided as follows:\n"
    return f"{head}Question: [{question}]\n{first}: [A cat on a mat.]\n{second}: [A dog.]\nASSISTANT:{tail}\n"


def critic_row(human: str, gpt: str, image: Any = "0.png", **fields: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
    return {"id": "vlfeedback_1", "source": "VLFeedback", "conversations": turns, "image": image} | fields


def own_row(i: int = 0, **fields: Any) -> dict[str, Any]:
    texts = {"question": f"What is it, number {i}?", "response_1": f"A cat {i}.", "response_2": f"A dog {i}."}
    return {"id": f"p{i}", "source": "toy", "image": f"{i % 4}.png", **texts, "label": 1} | fields


def better(pair: PreferencePair) -> str:
    return pair.response_1 if pair.label == 1 else pair.response_2


def worse(pair: PreferencePair) -> str:
    return pair.response_2 if pair.label == 1 else pair.response_1


def only(selection: Selection) -> PreferencePair:
    (pair,) = selection.pairs
    return pair


def reasons(selection: Selection) -> dict[str, int]:
    total: dict[str, int] = {}
    for counts in selection.report().values():
        for reason, n in counts["dropped"].items():
            total[reason] = total.get(reason, 0) + n
    return total


# -- strings of LLaVA-Critic-113k ---------------------------------------------------------------------------

FAMILIES = [
    ("Response 1", "Response 2"),
    ("Response A", "Response B"),
    ("The first response", "The second response"),
]


@pytest.mark.parametrize(("first", "second"), FAMILIES)
@pytest.mark.parametrize(
    ("named", "expected"), [("first", 1), ("second", 2), ("1", 1), ("2", 2), ("A", 1), ("B", 2)]
)
def test_each_string_of_llava_critic(
    folder: Path, first: str, second: str, named: str, expected: int
) -> None:
    gpt = f"The second one is short. The better response: [{named}]. It names the mat and is accurate."
    path = write_jsonl(folder / "critic.jsonl", [critic_row(prompt(first, second), gpt)])
    pair = only(load_pairs(path))
    texts = ["A cat on a mat.", "A dog."]
    assert better(pair) == texts[expected - 1] and worse(pair) == texts[2 - expected]
    assert (pair.question, pair.source, pair.tie) == ("What is it?", "vlfeedback", False)
    assert pair.id.startswith("vlfeedback_1-")
    # rationale, criteria and marker are gone
    assert not any(word in repr(pair) for word in ("accura", "mat and", "fair judge", "<image>"))


JUDGEMENTS = [
    ("The better response: [first].", 1, "plain"),
    ("the better response: [ b ]", 2, "case and blanks"),
    ("They differ. The better response: [1]. In short, the better response: [1].", 1, "said twice"),
    ("The better response: [1]. No, the better response: [2].", None, "two that differ"),
    ("The better response: [X]", None, "the format repeated"),
    ("The better response: [both]", None, "no name of a response"),
    ("Both name the cat. Therefore, the two responses are equally good.", 0, "a tie"),
    ("They are equally good", 0, "a tie without full stop"),
    ("Equally good in style! But the first invents a dog.", None, "not the last sentence"),
    ("The responses are not equally good.", None, "denied"),
    ("At first sight equally good. The better response: [A].", 1, "the name decides"),
    ("", None, "empty"),
]


@pytest.mark.parametrize(("text", "expected", "why"), JUDGEMENTS, ids=[why for _, _, why in JUDGEMENTS])
def test_parse_judgement(text: str, expected: int | None, why: str) -> None:
    assert parse_judgement(text) == expected, why


BLOCKS = [
    ("Question: [a]\nResponse 1: [b]\nResponse 2: [c]", ("a", "b", "c"), "plain"),
    (
        "Q.\nQuestion: [a\nb]\n\nResponse A: [c\n\nd]\n\nResponse B: [e\nf]  \n",
        ("a\nb", "c\n\nd", "e\nf"),
        "lines",
    ),
    (
        "Question: [x [y]]\nResponse 1: [[1] is]\nResponse 2: [see [2]]",
        ("x [y]", "[1] is", "see [2]"),
        "nested",
    ),
    (
        "Question: [a]\nResponse 1: [b]\nResponse 2: [(0, 1]\nor so]",
        ("a", "b", "(0, 1]\nor so"),
        "unbalanced",
    ),
    ("Question: [a]\nResponse 1: [b]\nResponse 2: [c [d]", ("a", "b", "c [d"), "unbalanced, open"),
    ("Question: [a]\nResponse 1: [b]\nResponse 2: [c]\nSay which is better.", ("a", "b", "c"), "a tail"),
    (
        "Question: [a]\nResponse 1: [b]\nResponse 2: [c]\nEnd with The better response: [X]",
        ("a", "b", "c"),
        "a tail that ends with a bracket",
    ),
    (
        "Question: [a]\nResponse 1: [b]\nResponse 2: [c [d]\nSay which.",
        ("a", "b", "c [d"),
        "open, and a tail",
    ),
    ("Question: [a] Response 1: [b] Response 2: [c]", ("a", "b", "c"), "one line"),
    ("Question: [a]\nResponse 1: [b]\nResponse B: [c]", None, "two families"),
    ("Question: [a]\nResponse 1: [b]", None, "one response"),
    ("Question: a\nResponse 1: b\nResponse 2: c", None, "no brackets: where does c end?"),
    ("", None, "empty"),
]


@pytest.mark.parametrize(("text", "expected", "why"), BLOCKS, ids=[why for _, _, why in BLOCKS])
def test_split_prompt(text: str, expected: tuple[str, str, str] | None, why: str) -> None:
    assert split_prompt(text) == expected, why


def test_other_prompts_need_a_pattern(folder: Path) -> None:
    row = {"question": "<image>Q: What?\n1: A cat.\n2: A dog.\nWhich?", "answer": "2", "image": "0.png"}
    path = write_jsonl(folder / "grpo.jsonl", [row])
    with pytest.raises(DataError, match=r"grpo\.jsonl, line 1, field 'question'.*needs `block`"):
        load_pairs(path)
    block = re.compile(r"Q: (?P<question>.*)\n1: (?P<response_1>.*)\n2: (?P<response_2>.*)\nWhich")
    assert better(only(load_pairs(path, block=block))) == "A dog."


# -- LLaVA-Critic-GRPO-dataset ------------------------------------------------------------------------------

LABELS = [
    *((text, 1) for text in ("1", "1.", "(1)", "[1]", "first", "First", "the first", "A", "a", "Answer 1")),
    *(
        (text, 2)
        for text in ("2", "second", "B", "Response 2", "response (2)", "The second response", "Answer B")
    ),
    *((text, 2) for text in (" 2\n", r"\boxed{2}", r"\boxed{Answer 2}")),
    *((text, 0) for text in ("tie", "Tie.", "equally good")),
    *((text, None) for text in ("", "3", "0", "12", "1 or 2", "C", "not 1", "firstly", "1,2")),
]


@pytest.mark.parametrize(("text", "expected"), LABELS)
def test_parse_label(text: str, expected: int | None) -> None:
    assert parse_label(text, ties=True) == expected


@pytest.mark.parametrize(
    ("answer", "expected"), [("Answer 1", "A cat on a mat."), ("B", "A dog."), (2, "A dog.")]
)
def test_critic_grpo_rows(folder: Path, answer: Any, expected: str) -> None:
    row = {"question": prompt("Response 1", "Response 2"), "answer": answer, "image": "0.png"}
    pair = only(load_pairs(write_jsonl(folder / "grpo.jsonl", [row])))
    assert (better(pair), pair.source, pair.question) == (expected, "critic_grpo", "What is it?")


def test_critic_grpo_parquet_with_image_bytes(tmp_path: Path) -> None:
    """The hub's shape: the image is an object, here in the list of one that the trainers make of it too."""
    cell = {"bytes": png(1), "path": None}
    rows = [
        {"question": prompt("Response A", "Response B", f"Q{i}?"), "answer": "2", "image": image}
        for i, image in enumerate(([cell], [cell]))
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    selection = load_pairs(tmp_path)  # a folder of shards
    assert [better(p) for p in selection.pairs] == ["A dog."] * 2
    assert {p.image for p in selection.pairs} == {png(1)}
    stored = load_pairs(tmp_path, image_store=tmp_path / "store")
    assert [p.id for p in stored.pairs] == [p.id for p in selection.pairs]
    (image,) = {p.image for p in stored.pairs}
    assert isinstance(image, str) and Path(image).read_bytes() == png(1) and image.endswith(".png")


def test_two_images_in_a_row_are_refused(folder: Path) -> None:
    row = {"question": prompt("Response 1", "Response 2"), "answer": "1", "image": ["0.png", "1.png"]}
    with pytest.raises(DataError, match=r"line 1, field 'image'.*expected one image"):
        load_pairs(write_jsonl(folder / "grpo.jsonl", [row]))


# -- plain preference sets ----------------------------------------------------------------------------------


def completion(text: str, *ratings: Any) -> dict[str, Any]:
    aspects = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
    annotations = {a: {"Rating": r, "Rationale": "because"} for a, r in zip(aspects, ratings, strict=True)}
    return {"model": "m", "response": text, "annotations": annotations}


FOUR = [
    completion("good", "5", "5", "5"),
    completion("fair", "4", "5", "5"),  # 1/3 below: too small a gap
    completion("poor", "3", "4", "5"),  # 1 below good, 2/3 below fair
    completion("as poor", "4", "3", "5"),  # a tie with poor
]


def test_vlfeedback(folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "images" / "svit-1.jpg").write_bytes(encoded(draw(1), "JPEG"))
    row = {"id": "svit-1", "prompt": "Describe it.", "models": ["m"] * 4, "completions": FOUR}
    path = write_jsonl(folder / "vlfeedback.jsonl", [row])
    selection = load_pairs(path, image_root=folder / "images", keep_ties=True)
    decided = {(better(p), worse(p)) for p in selection.pairs if not p.tie}
    assert decided == {(high, low) for high in ("good", "fair") for low in ("poor", "as poor")}
    assert [{p.response_1, p.response_2} for p in selection.pairs if p.tie] == [{"poor", "as poor"}]
    assert reasons(selection) == {"small gap": 1}
    assert {p.source for p in selection.pairs} == {"vlfeedback"}
    assert {p.image for p in selection.pairs} == {str(folder / "images" / "svit-1.jpg")}  # named by the id

    assert reasons(load_pairs(path, image_root=folder / "images")) == {"small gap": 1, "tie": 1}
    wide = load_pairs(path, image_root=folder / "images", min_gap=0.3)
    assert ("good", "fair") in {(better(p), worse(p)) for p in wide.pairs}
    narrow = load_pairs(path, image_root=folder / "images", min_gap=0.7)
    assert {(better(p), worse(p)) for p in narrow.pairs} == {("good", "poor"), ("good", "as poor")}


def test_vlfeedback_as_old_versions_of_datasets_have_it(folder: Path) -> None:
    lists = {key: [item[key] for item in FOUR] for key in FOUR[0]}
    row = {"id": "1", "prompt": "Describe it.", "completions": lists, "image": "0.png"}
    plain = {**row, "completions": FOUR}
    first = load_pairs(write_jsonl(folder / "lists.jsonl", [row]))
    assert first.pairs == load_pairs(write_jsonl(folder / "plain.jsonl", [plain])).pairs
    assert len(first.pairs) == 4


def test_vlfeedback_without_a_number(folder: Path) -> None:
    three = [completion("a", "5", "N/A", "5"), completion("b", "5", "5", "5"), completion("c", "1", "1", "1")]
    row = {"id": "1", "prompt": "Describe it.", "completions": three, "image": "0.png"}
    selection = load_pairs(write_jsonl(folder / "vlfeedback.jsonl", [row]))
    assert [(better(p), worse(p)) for p in selection.pairs] == [("b", "c")]
    assert reasons(selection) == {"no rating": 2}
    assert "line 1, responses 0 and 1" in selection.drops[0].detail


def test_vlfeedback_ids_that_repeat_are_different_pairs(folder: Path) -> None:
    """29,073 ids of the published file occur more than once."""
    rows = [
        {"id": "7", "prompt": f"Describe {i}.", "completions": FOUR[::2], "image": f"{i}.png"} for i in (0, 1)
    ]
    pairs = load_pairs(write_jsonl(folder / "vlfeedback.jsonl", rows)).pairs
    assert len({p.id for p in pairs}) == 2 and all(p.id.startswith("7-") for p in pairs)


@pytest.mark.parametrize("nested", ["text", "object", "columns"])
def test_rlhf_v(folder: Path, nested: str) -> None:
    texts = {"question": "<image>\nWhat is it?", "chosen": "A cat. ", "rejected": "A dog."}
    content = {"text": {"text": json.dumps(texts)}, "object": {"text": texts}, "columns": texts}[nested]
    row = {"ds_name": "RLHF-V", "image": {"bytes": None, "path": "2.png"}, "idx": 3, **content}
    pair = only(load_pairs(write_jsonl(folder / "rlhf_v.json", [row])))
    assert (better(pair), worse(pair), pair.question) == ("A cat.", "A dog.", "What is it?")
    assert pair.source == "rlhf_v" and pair.id.startswith("3-") and pair.image == str(folder / "2.png")


@pytest.mark.parametrize("preference", [1, 2])
def test_llava_rlhf(folder: Path, preference: int) -> None:
    row = {
        "id": "000000000001",
        "image": "3.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": "left out"},
        ],
        "output_1": {"from": "llava", "value": "A cat."},
        "output_2": {"from": "llava", "value": "A dog."},
        "preference": preference,
        "hallucination": False,
    }
    pair = only(load_pairs(write_jsonl(folder / "a.jsonl", [row])))
    assert better(pair) == ("A cat.", "A dog.")[preference - 1] and pair.source == "llava_rlhf"
    assert pair.question == "What is it?" and "left out" not in repr(pair)

    turns = [*row["conversations"], {"from": "human", "value": "And its colour?"}, row["conversations"][1]]
    pair = only(load_pairs(write_jsonl(folder / "b.jsonl", [{**row, "conversations": [turns]}])))
    assert pair.question == "User: What is it?\nAssistant: left out\nUser: And its colour?"


def test_all_rows_of_a_file_may_come_from_several_sources(folder: Path) -> None:
    human = prompt("Response 1", "Response 2")
    rows = [
        critic_row(human, "The better response: [1].", id=f"{source}_{i}", source=source, image=f"{i}.png")
        for source in ("VLFeedback", "LLaVA-RLHF", "RLHF-V")
        for i in range(3)
    ]
    report = load_pairs(write_jsonl(folder / "critic.jsonl", rows)).report()
    assert {source: r["kept"] for source, r in report.items()} == {
        "llava_rlhf": 3,
        "rlhf_v": 3,
        "vlfeedback": 3,
    }
    renamed = load_pairs(folder / "critic.jsonl", source="mine")
    assert set(renamed.report()) == {"mine"}


# -- order and ties -----------------------------------------------------------------------------------------


def toy(i: int, **fields: Any) -> PreferencePair:
    pair = PreferencePair(f"p{i}", "toy", f"{i}.png", f"Which, {i}?", f"good {i}", f"bad {i}", label=1)
    return dataclasses.replace(pair, **fields)


def test_order_is_balanced_in_each_source() -> None:
    pairs = [toy(i, source=source, id=f"{source}-{i}") for source in ("a", "b", "c") for i in range(1000)]
    balanced = balance(pairs)  # the better response is the first in all of them
    for source, counts in Selection(balanced).report().items():
        # five standard deviations of a fair coin
        assert counts["label_1"] == pytest.approx(0.5, abs=5 * 0.5 / 1000**0.5), source


def test_ties_are_flagged_and_left_out_unless_wanted(folder: Path) -> None:
    human = prompt("Response 1", "Response 2")
    rows = [
        critic_row(human, "Both are fine. They are equally good.", id="tie"),
        critic_row(human.replace("What", "Who"), "The better response: [1].", id="decided"),
    ]
    path = write_jsonl(folder / "critic.jsonl", rows)
    selection = load_pairs(path)
    assert [p.tie for p in selection.pairs] == [False] and reasons(selection) == {"tie": 1}
    both = load_pairs(path, keep_ties=True)
    assert sorted((p.tie, p.label == 0) for p in both.pairs) == [(False, False), (True, True)]


@pytest.mark.parametrize(("label", "tie"), [(0, False), (1, True), (3, False), ("1", False)])
def test_a_label_that_is_none_is_no_pair(label: Any, tie: bool) -> None:
    with pytest.raises(ValueError, match="label"):
        toy(0, label=label, tie=tie)


def test_subsets_are_nested_and_follow_the_seed() -> None:
    pairs = [toy(i) for i in range(200)]
    fifty = subsample_pairs(pairs, 50, seed=0)
    assert len(fifty) == 50 and fifty != pairs[:50]
    assert set(p.id for p in subsample_pairs(pairs, 20, 0)) < {p.id for p in fifty}
    assert {p.id for p in subsample_pairs(pairs[::-1], 50, 0)} == {p.id for p in fifty}
    assert {p.id for p in subsample_pairs(pairs, 50, 1)} != {p.id for p in fifty}
    assert subsample_pairs(pairs, 500, 0) == pairs
    with pytest.raises(UserError, match="limit must be at least 1"):
        subsample_pairs(pairs, 0, 0)


# -- our own files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_round_trip_with_paths_inside_and_outside_of_the_folder(folder: Path, suffix: str) -> None:
    rows = [own_row(i) for i in range(8)]
    outside = folder / "elsewhere.png"
    outside.write_bytes(png(9))
    rows[3]["image"] = str(outside)
    pairs = load_pairs(write_jsonl(folder / "in.jsonl", rows)).pairs
    path = folder / "out" / f"pairs{suffix}"
    write_pairs(pairs, path)
    assert load_pairs(path).pairs == pairs

    # a folder with its images can be moved
    home = folder / "home"
    home.mkdir()
    (home / "x.png").write_bytes(png(1))
    write_pairs([toy(0, image=str(home / "x.png"))], home / f"pairs{suffix}")
    home.rename(folder / "moved")
    moved = only(load_pairs(folder / "moved" / f"pairs{suffix}"))
    assert moved.image == str(folder / "moved" / "x.png")


def test_images_in_bytes_become_files_beside_json_lines(tmp_path: Path) -> None:
    pairs = [toy(i, image=png(i % 2)) for i in range(4)]
    write_pairs(pairs, tmp_path / "lines" / "pairs.jsonl")
    back = load_pairs(tmp_path / "lines" / "pairs.jsonl").pairs
    assert [Path(str(p.image)).read_bytes() for p in back] == [p.image for p in pairs]
    assert len(list((tmp_path / "lines" / "pairs.images").iterdir())) == 2  # each image once
    first = json.loads((tmp_path / "lines" / "pairs.jsonl").read_text("utf-8").split("\n")[0])
    assert first["image"].startswith("pairs.images/")
    with pytest.raises(UserError, match=r"expected \.jsonl or \.parquet"):
        write_pairs(pairs, tmp_path / "pairs.csv")


def test_dataset_decodes_paths_bytes_and_urls(folder: Path) -> None:
    pairs = [toy(0, image=str(folder / "0.png")), toy(1, image=png(1)), toy(2, image=data_url(png(2)))]
    dataset = to_dataset(pairs)
    shown = [pixel_hash(row["image"].convert("RGB")) for row in dataset]
    assert shown == [pixel_hash(draw(i)) for i in range(3)]
    assert dataset[1]["label"] == 1 and dataset.column_names == [f.name for f in dataclasses.fields(pairs[0])]


# -- bad data -----------------------------------------------------------------------------------------------

BAD = [
    # what is wrong, field that is named
    ({"label": 3}, "field 'label': found 3, expected 1 or 2"),
    ({"label": True}, "field 'label'"),
    ({"label": 0}, "field 'label'"),
    ({"label": 1, "tie": True}, "field 'label': found 1, expected 0"),
    ({"tie": "no"}, "field 'tie'"),
    ({"swapped": 1}, "field 'swapped'"),
    ({"question": 5}, "field 'question': found 5, expected text"),
    ({"response_2": None}, "field 'response_2'"),
    ({"image": 5}, "field 'image'"),
    ({"id": 1.5}, "field 'id'"),
]


@pytest.mark.parametrize(("fields", "message"), BAD, ids=[str(fields) for fields, _ in BAD])
def test_a_bad_row_is_named_by_file_row_and_field(folder: Path, fields: dict[str, Any], message: str) -> None:
    path = write_jsonl(folder / "pairs.jsonl", [own_row(0), own_row(1, **fields), own_row(2)])
    with pytest.raises(DataError, match=re.escape("pairs.jsonl, line 2, " + message)) as caught:
        load_pairs(path)
    assert "bad_rows='drop'" in str(caught.value)
    selection = load_pairs(path, bad_rows="drop")
    assert sorted(p.id for p in selection.pairs) == ["p0", "p2"]
    assert reasons(selection) == {"bad row": 1} and message in selection.drops[0].detail


@pytest.mark.parametrize("missing", ["image", "question", "response_1", "response_2", "label"])
def test_a_missing_field_is_named(folder: Path, missing: str) -> None:
    whole, row = own_row(0), own_row(1)
    del row[missing]
    message = f"pairs.jsonl, line 2: missing field '{missing}'"
    with pytest.raises(DataError, match=message):
        load_pairs(write_jsonl(folder / "pairs.jsonl", [whole, row]))
    with pytest.raises(DataError, match=f"line 1: missing field '{missing}'"):  # no layout to go by yet
        load_pairs(write_jsonl(folder / "pairs.jsonl", [row]))


LAYOUT_ERRORS = [
    (critic_row("What?", "The better response: [1]."), "conversations", "Question: "),
    (critic_row(prompt("Response 1", "Response 2"), "Fine."), "conversations", "The better response"),
    ({**critic_row("", ""), "conversations": []}, "conversations", "a list of objects"),
    ({**critic_row("", ""), "conversations": [{"from": "human"}]}, "conversations", "'value'"),
    (
        {**critic_row("", ""), "conversations": [{"from": "human", "value": "?"}]},
        "conversations",
        "one gpt turn",
    ),
    ({"prompt": "?", "completions": "none", "id": "1"}, "completions", "a list of objects"),
    ({"prompt": "?", "completions": [{"response": "a"}], "id": "1"}, "completions", "Helpfulness"),
    ({"text": "{", "image": "0.png"}, "text", "JSON with question"),
    ({"text": '{"question": "?"}', "image": "0.png"}, "text", "missing field 'chosen', 'rejected'"),
    (
        {
            "conversations": [{"from": "human", "value": "?"}],
            "output_1": "a",
            "output_2": "b",
            "preference": 3,
            "image": "0.png",
        },
        "preference",
        "1 or 2",
    ),
    (
        {"question": prompt("Response 1", "Response 2"), "answer": "3", "image": "0.png"},
        "answer",
        "Response 1",
    ),
    ({"question": "?", "answer": None, "image": "0.png"}, "question", "Question: "),
]


@pytest.mark.parametrize(("row", "field", "expected"), LAYOUT_ERRORS)
def test_each_layout_names_what_it_cannot_read(
    folder: Path, row: dict[str, Any], field: str, expected: str
) -> None:
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 1, field '{field}'.*{re.escape(expected)}"):
        load_pairs(write_jsonl(folder / "rows.jsonl", [row]))


def test_many_bad_rows_are_not_all_printed_and_a_file_of_bad_rows_is_refused(folder: Path) -> None:
    path = write_jsonl(folder / "pairs.jsonl", [own_row(i, label=9) for i in range(12)])
    with pytest.raises(DataError, match="and 7 more bad rows"):
        load_pairs(path)
    with pytest.raises(DataError, match="No row is left"):
        load_pairs(path, bad_rows="drop")


def test_wrong_paths_empty_files_and_unknown_names(folder: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        load_pairs(folder / "none.jsonl")
    (folder / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl: no rows"):
        load_pairs(folder / "empty.jsonl")
    (folder / "broken.jsonl").write_text('{"id": 1}\n{"id":')
    with pytest.raises(DataError, match=r"broken\.jsonl, line 2: broken JSON"):
        load_pairs(folder / "broken.jsonl")
    (folder / "broken.parquet").write_text("PAR")
    with pytest.raises(DataError, match="not a parquet file"):
        load_pairs(folder / "broken.parquet")
    (folder / "deep").mkdir()
    with pytest.raises(DataError, match="no file"):
        load_pairs(folder / "deep")
    path = write_jsonl(folder / "pairs.jsonl", [own_row()])
    with pytest.raises(UserError, match="Did you mean 'vlfeedback'"):
        load_pairs(path, layout="vlfeedbak")
    with pytest.raises(UserError, match="bad_rows"):
        load_pairs(path, bad_rows="skip")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="missing field 'conversations'"):
        load_pairs(path, layout="llava_critic")


def test_the_hub_without_a_network_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"cannot load lmms-lab/LLaVA-Critic-GRPO-dataset .*local file"):
        load_pairs("critic_grpo")
    with pytest.raises(UserError, match="cannot load nobody/nothing"):
        load_pairs(HubSplit("nobody/nothing", ("default",), "train"))


def test_responses_that_teach_nothing_are_counted(folder: Path) -> None:
    rows = [
        own_row(0),
        own_row(1, response_1=" "),
        own_row(2, response_1="Same.", response_2="Same. "),
        own_row(3, question="<image>"),
        own_row(4, image=None),
        own_row(5, image={"bytes": None, "path": None}),
    ]
    selection = load_pairs(write_jsonl(folder / "pairs.jsonl", rows))
    assert reasons(selection) == {"empty response": 1, "same responses": 1, "no question": 1}
    assert [pair.image is None for pair in selection.pairs] == [False, True, True]  # pairs of text
    with pytest.raises(DataError, match=r"no pair is left; left out: empty response \(1\)"):
        load_pairs(write_jsonl(folder / "pairs.jsonl", rows[1:2]))


def test_duplicates_are_counted_and_an_id_for_two_pairs_is_refused(folder: Path) -> None:
    human = prompt("Response 1", "Response 2")
    rows = [critic_row(human, f"The better response: [{name}].") for name in "112"]
    selection = load_pairs(write_jsonl(folder / "critic.jsonl", rows))
    assert better(only(selection)) == "A cat on a mat." and reasons(selection) == {"duplicate": 2}
    assert ["another label" in d.detail for d in selection.drops] == [False, True]
    path = write_jsonl(folder / "pairs.jsonl", [own_row(0), own_row(1, id="p0")])
    with pytest.raises(DataError, match="line 2, field 'id': found 'p0', which another pair has"):
        load_pairs(path)


def test_corrupt_and_missing_images_are_counted_not_fatal(folder: Path) -> None:
    whole = png(0)
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no image")
    (folder / "void.png").write_bytes(b"")
    names = ["0.png", "cut.png", "text.png", "void.png", "gone.png", "1.png"]
    rows = [own_row(i, image=name) for i, name in enumerate(names)]
    selection = load_pairs(write_jsonl(folder / "pairs.jsonl", rows))
    assert [p.id for p in selection.pairs] == ["p0", "p5"]
    assert reasons(selection) == {"corrupt image": 3, "missing image": 1}
    assert "gone.png" in selection.drops[-1].detail
    for pair in selection.pairs:
        open_image(pair.image)
    inside = [toy(0, image=whole), toy(1, image=whole[:60])]
    assert [d.reason for d in drop_unreadable(inside).drops] == ["corrupt image"]
    with pytest.raises(DataError, match=r"none of the 6 images can be read.*image_root"):
        load_pairs(folder / "pairs.jsonl", image_root=folder / "elsewhere")
    with pytest.raises(MissingImageError, match="no such image file"):
        open_image(str(folder / "gone.png"))
    with pytest.raises(ImageError, match="60 bytes: not a readable image"):
        open_image(whole[:60])


def test_images_are_opened_upright_and_in_rgb() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    assert open_image(encoded(draw(0), "JPEG", exif=exif)).size == (72, 96)
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        kind = "JPEG" if mode == "CMYK" else "PNG"
        assert open_image(encoded(draw(0).convert(mode), kind)).mode == "RGB"


def test_report_and_table_by_hand(folder: Path) -> None:
    rows = [own_row(i, source="a" if i < 3 else "b") for i in range(5)]
    rows[1]["response_1"] = ""
    rows[4]["image"] = "gone.png"
    selection = load_pairs(write_jsonl(folder / "pairs.jsonl", rows))
    report = selection.report()
    assert {s: (r["read"], r["kept"], r["dropped"]) for s, r in report.items()} == {
        "a": (3, 2, {"empty response": 1}),
        "b": (2, 1, {"missing image": 1}),
    }
    share = sum(p.label == 1 for p in selection.pairs if p.source == "a") / 2
    assert report["a"]["label_1"] == share
    with_tie = Selection([toy(0), toy(1, label=2), toy(2, label=0, tie=True)])
    assert with_tie.report()["toy"]["label_1"] == 0.5  # the tie is no label
    assert Selection([toy(2, label=0, tie=True)]).report()["toy"]["label_1"] is None
    lines = markdown_table(selection).splitlines()
    assert lines[0] == "| Source | Read | Kept | Label 1 | empty response | missing image |"
    assert lines[2] == f"| a | 3 | 2 | {share:.1%} | 1 | 0 |"
    selection.write_report(folder / "report.json")
    written = json.loads((folder / "report.json").read_text("utf-8"))
    assert written["sources"] == report and [d["id"] for d in written["drops"]] == ["p1", "p4"]


# -- length -------------------------------------------------------------------------------------------------


class ImageProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its part for video, which needs torchvision."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **kwargs: Any
    ) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(
            [self.image_token, self.video_token]
        )
        self.video_processor = None
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


TEMPLATE = (
    "{%- for message in messages -%}<|im_start|>{{ message.role }}\n"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}<|im_end|>{%- endfor -%}<|im_start|>assistant\n"
)


@pytest.fixture(scope="module")
def processor() -> ImageProcessor:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens(
        {
            "additional_special_tokens": [
                "<|vision_start|>",
                "<|vision_end|>",
                "<|image_pad|>",
                "<|video_pad|>",
            ]
        }
    )
    size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 64}
    images = Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, temporal_patch_size=2, size=size)
    return ImageProcessor(images, tokenizer, chat_template=TEMPLATE)


def ask(pair: PreferencePair) -> Conversation:
    return [{"role": "user", "content": f"{pair.question}|{pair.response_1}|{pair.response_2}"}]


def test_length_counts_the_tokens_of_text_and_image(processor: ImageProcessor) -> None:
    length_of = token_length(processor, ask)
    small, large = (encoded(Image.new("RGB", size, "red")) for size in ((56, 28), (28 * 6, 28 * 4)))
    pair = toy(0, image=small)
    # 28 pixels a token: 2 and 24 of them; all other text of this tokenizer is the same
    assert length_of(dataclasses.replace(pair, image=large)) - length_of(pair) == 24 - 2
    # one byte, one token
    assert length_of(dataclasses.replace(pair, question=pair.question + "π" * 10)) - length_of(pair) == 20
    text = token_length(processor.tokenizer, lambda p: ask(p))
    processor.tokenizer.chat_template = TEMPLATE.replace(
        "message.content -%}", "[{'text': message.content}] -%}"
    )
    assert length_of(pair) - text(pair) == 2 + 2  # the image's tokens, and the marks around them


def test_long_pairs_are_left_out_by_tokens(processor: ImageProcessor) -> None:
    length_of = token_length(processor, ask)
    images = [encoded(Image.new("RGB", (28 * n, 28), "red")) for n in (1, 30)]
    pairs = [toy(0, image=images[0]), toy(0, id="long", image=images[1]), toy(0, id="x", image=images[0])]
    limit = length_of(pairs[0])
    selection = drop_long(pairs, length_of, max_length=limit)
    assert [p.id for p in selection.pairs] == ["p0", "x"]  # exactly the limit is not too long
    (drop,) = selection.drops
    assert (drop.id, drop.reason) == ("long", "too long") and f"{limit + 29} tokens" in drop.detail
    with pytest.raises(DataError, match="no pair is left of 3"):
        drop_long(pairs, length_of, max_length=limit - 1)


def test_an_image_that_the_processor_refuses_is_counted(processor: ImageProcessor) -> None:
    thin = encoded(Image.new("RGB", (3000, 10), "red"))  # Qwen's limit of the aspect ratio is 200
    pairs = [toy(0, image=png(0)), toy(1, image=thin)]
    selection = drop_long(pairs, token_length(processor, ask), max_length=10**6)
    assert [p.id for p in selection.pairs] == ["p0"]
    assert [(d.id, d.reason) for d in selection.drops] == [("p1", "not processed")]
    assert "ratio" in selection.drops[0].detail


def test_filters_add_up(processor: ImageProcessor, folder: Path) -> None:
    rows = [own_row(0), own_row(1, response_1=""), own_row(2, response_1="x" * 500)]
    path = write_jsonl(folder / "pairs.jsonl", rows)
    leak = [BenchmarkItem("bench", "b", png(0), "?", ())]
    found = load_pairs(path)
    length_of = token_length(processor, ask)
    with pytest.raises(DataError, match="no pair is left"):
        found.through(lambda p: decontaminate(p, leak), lambda p: drop_long(p, length_of, 400))
    found = found.through(lambda p: drop_long(p, length_of, 400), lambda p: decontaminate(p, leak))
    assert found.pairs == []
    assert reasons(found) == {"empty response": 1, "too long": 1, "benchmark image": 1}
    assert found.report()["toy"]["read"] == 3


# -- contamination ------------------------------------------------------------------------------------------


@functools.cache
def photo(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Soft colours with noise, as a camera makes them."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    noisy = np.asarray(soft) + rng.normal(0, 8, (size[1], size[0], 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def item(image: bytes | str | None = None, question: str = "?", *responses: str) -> BenchmarkItem:
    return BenchmarkItem("bench", "b1", image, question, responses)


def leak(pair: PreferencePair, *items: BenchmarkItem, **settings: Any) -> str | None:
    """Reason for which a pair is left out, None if it is kept."""
    selection = decontaminate([pair], [*items], **settings)
    assert len(selection.pairs) + len(selection.drops) == 1
    return selection.drops[0].reason if selection.drops else None


COPIES = [
    ("the same bytes", lambda image: encoded(image), "benchmark image"),
    ("without loss in another format", lambda image: encoded(image, "BMP"), "benchmark image"),
    ("JPEG", lambda image: encoded(image, "JPEG", quality=50), "benchmark image, near"),
    ("half as large", lambda image: encoded(image.reduce(2)), "benchmark image, near"),
    (
        "twice as large, JPEG",
        lambda image: encoded(image.resize((640, 480)), "JPEG", quality=30),
        "benchmark image, near",
    ),
    (
        "a third as large, JPEG",
        lambda image: encoded(image.resize((118, 88), Image.Resampling.LANCZOS), "JPEG", quality=30),
        "benchmark image, near",
    ),
    ("darker", lambda image: encoded(image.point(lambda v: v * 0.9)), "benchmark image, near"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("why", "copy", "expected"), COPIES, ids=[why for why, _, _ in COPIES])
def test_copies_of_benchmark_images_are_found(why: str, copy: Any, expected: str) -> None:
    for seed, image in [(s, photo(s)) for s in range(4)] + [(s, draw(s, (320, 240))) for s in range(4)]:
        others = [item(encoded(photo(100 + i))) for i in range(3)]
        pair = toy(0, image=copy(image))
        assert leak(pair, *others, item(encoded(image))) == expected, seed
        assert leak(pair, *others) is None, seed


def test_different_images_are_kept() -> None:
    """On white paper most of two drawings is the same."""
    items = [item(encoded(draw(i, (320, 240)))) for i in range(40)]
    items += [item(encoded(photo(i))) for i in range(10)]
    pairs = [toy(i, image=encoded(draw(1000 + i, (320, 240)))) for i in range(20)]
    assert decontaminate(pairs, items).drops == []
    blank, also_blank = (encoded(Image.new("RGB", (320, 240), c)) for c in ("white", "black"))
    assert leak(toy(0, image=blank), item(also_blank)) is None  # nothing to tell them apart by looks
    assert leak(toy(0, image=blank), item(blank)) == "benchmark image"
    upright = encoded(Image.new("RGB", (240, 320), "white"))  # the same pixels in a row, another picture
    assert leak(toy(0, image=upright), item(blank)) is None


def test_the_drop_names_the_item_and_other_pairs_stay(folder: Path) -> None:
    pairs = [toy(i, image=str(folder / f"{i}.png"), source="ab"[i % 2]) for i in range(4)]
    selection = decontaminate(pairs, [item(png(2)), item(None, "a video item")])
    assert [p.id for p in selection.pairs] == ["p0", "p1", "p3"]
    assert [(d.id, d.reason, d.detail) for d in selection.drops] == [
        ("p2", "benchmark image", "bench, item b1")
    ]


LONG = (
    "The picture shows a brown dog that jumps over a red fence while two children in yellow coats watch it from "
    "the other side of the garden."
)


OVERLAPS = [
    (LONG, True, "the same"),
    (LONG.upper().replace(" ", "\n").replace(".", "!"), True, "up to case, space and points"),
    (f"Well, {LONG} I like it.", True, "a little more around it"),
    (LONG[: len(LONG) // 2], True, "a part of it"),
    (LONG.replace("garden", "park"), True, "another last word"),
    (" ".join(reversed(LONG.split())), False, "the same words in another order"),
    ("The picture shows a brown dog that jumps over a box. It is a very quiet day here.", False, "a start"),
    ("A brown dog that jumps over a fence.", False, "short"),
]


@pytest.mark.parametrize(("mine", "expected", "why"), OVERLAPS, ids=[why for _, _, why in OVERLAPS])
@pytest.mark.parametrize("name", ["response_1", "response_2"])
def test_text_overlap_of_responses(mine: str, expected: bool, why: str, name: str) -> None:
    bench = item(encoded(photo(5)), "Describe the image.", "No idea.", LONG)
    selection = decontaminate([toy(0, image=png(1), **{name: mine})], [bench])
    assert [d.reason for d in selection.drops] == ["benchmark text"] * expected, why
    assert all(f"bench, item b1: {name} has" in d.detail for d in selection.drops)


def test_the_share_of_common_runs_by_hand() -> None:
    """LONG has 27 words and so 20 runs of eight; its twelfth word is in eight of them: 12 of 20 are left."""
    other = LONG.replace("fence", "wall")
    bench = item(None, "?", LONG)
    pair = toy(0, image=png(1), response_1=other)
    assert leak(pair, bench, share=0.60) == "benchmark text"
    assert leak(pair, bench, share=0.61) is None
    assert "60%" in decontaminate([pair], [bench], share=0.5).drops[0].detail


def test_short_questions_that_many_sets_ask_are_no_leak() -> None:
    generic = "Write a detailed description of the image that you are given here."
    bench = item(encoded(photo(5)), generic, "One answer that is long enough to be looked at.")
    assert leak(toy(0, image=png(1), question=generic), bench) is None
    assert leak(toy(0, image=png(1), question=LONG), item(None, LONG)) == "benchmark text"
    assert leak(toy(0, image=png(1), question=LONG), item(None, "?", LONG)) is None  # it is no question there


def test_benchmarks_are_read_in_their_layouts(folder: Path) -> None:
    cell = {"bytes": png(0), "path": "0.png"}
    rows = [
        {"id": "RLHF-V-1", "query": "What?", "response": ["a", "b"], "human_ranking": [0, 1], "image": cell}
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "vl.parquet")
    assert load_benchmark(folder / "vl.parquet", name="VL") == [
        BenchmarkItem("VL", "RLHF-V-1", png(0), "What?", ("a", "b"))
    ]
    rows = [
        {"id": "1", "prompt": "What?", "chosen": "a", "rejected": "b", "image": "1.png"},
        {"id": "2", "prompt": "Who?", "chosen": "c", "rejected": "d", "video": "x.mp4"},
    ]
    write_jsonl(folder / "mm.jsonl", rows)
    assert load_benchmark(folder / "mm.jsonl", name="MM") == [
        BenchmarkItem("MM", "1", str(folder / "1.png"), "What?", ("a", "b")),
        BenchmarkItem("MM", "2", None, "Who?", ("c", "d")),
    ]
    write_pairs([toy(0, image=str(folder / "0.png"))], folder / "ours.jsonl")
    (ours,) = load_benchmark(str(folder / "ours.jsonl"), name="ours")
    assert (ours.image, ours.responses) == (str(folder / "0.png"), ("good 0", "bad 0"))
    with pytest.raises(DataError, match=r"bad\.jsonl, line 1: unknown layout|missing field"):
        load_benchmark(write_jsonl(folder / "bad.jsonl", [{"id": 1}]), name="bad")
    with pytest.raises(DataError, match="field 'response'"):
        load_benchmark(write_jsonl(folder / "bad.jsonl", [{"query": "?", "response": [1]}]), name="bad")


def test_a_benchmark_image_that_cannot_be_read_stops_the_check() -> None:
    with pytest.raises(DataError, match=r"bench, item b1: .*not a readable image"):
        decontaminate([toy(0, image=png(0))], [item(b"no image")])
    with pytest.raises(UserError, match="out of its range"):
        decontaminate([], [], share=0.0)


# --- pairs of responses ------------------------------------------------------------------------------------


def response_row(identity: str, response: str, correct: bool | None) -> dict[str, Any]:
    return {
        "id": identity,
        "dataset": "toy",
        "question": f"Q{identity}",
        "response": response,
        "response_correct": correct,
        "image": f"{identity}.png",
    }


def test_pairs_of_responses() -> None:
    rows = [
        *(
            response_row("a", text, correct)
            for text, correct in (("r1", True), ("r1", True), ("w1", False), ("r2", True))
        ),
        *(response_row("b", text, correct) for text, correct in (("r", True), ("?", None))),
        *(response_row(str(i), text, text == "r") for i in range(40) for text in "rw"),
    ]
    pairs = pairs_of_responses(rows)
    assert len(pairs) == 41 and {p.id.partition("-")[0] for p in pairs} == {"a", *map(str, range(40))}
    assert all(better(p).startswith("r") and p.image == f"{p.question[1:]}.png" for p in pairs)
    assert 10 < sum(p.label == 1 for p in pairs) < 31
    assert len(pairs_of_responses([*rows, response_row("a", "w2", False)], most=2)) == 42
    tied = [p for p in pairs_of_responses(rows, ties=True) if p.tie]
    assert [(p.id, {p.response_1, p.response_2}) for p in tied] == []  # of a, one right response is left
    # Of one wrong and three right responses, two right ones are left however many pairs there may be.
    few = [response_row("c", "w", False), *(response_row("c", f"r{i}", True) for i in range(3))]
    for most in (1, 2, 3):
        assert len([p for p in pairs_of_responses(few, most=most, ties=True) if p.tie]) == 1
    tied = [p for p in pairs_of_responses([*rows, response_row("a", "r3", True)], ties=True) if p.tie]
    assert [(p.id, p.label, {p.response_1, p.response_2}) for p in tied] == [("a-right", 0, {"r2", "r3"})]
    with pytest.raises(UserError, match="of 1 problems with right and 0 with wrong responses none has both"):
        pairs_of_responses([response_row("b", "r", True)])
