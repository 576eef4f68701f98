"""Model cards: metadata that the hub reads, results of each checkpoint, citations; and the citation file."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results

from critique_rl.config.data import TaskConfig
from critique_rl.config.run import load_config
from critique_rl.evaluation.intervals import t_interval
from critique_rl.reports.model_card import CRITIQUE_RL, LLAVA_CRITIC_R1, TRL, card, write_all, write_cards
from critique_rl.reports.settings import CONFIGS
from critique_rl.runs.folder import RunFolder, shipped_directory
from critique_rl.runs.run import Run


def made(output: Path, *overrides: str, folders: tuple[str, ...] = ()) -> Run:
    """A run of preset `tiny` with the shipped SFT critic in place of what it would train."""
    run = Run(load_config(CONFIGS / "tiny.yaml", [f"output={output}", "seeds=[0, 1]", *overrides]))
    for seed in (0, 1):
        for name in (*run.config.stages, *folders):
            model = shipped_directory("assets/tiny") / "sft"
            shutil.copytree(model, output / f"seed{seed}" / name, dirs_exist_ok=True)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return made(tmp_path / "run")


def measured(**metrics: tuple[float, ...]) -> dict[str, dict[str, Any]]:
    return {name: t_interval(values) for name, values in metrics.items()}


def results(path: Path) -> dict[tuple[str, str], float]:
    """Metrics of a card by data set and type, as the hub's own reader finds them."""
    name, found = model_index_to_eval_results(metadata_load(path)["model-index"])
    assert name
    return {(r.dataset_name, r.metric_type): r.metric_value for r in found}


def test_each_checkpoint_has_a_card_with_the_results_of_its_own_seed(run: Run) -> None:
    task = run.config.evaluation.tasks[0]
    rows = [
        ("no_critic", task, measured(acc=(0.4, 0.4))),
        ("stage1", task, measured(acc_refine=(0.5, 0.75), acc_dis=(0.9, 0.8), tokens=(7.0, 8.0))),
        ("stage2", task, measured(acc_refine=(0.6, 0.7))),
    ]
    write_all(run.folder, rows)
    for seed in (0, 1):
        for name, (_, _, metrics) in (("stage1", rows[1]), ("stage2", rows[2])):
            path = Path(run.folder.model_path(name, seed)) / "README.md"
            wanted = {m: v["values"][seed] for m, v in metrics.items() if m != "tokens"}
            assert results(path) == {("modular_chain", m): v for m, v in wanted.items()}
            text = path.read_text(encoding="utf-8")
            for value in wanted.values():
                assert f"{value:.4f} |" in text
    data = metadata_load(Path(run.folder.model_path("stage2", 1)) / "README.md")
    (entry,) = data["model-index"]
    assert entry["name"] == "tiny, Stage I+II, seed 1"
    assert entry["results"][0]["dataset"] == {
        "name": "modular_chain",
        "type": "modular_chain",
        "config": "limit=1000, size=20000",
        "split": "test",
    }
    assert entry["results"][0]["metrics"] == [{"type": "acc_refine", "name": "Acc@Refine", "value": 0.7}]
    assert data["pipeline_tag"] == "text-generation" and data["library_name"] == "transformers"
    assert {"critique-rl", "critic", "arxiv:2510.24320", "trl"} == set(data["tags"])
    assert "base_model" not in data and data["license"] == "apache-2.0"  # made on the spot
    # r_refine_only was not measured, and what the package ships is left alone.
    assert "model-index" not in metadata_load(Path(run.folder.model_path("r_refine_only", 0)) / "README.md")
    assert not (Path(run.folder.model_path("sft")) / "README.md").exists()


def test_a_later_measurement_is_added_and_the_same_one_replaced(run: Run) -> None:
    task = run.config.evaluation.tasks[0]
    other = TaskConfig("modular_chain", label="shorter", split="test")
    path = Path(run.folder.model_path("stage1", 0)) / "README.md"
    write_all(run.folder, [("stage1", task, measured(acc_refine=(0.5, 0.5), acc_dis=(0.9, 0.9)))])
    write_all(run.folder, [("stage1", other, measured(acc_refine=(0.25, 0.5)))])
    write_all(run.folder, [("stage1", task, measured(acc_refine=(0.75, 0.5)))])
    expected = {("modular_chain", "acc_refine"): 0.75, ("modular_chain", "acc_dis"): 0.9}
    assert results(path) == {**expected, ("shorter", "acc_refine"): 0.25}
    date = path.stat().st_mtime_ns
    write_all(run.folder, [("stage1", task, measured(acc_refine=(0.75, 0.5)))])
    assert path.stat().st_mtime_ns == date
    write_cards(run.folder, "stage1", 0)  # trained anew: nothing is known of it
    assert "model-index" not in metadata_load(path) and "Not measured yet" in path.read_text("utf-8")


def test_a_card_keeps_the_commit_of_the_training(run: Run) -> None:
    path = Path(run.folder.model_path("stage1", 0)) / "README.md"
    write_all(run.folder, [])  # a checkpoint from before there were cards
    assert "Not recorded" in path.read_text("utf-8")
    write_cards(run.folder, "stage1", 0)
    commit = metadata_load(path)["made_with"]["commit"]
    text = path.read_text("utf-8").replace(f"commit: {commit}" if commit else "commit: null", "commit: abc")
    path.write_text(text, encoding="utf-8")
    write_all(run.folder, [])
    assert metadata_load(path)["made_with"]["commit"] == "abc"
    assert "* Commit: abc\n" in path.read_text("utf-8")


