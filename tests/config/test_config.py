"""Configuration: each mistake is reported before any work, with its place in the file."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest
from helpers import CONFIGS, ROOT

from critique_rl.cli import commands as cli
from critique_rl.config.data import LengthConfig, TaskConfig
from critique_rl.config.reading import as_dict, check_options, differences
from critique_rl.config.run import load_config
from critique_rl.runs.problems import published_size
from critique_rl.runs.run import Run
from critique_rl.runs.steps.train import trainer_args
from critique_rl.training.stage_config import CritiqueConfig
from critique_rl.types import UserError

PRESETS = sorted(CONFIGS.glob("*.yaml"))
MINIMAL = """
name: mini
base: some/model
prompts: paper
train: [{name: gsm8k, source: a.jsonl}]
stages:
  stage1: {label: Stage I, trainer: {rl_steps: 2}}
  stage2: {label: Stage I+II, start: stage1, trainer: {refinement_reward: r_refine}}
evaluation: {tasks: [{name: gsm8k, split: test}]}
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "mini.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


def test_settings_and_defaults_arrive_as_typed_dataclasses(minimal: Path) -> None:
    config = load_config(minimal)
    assert config.train[0].source == "a.jsonl"
    assert config.stages["stage2"].start == "stage1"
    assert config.pool.samples == 10
    assert config.directory == Path("runs/mini")


