"""The reward benchmarks VL-RewardBench and MM-RLHF-RewardBench, from the hub or from files in their layout."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from critique_rl.critic_data.filters import drop_unreadable
from critique_rl.critic_data.layouts import IMAGE_MARKER, image_cell, image_folder
from critique_rl.critic_data.pairs import Drop, PreferencePair
from critique_rl.tasks.base import DataError
from critique_rl.tasks.rows import HubSplit, Row, read_rows
from critique_rl.types import UserError, nearest

VL_REWARDBENCH = "VL-RewardBench"
MM_RLHF_REWARDBENCH = "MM-RLHF-RewardBench"

HUB = {
    VL_REWARDBENCH: HubSplit("MMInstruction/VL-RewardBench", ("default",), "test"),
    MM_RLHF_REWARDBENCH: HubSplit("yifanzhang114/MM-RLHF-RewardBench", ("default",), "train"),
}

VL_GROUPS = {
    "wildvision": "general",
    "vlfeedback": "general",
    "hallucination": "hallucination",  # POVID's
    "povid": "hallucination",
    "rlhf": "hallucination",
    "rlaif": "hallucination",
    "mathverse": "reasoning",
    "mmmu": "reasoning",
}
"""Group by the start of an id, or of the field `query_source`; other rows are general, as in lmms-eval.