def test_critics_kept_on_the_way_have_cards_of_their_own(tmp_path: Path) -> None:
    run = made(tmp_path, "stages.stage1.keep_rl_steps=[10, 99]", folders=("stage1/rl_step-10",))
    task = run.config.evaluation.tasks[0]
    write_all(run.folder, [("stage1@10", task, measured(acc_dis=(0.5, 0.5)))])
    path = Path(run.folder.model_path("stage1@10", 0)) / "README.md"
    assert results(path) == {("modular_chain", "acc_dis"): 0.5}
    text = path.read_text("utf-8")
    assert "# tiny, Stage I after 10 RL steps, seed 0" in text and "| RL steps | 10 |" in text
    assert "model-index" not in metadata_load(path.parents[1] / "README.md")
    assert not Path(run.folder.model_path("stage1@99", 0)).exists()  # one that the training did not reach


def test_the_actor_and_the_sft_critic_have_cards_where_the_run_makes_them(tmp_path: Path) -> None:
    config = load_config(CONFIGS / "tiny.yaml", [f"output={tmp_path}", "seeds=[0, 1]"])
    folder = RunFolder(dataclasses.replace(config, stages={}), from_scratch=True)
    for name in ("actor", "sft"):
        shutil.copytree(shipped_directory("assets/tiny") / name, tmp_path / name)
    task = config.evaluation.tasks[0]
    write_all(
        folder,
        [
            ("no_critic", task, measured(acc=(0.4, 0.5), acc_refine=(0.4, 0.5))),
            ("sft", task, measured(acc_dis=(0.5, 0.75))),
        ],
    )
    actor, sft = (tmp_path / name / "README.md" for name in ("actor", "sft"))
    assert results(actor) == {("modular_chain", "acc"): 0.45}  # the mean over seeds, which share it
    assert results(sft) == {("modular_chain", "acc_dis"): 0.625}
    assert "reasoning_prompt" in actor.read_text("utf-8") and "critique_prompt" in sft.read_text("utf-8")
    assert metadata_load(actor)["tags"][1] == "actor"


@pytest.mark.parametrize("name", ["stage1", "actor"])
def test_the_example_of_a_card_runs(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    text = str(card(run.folder, name, 0 if name == "stage1" else None, [], None))
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code.replace("path or hub id of this model", run.folder.model_path(name, 0)), {})
    assert capsys.readouterr().out.strip()


def test_base_model_and_data_sets_are_named_as_the_hub_knows_them(tmp_path: Path) -> None:
    config = load_config(CONFIGS / "qwen2.5-3b.yaml", [f"output={tmp_path}"])
    for name in config.stages:
        shutil.copytree(shipped_directory("assets/tiny") / "sft", tmp_path / "seed42" / name)
    task = config.evaluation.tasks[1]
    write_all(Run(config).folder, [("stage2", task, measured(acc_refine=(0.5,)))])
    data = metadata_load(tmp_path / "seed42" / "stage2" / "README.md")
    assert data["base_model"] == "Qwen/Qwen2.5-3B" and data["base_model_relation"] == "finetune"
    assert data["datasets"] == ["EleutherAI/hendrycks_math", "openai/gsm8k", "deepmind/aqua_rat"]
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == "openai/gsm8k"
    assert "license" not in data  # that of the base model applies


def test_a_path_of_the_machine_does_not_get_into_a_card(tmp_path: Path) -> None:
    run = made(tmp_path / "run", f"base={tmp_path}/models/own")
    text = str(card(run.folder, "stage1", 0, [], None))
    assert str(tmp_path) not in text and "| Base model | own |" in text
    assert "base_model" not in ModelCard(text).data.to_dict()


def test_a_name_cannot_break_the_card(tmp_path: Path) -> None:
    label = "x: [y] | <script>alert(1)</script>\\n---\\n# z"
    run = made(tmp_path / "run", f'stages.stage1.label="{label}"')
    written = write_cards(run.folder, "stage1", 0)[0]
    text = written.read_text("utf-8")
    assert metadata_load(written)["pipeline_tag"] == "text-generation"
    body = text.split("\n---\n", 1)[1]
    assert "\n# z" not in text and not re.search(r"(?<!\\)<script", body)


def test_a_critic_of_pairs_cites_its_own_paper(tmp_path: Path) -> None:
    plain = load_config(CONFIGS / "qwen2.5-vl-7b.yaml", [f"output={tmp_path}"])
    (tmp_path / "seed1" / "critic").mkdir(parents=True)
    for file in (shipped_directory("assets/tiny") / "sft").iterdir():
        shutil.copy(file, tmp_path / "seed1" / "critic")
    text = str(card(Run(plain).folder, "critic", 1, [], None))
    data = ModelCard(text).data.to_dict()
    assert LLAVA_CRITIC_R1.citation in text and CRITIQUE_RL.citation not in text and TRL.citation in text
    assert data["datasets"] == ["lmms-lab/LLaVA-Critic-113k"]
    assert {"arxiv:2509.00676", "critic", "actor"} <= set(data["tags"])
    assert "| Reward | 0.9 r_pref + 0.1 r_format |" in text and "pairwise_prompt" in text


def test_the_citation_file_names_the_papers_that_the_cards_cite() -> None:
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert f'version="{content["version"]}"' in setup and f'license="{content["license"]}"' in setup
    for paper, reference in zip((CRITIQUE_RL, LLAVA_CRITIC_R1, TRL), content["references"], strict=True):
        assert reference["title"] == paper.title and paper.id in reference["url"]
        for author in reference["authors"]:
            assert author["family-names"] in paper.citation