@pytest.mark.parametrize(
    ("override", "expected", "why"),
    [
        ("pol.samples=2", "setting 'pol' is unknown. Did you mean 'pool'?", "unknown key"),
        ("pool.sample=2", "pool: setting 'sample' is unknown. Did you mean 'samples'?", "nested"),
        (
            "stages.stage1.trainr={}",
            "stages.stage1: setting 'trainr' is unknown. Did you mean 'trainer'?",
            "deep",
        ),
        ("evaluation.tasks.0.splt=test", "evaluation.tasks[0]: setting 'splt' is unknown.", "in a list"),
        ("pool.temperature='1e-4'", "pool.temperature must be float, got '1e-4'", "text"),
        ("pool.samples=2.5", "pool.samples must be int, got 2.5", "a fraction"),
        ("pool.samples=true", "pool.samples must be int, got True", "a flag is no number"),
        ("pool.balanced=1", "pool.balanced must be bool, got 1", "a number is no flag"),
        ("pool=3", "pool must be a mapping of settings, got 3", "no mapping"),
        ("train=gsm8k", "train must be a list, got 'gsm8k'", "no list"),
        ("seeds=[0, a]", "seeds[1] must be int, got 'a'", "in a list"),
        ("stages={1: {label: x}}", "stages must be a mapping with names as keys", "a number as name"),
        ("seeds=[3, 3]", "seeds must be distinct", "the same seed twice"),
        ("seeds=[]", "at least one", "no seed"),
        ("train=[]", "train is empty", "no data"),
        ("evaluation.tasks=[]", "evaluation.tasks is empty", "nothing to measure"),
        (
            "evaluation.tasks=[{name: gsm8k, split: test}, {name: gsm8k, split: test, limit: 2}]",
            "evaluation.tasks names gsm8k, test twice",
            "both would write the same records",
        ),
        (
            "evaluation.tasks=[{name: math, split: test}, {name: math, split: math500}]",
            "evaluation.tasks names math twice: give one of them a `label`.",
            "both would be one row",
        ),
        (
            "stages.stage2.start=stage3",
            "stages.stage2.start 'stage3' is unknown. Did you mean 'stage1'?",
            "start",
        ),
        ("stages.stage1.start=stage2", "stages.stage1.start 'stage2' is unknown", "starts from a later one"),
        ("stages={pool: {label: x}}", "'pool' is no name for a stage", "its folder would be the pool's"),
        ("stages={a/b: {label: x}}", "'a/b' is no name for a stage", "no folder name"),
        ("stages.stage1.checkpoint_rl_steps=0", "checkpoint_rl_steps must be at least 1", "0 is not 'never'"),
        (
            "stages={a: {label: x, method: actor_rl, checkpoint_rl_steps: 5}}",
            "no effect with method 'actor_rl': set stages.a.trainer.checkpoint_rl_steps",
            "an option of the baseline",
        ),
        (
            "stages={a: {label: x, method: star, checkpoint_rl_steps: 5}}",
            "no effect with method 'star': leave it out",
            "not trained by RL",
        ),
        (
            "cold_start.teacher.kind=modell",
            "cold_start.teacher.kind 'modell' is unknown. Did you mean",
            "kind",
        ),
        ("prompts=papr", "no prompt set 'papr'. Did you mean 'paper'?", "prompt set"),
        ("pool.samples=0", "pool.samples must be at least 1, got 0", "range"),
        ("lengths.critique=0", "lengths.critique must be at least 1", "range"),
        ("threads=0", "threads must be at least 1", "range"),
        ("base=tiny", "cold_start.base must say how", "tiny is not downloaded"),
        (
            "cold_start.teacher.kind=scripted",
            "exactly one of the tasks drawings, made_up_facts, modular_chain",
            "scripted texts are of one task",
        ),
        ("actor.api_key=secret", "set OPENAI_API_KEY", "a config is stored with each result"),
        ("pool.samples", "is not of the form key=value", "override without value"),
        ("train.7.limit=3", "'7' is no place in a list of 1", "override outside the list"),
        ("name.x=3", "'name' holds no settings", "override inside a text"),
        ("seeds=[1", "is not valid YAML", "override that YAML cannot read"),
        ("evaluation.protocol.history=ful", "history 'ful' is unknown. Did you mean 'full'?", "a choice"),
        (
            "evaluation.rows=[stage3]",
            "evaluation.rows 'stage3' is unknown. Did you mean",
            "a choice in a list",
        ),
        (
            "train.0.ungradable=dropp",
            "'dropp' is unknown. Did you mean 'drop'?",
            "a choice in a list of mappings",
        ),
        ("env=3", "env must be a mapping of environment variables, got 3", "no environment"),
        ("env={A: [1]}", "env.A must be a text, a number, true or false, got [1]", "a list is no variable"),
        ("env={A: null}", "env.A must be a text, a number, true or false, got None", "trl would write None"),
        ("env={3: x}", "env: 3 is no name of an environment variable", "a number as name"),
        ("env={A=B: x}", "env: 'A=B' is no name of an environment variable", "the system would refuse it"),
    ],
)
def test_a_mistake_is_refused_with_its_place(minimal: Path, override: str, expected: str, why: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(minimal, [override])
    assert expected in str(error.value), why


def test_an_override_wins_over_the_file_and_may_go_into_lists_and_new_mappings(minimal: Path) -> None:
    overrides = [
        "pool.samples=3",
        "train.0.limit=5",
        "actor.base_url=http://x",
        "stages.stage1.trainer.beta=0.5",
    ]
    config = load_config(minimal, overrides)
    assert (config.pool.samples, config.train[0].limit) == (3, 5)
    assert config.actor == {"base_url": "http://x"}
    assert config.stages["stage1"].trainer == {"rl_steps": 2, "beta": 0.5}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("pool.temperature=1e-4", 1e-4),
        ("actor.limits=-2.5E+3", -2500.0),
        ("pool.temperature=1", 1.0),
        ("actor.model=1e-4b", "1e-4b"),
        ("actor.model=e5", "e5"),
        ("actor.limits=[1, 2.5, {a: yes}]", [1, 2.5, {"a": True}]),
        ("actor.limits=", None),
        ("actor.limits='3'", "3"),
    ],
)
def test_an_override_is_typed_as_yaml_is_and_as_python_reads_numbers(
    minimal: Path, override: str, expected: object
) -> None:
    group, _, name = override.partition("=")[0].partition(".")
    found = as_dict(load_config(minimal, [override]))[group][name]
    assert found == expected and type(found) is type(expected)


def test_the_file_reads_numbers_as_an_override_does(minimal: Path) -> None:
    minimal.write_text(f"{MINIMAL}pool: {{temperature: 1e-4}}\n", encoding="utf-8")
    assert load_config(minimal).pool.temperature == 1e-4


# -- the environment --------------------------------------------------------------------------------------


@dataclasses.dataclass
class Named:
    """Settings that trl's parser reads from `MINIMAL`."""

    name: str = ""


ENVIRONMENT = "env: {CRITIQUE_NEW: x, CRITIQUE_SET: 3, CRITIQUE_FLAG: true, CRITIQUE_SMALL: 0.5}\n"
VARIABLES = ("CRITIQUE_NEW", "CRITIQUE_SET", "CRITIQUE_FLAG", "CRITIQUE_SMALL")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets one variable before the test, and restores all after it."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what is set is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("CRITIQUE_SET", "before")


