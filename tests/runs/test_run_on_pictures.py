"""A run on pictures: pairs from the pool, a pairwise critic and its controls, and all of their measurements."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import PIL.Image
import pytest
import yaml
from helpers import MINI_PICTURES, ROOT, read_jsonl
from safetensors.torch import load_file

from critique_rl.benchmarks.pairs import PairEvaluation
from critique_rl.config.evaluation import PairEvaluationConfig
from critique_rl.config.run import load_config
from critique_rl.critic_data import PreferencePair, pairs_of_responses, write_pairs
from critique_rl.display import Display
from critique_rl.evaluation.episodes import read_episodes
from critique_rl.methods import Inputs
from critique_rl.methods.mixed import MixedReward
from critique_rl.methods.pairwise_critic import pairs_of
from critique_rl.prompts import THINKING
from critique_rl.reports.markdown import markdown_table
from critique_rl.reports.report import write_report
from critique_rl.reports.results import histories, result_rows
from critique_rl.runs.run import Run
from critique_rl.studies.study import Row, Study
from critique_rl.training.pairwise import PairwiseCriticConfig
from critique_rl.types import Conversation, Generation, Sampling, UserError
from critique_rl.view.entries import of_training
from critique_rl.vision.images import image_bytes
from critique_rl.vision.models import load_processor

ROWS = ("no_critic", "critic")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("mini-vl")
    (directory / "mini.yaml").write_text(MINI_PICTURES, encoding="utf-8")
    config = load_config(directory / "mini.yaml", [f"output={directory / 'run'}"])
    run = Run(config, display=Display(quiet=True))
    run.execute()
    return run


def folder(run: Run, *parts: str) -> Path:
    return run.config.directory.joinpath("seed0", *parts)


def test_the_table_has_policy_critic_and_selection(finished: Run) -> None:
    rows, logs = result_rows(finished.folder), histories(finished.folder)
    assert [row["method"] for row in rows] == ["No critic", "Critic RL"]
    table = markdown_table(rows)
    head = table.split("\n")[0]
    for name in ("Acc", "Critic, both orders", "Majority@4", "Self critique@4", "Pass@4"):
        assert f"| {name} |" in head
    assert "@1 " not in head and "@2 " not in head
    assert len(logs["Critic RL"][0]) == 2
    assert write_report(finished.folder).exists()


def test_limits_of_resolution_hold_for_every_model_of_a_run(finished: Run, tmp_path: Path) -> None:
    """The base row is measured on images as the critics see them."""
    base, config = finished.config.directory / "base", tmp_path / "limited.yaml"
    plain: dict[str, Any] = yaml.safe_load(MINI_PICTURES) | {"base": str(base), "max_pixels": 4 * 28 * 28}
    plain["cold_start"] |= {"base": None, "judgements": 0, "teacher": {"kind": "reference"}, "actor_sft": {}}
    config.write_text(yaml.safe_dump(plain), encoding="utf-8")
    output = tmp_path / "run"
    run = Run(load_config(config, [f"output={output}"]), display=Display(quiet=True))
    run.execute(("base", "actor", "sft", "pool", "train"))
    places = [output / "actor", output / "sft", *(output / "seed0" / stage for stage in run.config.stages)]
    sizes = {place.name: dict(load_processor(place).image_processor.size) for place in places}
    assert len(sizes) >= 3 and {size["longest_edge"] for size in sizes.values()} == {4 * 28 * 28}
    assert load_processor(base).image_processor.size["longest_edge"] > 4 * 28 * 28
    stage = next(iter(run.config.stages))
    with pytest.raises(
        UserError, match=rf"stages\.{stage}\.trainer\.max_pixels would show this critic other"
    ):
        load_config(config, [f"stages.{stage}.trainer.max_pixels=784"])
    given = load_config(config, [f"output={tmp_path / 'given'}", f"actor.model={base}"])
    processor = Run(given, display=Display(quiet=True)).context.actor()._encoder.processor  # type: ignore[attr-defined]
    assert processor.image_processor.size["longest_edge"] == 4 * 28 * 28


@pytest.mark.parametrize("row", ROWS)
def test_each_figure_is_that_of_the_records(finished: Run, row: str) -> None:
    """Recomputed from the judgements and samples alone."""
    by_method = dict(zip(ROWS, result_rows(finished.folder), strict=True))
    shown = {name: m["mean"] for name, m in by_method[row]["metrics"].items()}
    judged = read_jsonl(folder(finished, "judge", row, "drawings-test", "pairs.jsonl"))
    right = [j["strict"] == j["label"] for j in judged]
    assert shown["critic_acc_mean"] == pytest.approx(fmean(right))
    pairs = {j["pair"] for j in judged}
    both = [all(r for r, j in zip(right, judged, strict=True) if j["pair"] == p) for p in pairs]
    assert shown["critic_acc_both"] == pytest.approx(fmean(both))
    assert 0 < len(pairs) <= 8 and len(judged) == 2 * len(pairs)

    sampled = read_jsonl(folder(finished, "evaluate", row, "drawings-test-sampled", "records.jsonl"))
    grades: dict[str, list[bool]] = {}
    for record in sampled:
        grades.setdefault(record["id"], []).append(record["response_correct"])
    assert len(grades) == 20 and all(len(g) == 4 for g in grades.values())
    assert shown["single_at_4"] == pytest.approx(fmean(fmean(g) for g in grades.values()))
    assert shown["pass_at_4"] == pytest.approx(fmean(any(g) for g in grades.values()))
    calls = read_jsonl(folder(finished, "judge", row, "drawings-test", "knockout.jsonl"))
    assert len(calls) == 20 * 3 * 2  # n - 1 pairs, each in both orders


def test_a_table_has_the_same_figures(finished: Run) -> None:
    study = Study("mini-vl", finished.config, [0])
    (found,) = study.results([Row("Critic RL", "critic")])
    expected = result_rows(finished.folder)[1]["metrics"]
    assert {name: m["mean"] for name, m in found["metrics"].items()} == {
        name: m["mean"] for name, m in expected.items()
    }


class Boxing:
    """A judge that does not think."""

    name = "boxing"

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        return [Generation(r"\boxed{1}", 1, 1, False) for _ in prompts]


@pytest.mark.parametrize("both_orders", [False, True])
@pytest.mark.parametrize("thinking", [False, True])
def test_pairs_are_judged_as_configured(
    finished: Run, tmp_path: Path, thinking: bool, both_orders: bool
) -> None:
    sampled = read_episodes(
        folder(finished, "evaluate", "no_critic", "drawings-test-sampled", "records.jsonl")
    )
    two = [e for e in sampled if e.sample < 2]
    how = PairEvaluationConfig(samples=2, thinking=thinking, both_orders=both_orders)
    evaluation = PairEvaluation(how, "toy", two, two, 0, tmp_path)
    evaluation.run(Boxing(), THINKING, 8, lambda done, of: None)
    values = evaluation.values()
    assert set(values["critic_parse_rate"].values()) == {
        float(not thinking)
    }  # without a thought it is no reply
    judgements = read_jsonl(tmp_path / "knockout.jsonl")
    orders = {j["order"] for j in judgements}  # an unparsed one is asked again, the other way round
    assert orders == ({"forward", "swapped"} if both_orders or thinking else {"forward"})


def test_all_rows_judge_the_same_pairs(finished: Run) -> None:
    """Of the frozen actor's responses, on pictures that were not trained on."""
    shown = [
        {
            (j["pair"], j["order"], j["label"])
            for j in read_jsonl(folder(finished, "judge", r, "drawings-test", "pairs.jsonl"))
        }
        for r in ROWS
    ]
    assert shown[0] == shown[1]
    trained = {record["id"] for record in finished.context.pool(0)}
    assert not trained & {pair.rpartition("-")[0] for pair, _, _ in shown[0]}