The published set has 183 general, 749 hallucination and 318 reasoning rows; a later upload has 1,247 rows.
"""

MM_GROUPS = ("mcq", "long", "short", "safety", "video")
"""Groups of MM-RLHF-RewardBench; the first word in the path of the image or video is the group of a row."""


@dataclass(frozen=True)
class RewardBenchmark:
    """A benchmark as pairs.

    Attributes:
        name: Name of the benchmark.
        pairs: The pairs that a critic can judge, in the published order; `source` is the group.
        samples: Row id by pair id; several rows may share a row id. MM-RLHF's ACC+ counts a sample if all its
            pairs are right. Empty for a benchmark without that measure.
        not_judged: Rows that no critic can judge, with the reason.
    """

    name: str
    pairs: list[PreferencePair]
    samples: dict[str, str] = field(default_factory=dict)
    not_judged: list[Drop] = field(default_factory=list)


def load_reward_benchmark(
    name: str, origin: str | Path | HubSplit | None = None, *, image_root: str | Path | None = None
) -> RewardBenchmark:
    """Read a reward benchmark.

    Rows on a video, and rows with a missing or broken image, go to `not_judged`.

    Args:
        name: `VL-RewardBench` or `MM-RLHF-RewardBench`; rows need the layout of the published ones.
        origin: File (.jsonl, .json, .parquet) or split; None takes the published split on the hub.
        image_root: Folder that relative image paths start from; None takes the folder of the file. A missing path
            is also tried below `images` and without its leading folders: MM-RLHF-RewardBench names folders of its
            authors' machine.

    Raises:
        DataError: No such file, a row of another layout, or no row to judge.
        UserError: Unknown benchmark name, or the hub cannot be reached.
    """
    if name not in _READERS:
        raise UserError(f"name: no reward benchmark {name!r}. {nearest(name, _READERS)}")
    published = HUB[name]
    if origin is None and name == MM_RLHF_REWARDBENCH and image_root is None:
        image_root = _hub_images(published.repo)
    source = published if origin is None else Path(origin) if isinstance(origin, str) else origin
    root = image_folder(source, image_root)
    pairs: list[PreferencePair] = []
    drops: list[Drop] = []
    samples: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for row in read_rows(source):
        outcome = _READERS[name](row, root)
        if isinstance(outcome, Drop):
            drops.append(outcome)
            continue
        sample, pair = outcome
        seen[pair.id] += 1
        if seen[pair.id] > 1:  # a repeated row counts again, as in the standard scorers
            pair = replace(pair, id=f"{pair.id}-{seen[pair.id]}")
        pairs.append(pair)
        samples[pair.id] = sample
    if not pairs:
        raise DataError(f"{source}: none of its {len(drops)} rows has an image, videos cannot be judged")
    readable = drop_unreadable(pairs)
    counted = readable.pairs if name == MM_RLHF_REWARDBENCH else []
    samples = {pair.id: samples[pair.id] for pair in counted}
    return RewardBenchmark(name, readable.pairs, samples, [*drops, *readable.drops])


def _hub_images(repo: str) -> str:
    """Download the images of a set with only paths in its rows; return their folder."""
    import huggingface_hub

    try:
        return huggingface_hub.snapshot_download(repo, repo_type="dataset", allow_patterns=["images/**"])
    except (OSError, ValueError) as error:  # huggingface_hub raises both without a network, or offline
        raise UserError(
            f"cannot load the images of {repo} from the Hugging Face hub, {type(error).__name__}: {error}; "
            "without the hub, pass `origin` and `image_root`"
        ) from error


def _read_vl(row: Row, root: Path) -> tuple[str, PreferencePair] | Drop:
    row.layout(("id", "query", "response", "image", "human_ranking"))
    row_id, group = _id(row), _vl_group(row)
    answers, ranking = row.fields["response"], row.fields["human_ranking"]
    if not isinstance(answers, list) or len(answers) != 2 or not all(isinstance(a, str) for a in answers):
        raise row.error("response", "a list of two texts")
    if not isinstance(ranking, list) or sorted(map(repr, ranking)) != ["0", "1"]:
        raise row.error("human_ranking", "[0, 1] if the first response is better, [1, 0] if the second is")
    image = _image(row, root)
    if image is None:
        return Drop(row_id, group, "no image", row.place)
    question = _question(row, "query")
    return row_id, _pair(row_id, group, image, question, answers[0], answers[1], ranking.index(0) + 1)


def _read_mm(row: Row, root: Path) -> tuple[str, PreferencePair] | Drop:
    row.layout(*(("id", "prompt", "chosen", "rejected", medium) for medium in ("image", "video")))
    row_id = _id(row)
    question, chosen, rejected = _question(row, "prompt"), row.text("chosen"), row.text("rejected")
    cells = row.fields.get("image"), row.fields.get("video")
    paths = [cell.get("path") if isinstance(cell, dict) else cell for cell in cells]
    path = " ".join(p for p in paths if isinstance(p, str))
    group = next((word for word in MM_GROUPS if word in path), "other")
    image = _image(row, root)
    if image is None:
        return Drop(row_id, group, "video" if cells[1] else "no image", row.place)
    return row_id, _pair(row_id, group, image, question, chosen, rejected, 1)


_READERS: dict[str, Callable[[Row, Path], tuple[str, PreferencePair] | Drop]] = {
    VL_REWARDBENCH: _read_vl,
    MM_RLHF_REWARDBENCH: _read_mm,
}


def _id(row: Row) -> str:
    value = row.fields["id"]
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise row.error("id", "text or a whole number")
    return str(value).strip()


def _vl_group(row: Row) -> str:
    for value in (row.fields["id"], row.fields.get("query_source")):
        start = str(value or "").strip().split("-")[0].split("_")[0].lower()
        if start in VL_GROUPS:
            return VL_GROUPS[start]
    return "general"


def _question(row: Row, name: str) -> str:
    return row.text(name, may_be_empty=True).replace(IMAGE_MARKER, "").strip()


def _image(row: Row, root: Path) -> str | bytes | None:
    image = image_cell(row, "image", row.fields.get("image"))
    if not isinstance(image, str):
        return image or None
    parts = Path(image).parts
    candidates = (
        root.joinpath(*folder, *parts[start:]) for start in range(len(parts)) for folder in ((), ("images",))
    )
    return str(next((path for path in candidates if path.is_file()), root / image).absolute())


def _pair(
    row_id: str, group: str, image: str | bytes, question: str, first: str, second: str, label: int
) -> PreferencePair:
    # Ids are not unique in MM-RLHF-RewardBench, and rows may change places: the texts identify a pair.
    digest = hashlib.sha256(repr((question, first, second)).encode()).hexdigest()[:12]
    return PreferencePair(f"{row_id}-{digest}", group, image, question, first, second, label)
