"""`critique-rl view`: what is gathered, that no text becomes more than text, and the page in a browser."""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import re
import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from critique_rl.benchmarks import pair_accuracy
from critique_rl.cli import commands as cli
from critique_rl.cli.view import add_arguments, run
from critique_rl.critic_data import pairs_of_responses
from critique_rl.evaluation.episodes import Episode, read_episodes
from critique_rl.evaluation.localisation import localisation
from critique_rl.evaluation.metrics import metrics
from critique_rl.prompts import COMPACT
from critique_rl.self_critique import Comparison, Ruling
from critique_rl.tasks import TASKS, load_task
from critique_rl.types import UserError
from critique_rl.view.entries import (
    CORRECT_TO_WRONG,
    UNPARSED,
    WRONG_TO_CORRECT,
    WRONG_VERDICT,
    marks,
    of_training,
)
from critique_rl.view.gather import Source, gather
from critique_rl.view.page import data, render
from critique_rl.vision.images import data_url, image_bytes

CONFIG = """
name: small
base: tiny
prompts: compact
seeds: [0]
threads: 1
train: [{name: modular_chain, options: {size: 20000}}]
cold_start:
  shipped: assets/tiny
  base: {solver: {}, annotator: {}, passes: [{reasoning: 1, critiques: 0, refinements: 0, sft: {}}]}
pool: {problems: 40, samples: 2}
lengths: {response: 24, critique: 48, refinement: 24}
stages:
  stage1:
    label: Stage I
    trainer: &rl {rl_steps: 3, generation_batch_size: 16, per_device_train_batch_size: 16, learning_rate: 1.0e-3,
                  temperature: 1.0, bf16: false, gradient_checkpointing: false, use_cpu: true,
                  dataloader_pin_memory: false, report_to: none}
  stage2: {label: Stage I+II, start: stage1, trainer: {<<: *rl, rl_steps: 2, refinement_reward: r_refine}}
evaluation:
  tasks: [{name: modular_chain, split: test, limit: 40, options: {size: 20000}}]
"""
"""A run of the shipped cold-start models, cut down to seconds."""
STEPS, BATCH, PROBLEMS = {"stage1": 3, "stage2": 2}, 16, 40
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    "<!--<script>",
    "]]><svg onload=window.hacked=3>",
    "${window.hacked = 4} {{7*7}} $title",
    "<a href='javascript:window.hacked=5' onfocus=window.hacked=6 autofocus>x</a>",
    "\u2028\u2029\x00\U0001f600 &lt;b&gt; \\u003cscript\\u003e </ScRiPt >",
)


def episode(i: int, **more: Any) -> Episode:
    right = i % 2 == 0
    verdict = ("correct", "wrong", "unparsed")[i % 3]
    fields: dict[str, Any] = {
        "id": f"p{i}",
        "dataset": "toy",
        "question": f"What is {i} and {i}?",
        "answer": str(2 * i),
        "kind": "number",
        "response": f"It is {2 * i}.\nThe answer is {2 * i if right else 'seven'}",
        "response_correct": right,
        "critique": f"Step sentence: It is {2 * i}.\nCorrectness of the step: {'Correct' if i % 5 else 'Wrong'}\n"
        f"Correctness of the final answer: {verdict.capitalize()}",
        "verdict": verdict,
        "refinement": f"It is {2 * i}.\nThe answer is {2 * i}",
        "refinement_correct": i % 4 != 0,
        "tokens": 50,
    }
    return Episode(**(fields | more))


def written(folder: Path, episodes: Sequence[Episode]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(e)) + "\n" for e in episodes]
    (folder / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def command(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(a) for a in arguments]))


