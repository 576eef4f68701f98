"""Table scripts end to end on a small preset: what they train, write, reuse and refuse."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import MINI, MINI_PICTURES, SCRIPT, harmless, modified
from huggingface_hub import metadata_load

from critique_rl.config.evaluation import ProtocolConfig
from critique_rl.config.reading import build as config_from
from critique_rl.config.run import EXPERIMENTS, RunConfig, load_config
from critique_rl.evaluation.episodes import read_episodes
from critique_rl.evaluation.metrics import metrics
from critique_rl.evaluation.scaling import majority
from critique_rl.methods import baseline
from critique_rl.methods.actor_rl import GRPO
from critique_rl.methods.arms import arms, coefficients, pairwise_arms, with_ancestors
from critique_rl.methods.rl import rl_args
from critique_rl.runs.run import Run
from critique_rl.runs.steps.train import trainer_args
from critique_rl.studies.execute import measure
from critique_rl.studies.paper import load_paper
from critique_rl.studies.results import load_result
from critique_rl.studies.script import load_study
from critique_rl.studies.study import Example, NotRun, Row, Study, Table, sampled
from critique_rl.studies.write import draw, make, redraw, write
from critique_rl.training.config import CriticConfig
from critique_rl.training.stage_config import CritiqueConfig
from critique_rl.types import UserError

SHORT = ("stages.stage2.trainer.rl_steps=1", "evaluation.tasks.0.limit=12", "evaluation.protocol={}")


def build(study: Study) -> Table:
    votes = sampled(4, temperature=1.0)
    return Table(
        [
            Row("No critic", "no_critic"),
            Row("Stage I", "stage1@1", x=1),
            Row("Stage I", "stage1", x=2),
            Row("Critique-RL", "stage2"),
            Row("Critique-RL", "stage2", votes, "votes", by_problem=majority([1, 4])),
        ],
        not_run=[NotRun("STaR", "modular_chain", "is not tested here")],
        columns=("acc_refine", "acc_dis", "majority_at_4"),
        curves={"Critique-RL": ("stage1", "stage2")},
        example=Example("No critic", "Critique-RL", lambda one, other: True, "any pair", most=1),
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    (folder / "mini.yaml").write_text(MINI, encoding="utf-8")
    config = load_config(folder / "mini.yaml", [f"output={folder}/runs", "seeds=[0, 1]", *SHORT])
    return Study("mini", config, [0, 1])


@pytest.fixture(scope="module")
def made(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("table1_main", build, study, tmp_path_factory.mktemp("results"))


def without_hours(content: bytes) -> dict[str, Any]:
    """A result file without what differs each time."""
    found: dict[str, Any] = json.loads(content)
    for cost in found["costs"]:
        del cost["hours"]
    return found


def test_the_result_file_has_the_shape_and_the_numbers_of_its_records(study: Study, made: Path) -> None:
    content = json.loads(made.read_text(encoding="utf-8"))
    assert {"config", "commit", "versions", "seeds", "rows", "dirty", "preset", "table"} <= set(content)
    assert (content["preset"], content["table"], content["seeds"]) == ("mini", "table1_main", [0, 1])
    assert content["prompts"] == {"name": "compact", "version": 1}
    rows = {(row["method"], row.get("x")): row for row in content["rows"]}
    assert list(rows) == [("No critic", None), ("Stage I", 1), ("Stage I", 2), ("Critique-RL", None)]
    for row in rows.values():
        for seed, path in enumerate(row["records"][:2]):
            found = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
            assert len(found) == 12
            right = [
                r["refinement_correct" if r["critique"] is not None else "response_correct"] for r in found
            ]
            assert row["metrics"]["acc_refine"]["values"][seed] == pytest.approx(sum(right) / 12)
    both = rows["Critique-RL", None]
    assert len(both["records"]) == 4 and {"majority_at_1", "majority_at_4"} <= set(both["metrics"])
    assert "majority_at_1" not in rows["Stage I", 2]["metrics"]
    chains = [e for e in read_episodes(Path(both["records"][2]))]
    assert len(chains) == 4 * 12
    assert both["metrics"]["majority_at_1"]["values"][0] == pytest.approx(
        sum(bool(e.refinement_correct) for e in chains) / 48
    )
    curves = content["curves"]["Critique-RL"]
    assert [len(seed["critic/acc_dis"]) for seed in curves] == [3, 3]  # two RL steps and one
    example = content["examples"][0]
    assert example["of"] == 24 and [e["method"] for e in example["episodes"]] == ["No critic", "Critique-RL"]


def test_the_page_shows_our_numbers_and_what_was_not_run(made: Path) -> None:
    page = made.with_suffix(".md").read_text(encoding="utf-8")
    assert "| Critique-RL |" in page and "not run (is not tested here)" in page
    assert "![table1_main](table1_main.png)" in page
    assert made.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert r"\begin{tabular}" in made.with_suffix(".tex").read_text(encoding="utf-8")


def test_the_page_says_how_it_came_about_in_both_forms(made: Path) -> None:
    content = json.loads(made.read_text(encoding="utf-8"))
    assert content["health"]["checked"] > 0 and all(f["outside"] for f in content["health"]["findings"])
    costs = {cost["part"]: cost for cost in content["costs"]}
    assert {"base", "actor", "sft", "pool", "Stage I", "Critique-RL", "evaluation"} == set(costs)
    assert all(cost["hours"] is not None for cost in costs.values())  # each step was timed
    text = made.with_suffix(".md").read_text(encoding="utf-8")
    page = made.with_suffix(".html").read_text(encoding="utf-8")
    for title in ("What ran", "Where", "Health", "Cost", "Differences from the paper"):
        assert f"\n## {title}" in text and f">{title}" in page
    assert "## Configuration" not in text  # it is in the result file
    assert 'src="data:image/png;base64,' in page
    harmless(page)
    assert load_result(made)["rows"]


def test_what_models_wrote_is_shown_as_text(study: Study, made: Path, tmp_path: Path) -> None:
    content = json.loads(made.read_text(encoding="utf-8"))
    for example in content["examples"]:
        example["id"] = SCRIPT
        for episode in example["episodes"]:
            episode |= {key: f"{SCRIPT}\n```\n{SCRIPT}" for key in ("question", "response", "answer")}
            if episode["critique"] is not None:
                episode |= {"critique": f"````\n{SCRIPT}", "refinement": SCRIPT}
    content["rows"][0]["method"] = SCRIPT
    draw(content, build(study), tmp_path, load_paper(EXPERIMENTS / "paper.yaml"))
    page = (tmp_path / "table1_main.html").read_text(encoding="utf-8")
    harmless(page)
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 7


@pytest.mark.parametrize("kind", ["lines", "bars"])
def test_a_table_of_which_nothing_could_be_measured_is_a_page_without_a_picture(
    made: Path, tmp_path: Path, kind: str
) -> None:
    content = json.loads(made.read_text(encoding="utf-8")) | {"examples": []}
    content["rows"] = [row | {"metrics": {"acc": row["metrics"]["acc"]}} for row in content["rows"]]
    (tmp_path / "table1_main.png").write_bytes(b"of a run before")
    table = Table([], columns=("pass_at_4", "pass_at_8"), **{kind: ("pass_at_4",)})  # type: ignore[arg-type]
    draw(content, table, tmp_path, load_paper(EXPERIMENTS / "paper.yaml"))
    assert not (tmp_path / "table1_main.png").exists()
    page = (tmp_path / "table1_main.md").read_text(encoding="utf-8")
    assert "| Method | x | Acc |" in page and "table1_main.png" not in page
    assert r"\begin{tabular}{llr" in (tmp_path / "table1_main.tex").read_text(encoding="utf-8")


def test_results_are_drawn_anew_from_their_files_alone(tmp_path: Path) -> None:
    shown = EXPERIMENTS / "results" / "tiny"
    (tmp_path / "tiny").mkdir()
    shutil.copy(shown / "table1_main.json", tmp_path / "tiny")
    config = load_config(EXPERIMENTS / "configs" / "tiny.yaml", [f"output={tmp_path}/runs"])
    columns = ("acc_refine", "delta", "delta_ci", "delta_ic", "acc_dis", "acc_dis_parsed", "parse_rate")
    tables = {"table1_main": Table([], columns=columns), "table2_iterative": Table([])}
    redraw(tables, Study("tiny", config, [0]), tmp_path)
    made = {path.name for path in (tmp_path / "tiny").iterdir()}
    assert made == {f"table1_main.{kind}" for kind in ("json", "md", "html", "tex", "png")}
    assert (tmp_path / "tiny" / "table1_main.json").read_bytes() == (shown / "table1_main.json").read_bytes()
    assert "| Critique-RL |" in (tmp_path / "tiny" / "table1_main.md").read_text(encoding="utf-8")
    assert not (tmp_path / "runs").exists()


@pytest.mark.run
def test_a_result_that_cannot_be_written_does_not_keep_the_others_from_it(
    study: Study, made: Path, tmp_path: Path
) -> None:
    failed: dict[str, BaseException] = {}
    tables = {"unknown_stem": Table([Row("No critic", "no_critic")]), "table1_main": build(study)}
    assert list(write(tables, study, tmp_path, failed)) == ["table1_main"]
    assert list(failed) == ["unknown_stem"] and isinstance(failed["unknown_stem"], UserError)
    with pytest.raises(UserError):
        write(tables, study, tmp_path)


def test_tables_with_another_actor_are_measured_apart_and_beside_the_papers_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(EXPERIMENTS)
    study = load_study(Namespace(preset="qwen2.5-7b", seeds=[0], jobs=1, set=[]))
    paper = load_paper(EXPERIMENTS / "paper.yaml")
    names = []
    for stem in ("table5_r1_actor", "table6_72b_actor"):
        rows = importlib.import_module(stem).build(study).rows
        names.append({row.name for row in rows})
        measured = {(row.method, task.title) for row in rows for task in row.tasks}
        assert measured == {(row.method, row.dataset) for row in paper.tables[stem].rows}
    assert not names[0] & names[1]


def test_checkpoints_of_a_table_have_cards_with_its_figures(study: Study, made: Path) -> None:
    rows = {(r["method"], r.get("x")): r for r in json.loads(made.read_text(encoding="utf-8"))["rows"]}
    runs = study.config.directory
    for folder, row in (
        ("stage1/rl_step-1", rows["Stage I", 1]),
        ("stage1", rows["Stage I", 2]),
        ("stage2", rows["Critique-RL", None]),
    ):
        for seed in (0, 1):
            (entry,) = metadata_load(runs / f"seed{seed}" / folder / "README.md")["model-index"]
            (result,) = entry["results"]
            found = {m["type"]: m["value"] for m in result["metrics"]}
            assert "majority_at_4" not in found
            for name, value in found.items():
                assert value == pytest.approx(row["metrics"][name]["values"][seed], abs=1e-6)
    assert "commit" in metadata_load(runs / "seed0" / "stage2" / "README.md")["made_with"]
    assert "critic" in metadata_load(runs / "sft" / "README.md")["tags"]


@pytest.mark.run
def test_again_nothing_is_run_and_a_deleted_seed_is_run_alone(study: Study, made: Path) -> None:
    runs = study.config.directory
    before, result = modified(runs), made.read_bytes()
    make("table1_main", build, study, made.parent.parent)
    assert modified(runs) == before and made.read_bytes() == result
    measured = "seed1/evaluate/stage2/modular_chain-test"
    shutil.rmtree(runs / measured)
    make("table1_main", build, study, made.parent.parent)
    changed = {name for name, date in modified(runs).items() if date != before.get(name)}
    files = ("records.jsonl", "records.models.json", "step.json")
    assert changed - {"seed1/run.lock"} == {f"{measured}/{name}" for name in files}
    assert without_hours(made.read_bytes()) == without_hours(result)


@pytest.mark.run
def test_seeds_beside_each_other_give_the_same_and_a_failure_stays_alone(study: Study, made: Path) -> None:
    runs = study.config.directory
    measured = [runs / f"seed{seed}/evaluate/{row}" for seed in (0, 1) for row in ("stage2", "no_critic")]
    before = {p: p.read_bytes() for folder in measured for p in folder.rglob("records.jsonl")}
    for folder in measured:
        shutil.rmtree(folder)
    tables = {
        "one": Table([Row("No critic", "no_critic")]),
        "broken": Table([Row("Nobody", "nobody")]),
        "two": build(study),
    }
    failed = measure(tables, replace(study, jobs=2))
    assert list(failed) == ["broken"], failed
    assert "no arm 'nobody'" in str(failed["broken"])
    assert {p: p.read_bytes() for p in before} == before


ORPHAN = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor

from critique_rl.studies.execute import _end_with_parent

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, context, initializer=_end_with_parent)
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 600)
    time.sleep(600)
"""


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_runs_beside_ends_when_the_command_is_killed(tmp_path: Path) -> None:
    """Else the same command, started again, would be the second to write what the orphan still writes."""
    (tmp_path / "script.py").write_text(ORPHAN, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip() / "stat"
        assert child.exists()
        parent.kill()
        deadline = time.monotonic() + 30
        while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline, "it still runs"
            time.sleep(0.1)


def test_a_variant_has_runs_of_its_own_and_the_presets_name() -> None:
    tiny = load_study(Namespace(preset="tiny", seeds=[3], jobs=2, set=["pool.samples=1"]))
    scored = tiny.variant("summarisation")
    assert scored is not None and tiny.variant("translation") is None
    assert (scored.preset, scored.seeds, scored.jobs) == ("tiny", [3], 2)
    assert str(scored.config.directory) == "runs/tables/tiny-summarisation"
    assert scored.config.scorer == {"kind": "keywords"} and scored.config.pool.samples == 1
    assert scored.config.threads == 1


def test_results_of_other_settings_never_mix(study: Study, made: Path) -> None:
    changed = load_config(
        study.config.directory.parent / "mini.yaml",
        [f"output={study.config.directory}", "seeds=[0, 1]", *SHORT, "stages.stage2.trainer.beta_1=0.5"],
    )
    before = modified(study.config.directory)
    with pytest.raises(
        UserError, match=r"step 'seed0/stage2': .*made with other settings:\n.*beta_1: None -> 0.5"
    ):
        make("table1_main", build, Study("mini", changed, [0, 1]), made.parent.parent)
    assert modified(study.config.directory) == before


def test_figures_of_a_round_are_those_of_its_records(study: Study, made: Path) -> None:
    twice = ProtocolConfig(rounds=2)
    rows = [Row("once", "stage2", twice, "twice"), Row("twice", "stage2", twice, "twice", round=1)]
    assert not measure({"table8_refinement": Table(rows)}, study)
    for row, found in zip(rows, study.results(rows), strict=True):
        by_hand = [
            metrics([e for e in read_episodes(Path(path)) if e.round == row.round])
            for path in found["records"]
        ]
        for name in ("acc_refine", "tokens"):  # the first round also pays for the response
            assert found["metrics"][name]["values"] == [seed[name] for seed in by_hand]
    once, again = (found["metrics"]["tokens"]["mean"] for found in study.results(rows))
    assert once > again


def test_curves_and_examples_are_of_their_seed_and_as_asked_for(study: Study, made: Path) -> None:
    content = json.loads(made.read_text(encoding="utf-8"))
    rows = build(study).rows
    shown = content["curves"]["Critique-RL"]
    run = study.run(rows, [0, 1])
    for seed in (0, 1):
        log = [entry for arm in ("stage1", "stage2") for entry in run.folder.history(seed, arm)]
        assert shown[seed]["kl"] == [round(entry["kl"], 3) for entry in log]
    assert shown[0]["critic/acc_dis"] != shown[1]["critic/acc_dis"]
    none = Example("No critic", "Critique-RL", lambda one, other: False, "none")
    assert study.examples(none, rows) == []
    right = Example("No critic", "Critique-RL", lambda one, other: one.response_correct is True, "right")
    assert all(e["episodes"][0]["response_correct"] for e in study.examples(right, rows))


# -- arms -------------------------------------------------------------------------------------------------


def test_an_arm_differs_from_its_stage_in_what_its_name_says(study: Study) -> None:
    stage1, stage2 = (study.config.stages[name].trainer for name in ("stage1", "stage2"))

    def differs(name: str, like: dict[str, Any]) -> dict[str, Any]:
        trainer = study.arms[name].trainer
        return {k: trainer.get(k) for k in {*trainer, *like} if trainer.get(k) != like.get(k)}

    assert differs("stage1", stage1) == {} and differs("stage2", stage2) == {}
    assert differs("one_stage", stage2) == {"rl_steps": 3}
    assert differs("no_discrimination", stage2) == {"beta": 0.0, "beta_1": 0.0}
    assert differs("two_gated", stage2) == {"combination": "gated"}
    assert differs("stage2_r_delta", stage2) == {"refinement_reward": "r_delta"}
    assert differs("stage2_beta_1_x50", stage2) == {"beta_1": 0.1}
    assert differs("stage2_beta_2_x200", stage2) == {"beta": 0.02}
    assert differs("stage1_noise10", stage1) == {"oracle_noise": 0.1}
    assert study.arms["iteration2_stage1"].start == "stage2"
    assert study.arms["stage2_beta_x80"].start == "stage1_beta_x80"
    assert study.arms["stage1"].keep_rl_steps == [1]
    # Whatever starts from the SFT critic and is compared with both stages has as many RL steps as they.
    single = (
        "r_refine",
        "ctrl",
        "r_delta",
        "r_correction",
        "one_stage",
        "one_gated",
        "stage1_long",
        "retroformer",
    )
    assert {study.arms[name].trainer["rl_steps"] for name in single} == {3}
    assert coefficients(study.config)["beta_1"] == {
        "stage2_beta_1_x50": 0.1,
        "stage2": 0.2,
        "stage2_beta_1_x200": 0.4,
    }


def test_only_what_an_arm_starts_from_is_trained_for_it(study: Study) -> None:
    assert list(with_ancestors(study.arms, ["iteration2_stage1"])) == [
        "stage1",
        "stage2",
        "iteration2_stage1",
    ]
    assert list(with_ancestors(study.arms, ["sft", "no_critic", "ctrl"])) == ["ctrl"]
    with pytest.raises(UserError, match=r"no arm 'ctr'\. Did you mean 'ctrl'"):
        with_ancestors(study.arms, ["ctr"])


def test_tables_need_both_stages(study: Study) -> None:
    config = load_config(study.config.directory.parent / "mini.yaml", ["stages={}"])
    with pytest.raises(UserError, match=r"config mini: the tables need stages.stage1.trainer.rl_steps"):
        arms(config)
    short = replace(study.config.stages["stage1"], trainer={"rl_steps": 3})
    stages = study.config.stages | {"stage1": short}
    with pytest.raises(UserError, match=r"the tables need stages.stage1.trainer.learning_rate"):
        arms(replace(study.config, stages=stages))


def test_what_is_trained_by_rl_is_an_adapter_where_the_stages_are(study: Study) -> None:
    stages = {name: replace(stage, lora={"r": 4}) for name, stage in study.config.stages.items()}
    made = arms(replace(study.config, stages=stages))
    assert all(made[name].lora == {"r": 4} for name in ("stage1", "stage2", "ctrl", "one_gated", "actor_rl"))
    assert arms(study.config)["actor_rl"].lora is None


@pytest.mark.parametrize("name", sorted(path.stem for path in (EXPERIMENTS / "configs").glob("*.yaml")))
def test_every_arm_of_a_shipped_config_has_valid_options(name: str) -> None:
    path = EXPERIMENTS / "configs" / f"{name}.yaml"
    cpu = [f"stages.{stage}.trainer.use_cpu=true" for stage in load_config(path).stages]
    config = load_config(path, cpu)
    made = Study(name, config, [0]).arms
    if config.scorer is not None:  # of the arms Table 9 takes these alone; others mean right and wrong
        made = with_ancestors(made, ["stage2"])
    run = Run(replace(config, stages=made), from_scratch=True)
    for arm, stage in made.items():
        if stage.method == "critique_rl":
            trainer_args(run.folder, arm)
        else:
            baseline(stage.method).check(stage.trainer)


def test_controls_of_the_pairwise_critic_differ_from_it_in_data_and_reward_alone() -> None:
    config = load_config(EXPERIMENTS / "configs" / "tiny-vl.yaml")
    run = Run(replace(config, stages=pairwise_arms(config)))
    critic = trainer_args(run.folder, "critic")
    policy = rl_args(
        CritiqueConfig, "policy", GRPO, run.config.stages["policy"].trainer, output=Path("unused"), seed=0
    )
    # Which run it is, and what the run itself sets.
    apart = {"seed", "output_dir", "run_name", "logging_dir", "max_completion_length", "prompts"}
    for args in (policy, trainer_args(run.folder, "stage1"), trainer_args(run.folder, "stage2")):
        shared = {f.name for f in fields(CriticConfig)} - apart
        assert {k for k in shared if getattr(args, k) != getattr(critic, k)} == set()
    rewards = [run.config.stages[name].trainer.get("refinement_reward") for name in ("stage1", "stage2")]
    assert rewards == [None, "r_refine"]


def scripts(folder: Path) -> list[str]:
    return sorted(p.stem for p in folder.glob("*.py") if p.stem.startswith(("table", "figure", "controls")))


@pytest.mark.slow
@pytest.mark.parametrize("stem", scripts(EXPERIMENTS))
def test_every_script_of_critique_rl_can_be_built(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the preset of the laptop: its rows have arms that the run can make, its columns are known or measured."""
    monkeypatch.syspath_prepend(EXPERIMENTS)
    study = load_study(Namespace(preset="tiny", seeds=[0], jobs=1, set=[]))
    table = importlib.import_module(stem).build(study)
    of = table.study or study
    assert of.run(table.rows, [0]).steps() if table.rows else table.not_run
    assert stem in load_paper(EXPERIMENTS / "paper.yaml").tables
    limits = {task.limit for row in table.rows if "sampled" in row.name for task in of.tasks(row)}
    assert limits <= {250} or "ood" in stem
    rounds = {row.round + 1: row.protocol.rounds for row in table.rows}
    assert all(number <= of_all for number, of_all in rounds.items())


@pytest.mark.slow
@pytest.mark.parametrize("stem", scripts(EXPERIMENTS / "llava_critic_r1"))
def test_every_script_of_the_pairwise_critic_can_be_built(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows have arms that the preset's run can make, and its numbers are in the paper's file."""
    monkeypatch.syspath_prepend(EXPERIMENTS / "llava_critic_r1")
    settings = yaml.safe_load(MINI_PICTURES)
    study = Study("mini-vl", config_from(RunConfig, settings, "mini-vl"), [0])
    table = importlib.import_module(stem).build(study)
    paper = load_paper(study.scripts / "paper.yaml")
    assert stem in paper.tables
    steps = study.run(table.rows, [0]).steps()
    assert any(step.command == "judge" for step in steps)
    assert all(study.run([row], [0]).steps() for row in table.rows)  # whatever rows the configuration has
    assert not set(load_paper(EXPERIMENTS / "paper.yaml").tables) & set(paper.tables)
    on_axis = any(row.x is not None for row in table.rows)
    assert all(name.endswith("_at") or on_axis for name in table.lines)  # or there would be nothing to draw