def test_env_sets_what_trl_sets_and_wins_where_trl_does(minimal: Path, environment: None) -> None:
    from trl import TrlParser

    minimal.write_text("name: mini\n" + ENVIRONMENT, encoding="utf-8")
    (named,) = TrlParser(Named).parse_args_and_config(["--config", str(minimal), "--name", "given"])
    by_trl = {name: os.environ.pop(name) for name in VARIABLES}
    os.environ["CRITIQUE_SET"] = "before"
    minimal.write_text(MINIMAL + ENVIRONMENT, encoding="utf-8")
    assert named.name == load_config(minimal, ["name=given"]).name == "given"
    assert {name: os.environ[name] for name in VARIABLES} == by_trl
    assert by_trl == dict(zip(VARIABLES, ("x", "3", "True", "0.5"), strict=True))


def test_env_is_no_setting_of_the_run_and_an_override_wins_over_it(minimal: Path, environment: None) -> None:
    plain = as_dict(load_config(minimal))
    minimal.write_text(MINIMAL + ENVIRONMENT, encoding="utf-8")
    assert as_dict(load_config(minimal, ["env.CRITIQUE_NEW=y"])) == plain
    assert os.environ["CRITIQUE_NEW"] == "y" and os.environ["CRITIQUE_SET"] == "3"


def test_a_refused_configuration_leaves_the_environment_alone(minimal: Path, environment: None) -> None:
    minimal.write_text(MINIMAL + ENVIRONMENT, encoding="utf-8")
    with pytest.raises(UserError, match="setting 'pol' is unknown"):
        load_config(minimal, ["pol=1"])
    assert os.environ["CRITIQUE_SET"] == "before" and "CRITIQUE_NEW" not in os.environ


def test_settings_made_in_code_are_checked_by_the_run(minimal: Path) -> None:
    config = load_config(minimal)
    unknown = dataclasses.replace(config, prompts="papr", extensions=["no/such.py"])
    with pytest.raises(UserError, match="no prompt set 'papr'"):
        unknown.check()
    with pytest.raises(UserError, match=r"no file at no/such\.py"):
        Run(unknown)
    task = TaskConfig("gsm8k", exclude=[TaskConfig("gsm8k", ungradable="dropp")])
    for part in ({"train": [task]}, {"lengths": LengthConfig(critique=0)}):
        with pytest.raises(UserError, match=r"'dropp' is unknown|critique must be at least 1"):
            Run(dataclasses.replace(config, **part))


def test_a_missing_setting_and_a_missing_file_are_named(
    minimal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minimal.write_text(MINIMAL.replace("base: some/model\n", ""), encoding="utf-8")
    with pytest.raises(UserError, match=r"missing setting\(s\) base"):
        load_config(minimal)
    with pytest.raises(UserError, match=r"no config at .*mimi.yaml. Did you mean .*mini.yaml"):
        load_config(minimal.with_name("mimi.yaml"))
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=r"no config at tinny. Did you mean experiments/configs/tiny.yaml\?"):
        load_config("tinny")
    minimal.write_bytes(b"name: \xff")
    with pytest.raises(UserError, match=r"is not valid YAML: .*utf-8"):
        load_config(minimal)
    for text, message in ((": [", "not valid YAML"), ("- a", "no mapping"), ("", "no mapping")):
        minimal.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            load_config(minimal)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"learning_rat": 1e-4}, "learning_rat' is unknown. Did you mean 'learning_rate'?"),
        ({"learning_rate": "1e-4"}, "learning_rate must be float, got '1e-4'"),
        ({"bf16": 1}, "bf16 must be bool"),
        ({"rl_steps": 2.5}, "rl_steps must be int"),
        ({"beta": 0, "rl_steps": None, "lr_scheduler_type": "cosine"}, None),  # an int is a float; None; text
    ],
)
def test_options_of_the_trainer_are_checked_by_name_and_type(options: dict, expected: str | None) -> None:
    if expected is None:
        check_options(CritiqueConfig, options, "trainer")
        return
    with pytest.raises(UserError) as error:
        check_options(CritiqueConfig, options, "trainer")
    assert expected in str(error.value) and len(str(error.value)) < 120  # not 200 names of fields


def test_differences_name_each_changed_setting() -> None:
    old = {"pool": {"samples": 2, "gone": 1}, "seed": 0}
    new = {"pool": {"samples": 4}, "seed": 0, "more": "x"}
    assert differences(old, new) == ["pool.samples: 2 -> 4", "pool.gone: 1 -> None", "more: None -> 'x'"]
    assert differences(old, old) == []