def page_of(folders: Sequence[Path], output: Path, limit: int = 20_000) -> Path:
    output.write_text(render(gather(folders, limit=limit)), encoding="utf-8")
    return output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run by `critique-rl run`."""
    folder = tmp_path_factory.mktemp("run")
    config = folder / "small.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    assert cli.main(["run", str(config), "--quiet", "--set", f"output={folder / 'small'}"]) == 0
    return folder / "small"


def by_key(sources: Sequence[Source]) -> dict[str, Source]:
    return {source.key: source for source in sources}


class TestGathering:
    def test_a_run_is_there_with_all_its_parts(self, finished: Path) -> None:
        found = gather([finished], limit=20_000)
        report = json.loads((finished / "report.json").read_text())
        assert [t.rows for t in found.tables] == [report["rows"]]
        assert found.names == ["small"] and found.notes == []
        sources = by_key(found.sources)
        evaluated = [f"seed0/evaluate/{row}/modular_chain-test" for row in ("no_critic", "sft", *STEPS)]
        assert sorted(sources) == sorted([*evaluated, *(f"seed0/{name}" for name in STEPS)])
        assert all(len(sources[key].entries) == PROBLEMS for key in evaluated)
        assert sources["seed0/stage2"].label == "Stage I+II, seed 0, training"
        assert {c.stage: len(c.rows) for c in found.curves} == {"Stage I": 3, "Stage I+II": 2}
        state = json.loads((finished / "seed0/stage2/trainer_state.json").read_text())
        (curve,) = (c for c in found.curves if c.stage == "Stage I+II")
        assert [row["kl"] for row in curve.rows] == [r["kl"] for r in state["log_history"] if "kl" in r]

    def test_training_episodes_have_rewards_advantages_and_kl(self, finished: Path) -> None:
        sources = by_key(gather([finished], limit=20_000).sources)
        for name, steps in STEPS.items():
            entries = sources[f"seed0/{name}"].entries
            assert len(entries) == steps * BATCH and sources[f"seed0/{name}"].training
            assert [e.item for e in entries] == [f"{s + 1}.{i}" for s in range(steps) for i in range(BATCH)]
            assert all({"reward", "r_dis", "advantage", "kl"} <= set(e.numbers) for e in entries)
            assert any(e.numbers["advantage"] > 0 for e in entries)
            assert {e.first_error is None for e in entries} == {False}
        for e in sources["seed0/stage2"].entries:
            assert e.refinement is not None and e.refinement_truth is not None
            r_dis = float(e.verdict_right is True)
            assert e.numbers["reward"] == pytest.approx(e.refinement_truth + 0.2 * r_dis)

    def test_steps_and_their_truth_are_those_that_localisation_measures(self, finished: Path) -> None:
        place = finished / "seed0/evaluate/sft/modular_chain-test"
        problems = {p.id: p for p in load_task("modular_chain", split="test", size=20000)}
        first_error = TASKS["modular_chain"].first_error
        assert first_error is not None
        expected = localisation(read_episodes(place / "records.jsonl"), problems, first_error, COMPACT)
        (source,) = gather([place], limit=20_000).sources
        found = early = 0
        wrong = [e for e in source.entries if e.truth is False]
        for e in wrong:
            assert e.critique is not None and e.first_error is not None and e.first_error >= 0
            steps = [kind for _, kind in marks(e.critique) if kind != "verdict"]
            flagged = steps.index("wrong") if "wrong" in steps else len(steps) + 9
            found += flagged == e.first_error
            early += flagged < e.first_error
        assert len(wrong) == expected["n_wrong"] and wrong
        assert found / len(wrong) == expected["first_error_acc"] != 0
        assert early / len(wrong) == expected["flagged_early"]

    def test_flags_count_what_the_metrics_count(self, finished: Path) -> None:
        for row in ("sft", "stage2"):
            place = finished / f"seed0/evaluate/{row}/modular_chain-test"
            measured = metrics(read_episodes(place / "records.jsonl"))
            (source,) = gather([place], limit=20_000).sources
            share = {
                flag: sum(bool(e.flags & flag) for e in source.entries) / len(source.entries)
                for flag in (WRONG_VERDICT, UNPARSED, CORRECT_TO_WRONG, WRONG_TO_CORRECT)
            }
            assert 1 - share[WRONG_VERDICT] - share[UNPARSED] == pytest.approx(measured["acc_dis"])
            assert share[CORRECT_TO_WRONG] == pytest.approx(measured["delta_ci"])
            assert share[WRONG_TO_CORRECT] == pytest.approx(measured["delta_ic"])
            assert 1 - share[UNPARSED] == pytest.approx(measured["parse_rate"])

    def test_without_a_report_the_metrics_come_from_the_records(self, finished: Path) -> None:
        (of_run,), (of_seed,) = (gather([p], limit=100).tables for p in (finished, finished / "seed0"))
        names = {"No critic", "SFT critic", "Stage I", "Stage I+II"}  # labels are those of the run's report
        assert {row["method"] for row in of_seed.rows} == names
        means = [
            {row["method"]: {n: m["mean"] for n, m in row["metrics"].items()} for row in table.rows}
            for table in (of_run, of_seed)
        ]
        assert means[0] == means[1]

    @pytest.mark.slow
    def test_a_limit_keeps_the_same_problems_everywhere_and_whole_rl_steps(self, finished: Path) -> None:
        found = gather([finished], limit=120)  # 20 for each of six sources
        sources = by_key(found.sources)
        kept = [[e.item for e in s.entries] for s in sources.values() if not s.training]
        assert all(items == kept[0] for items in kept) and 15 < len(kept[0]) < PROBLEMS
        steps = [e.item.split(".")[0] for e in sources["seed0/stage1"].entries]
        assert len(steps) == BATCH and len(set(steps)) == 1
        assert sum(len(s.entries) for s in found.sources) <= 120 and "see --limit" in found.notes[0]

    def test_a_file_that_is_being_written_is_read_and_left_alone(self, tmp_path: Path) -> None:
        records = written(tmp_path / "busy", [episode(1), episode(2)]) / "records.jsonl"
        cut = records.read_bytes()[:-30]
        records.write_bytes(cut)
        (source,) = gather([tmp_path / "busy"], limit=10).sources
        assert [e.item for e in source.entries] == ["p1"]
        assert records.read_bytes() == cut

    def test_an_evaluation_comes_before_its_controls(self, tmp_path: Path) -> None:
        for name in ("toy-test-empty", "toy-test"):
            written(tmp_path / "seed0" / "evaluate" / "stage1" / name, [episode(1)])
        keys = [source.key for source in gather([tmp_path], limit=10).sources]
        assert keys == [f"seed0/evaluate/stage1/{name}" for name in ("toy-test", "toy-test-empty")]

    def test_samples_and_rounds_are_items_of_their_own(self, tmp_path: Path) -> None:
        chains = [episode(1, sample=s, round=r) for s in range(2) for r in range(2)]
        (source,) = gather([written(tmp_path / "chains", chains)], limit=10).sources
        assert [e.item for e in source.entries] == ["p1", "p1.r1", "p1.s1", "p1.s1.r1"]

    def test_every_run_to_compare_with_is_shown(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("one", "two", "three"):
            written(tmp_path / name, [episode(1)])
        page = tmp_path / "page.html"
        others = ["--with", str(tmp_path / "two"), "--with", str(tmp_path / "three")]
        assert cli.main(["view", str(tmp_path / "one"), *others, "--output", str(page)]) == 0
        assert capsys.readouterr().out.startswith("3 episodes")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("missing",), "missing: no such folder"),
            (("empty",), "holds no records.jsonl"),
            (("bad",), "bad/records.jsonl, line 2 is no episode record"),
            (("report",), "report/report.json is damaged:"),
            (("good", "--limit", "0"), "--limit must be at least 1"),
            (("good", "--output", "empty"), "is a folder; name a file"),
            (("good", "--with", "missing"), "missing: no such folder"),
        ],
    )
    def test_what_cannot_be_shown_is_refused(
        self, arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        for name in ("good", "bad", "report"):
            written(tmp_path / name, [episode(1)])
        with (tmp_path / "bad/records.jsonl").open("a") as file:
            file.write('{"id": 3}\n')
        (tmp_path / "report/report.json").write_text("{")
        with pytest.raises(UserError, match=re.escape(message)):
            command(*arguments)

    def test_scored_episodes_show_ratings(self, tmp_path: Path) -> None:
        scores = {"kind": "score", "response_correct": None, "refinement_correct": None, "verdict": None}
        rated = episode(1, **scores, response_rating=6.25, critic_rating=4.0, response_score=0.5)
        mute = episode(2, **scores, response_rating=3.0, critic_rating=None, response_score=0.25)
        (source,) = gather([written(tmp_path / "scored", [rated, mute])], limit=10).sources
        first, second = source.entries
        assert (first.verdict, first.expected, first.truth, first.flags) == (
            "rating 4",
            "rating 6.25",
            6.25,
            0,
        )
        assert first.numbers["score"] == 0.5
        assert (second.verdict, second.flags) == ("unparsed", UNPARSED)

    def test_judged_pairs_are_those_of_the_actors_samples(self, tmp_path: Path) -> None:
        run_folder = tmp_path / "vl"
        samples = "seed0/evaluate/no_critic/toy-sampled"
        drawn = [
            episode(i, sample=k, response=f"{i}: {'right' if k else 'wrong'}", response_correct=k == 1)
            for i in range(6)
            for k in range(2)
        ]
        written(run_folder / samples, drawn)
        judge_folder = run_folder / "seed0/judge/critic/toy"
        judge_folder.mkdir(parents=True)
        settings = {"inputs": {"seed0/evaluate/critic/toy-sampled": "-", samples: "-"}}
        (judge_folder / "step.json").write_text(json.dumps({"settings": settings}))

        def prefers_the_first(shown: Sequence[Comparison]) -> list[Ruling | None]:
            return [None if "5" in c.first else Ruling(1, f"the first: {c.first}", 9) for c in shown]

        pairs = pairs_of_responses(asdict(e) for e in drawn)
        found = pair_accuracy(
            pairs, prefers_the_first, name="toy", seed=0, records=judge_folder / "pairs.jsonl"
        )
        for folder in (run_folder, judge_folder):
            source = gather([folder], limit=100).sources[-1]
            assert (source.label, source.total) == ("critic, pairs of toy, seed 0", 12)
            assert {e.item.partition(".")[2] for e in source.entries} == {"forward", "swapped"}
            for e in source.entries:
                assert {e.response, e.other_response} == {f"{e.item[1]}: right", f"{e.item[1]}: wrong"}
                right_first = "right" in str(e.response)
                assert e.expected == ("response 1" if right_first else "response 2")
                if e.item.startswith("p5"):
                    assert (e.verdict, e.flags) == ("unparsed", UNPARSED)
                else:
                    assert (e.verdict, e.verdict_right) == ("response 1", right_first)
                    assert (e.critique, e.numbers) == (f"the first: {e.response}", {"tokens": 9})
            right = sum(e.verdict_right is True for e in source.entries) / 12
            values = [v for v in found.by_item["critic_acc_mean"].values() if v is not None]
            assert right == pytest.approx(sum(values) / len(values))

        shutil.rmtree(run_folder / "seed0/evaluate")
        written(run_folder, [episode(1)])
        without = gather([run_folder], limit=100)
        assert len(without.sources) == 1
        assert without.notes == [
            "seed0/judge/critic/toy: judgements are left out, their pairs are not in the run"
        ]


class TestTrainingRows:
    """Rows as parquet gives them back: what is missing is None or NaN."""

    def test_a_critic_of_pairs(self) -> None:
        row = {
            "step": 4,
            "rl_step": 2,
            "prompt": [{"role": "user", "content": "which?"}],
            "completion": [{"role": "assistant", "content": r"<think>x</think> \boxed{2}"}],
            "question": "q",
            "response_1": "a",
            "response_2": "b",
            "label": 1,
            "preference": 2.0,
            "r_pref": 0.0,
            "r_format": 1.0,
            "pairwise_reward": 0.1,
            "advantage": -0.5,
            "image": None,
        }
        said = of_training(row, 7, None)
        assert (said.item, said.response, said.other_response) == ("2.7", "a", "b")
        assert (said.verdict, said.expected, said.verdict_right) == ("response 2", "response 1", False)
        assert said.flags == WRONG_VERDICT
        assert said.numbers == {"rl_step": 2, "r_pref": 0, "r_format": 1, "reward": 0.1, "advantage": -0.5}
        assert of_training(row | {"preference": float("nan")}, 7, None).flags == UNPARSED
        tie = of_training(row | {"preference": 0, "label": 0}, 7, None)
        assert (tie.verdict, tie.verdict_right) == ("neither", True)

    def test_a_refinement_that_was_not_asked_for_or_not_graded(self) -> None:
        row = {
            "rl_step": 1,
            "completion": "no verdict",
            "question": "q",
            "answer": "1",
            "response": "y",
            "response_correct": True,
            "verdict": "unparsed",
            "refinement": "",
            "refinement_correct": None,
            "critique_reward": float("nan"),
        }
        entry = of_training(row, 0, None)
        assert entry.refinement is None and entry.refinement_truth is None
        assert entry.flags == UNPARSED and entry.numbers == {"rl_step": 1}

    def test_an_actor_in_training_has_responses_alone(self) -> None:
        row = {
            "rl_step": 1,
            "prompt": [{"role": "user", "content": "2+2"}],
            "completion": [{"role": "assistant", "content": "4"}],
            "r_oracle": 1.0,
        }
        entry = of_training(row, 0, None)
        assert (entry.question, entry.response, entry.truth, entry.critique) == ("2+2", "4", True, None)
        assert entry.numbers == {"rl_step": 1, "reward": 1.0}


def test_parts_of_a_critique_are_where_javascript_finds_them() -> None:
    critique = (
        "\U0001f600 Before.\n```\nStep sentence: quoted\nCorrectness of the step: Wrong\n```\n"
        "Step sentence: one \U0001f600\nCorrectness of the step: Correct\n"
        "Step sentence: two\nCorrectness of the step: [Correct/Wrong]\n"
        "**Correctness of the final answer: Wrong**\nBecause."
    )
    units = critique.encode("utf-16-le")
    parts = [(units[2 * start :].decode("utf-16-le")[:18], kind) for start, kind in marks(critique)]
    assert parts == [
        ("Step sentence: one", "correct"),
        ("Step sentence: two", "unjudged"),
        ("**Correctness of t", "verdict"),
    ]
    assert marks("nothing of the kind") == [] and marks("Quality score: 7") == [(0, "verdict")]
    assert marks("**Correctness of the final answer**: Wrong") == [(0, "verdict")]
    assert marks("1. Correctness of the final answer: Wrong") == [(0, "verdict")]


def test_images_are_made_small_kept_once_and_missed_with_a_note(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(1600 * 1200 * 3)
    Image.frombytes("RGB", (1600, 1200), noise).save(tmp_path / "large.png")
    shutil.copy(tmp_path / "large.png", tmp_path / "copy.png")
    images = [str(tmp_path / name) for name in ("large.png", "large.png", "copy.png", "gone.png")]
    folder = written(tmp_path / "seen", [episode(i, image=image) for i, image in enumerate([*images, None])])
    gathered = gather([folder], limit=10)
    made = data(gathered)
    assert made["sources"][0]["columns"]["image"] == [0, 0, 0, -2, -1]
    (url,) = made["images"]
    with Image.open(io.BytesIO(image_bytes(url))) as picture:
        assert picture.size == (512, 384)
    assert gathered.notes == ["1 images cannot be read and are left out"]


class Elements(HTMLParser):
    """Names and attributes of all elements, as a browser finds them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with scripts in every text of an episode, in metrics, stages and in the name of the run."""
    folder = tmp_path_factory.mktemp("hostile") / "<script>alert(1)<&>"
    texts = ("question", "answer", "response", "critique", "refinement", "id", "dataset")
    made = [episode(i, **dict.fromkeys(texts, text), image=None) for i, text in enumerate(HOSTILE)]
    written(folder, made)
    row = {
        "method": HOSTILE[0],
        "dataset": HOSTILE[1],
        "metrics": {"acc": {"mean": 0.5, "low": 0.4, "high": 0.6}},
    }
    (folder / "report.json").write_text(json.dumps({"rows": [row]}))
    stage = folder / "seed0" / "<img src=x onerror=alert(1)>"
    stage.mkdir(parents=True)
    (stage / "trainer_state.json").write_text(json.dumps({"log_history": [{"reward": 0.5}, {"reward": 1.0}]}))
    return page_of([folder], folder.parent / "page.html")


def test_texts_of_models_reach_the_page_as_packed_data_alone(hostile: Path) -> None:
    page = hostile.read_text(encoding="utf-8")
    elements = Elements(page).found
    assert [tag for tag, _ in elements].count("script") == 2
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    assert "hacked" not in page and "<script>alert" not in page
    packed = re.search(r'id="data">([A-Za-z0-9+/=]*)</script>', page)
    assert packed is not None
    content = json.loads(zlib.decompress(base64.b64decode(packed[1])))
    assert set(HOSTILE) <= set(content["texts"])


def test_the_page_names_nothing_outside_of_itself(finished: Path, tmp_path: Path) -> None:
    assert command(finished, "--output", tmp_path / "page.html") == 0
    elements = Elements((tmp_path / "page.html").read_text(encoding="utf-8")).found
    links = [a[name] for _, a in elements for name in ("src", "href", "action", "srcset") if a.get(name)]
    assert links and all(link.startswith(("#", "data:")) for link in links if link)
    policy = next(a["content"] for t, a in elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy


# --- in a browser ---------------------------------------------------------------------------------------

SETTINGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Browser:
    """Chromium at one page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, address: str = "", *, width: int = 1366, dark: bool = False) -> float:
        """Open a page and wait until it is ready; the seconds that takes."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.get("about:blank")
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        started = time.monotonic()
        self.driver.get(page.as_uri() + address)
        while self.run("return document.documentElement.dataset.ready") != "true":
            assert time.monotonic() < started + 60, self.driver.get_log("browser")
            time.sleep(0.02)
        return time.monotonic() - started

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def pick(self, select: str, label: str) -> float:
        """Choose from a list by the start of what it shows; the milliseconds until the page has followed."""
        script = """
            const list = document.getElementById(arguments[0]), started = performance.now();
            const option = [...list.options].find((o) => o.text.startsWith(arguments[1]));
            list.value = option.value;
            list.dispatchEvent(new Event("change"));
            return performance.now() - started;"""
        return float(self.run(script, select, label))

    def press(self, keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(keys)

    def count(self) -> int:
        return int(self.text("#count").split()[0].replace(",", ""))

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Debian's Chromium, where it is installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for setting in (*SETTINGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(setting)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.chrome.service.Service(chromedriver)
    driver = webdriver.Chrome(options=options, service=service)
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 episodes."""
    folder = tmp_path_factory.mktemp("many")
    written(folder / "many", [episode(i) for i in range(20_000)])
    return page_of([folder / "many"], folder / "page.html")