def test_what_is_there_is_not_judged_again(finished: Run) -> None:
    """With the step's mark gone, as after a kill, the judgements stay; without some, these alone are made."""
    place = folder(finished, "judge", "critic", "drawings-test")
    before = {path.name: path.read_bytes() for path in place.glob("*.jsonl")}
    (place / "step.json").unlink()
    kept = before["knockout.jsonl"].splitlines(keepends=True)[:-5]
    (place / "knockout.jsonl").write_bytes(b"".join(kept))
    with pytest.raises(UserError, match="not finished: seed0/judge/critic"):
        finished.require_finished()
    finished.execute()
    assert {path.name: path.read_bytes() for path in place.glob("*.jsonl")} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": {"origin": None, "settings": {"min_gap": 1}}}, "are for pairs from an `origin`"),
        ({"pairs": {"most": 0}}, "pairs.most must be at least 1"),
        ({"pairs": {"mots": 2}}, "pairwise_critic.pairs: setting 'mots' is unknown. Did you mean 'most'"),
        ({"alfa": 0.5}, "stages.critic.trainer: setting 'alfa' is unknown. Did you mean 'alpha'"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_work(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    settings = yaml.safe_load(MINI_PICTURES)
    settings["stages"]["critic"]["trainer"] |= change
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    run = Run(load_config(tmp_path / "c.yaml", [f"output={tmp_path / 'run'}"]), display=Display(quiet=True))
    with pytest.raises(UserError, match=message):
        run.execute()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("cut.png", r"task custom, problem \w+ \('How many\?'\): .*truncated"),
        ("narrow.png", r"task custom, problem \w+ \('How many\?'\): an image of 4000 x 8 pixels .*ratio"),
        (
            "<|image_pad|>",
            r"task custom, problem \w+ \('.*image_pad.*'\): <\|image_pad\|> stands for an image",
        ),
        ("blind", r"task custom has images, and base: .*sft is no model with vision"),
    ],
)
def test_a_faulty_picture_is_found_before_any_work(tmp_path: Path, fault: str, message: str) -> None:
    PIL.Image.new("RGB", (64, 64)).save(tmp_path / "whole.png")
    PIL.Image.new("RGB", (4000, 8)).save(tmp_path / "narrow.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    rows = [{"question": f"What is {i}?", "answer": str(i), "image": "whole.png"} for i in range(30)]
    if fault.endswith("png"):
        rows[20] |= {"question": "How many?", "image": fault}
    elif fault != "blind":
        rows[20] |= {"question": f"How many {fault}?"}
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shipped = ROOT / "critique_rl" / "assets" / ("tiny" if fault == "blind" else "tiny-vl") / "sft"
    settings = yaml.safe_load(MINI_PICTURES)
    settings |= {"base": str(shipped), "train": [{"name": "custom", "source": str(tmp_path / "train.jsonl")}]}
    settings["cold_start"] = {"teacher": {"kind": "reference"}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    run = Run(load_config(tmp_path / "c.yaml", [f"output={tmp_path / 'run'}"]), display=Display(quiet=True))
    with pytest.raises(UserError, match=f"(?s){message}"):
        run.execute()
    assert not (tmp_path / "run").exists()


@pytest.mark.run
def test_the_policy_itself_is_trained_on_pictures(finished: Run, tmp_path: Path) -> None:
    """The control of same size: GRPO on right answers; and methods that see no pictures are refused."""
    settings = yaml.safe_load(MINI_PICTURES)
    critic = settings["stages"].pop("critic")
    shown = {"label": "Policy RL", "start": "actor", "method": "actor_rl", "trainer": critic["trainer"]}
    settings["stages"]["policy"] = shown
    settings["evaluation"] |= {"rows": ["policy"], "pairwise": None}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    overrides = [f"output={finished.config.directory}"]
    run = Run(load_config(tmp_path / "c.yaml", overrides), display=Display(quiet=True))
    run.execute()
    (row,), logs = result_rows(run.folder), histories(run.folder)
    assert row["method"] == "Policy RL" and 0 <= row["metrics"]["acc"]["mean"] < 1
    assert len(logs["Policy RL"][0]) == 0  # it writes no critiques
    log = json.loads((folder(run, "policy") / "trainer_state.json").read_text("utf-8"))["log_history"]
    assert 0 < log[0]["reward"] < 1 and log[0]["grad_norm"] > 0 and log[0]["actor/graded_rate"] == 1.0
    overrides = [f"output={tmp_path / 'run'}", "stages.policy.method=star", "stages.policy.trainer={}"]
    with pytest.raises(UserError, match="'star' is not made for questions with images"):
        Run(load_config(tmp_path / "c.yaml", overrides), display=Display(quiet=True)).execute()


@pytest.mark.run
def test_questions_and_pairs_are_trained_on_together(finished: Run, tmp_path: Path) -> None:
    settings = yaml.safe_load(MINI_PICTURES)
    settings["stages"] = {"mixed": settings["stages"]["critic"] | {"label": "Mixed", "method": "mixed"}}
    settings["evaluation"] |= {"rows": ["mixed"]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    overrides = [f"output={finished.config.directory}"]
    run = Run(load_config(tmp_path / "c.yaml", overrides), display=Display(quiet=True))
    run.execute(("train",))
    log = json.loads((folder(run, "mixed") / "trainer_state.json").read_text("utf-8"))["log_history"]
    seen = {name for entry in log for name in entry}
    assert {"reward/r_oracle", "reward/r_pref", "reward/r_format"} <= seen
    assert (folder(run, "mixed") / "model.safetensors").exists()


def test_the_mixed_reward_takes_each_row_for_what_it_is() -> None:
    """Worked out by hand: 0.9 of being right and 0.1 of the format, for labels and for answers."""
    logged: list[tuple[str, float]] = []
    shown: dict[str, list[Any]] = {}
    replies = [
        "<think>a</think> \\boxed{2}",
        "<think>a</think> \\boxed{2}",
        "\\boxed{7}",
        "<think>a</think> \\boxed{1}",
    ]
    reward = MixedReward(PairwiseCriticConfig(output_dir="unused", use_cpu=True, bf16=False))
    found = reward(
        [[{"role": "assistant", "content": reply}] for reply in replies],
        question=["pair", "question", "question", "pair"],
        response_1=["a", None, None, "c"],
        response_2=["b", None, None, "d"],
        label=[2, None, None, 2],
        answer=[None, "3", "7", None],
        kind=[None, "number", "number", None],
        log_extra=shown.__setitem__,
        log_metric=lambda name, value: logged.append((name, value)),
    )
    assert found == pytest.approx([1.0, 0.1, 0.9, 0.1])
    rows = pd.DataFrame(shown | {"completion": replies, "rl_step": 1, "mixed_reward": found})
    entries = [of_training(row, i, None) for i, row in enumerate(rows.to_dict("records"))]
    assert [e.verdict for e in entries] == ["response 2", None, None, "response 1"]
    assert [e.verdict_right for e in entries] == [True, None, None, False]
    assert [e.truth for e in entries] == [None, False, True, None]
    assert [e.other_response for e in entries] == ["b", None, None, "d"]
    assert [e.response for e in entries] == ["a", *replies[1:3], "c"]
    assert [e.numbers["reward"] for e in entries] == pytest.approx([1.0, 0.1, 0.9, 0.1])
    assert sorted(v for name, v in logged if name == "reward/r_oracle") == [0.0, 1.0]
    assert sorted(v for name, v in logged if name == "reward/r_pref") == [0.0, 1.0]


def test_long_pairs_are_counted_with_the_images_that_the_trainer_will_see(
    finished: Run, tmp_path: Path
) -> None:
    picture = PIL.Image.new("RGB", (336, 336), "red")  # as it is, 144 tokens
    picture.save(tmp_path / "a.png")
    pair = PreferencePair("p", "toy", str(tmp_path / "a.png"), "How high?", "2", "3", label=1)
    write_pairs([pair], tmp_path / "pairs.jsonl")

    def kept(name: str, **limits: int) -> int:
        pairs = {"origin": str(tmp_path / "pairs.jsonl"), "max_prompt_tokens": 120}
        given = Inputs(
            start=finished.folder.model_path("actor"),
            output=tmp_path / name,
            load_actor=finished.context.actor,
            load_pool=lambda: None,
            prompts=finished.context.prompts,
            lengths=finished.config.lengths,
            seed=0,
            options={"pairs": pairs, **limits},
        )
        try:
            return len(pairs_of(given, ties=False, seed=0))
        except UserError:
            return 0

    assert [kept("small", max_pixels=3136), kept("large", min_pixels=10**5, max_pixels=10**6)] == [1, 0]


@pytest.mark.run
def test_supervised_labels_are_learned_from_the_same_pairs(finished: Run, tmp_path: Path) -> None:
    settings = yaml.safe_load(MINI_PICTURES)
    cpu = {"gradient_checkpointing": False, "per_device_train_batch_size": 8, "max_length": None}
    settings["stages"] = {
        "labels": {"label": "SFT on labels", "start": "actor", "method": "label_sft", "trainer": cpu}
    }
    settings["evaluation"] |= {"rows": ["labels"]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    overrides = [f"output={finished.config.directory}"]
    run = Run(load_config(tmp_path / "c.yaml", overrides), display=Display(quiet=True))
    run.execute(("train",))
    shown = read_jsonl(folder(run, "labels", "examples.jsonl"))
    pairs = pairs_of_responses(finished.context.pool(0))
    told = {e["prompt"][0]["content"]: e["completion"][0]["content"] for e in shown}
    assert len(told) == len(pairs)
    for pair in pairs:
        prompt = run.context.prompts.pairwise_prompt(pair.question, pair.response_1, pair.response_2)[0][
            "content"
        ]
        assert told[prompt] == f"<think></think> \\boxed{{{pair.label}}}"
    assert folder(run, "labels", "model.safetensors").exists()


@pytest.mark.run
def test_a_run_brings_its_pairs_and_judges_a_benchmark(finished: Run, tmp_path: Path) -> None:
    """As the configs at the paper's scale do: no problems, pairs of a file, a reward benchmark as measurement."""
    problems = finished.context.problems(finished.config.train[0])[:24]
    pairs, items = [], []
    for i, p in enumerate(problems):
        wrong = f"<think>a glance</think> \\boxed{{{int(p.answer) + 1}}}"
        # The same responses, of which the better one is known; three are items of the benchmark.
        pairs.append(PreferencePair(f"p{i}", "toy", p.image, p.question, p.solution, wrong, label=1))
        name = f"{i}.png"
        (tmp_path / name).write_bytes(image_bytes(p.image or ""))
        if i < 3:
            ranking = [0, 1] if i else [1, 0]
            items.append(
                {
                    "id": f"wildvision-{i}",
                    "query": p.question,
                    "response": [p.solution, wrong] if i else [wrong, p.solution],
                    "image": name,
                    "human_ranking": ranking,
                }
            )
    write_pairs(pairs, tmp_path / "pairs.jsonl")
    text = "".join(json.dumps(item) + "\n" for item in items)
    (tmp_path / "benchmark.jsonl").write_text(text, encoding="utf-8")
    benchmark = str(tmp_path / "benchmark.jsonl")
    settings = yaml.safe_load(MINI_PICTURES)
    settings |= {"base": finished.folder.model_path("actor"), "train": [], "cold_start": {"critiques": 1}}
    settings["stages"]["critic"]["trainer"] |= {
        "pairs": {
            "origin": str(tmp_path / "pairs.jsonl"),
            "max_prompt_tokens": 400,
            "keep_out": {"VL-RewardBench": benchmark},
        }
    }
    settings["evaluation"] = {
        "rows": ["no_critic", "critic"],
        "tasks": [],
        "benchmarks": [{"name": "VL-RewardBench", "origin": benchmark}],
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    run = Run(load_config(tmp_path / "c.yaml", [f"output={tmp_path / 'run'}"]), display=Display(quiet=True))
    run.execute()
    kept = {pair["id"] for pair in read_jsonl(folder(run, "critic", "pairs.jsonl"))}
    assert not kept & {"p0", "p1", "p2"} and len(kept) >= 8  # of so simple charts more look alike
    report = json.loads(folder(run, "critic", "pairs.json").read_text("utf-8"))
    dropped = report["sources"]["toy"]["dropped"]
    assert dropped["benchmark image"] >= 3 and sum(dropped.values()) == 24 - len(kept)
    rows = result_rows(run.folder)
    assert [(row["method"], row["dataset"]) for row in rows] == [
        ("No critic", "VL-RewardBench"),
        ("Critic RL", "VL-RewardBench"),
    ]
    judged = read_jsonl(folder(run, "judge", "critic", "VL-RewardBench", "pairs.jsonl"))
    assert len(judged) == 6 and {j["source"] for j in judged} == {"general"}
    right = fmean(j["strict"] == j["label"] for j in judged)
    assert rows[1]["metrics"]["critic_acc_mean"]["mean"] == pytest.approx(right)
    assert "| Critic |" in markdown_table(rows)


STAND_IN = '''
"""Takes lmms-eval's arguments and writes its results file; the score is read off the checkpoint's weights."""
import json, os, sys
from pathlib import Path

from safetensors.numpy import load_file

from lmms_eval.api.filter import FilterEnsemble


def cli_evaluate():
    given = lambda name: sys.argv[sys.argv.index(name) + 1]
    checkpoint = dict(a.split("=", 1) for a in given("--model_args").split(","))["pretrained"]
    weights = load_file(Path(checkpoint) / "model.safetensors")
    assert os.environ.get("LOCAL_WORLD_SIZE") != "7"
    if (Path(__file__).parent / "broken").exists():
        sys.exit("no space left on the device")
    score = float(abs(weights[sorted(weights)[0]]).mean())
    names = {"mmstar": "average", "chartqa": "relaxed_overall"}
    results = {task: {"alias": task, names[task] + ",none": score} for task in given("--tasks").split(",")}
    where = Path(given("--output_path")) / "model"
    where.mkdir(parents=True)
    (where / "20260101_results.json").write_text(json.dumps({"results": results}))
'''


@pytest.mark.slow
def test_policies_are_measured_through_lmms_eval(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the package, which is started and read as the real one: its data sets are on the hub."""
    package = tmp_path / "lmms_eval"
    (package / "api").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "__main__.py": STAND_IN,
        "api/__init__.py": "",
        "api/filter.py": "class FilterEnsemble:\n    def apply(self, instances, docs): ...\n",
    }.items():
        (package / name).write_text(text, encoding="utf-8")
    settings = yaml.safe_load(MINI_PICTURES)
    settings["evaluation"]["policy_benchmarks"] = {"benchmarks": ["MMStar", "ChartQA"]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")

    def run(*overrides: str) -> Run:
        given = [f"output={finished.config.directory}", *overrides]
        return Run(load_config(tmp_path / "c.yaml", given), display=Display(quiet=True))

    with pytest.raises(UserError, match=r"no lmms_eval\. Install 'critique_rl\[lmms-eval\]'"):
        run().execute()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "7")  # of a launcher outside
    (package / "broken").touch()
    with pytest.raises(
        UserError, match=r"(?s)exit code 1.*lmms_eval\.log.*no space left on the device"
    ):  # its own words, not a launcher's
        run().execute()
    (package / "broken").unlink()
    run().execute()
    rows = result_rows(run("evaluation.policy_benchmarks.processes=2").folder)  # the same scores in less time
    expected = {}
    for label, path in (
        ("No critic", finished.folder.model_path("actor")),
        ("Critic RL", folder(finished, "critic")),
    ):
        weights = load_file(Path(path) / "model.safetensors")
        expected[label] = float(weights[sorted(weights)[0]].abs().mean())
    assert expected["No critic"] != expected["Critic RL"]
    found = {
        (r["dataset"], r["method"]): r["metrics"]["acc"]["mean"] for r in rows if r["dataset"] != "drawings"
    }
    assert found == {
        (name, label): pytest.approx(value)
        for name in (
            *("MMStar", "ChartQA", "Perception & General VQA, 1", "Chart Understanding, 1"),
            "average of 2 benchmarks",
        )
        for label, value in expected.items()
    }
    whole = run()
    page = write_report(whole.folder).with_suffix(".md").read_text(encoding="utf-8")
    assert "average of 2 benchmarks" in page
    with pytest.raises(UserError, match="was made with other settings"):
        run("evaluation.policy_benchmarks.max_new_tokens=16").require_finished()
    with pytest.raises(UserError, match=r"no task of lmms-eval for: MMHal-Bench"):
        run("evaluation.policy_benchmarks.benchmarks=[MMHal-Bench]", f"output={tmp_path / 'new'}").execute()