@pytest.mark.slow
@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_shipped_config_plans_a_run_without_hub_gpu_or_weights(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(path), "--dry-run", "--from-scratch", "--set", f"output={tmp_path}/run"]
    code = cli.main(arguments)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    plan = captured.out
    stages = load_config(path).stages.values()
    paired = any("origin" in stage.trainer.get("pairs", {}) for stage in stages)
    for part in (
        "base: ",
        "pairs: " if paired else "problems",
        "optimizer steps",
        "critique tokens",
        "launch: ",
        "    stays: weights ",
        "  in all: about ",
        "  to do  seed",
    ):
        assert part in plan
    memory = re.findall(r"^  (\S.*): ([\d.,]+) GiB (?:on the CPU|per GPU, of ([\d.]+) )", plan, re.MULTILINE)
    assert {name for name, *_ in memory} >= set(load_config(path).stages)
    for name, needed, available in memory:
        assert not available or float(needed.replace(",", "")) < float(available), name
    assert not (tmp_path / "run").exists()


def test_a_single_local_file_is_cut_as_the_preset_of_real_data_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = '{"Body": "Mia had %d shells.", "Question": "How many?", "Equation": "%d", "Answer": %d}\n'
    (tmp_path / "SVAMP.jsonl").write_text("".join(rows % (i, i, i) for i in range(60)), encoding="utf-8")
    preset = next(path for path in PRESETS if path.stem == "smollm2-135m")
    (splits,) = re.findall(r"train\.0\.options='(.*)'", preset.read_text(encoding="utf-8"))
    arguments = ["run", str(preset), "--dry-run", "--set", f"output={tmp_path}/run"]
    for task in ("train.0", "evaluation.tasks.0"):
        arguments += ["--set", f"{task}.source={tmp_path}/SVAMP.jsonl", "--set", f"{task}.options={splits}"]
    assert cli.main(arguments) == 0
    assert "SVAMP.jsonl: 48 problems" in capsys.readouterr().out


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_options_of_a_shipped_config_are_those_of_the_trainers(path: Path, tmp_path: Path) -> None:
    from critique_rl.runs.steps.cold_start import check_cold_start

    config = dataclasses.replace(load_config(path), output=str(tmp_path))
    run = Run(config, from_scratch=True)
    for stage in config.stages:
        args = trainer_args(run.folder, stage, use_cpu=True)
        assert args.max_completion_length == config.lengths.critique
        assert args.save_steps % args.optimizer_steps_per_rl_step == 0
    cpu = {
        name: {**options, "use_cpu": True}
        for name, options in vars(config.cold_start).items()
        if name.endswith("_sft") and options
    }
    check_cold_start(
        Run(dataclasses.replace(config, cold_start=dataclasses.replace(config.cold_start, **cpu))).context
    )
    assert as_dict(config)["stages"].keys() == config.stages.keys()


def test_the_paper_configs_hold_the_papers_values() -> None:
    configs = [
        load_config(path) for path in PRESETS if path.stem in ("llama3.2-3b", "qwen2.5-3b", "qwen2.5-7b")
    ]
    assert len(configs) == 3
    for config in configs:
        first, second = config.stages["stage1"].trainer, config.stages["stage2"].trainer
        assert "refinement_reward" not in first and second["refinement_reward"] == "r_refine"
        assert (first["rl_steps"], first["num_generations"], first["beta"], second["beta_1"]) == (
            500,
            4,
            0.01,
            0.2,
        )
        assert (
            config.cold_start.actor_sft["num_train_epochs"],
            config.cold_start.critic_sft["num_train_epochs"],
        ) == (3, 5)
        assert config.cold_start.actor_sft["learning_rate"] == 5e-6
        if config.base.startswith("Qwen"):  # the base's own end-of-text never ends a turn
            assert config.cold_start.critic_sft["eos_token"] == "<|im_end|>"


@pytest.mark.parametrize(
    ("task", "size"),
    [
        (TaskConfig("gsm8k"), 6726),  # of 7,473 less the tenth that is its validation split
        (TaskConfig("gsm8k", options={"held_out": 0}), 7473),
        (TaskConfig("aqua"), 97467),  # has one of its own
        (TaskConfig("gsm8k", split="test"), 1319),
        (TaskConfig("gsm8k", options={"splits": {"train": 1.0}}), None),
    ],
)
def test_a_plan_knows_what_is_held_out(task: TaskConfig, size: int | None) -> None:
    assert published_size(task) == size


@pytest.mark.parametrize("name", ["qwen2.5-3b", "qwen2.5-7b", "llama3.2-3b"])
def test_the_papers_number_of_traces_can_be_reached(name: str) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    sizes = [(published_size(task) or 0, task.limit) for task in config.train]
    assert sum(min(size, limit or size) for size, limit in sizes) >= config.cold_start.reasoning