@pytest.mark.browser
class TestBrowser:
    def test_planted_scripts_are_shown_and_do_nothing(self, browser: Browser, hostile: Path) -> None:
        browser.open(hostile)
        for text in HOSTILE:
            words = "return [...document.querySelectorAll('#detail .text')].map((e) => e.textContent)"
            shown = browser.run(words)
            assert shown == [text] * 5  # question, gold answer, response, critique, refinement
            browser.press("j")
        for part in ("metrics", "curves"):
            browser.all(f"[data-view={part}]")[0].click()
        assert HOSTILE[0] in browser.text("#view-metrics") and HOSTILE[1] in browser.text("#view-metrics")
        assert "<img src=x" in browser.text("#view-curves")
        assert browser.run("return window.hacked") is None
        assert (
            browser.run("return document.querySelectorAll('main img, main script, main a[onfocus]').length")
            == 0
        )
        assert browser.errors() == []  # a refused script or address would be here

    def test_the_policy_stops_a_script_that_gets_in(self, browser: Browser, hostile: Path) -> None:
        browser.open(hostile)
        strings = "document.body.innerHTML = '<img src=x onerror=window.hacked=9>'"
        refused = "try { %s; return false } catch (error) { return error instanceof TypeError }"
        assert browser.run(refused % strings) is True
        browser.run(
            "const s = document.createElement('img'); s.src = 'https://example.org/x.png'; document.body.append(s)"
        )
        time.sleep(0.2)
        assert any("Content Security Policy" in message for message in browser.errors())
        assert browser.run("return window.hacked") is None

    def test_nothing_is_loaded_from_anywhere(self, browser: Browser, finished: Path, tmp_path: Path) -> None:
        browser.open(page_of([finished], tmp_path / "page.html"))
        names = browser.run("return performance.getEntriesByType('resource').map((e) => e.name)")
        assert [name for name in names if not name.startswith(("data:", "file:"))] == []
        assert browser.errors() == []

    def test_filters_show_the_episodes_of_the_metrics(
        self, browser: Browser, finished: Path, tmp_path: Path
    ) -> None:
        found = gather([finished], limit=20_000)
        browser.open(page_of([finished], tmp_path / "page.html"))
        every = [e for source in found.sources for e in source.entries]
        assert browser.count() == len(every)
        flags = {
            "wrong verdicts": WRONG_VERDICT,
            "unparsed": UNPARSED,
            "right to wrong": CORRECT_TO_WRONG,
            "wrong to right": WRONG_TO_CORRECT,
        }
        offered = [o.text for o in browser.all("#filter option")]
        for name, flag in flags.items():
            expected = sum(bool(e.flags & flag) for e in every)
            if expected == 0:
                assert not any(o.startswith(name) for o in offered)
                continue
            browser.pick("filter", name)
            assert browser.count() == expected
        browser.pick("filter", "all")
        source = by_key(found.sources)["seed0/stage2"]
        browser.pick("source", source.label)
        assert browser.count() == len(source.entries)
        browser.pick("order", "highest advantage")
        best = max(source.entries, key=lambda e: e.numbers["advantage"])
        numbers = browser.run(
            "return Object.fromEntries([...document.querySelectorAll('.numbers div')].map("
            "(d) => [d.children[0].textContent, Number(d.children[1].textContent)]))"
        )
        assert numbers["advantage"] == best.numbers["advantage"]
        assert {"reward", "r_dis", "r_refine", "kl", "RL step"} <= set(numbers)

    def test_search_finds_words_in_any_text(self, browser: Browser, many: Path) -> None:
        browser.open(many)
        typed = """
            const query = document.getElementById("query");
            query.value = arguments[0];
            query.dispatchEvent(new Event("input"));"""
        texts = [
            "\n".join(filter(None, (e.question, e.answer, e.response, e.critique, e.refinement))).lower()
            for e in map(episode, range(20_000))
        ]
        for words in ("1234", "p777", "What is 17 and", "SEVEN wrong", "zebra"):
            browser.run(typed, words)
            time.sleep(0.5)
            found = [
                i
                for i, text in enumerate(texts)
                if all(w in text or f"p{i}".startswith(w) for w in words.lower().split())
            ]
            assert browser.count() == len(found), words

    def test_keys_links_and_back(self, browser: Browser, many: Path) -> None:
        browser.open(many)
        current = "return document.querySelector('[aria-selected=true]').id"
        browser.press("jjjk")
        assert browser.run(current) == "row-2"
        address = browser.run("return location.hash")
        browser.press("G")
        assert browser.run(current) == "row-19999"
        browser.press("g")
        assert browser.run(current) == "row-0"
        browser.press("/")
        assert browser.run("return document.activeElement.id") == "query"
        browser.press("k1")  # types, and moves nothing
        assert browser.run("return document.getElementById('query').value") == "k1"
        browser.press("\ue003\ue003")  # backspace
        browser.press("\ue00c")  # escape
        assert browser.run("return document.activeElement.id") == "list"
        browser.press("\ue015\ue015\ue010")  # arrow down twice, end
        assert browser.run("return document.getElementById('list').getAttribute('aria-activedescendant')")
        browser.press("?")
        assert browser.run("return document.getElementById('help').open") is True
        browser.open(many, address)
        assert browser.run(current) == "row-2" and browser.text("#detail h2") == "p2"
        browser.run("location.hash = arguments[0]", address.replace("p2", "p15000"))
        time.sleep(0.2)
        assert browser.run(current) == "row-15000"
        browser.open(many, "#curves")
        assert browser.all("#view-curves")[0].is_displayed()

    def test_two_runs_stand_side_by_side_on_the_same_items(self, browser: Browser, tmp_path: Path) -> None:
        first = [episode(i) for i in range(30)]
        second = [replace(e, refinement="Other words.", refinement_correct=False) for e in first[:20]]
        pages = [written(tmp_path / name, made) for name, made in (("one", first), ("two", second))]
        browser.open(page_of(pages, tmp_path / "page.html"))
        sides = "return [...document.querySelectorAll('.side')].map((s) => s.textContent)"
        one, two = browser.run(sides)
        assert "The answer is 0" in one and "Other words" in two
        changed = [e for e, o in zip(first, second, strict=False) if e.refinement_correct]
        browser.pick("source", "one")
        browser.pick("filter", "other outcome")
        assert browser.count() == len(changed) > 0
        browser.pick("filter", "all")
        browser.press("G")
        assert "It is not there." in browser.run(sides)[1]
        boxes = browser.run(
            "return [...document.querySelectorAll('.side')].map((s) => s.getBoundingClientRect().top)"
        )
        assert boxes[0] == boxes[1]

    def test_the_differences_are_those_to_the_response(self, browser: Browser, tmp_path: Path) -> None:
        made = episode(
            1, response="so 3 + 4 = 8\nThe answer is 8", refinement="so 3 + 4 = 7\nThe answer is 7, now"
        )
        browser.open(page_of([written(tmp_path / "one", [made])], tmp_path / "page.html"))
        marked = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        assert browser.run(marked, "del") == ["8", "8"]
        assert browser.run(marked, "ins") == ["7", "7, now"]
        browser.press("d")
        assert browser.run(marked, "del, ins") == []

    def test_steps_say_how_they_are_judged_and_what_holds(
        self, browser: Browser, finished: Path, tmp_path: Path
    ) -> None:
        place = finished / "seed0/evaluate/sft/modular_chain-test"
        browser.open(page_of([place], tmp_path / "page.html"))
        (source,) = gather([place], limit=20_000).sources
        says: set[str] = set()
        for e in source.entries:
            assert e.critique is not None and e.first_error is not None
            lines = browser.run(
                "return [...document.querySelectorAll('.part')].map((p) => [p.className, p.textContent])"
            )
            assert len(lines) == len(marks(e.critique))
            for step, ((_, kind), (name, text)) in enumerate(zip(marks(e.critique), lines, strict=True)):
                says.add(text.split("Step sentence")[0].split(": ", 1)[-1])
                if kind in ("correct", "wrong") and (e.first_error < 0 or step <= e.first_error):
                    truth = "wrong" if step == e.first_error else "correct"
                    assert name.split() == ["part", kind, "holds" if kind == truth else "fails"]
                elif kind in ("correct", "wrong"):
                    assert name.split() == ["part", kind]
            browser.press("j")
        assert {"judged correct, and is right", "judged correct, but is the first wrong one"} <= says

    def test_20_000_episodes_do_not_lag(self, browser: Browser, many: Path) -> None:
        """Bounds are wide: a busy machine is no failure, a list of 20,000 elements would be."""
        assert browser.open(many) < 20
        assert browser.run("return document.querySelectorAll('*').length") < 400
        assert browser.pick("filter", "wrong verdicts") < 1000
        browser.run("document.getElementById('list').scrollTop = 200000")
        time.sleep(0.3)
        assert 5 < browser.run("return document.querySelectorAll('.row').length") < 60
        top = browser.run(
            "return document.elementFromPoint(100, 400).closest('.row').getAttribute('aria-posinset')"
        )
        assert 3700 < int(top) < 3720

    def test_a_phone_shows_list_and_episode_in_turn(self, browser: Browser, many: Path) -> None:
        browser.open(many, width=390)
        assert not browser.all("#detail")[0].is_displayed()
        browser.all(".row")[2].click()
        assert browser.all("#detail")[0].is_displayed() and not browser.all("#list")[0].is_displayed()
        for part in ("curves", "metrics", "episodes"):
            browser.run("location.hash = arguments[0]", part)
            time.sleep(0.1)
            assert browser.run("return document.documentElement.scrollWidth") <= 390
        browser.all(".back")[0].click()
        assert browser.all("#list")[0].is_displayed()

    @pytest.mark.parametrize("dark", [False, True])
    def test_contrast_is_enough(self, browser: Browser, finished: Path, tmp_path: Path, dark: bool) -> None:
        browser.open(page_of([finished], tmp_path / "page.html"), dark=dark)
        seen: set[str] = set()
        for _ in range(12):
            for colours in browser.run(COLOURS):
                seen.add(json.dumps(colours))
            browser.press("j")
        for part in ("metrics", "curves"):
            browser.run("location.hash = arguments[0]", part)
            time.sleep(0.1)
            seen |= {json.dumps(colours) for colours in browser.run(COLOURS)}
        low = [found for found in map(json.loads, seen) if contrast(*found[:2]) < 4.5]
        assert low == [] and len(seen) > 8
        assert (
            sum(channels(browser.run("return getComputedStyle(document.body).backgroundColor"))) < 200
        ) == dark

    def test_everything_has_a_name_and_a_role(self, browser: Browser, finished: Path, tmp_path: Path) -> None:
        browser.open(page_of([finished], tmp_path / "page.html"))
        for control in browser.all("button, select, input, a, [role=listbox], [role=option], article"):
            if control.is_displayed():
                assert control.accessible_name.strip(), control.get_attribute("outerHTML")
        browser.all("[data-view=curves]")[0].click()
        pictures = browser.all("#view-curves figure svg")
        assert pictures
        assert all(re.search(r"over RL steps: Stage I.* from .* to ", p.accessible_name) for p in pictures)
        assert browser.all("#view-curves path.line")
        rows = browser.run("return document.querySelectorAll('#view-metrics tbody th[scope=row]').length")
        assert rows == 4

    def test_a_picture_is_shown(self, browser: Browser, tmp_path: Path) -> None:
        content = io.BytesIO()
        Image.new("RGB", (64, 32), "red").save(content, "PNG")
        seen = [episode(1, image=data_url(content.getvalue())), episode(2)]
        browser.open(page_of([written(tmp_path / "seen", seen)], tmp_path / "page.html"))
        shape = "const i = document.querySelector('.picture'); return i && [i.naturalWidth, i.naturalHeight]"
        time.sleep(0.2)
        assert browser.run(shape) == [64, 32]
        browser.press("j")
        assert browser.run(shape) is None
        assert browser.errors() == []


COLOURS = """
    const found = new Map();
    const clear = (c) => c === "transparent" || c === "rgba(0, 0, 0, 0)";
    for (const element of document.querySelectorAll("body *")) {
      const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
      if (!own || !element.checkVisibility() || element.closest("option, script, style, svg")) continue;
      let behind = element;
      while (behind && clear(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
      const style = getComputedStyle(element);
      const back = getComputedStyle(behind ?? document.documentElement).backgroundColor;
      if (element.matches(":disabled")) continue;
      found.set(style.color + back, [style.color, back, element.outerHTML.slice(0, 80)]);
    }
    return [...found.values()];
"""
"""Each pair of a text's colour and what is behind it."""


def channels(colour: str) -> list[int]:
    return [int(value) for value in re.findall(r"\d+", colour)[:3]]


def contrast(one: str, other: str) -> float:
    """As WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (v / 255 for v in channels(colour))
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
