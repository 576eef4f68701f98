"""The command line: a whole run from scratch, resuming after each kind of stop, and each kind of bad input."""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    MINI,
    ROOT,
    Reply,
    adapter_of,
    asked_episode,
    chat_completion,
    environment,
    hear_ctrl_c,
    modified,
    serving,
    serving_judge,
)
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from critique_rl.actors import OpenAIActor, TransformersActor
from critique_rl.cli import commands as cli
from critique_rl.cli.parser import command_parser
from critique_rl.cold_start.tiny import save_untrained
from critique_rl.config.evaluation import ProtocolConfig
from critique_rl.config.run import load_config
from critique_rl.display import Display, Outcome
from critique_rl.evaluation.episodes import read_episodes
from critique_rl.manifest import only_process
from critique_rl.prompts import COMPACT
from critique_rl.runs import preflight
from critique_rl.runs.dry_run import describe
from critique_rl.runs.run import Measurement, Run
from critique_rl.studies.study import Row
from critique_rl.training.checkpoints import last_checkpoint, load_critic
from critique_rl.types import Sampling, UserError

STEPS = [
    "base",
    "actor",
    "sft",
    "seed0/pool",
    "seed0/stage1",
    "seed0/stage2",
    *(f"seed0/evaluate/{row}/modular_chain-test" for row in ("no_critic", "sft", "stage1", "stage2")),
]
RECORDS = "records.jsonl"
TASK = "modular_chain-test"
REPORT = ("report.json", "report.md", "report.html", "curves.png")
Fresh = Callable[[], Path]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "mini.yaml"
    path.write_text(MINI, encoding="utf-8")
    return path


def run(config: Path, output: Path, *more: str, command: str = "run") -> int:
    return cli.main([command, str(config), "--quiet", "--set", f"output={output}", *more])


@pytest.fixture(scope="module")
def finished(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, from scratch. Tests that change files take a copy from `fresh`."""
    output = tmp_path_factory.mktemp("runs") / "mini"
    assert run(config, output) == 0
    return output


@pytest.fixture
def fresh(finished: Path, tmp_path: Path) -> Fresh:
    """Copies of the finished run."""

    def copy() -> Path:
        return Path(shutil.copytree(finished, tmp_path / f"copy{len(list(tmp_path.iterdir()))}"))

    return copy


def unfinish(step: Path) -> None:
    """Turn a finished step into one that was killed."""
    marker = step / "step.json"
    marker.write_text(marker.read_text(encoding="utf-8").replace('"finished": true', '"finished": false'))


def little_room() -> None:
    """Let no file grow beyond what the small ones of a run need: a checkpoint does not fit."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


# -- a whole run ------------------------------------------------------------------------------------------


def test_a_run_makes_every_artifact(finished: Path) -> None:
    for step in STEPS:
        assert json.loads((finished / step / "step.json").read_text(encoding="utf-8"))["finished"], step
    for model in ("base", "actor", "sft", "seed0/stage1", "seed0/stage2"):
        loaded = AutoModelForCausalLM.from_pretrained(finished / model)
        assert AutoTokenizer.from_pretrained(finished / model).chat_template
        assert loaded.config.vocab_size == len(AutoTokenizer.from_pretrained(finished / model))
    weights = [
        load_file(finished / m / "model.safetensors") for m in ("base", "sft", "seed0/stage1", "seed0/stage2")
    ]
    for before, after in pairwise(weights):
        assert any((before[name] != after[name]).any() for name in before)  # each step has trained
    assert not list((finished / "seed0" / "pool").rglob("cache-*"))


def test_the_report_has_one_row_per_critic_and_agrees_with_the_records(finished: Path) -> None:
    content = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    assert set(content) == {"config", "commit", "versions", "seeds", "rows", "health", "costs"}
    assert content["seeds"] == [0]
    rows = {row["method"]: row for row in content["rows"]}
    assert list(rows) == ["No critic", "SFT critic", "Stage I", "Stage I+II"]
    assert all(set(row) == {"method", "dataset", "metrics"} for row in rows.values())
    says = {"correct": True, "wrong": False, "unparsed": None}
    for method, name in (("SFT critic", "sft"), ("Stage I", "stage1"), ("Stage I+II", "stage2")):
        lines = (
            (finished / "seed0" / "evaluate" / name / TASK / RECORDS).read_text(encoding="utf-8").splitlines()
        )
        found = [json.loads(line) for line in lines]
        assert len(found) == 16
        o, o2 = [r["response_correct"] for r in found], [r["refinement_correct"] for r in found]
        f = [says[r["verdict"]] for r in found]
        parsed = [i for i in range(16) if f[i] is not None]
        by_hand = {
            "acc": sum(o) / 16,
            "acc_refine": sum(o2) / 16,
            "delta": (sum(o2) - sum(o)) / 16,
            "delta_ci": sum(a > b for a, b in zip(o, o2, strict=True)) / 16,
            "delta_ic": sum(a < b for a, b in zip(o, o2, strict=True)) / 16,
            "acc_dis": sum(o[i] == f[i] for i in parsed) / 16,
            "acc_dis_parsed": sum(o[i] == f[i] for i in parsed) / len(parsed),
            "parse_rate": len(parsed) / 16,
        }
        for metric, value in by_hand.items():
            measured = rows[method]["metrics"][metric]
            assert measured["values"] == pytest.approx([value], abs=1e-12), (method, metric)
            assert set(measured) == {"mean", "low", "high", "values"}
    assert "| Stage I+II |" in (finished / "report.md").read_text(encoding="utf-8")
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_an_evaluation_says_what_is_written_and_how_fast(
    config: Path, fresh: Fresh, capsys: pytest.CaptureFixture[str]
) -> None:
    output = fresh()
    step = output / "seed0" / "evaluate" / "stage2" / TASK
    unfinish(step)
    records = (step / RECORDS).read_bytes()
    (step / RECORDS).write_bytes(b"")
    assert cli.main(["evaluate", str(config), "--set", f"output={output}"]) == 0
    said = capsys.readouterr().err
    for turn in ("response", "critique", "refinement"):
        assert f"{turn}: writing 16 texts" in said and re.search(rf"{turn}: \d+ tokens a second", said)
    assert (step / RECORDS).read_bytes() == records
    assert not list(step.glob("*.partial*"))


def test_every_row_answers_alike_and_sees_the_same_problems(finished: Path) -> None:
    answers = set()
    for row in ("no_critic", "sft", "stage1", "stage2"):
        lines = (
            (finished / "seed0" / "evaluate" / row / TASK / RECORDS).read_text(encoding="utf-8").splitlines()
        )
        answers.add(tuple((json.loads(line)["id"], json.loads(line)["response"]) for line in lines))
    assert len(answers) == 1


def test_a_stage_starts_from_the_one_before_it(config: Path, fresh: Fresh) -> None:
    output = fresh()
    for step in ("stage2", "evaluate/stage2"):
        shutil.rmtree(output / "seed0" / step)
    still = ("--set", "stages.stage2.trainer.learning_rate=0.0")
    assert run(config, output, *still, command="train") == 0
    one, two = (load_file(output / f"seed0/{stage}/model.safetensors") for stage in ("stage1", "stage2"))
    assert all(one[name].equal(two[name]) for name in one)


def test_stages_of_adapters(config: Path, fresh: Fresh) -> None:
    """Stage I trains an adapter of the SFT critic, and Stage II trains it further."""
    output = fresh()
    for step in ("stage1", "stage2", "evaluate/stage1", "evaluate/stage2"):
        shutil.rmtree(output / "seed0" / step)
    lora = "{r: 4, target_modules: [q_proj, v_proj]}"
    given = [f for stage in ("stage1", "stage2") for f in ("--set", f"stages.{stage}.lora={lora}")]
    assert run(config, output, *given) == 0
    adapters = []
    for stage in ("stage1", "stage2"):
        assert not (output / "seed0" / stage / "model.safetensors").exists()
        adapters.append(load_file(output / "seed0" / stage / "adapter_model.safetensors"))
    first, second = adapters
    assert first.keys() == second.keys() and {f"{k}_proj" for k in "qv"} == {n.split(".")[-3] for n in first}
    assert all(first[name].any() for name in first if "lora_B" in name)  # they start at 0
    assert any(not first[name].equal(second[name]) for name in first)


def test_a_run_of_adapters_from_the_cold_start_on(
    config: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Actor and critics are adapters on one base; each starts from the one before, and `eval` takes them."""
    output = tmp_path / "adapters"
    given = {"base": finished / "base", "cold_start.base": "null", "cold_start.shipped": "null"}
    given |= {
        "cold_start.lora": "{r: 4, target_modules: all-linear}",
        "evaluation.critic": "{dtype: float32}",
    }
    given["evaluation.protocol.critique_temperature"] = 0.0
    settings = [f for key, value in given.items() for f in ("--set", f"{key}={value}")]
    assert run(config, output, *settings) == 0
    folders = {name: output / name for name in ("actor", "sft", "seed0/stage1", "seed0/stage2")}
    weights = {name: load_file(folder / "adapter_model.safetensors") for name, folder in folders.items()}
    for name, folder in folders.items():
        # the base has the tokenizer, and the reference is the start
        assert not [*folder.glob("tokenizer*"), *folder.glob("ref")]
        assert weights[name].keys() == weights["sft"].keys()
        assert any(value.any() for key, value in weights[name].items() if "lora_B" in key)
    for first, second in combinations(folders, 2):
        assert any(not weights[first][key].equal(weights[second][key]) for key in weights["sft"])
    marker = json.loads((output / "seed0/evaluate/stage1" / TASK / "step.json").read_text())
    assert marker["settings"]["critic"] == {"dtype": "float32"}
    # the same critic, merged by hand
    merged = tmp_path / "merged"
    load_critic(str(folders["seed0/stage2"])).merge_and_unload().save_pretrained(merged)  # type: ignore[union-attr]
    AutoTokenizer.from_pretrained(finished / "base").save_pretrained(merged)
    found = read_episodes(output / "seed0/evaluate/stage2" / TASK / RECORDS)
    asked = [COMPACT.critique_prompt(e.question, e.response) for e in found]
    by_hand = TransformersActor(merged).generate(asked, Sampling(32))
    assert [e.critique for e in found] == [reply.text for reply in by_hand]
    moved = tmp_path / "moved"
    shutil.copytree(finished / "base", moved)
    plain = json.loads((folders["sft"] / "adapter_config.json").read_text())
    (folders["sft"] / "adapter_config.json").write_text(
        json.dumps(plain | {"base_model_name_or_path": "gone"})
    )
    ask = ["--task", "modular_chain", "--limit", "4", "--prompts", "compact", "--tokens", "12", "24", "12"]
    pair = ["--actor", str(folders["actor"]), "--critic", str(folders["sft"])]
    assert cli.main(["eval", str(tmp_path / "lost"), *pair, *ask]) == 2
    assert "is an adapter on gone" in capsys.readouterr().err
    assert cli.main(["eval", str(tmp_path / "found"), *pair, *ask, "--base", str(moved)]) == 0


def test_adapters_of_the_cold_start_are_for_a_given_base_and_once(config: Path) -> None:
    lora = "cold_start.lora={r: 4}"
    with pytest.raises(UserError, match=r"cold_start\.lora: a base that the run makes itself"):
        load_config(config, [lora])
    others = ["base=some/model", "cold_start.base=null", "stages.stage1.lora={r: 4}"]
    with pytest.raises(UserError, match=r"stages\.stage1\.lora: RL goes on with the adapter"):
        load_config(config, [lora, *others])


def test_the_actor_of_a_run_may_be_behind_a_server_and_a_row_may_have_another(
    config: Path, finished: Path, fresh: Fresh
) -> None:
    output = fresh()
    with serving_judge() as server:
        served = load_config(config, [f"output={output}", f"actor_server={server.url}"])
        assert isinstance(Run(served).context.actor(), OpenAIActor)
    plain = load_config(config, [f"output={output}"])
    (task,) = plain.evaluation.tasks
    assert Row("m", "sft", actor="x").on(task).actor == "x"
    other = Measurement("no_critic", task, ProtocolConfig(), "other", actor=str(output / "base"))
    made = Run(plain, measurements=[other], display=Display(quiet=True))
    made.execute(("evaluate",))
    found = read_episodes(made.folder.records(0, other))
    asked = [COMPACT.reasoning_prompt(e.question) for e in found]
    replies = TransformersActor(output / "base").generate(asked, Sampling(plain.lengths.response))
    assert [e.response for e in found] == [reply.text for reply in replies]
    own = read_episodes(finished / "seed0" / "evaluate" / "no_critic" / TASK / RECORDS)
    assert [e.response for e in found] != [e.response for e in own]


def test_the_client_of_the_actors_server_has_options_that_no_step_depends_on(
    config: Path, tmp_path: Path
) -> None:
    plain = load_config(config, [f"output={tmp_path}"])
    with serving(lambda _: chat_completion("The answer is 5.")) as server:
        options = [f"output={tmp_path}", f"actor_server={server.url}"]
        options.append("actor_server_options={seeded: false, concurrency: 1}")
        made = Run(load_config(config, options))
        made.context.actor().generate(
            [COMPACT.reasoning_prompt("1 + 1?", image=None)], Sampling(8, temperature=1.0)
        )
        assert ["seed" in body for body in server.requests] == [False]
    assert [step.digest for step in made.steps()] == [step.digest for step in Run(plain).steps()]
    with pytest.raises(UserError, match=r"actor_server_options 'prefill' is unknown"):
        load_config(config, ["actor_server_options={prefill: user}"])


def test_a_run_shows_no_secret_of_its_server_and_refuses_another_model(
    config: Path, fresh: Fresh, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-key")
    output = fresh()
    shutil.rmtree(output / "seed0" / "evaluate" / "no_critic")
    with serving(lambda _: chat_completion("The answer is 5.")) as server:
        url = server.url.replace("http://", "http://me:planted@")
        assert run(config, output, "--set", f"actor_server={url}") == 0
        written = b"".join(p.read_bytes() for p in output.rglob("*") if p.is_file())
        assert b"planted" not in written and b"http://***@127.0.0.1" in (output / "report.json").read_bytes()
        assert json.loads((output / "actor.models.json").read_text()) == {"actor": {"served": "tiny"}}
        (output / "actor.models.json").write_text('{"actor": {"served": "another"}}')
        shutil.rmtree(output / "seed0" / "evaluate" / "no_critic")
        assert run(config, output, "--set", f"actor_server={url}") == 2
        server.answer = lambda _: Reply({"error": "sk-planted-key"}, 400)
        (output / "actor.models.json").unlink()
        assert run(config, output, "--set", f"actor_server={url}") == 2
    shown = "".join(capfd.readouterr())
    assert "comes from the actor 'another' (served), which is 'tiny' now" in shown
    assert "planted" not in shown


def test_no_step_and_no_dry_run_holds_a_secret_of_the_configuration(config: Path, tmp_path: Path) -> None:
    actor = "{backend: openai, base_url: 'http://me:planted@127.0.0.1:9/v1'}"
    loaded = load_config(config, [f"output={tmp_path}", f"actor={actor}"])
    shown = describe(loaded) + "".join(json.dumps(step.settings) for step in Run(loaded).steps())
    assert "planted" not in shown and "http://***@127.0.0.1:9/v1" in shown


# -- going on ---------------------------------------------------------------------------------------------


def test_a_second_run_does_nothing_again(config: Path, fresh: Fresh) -> None:
    output = fresh()
    assert run(config, output) == 0
    before = modified(output)
    assert run(config, output) == 0
    assert modified(output) == before


def test_a_run_says_what_is_to_do_and_how_long_it_takes_before_its_first_step(
    config: Path, fresh: Fresh, capsys: pytest.CaptureFixture[str]
) -> None:
    output = fresh()
    command = ["run", str(config), "--set", f"output={output}"]
    assert cli.main(command) == 0
    assert "to do" not in capsys.readouterr().err  # nothing is
    unfinish(output / "seed0" / "evaluate" / "stage1" / TASK)
    unfinish(output / "seed0" / "evaluate" / "sft" / TASK)
    assert cli.main(command) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"    run mini -> {output}: 2 steps to do"
    assert "GFLOP/s" in lines[1] and lines[2] == "      evaluation (2 steps): about 1 min on this machine"
    assert lines[3] == "      in all: about 1 min on this machine" and lines[4].startswith("[")
    unfinish(output / "seed0" / "evaluate" / "sft" / TASK)
    assert cli.main([*command, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_deleted_row_is_measured_again_alone_and_comes_out_the_same(
    config: Path, finished: Path, fresh: Fresh
) -> None:
    output = fresh()
    before = modified(output)
    shutil.rmtree(output / "seed0" / "evaluate" / "stage1")
    assert run(config, output, command="evaluate") == 0
    changed = {name for name, date in modified(output).items() if date != before.get(name)}
    assert changed - {"seed0/run.lock"} == {
        f"seed0/evaluate/stage1/{TASK}/{name}" for name in (RECORDS, "records.models.json", "step.json")
    }
    records = Path("seed0") / "evaluate" / "stage1" / TASK / RECORDS
    assert (output / records).read_bytes() == (finished / records).read_bytes()


def test_a_killed_evaluation_goes_on(config: Path, finished: Path, fresh: Fresh) -> None:
    output = fresh()
    step = output / "seed0" / "evaluate" / "stage2" / TASK
    content = (step / RECORDS).read_bytes()
    (step / RECORDS).write_bytes(content[: len(content) // 2])
    unfinish(step)
    assert run(config, output, command="report") == 2
    assert run(config, output, command="evaluate") == 0
    assert (step / RECORDS).read_bytes() == content
    assert run(config, output, command="report") == 0


def test_a_changed_setting_is_refused_with_the_difference(
    config: Path, fresh: Fresh, capsys: pytest.CaptureFixture[str]
) -> None:
    output = fresh()
    before = modified(output)
    assert run(config, output, "--set", "pool.samples=3") == 2
    error = capsys.readouterr().err
    assert "step 'seed0/pool'" in error and "pool.samples: 2 -> 3" in error
    assert run(config, output, "--set", "stages.stage2.trainer.beta=0.5") == 2
    assert "stage.trainer.beta: None -> 0.5" in capsys.readouterr().err
    assert modified(output) == before
    # How fast the actor writes is no setting of the result.
    assert run(config, output, "--set", "actor.batch_size=8") == 0


def test_a_step_whose_input_is_missing_is_refused(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, tmp_path / "none", command="train") == 2
    assert "step 'seed0/stage1' needs actor, seed0/pool, sft: run that first" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_second_seed_gives_a_second_value(config: Path, finished: Path, fresh: Fresh) -> None:
    output = fresh()
    before = modified(output)
    assert run(config, output, "--seeds", "0", "1") == 0
    changed = {name for name, date in modified(output).items() if before.get(name, date) != date}
    # the report, and the cards, which have its figures
    assert {name for name in changed if Path(name).name != "README.md"} <= set(REPORT)
    content = json.loads((output / "report.json").read_text(encoding="utf-8"))
    first = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    assert content["seeds"] == [0, 1]
    for row, alone in zip(content["rows"], first["rows"], strict=True):
        for name, metric in row["metrics"].items():
            assert len(metric["values"]) == 2 and metric["values"][0] == alone["metrics"][name]["values"][0]
    pools = [(output / f"seed{s}/pool/table/data-00000-of-00001.arrow").read_bytes() for s in (0, 1)]
    assert pools[0] != pools[1]


@pytest.mark.processes
def test_ctrl_c_ends_with_130_and_the_stage_goes_on_from_its_checkpoint(
    config: Path, finished: Path, fresh: Fresh
) -> None:
    output = fresh()
    command = [sys.executable, "-m", "critique_rl.cli", "run", str(config), "--set", f"output={output}"]
    for _ in range(
        5
    ):  # between first checkpoint and end is half a second, in which this process may not wake
        shutil.rmtree(output / "seed0" / "stage1")
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=environment(), preexec_fn=hear_ctrl_c
        ) as process:
            deadline = time.monotonic() + 120
            # Any checkpoint: the first is removed once there is a second.
            while last_checkpoint(output / "seed0" / "stage1") is None and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.002)
            process.send_signal(signal.SIGINT)
            error = process.communicate(timeout=60)[1]
        if "seed0/stage1: done" not in error:
            break
    assert process.returncode == 130, error
    assert "Traceback" not in error and error.splitlines()[-1].startswith("interrupted")
    checkpoint = last_checkpoint(output / "seed0" / "stage1")
    assert checkpoint is not None
    begun = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]

    assert run(config, output, "--seeds", "0") == 0
    for stage in ("stage1", "stage2"):
        resumed = load_file(output / "seed0" / stage / "model.safetensors")
        unbroken = load_file(finished / "seed0" / stage / "model.safetensors")
        assert all((resumed[name] == unbroken[name]).all() for name in unbroken), stage
    state = json.loads((output / "seed0" / "stage1" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["log_history"][: len(begun)] == begun  # times included: the first RL step was not made again


@pytest.mark.processes
def test_sigterm_saves_a_checkpoint_that_a_full_disk_leaves_whole_and_the_stage_goes_on_from_it(
    config: Path, fresh: Fresh
) -> None:
    outputs = whole, broken = fresh(), fresh()
    more = ["--set", "stages.stage1.trainer.rl_steps=40", "--set", "stages.stage1.checkpoint_rl_steps=100"]
    for output in outputs:
        for part in ("stage1", "stage2", "evaluate"):
            shutil.rmtree(output / "seed0" / part)
    assert run(config, whole, *more, command="train") == 0
    stage = broken / "seed0" / "stage1"
    given = program("train", str(config), "--set", f"output={broken}", *more)
    with subprocess.Popen(given, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        deadline = time.monotonic() + 120
        while not list(stage.glob("completions/*.parquet")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.002)
        process.terminate()
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and "Traceback" not in error, error
    assert error.splitlines()[-1] == "terminated; the same command goes on from the last finished piece."
    [checkpoint] = stage.glob("checkpoint-*")
    assert last_checkpoint(stage) == str(checkpoint) and int(checkpoint.name.partition("-")[2]) < 40
    full = subprocess.run(given, capture_output=True, text=True, env=environment(), preexec_fn=little_room)
    lines = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
    assert full.returncode == 2 and "Traceback" not in full.stderr, full.stderr
    assert len(lines) == 1 and lines[0].startswith("error: a file cannot be written or read: ")
    assert last_checkpoint(stage) == str(checkpoint)
    assert run(config, broken, *more, command="train") == 0
    for name in ("stage1", "stage2"):
        one, other = (load_file(output / "seed0" / name / "model.safetensors") for output in outputs)
        assert all((one[key] == other[key]).all() for key in one), name


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("evaluate/stage1/{TASK}/records.jsonl", "{TASK} is not as the step left it: records.jsonl has"),
        ("pool/rounds/0.jsonl", "pool is not as the step left it: rounds/0.jsonl has"),
        ("stage1/model.safetensors", "stage1 is not as the step left it: model.safetensors has"),
        ("stage1/trainer_state.json", "stage1 is not as the step left it: trainer_state.json has"),
        ("pool/step.json", "pool/step.json is damaged:"),
    ],
)
def test_a_damaged_file_of_a_finished_step_is_named_and_nothing_goes_on(
    config: Path, fresh: Fresh, capsys: pytest.CaptureFixture[str], file: str, words: str
) -> None:
    output = fresh()
    path = output / "seed0" / file.format(TASK=TASK)
    path.write_bytes(path.read_bytes()[:-30])
    before = modified(output)
    for command in ("run", "report"):
        assert run(config, output, command=command) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1 and words.format(TASK=TASK) in error and "Delete" in error
    assert modified(output) == before


def test_a_cut_rollout_of_a_finished_stage_ends_nothing_and_is_counted(
    config: Path, fresh: Fresh, capsys: pytest.CaptureFixture[str]
) -> None:
    output = fresh()
    path = sorted((output / "seed0/stage1/completions").glob("*.parquet"))[0]
    path.write_bytes(path.read_bytes()[:-30])
    given = ["report", str(config), "--set", f"output={output}"]
    assert run(config, output) == cli.main(given) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"1 files of rollouts cannot be read, {path.name} first" in said
    assert cli.main(["view", str(output), "--output", str(output / "page.html")]) == 0


def test_a_run_in_use_is_refused(config: Path, fresh: Fresh, capsys: pytest.CaptureFixture[str]) -> None:
    output = fresh()
    shutil.rmtree(output / "seed0" / "evaluate" / "stage1")
    with only_process(output / "seed0"):
        assert run(config, output) == 2
        assert f"{output / 'seed0'} is in use by process {os.getpid()} on " in capsys.readouterr().err
    assert run(config, output) == 0


@pytest.mark.slow
def test_a_training_whose_numbers_go_wrong_ends_with_2_and_leaves_no_model(
    config: Path, fresh: Fresh, capsys: pytest.CaptureFixture[str]
) -> None:
    output = fresh()
    for step in ("stage1", "stage2", "evaluate"):
        shutil.rmtree(output / "seed0" / step)
    absurd = "stages.stage1.trainer={rl_steps: 3, learning_rate: 1.0, weight_decay: 1.0e+300}"
    assert run(config, output, "--set", absurd) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: RL step 1, optimizer step 2: loss nan") and "Lower learning_rate" in said
    assert "Traceback" not in said
    assert not list((output / "seed0" / "stage1").glob("*.safetensors"))


# -- bad input --------------------------------------------------------------------------------------------

GSM8K = '{"question": "Tom has %d apples and gets one more.", "answer": "%d + 1 = %d\\n#### %d"}\n'
SVAMP = '{"Body": "Mia had 9 shells.", "Question": "How many?", "Equation": "( 9.0 )", "Answer": 9.0}\n'
MATH = '{"problem": "What is $%d+1$?", "solution": "It is that.", "answer": "%s"}\n'
FILES = {
    "good_train.jsonl": "".join(GSM8K % (i, i, i + 1, i + 1) for i in range(4)),
    "test.jsonl": "".join(GSM8K % (i, i, i + 1, i + 1) for i in range(4, 8)),
    "long_train.jsonl": GSM8K.replace("Tom", "Tom and many others " * 30) % (1, 1, 2, 2),
    "svamp_train.jsonl": SVAMP,
    "empty_train.jsonl": "",
    "bad_train.jsonl": GSM8K.replace("#### %d", "#### many%d") % (1, 1, 2, 2),
    "math_train.jsonl": "".join(MATH % (i, i + 1) for i in range(3)) + MATH % (3, "$$"),
}
CUSTOM = '{"question": "What is %d + 1?", "answer": %s, "kind": "%s"}\n'
FILES["kind_train.jsonl"] = CUSTOM % (1, 2, "number") + CUSTOM % (2, 3, "maths")
FILES["nan_train.jsonl"] = CUSTOM % (1, 2, "number") + CUSTOM % (2, "NaN", "number")
FILES["score_train.jsonl"] = CUSTOM % (1, 2, "number") + CUSTOM % (2, 3, "score")
FILES["same_test.jsonl"] = FILES["good_train.jsonl"]
FILES["math_test.jsonl"] = FILES["math_train.jsonl"]
REAL = """
name: real
base: {base}
prompts: compact
train: [{{name: gsm8k, source: {data}/good_train.jsonl, options: {{held_out: 0}}}}]
cold_start: {{teacher: {{kind: reference}}, actor_sft: {{max_steps: 1}}}}
pool: {{samples: 1}}
lengths: {{response: 64, critique: 64, refinement: 64}}
stages:
  stage1: {{label: Stage I, trainer: {{rl_steps: 1}}}}
evaluation: {{tasks: [{{name: gsm8k, split: test, source: {data}/test.jsonl}}]}}
output: {data}/run
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    directory = tmp_path_factory.mktemp("data")
    for name, content in FILES.items():
        (directory / name).write_text(content, encoding="utf-8")
    adapter_of(finished / "sft", directory / "adapter")
    (directory / "real.yaml").write_text(
        REAL.format(base=finished / "base", data=directory), encoding="utf-8"
    )
    return directory


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.0.source={data}/goood_train.jsonl"], ["goood_train.jsonl: no such file"]),
        (
            ["train.0.source={data}/svamp_train.jsonl"],
            ["svamp_train.jsonl, line 1: ", "expected: question, answer"],
        ),
        (["train.0.source={data}/empty_train.jsonl"], ["empty_train.jsonl: no rows"]),
        (
            ["train.0.source={data}/bad_train.jsonl"],
            ["bad_train.jsonl, line 1, field 'answer'", "#### <number>"],
        ),
        (
            ["train.0={name: math, source: {data}/math_train.jsonl, options: {held_out: 0}}"],
            ["task math", "1 of 4 gold answers", "What is $3+1$?", "answer '$$': gold does not parse"],
        ),
        (
            ["train.0={name: custom, source: {data}/kind_train.jsonl, options: {held_out: 0}}"],
            ["kind_train.jsonl, line 2, field 'kind': found 'maths', expected one of math, number"],
        ),
        (
            ["train.0={name: custom, source: {data}/nan_train.jsonl, options: {held_out: 0}}"],
            ["nan_train.jsonl, line 2, field 'answer': found nan, expected a gold answer"],
        ),
        (
            ["train.0={name: custom, source: {data}/score_train.jsonl, options: {held_out: 0}}"],
            ["'What is 1 + 1?' is of kind number and 'What is 2 + 1?' of kind score"],
        ),
        (
            ["base={data}/adapter"],
            [
                "/adapter is an adapter, and a run starts from whole weights",
                "critique_rl.load_critic(folder)",
            ],
        ),
        (["train.0.name=gsm8"], ["no task 'gsm8'", "Did you mean 'gsm8k'"]),
        (["train.0.splt=train"], ["setting 'splt' is unknown. Did you mean 'split'?"]),
        (["train.0.options={rows: 3}"], ["task gsm8k: no option 'rows'"]),
        (["evaluation.tasks.0.source={data}/same_test.jsonl"], ["shares 4 problem(s) with train"]),
        (["train.0.source={data}/long_train.jsonl"], ["problem ", "has at least", "context of 512 tokens"]),
        (["base=./no/such/model"], ["base: ./no/such/model is no directory of a model"]),
        (["base=nobody/no-such-model"], ["base: nobody/no-such-model is no directory of a model"]),
        (["actor={backend: openai, base_url: 'http://127.0.0.1:9/v1'}"], ["127.0.0.1:9"]),
        (
            ["actor={model: x, batchsize: 3}"],
            ["actor: setting 'batchsize' is unknown. Did you mean 'batch_size'?"],
        ),
        (
            ["stages.stage1.trainer.rl_stps=3"],
            ["stages.stage1.trainer: setting 'rl_stps' is unknown. Did you mean"],
        ),
        (["stages.stage1.trainer.beta='1e-2'"], ["beta must be float, got '1e-2'"]),
        (["stages.stage1.trainer.advantage=ppo"], ["stages.stage1.trainer: advantage='ppo' is none of"]),
        (["stages.stage1.trainer.bf16=true"], ["stages.stage1.trainer: ", "bf16"]),
        (["stages.stage1.lora={rank: 8}"], ["stages.stage1.lora: setting 'rank' is unknown"]),
        (["cold_start.critic_sft={epochs: 3}"], ["cold_start.critic_sft: setting 'epochs' is unknown"]),
        (["cold_start.teacher.kind=model"], ["cold_start.teacher.actor: say which model"]),
        (
            ["cold_start.teacher.annotator={mis: 0.5}"],
            ["cold_start.teacher.annotator: setting 'mis' is unknown"],
        ),
        (["cold_start.shipped=assets/none"], ["cold_start.shipped: no models at"]),
    ],
    ids=lambda value: value[0] if value[0] and "=" in value[0] else "",
)
def test_bad_input_is_one_clear_error_before_any_work(
    data: Path, overrides: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [part for item in overrides for part in ("--set", item.replace("{data}", str(data)))]
    started = time.monotonic()
    code = cli.main(["run", str(data / "real.yaml"), *arguments])
    took = time.monotonic() - started
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.err.startswith("error: ") and captured.err.count("error: ") == 1 and captured.out == ""
    assert "Traceback" not in captured.err and len(captured.err.splitlines()) <= 6
    for part in expected:
        assert part in captured.err
    assert took < 20
    assert not (data / "run").exists()


def test_a_task_can_leave_out_what_is_evaluated_and_what_no_reply_can_earn(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = f"{{name: gsm8k, split: test, source: {data}/same_test.jsonl}}"
    spoilt = f"{{name: math, source: {data}/math_train.jsonl, options: {{held_out: 0}}, ungradable: drop}}"
    settings = load_config(
        data / "real.yaml",
        [
            f"train=[{{name: gsm8k, source: {data}/good_train.jsonl, exclude: [{same}], "
            f"options: {{held_out: 0}}}}, {spoilt}]"
        ],
    )
    run = Run(settings)
    with pytest.raises(UserError, match=r"task gsm8k: split 'train' .* is empty without what it excludes"):
        run.context.problems(settings.train[0])
    assert [p.answer for p in run.context.problems(settings.train[1])] == ["1", "2", "3"]
    assert "math, train: dropped 1 ungradable golds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian", "x.yaml"], "there is no command 'trian'. Did you mean 'train'?"),
        (["run"], "the following arguments are required: config"),
        (["self-critic"], "there is no command 'self-critic'. Did you mean 'self-critique'?"),
        (["self-critique", "r.jsonl", "out"], "the following arguments are required: --judge"),
        (["run", "x.yaml", "--dry-rum"], "unrecognized arguments: --dry-rum. Did you mean '--dry-run'?"),
        (["run", "x.yaml", "--seds", "1"], "unrecognized arguments: --seds. Did you mean '--seeds'?"),
        (["run", "x.yaml", "--seds=1"], "unrecognized arguments: --seds. Did you mean '--seeds'?"),
        (["run", "--s=1", "x.yaml"], "ambiguous option: --s=1 could match --seeds, --set"),
        (["run", "x.yaml", "-q"], "unrecognized arguments: -q"),
        (["self-critique", "r", "o", "--juge", "x"], "--juge. Did you mean '--judge'?"),
        (["check-data", "gsm8"], "argument TASK: there is no 'gsm8'. Did you mean 'gsm8k'?"),
        (["check-data", "modular_chain", "--split", "tst"], "split 'tst'"),
        (["eval", "o", "--task", "svmp"], "argument --task: there is no 'svmp'. Did you mean 'svamp'?"),
        (["eval", "o", "--prompts", "compct"], "there is no 'compct'. Did you mean 'compact'?"),
        (["eval", "o", "--critiques", "oracel"], "there is no 'oracel'. Did you mean 'oracle'?"),
        (["eval", "o", "--recorded", "x", "--kind", "numbr"], "there is no 'numbr'. Did you mean 'number'?"),
        (["self-critique", "r", "o", "--judge", "x", "--prompts", "thinkin"], "Did you mean 'thinking'?"),
        (["--verison"], "unrecognized arguments: --verison. Did you mean '--version'?"),
        (["--print-completion", "bsh"], "there is no 'bsh'. Did you mean 'bash'?"),
        (["run", "experiments/configs/tinny.yaml"], "Did you mean experiments/configs/tiny.yaml?"),
        (["run", "x.yaml", "--seeds", "one"], "invalid int value: 'one'"),
        (["run", "no/such.yaml"], "no config at no/such.yaml."),
        ([], "no command is given. See `critique-rl --help`."),
        (["check-data", "gsm8k", "no/such.jsonl"], "no/such.jsonl: no such file"),
    ],
)
def test_a_mistyped_command_line_is_refused(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and expected in captured.err and captured.out == ""


def test_help_lists_the_commands_by_what_they_are_for_and_imports_nothing_slow() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "critique_rl.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    overview, codes = done.stdout.split("\nOptions:\n")[0], done.stdout.split("\nExit codes:\n")[1]
    listed = dict(re.findall(r"^  ([a-z-]+) +(\S.*)$", overview, re.MULTILINE))
    assert listed == {name: command.text for name, command in cli.COMMANDS.items()}
    assert re.findall(r"^(\w.*):$", overview, re.MULTILINE) == [
        "Train",
        "Measure",
        "Look at results",
        "Check",
    ]
    assert [int(code) for code in re.findall(r"^  (\d+) ", codes, re.MULTILINE)] == [0, 1, 2, 130, 143]
    assert max(map(len, done.stdout.splitlines())) < 100
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "datasets", "numpy", "rich", "yaml", "shtab"}
    assert "argparse" in imported


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_says_what_it_takes_with_examples_that_it_takes(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    command = cli.COMMANDS[name]
    assert shown.startswith(f"usage: critique-rl {name} ") and command.examples
    parser, _ = command_parser(name, command)
    for example in command.examples:
        assert f"\n  critique-rl {example}" in shown
        given = shlex.split(example.partition("|")[0])
        assert given[0] == name
        parser.parse_args(given[1:])
    assert all(action.help for action in parser._actions)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"critique-rl {version('critique_rl')}\n"


def test_a_mistake_of_the_user_sets_the_exit_code_of_the_process(data: Path) -> None:
    command = [sys.executable, "-m", "critique_rl.cli", "run", str(data / "real.yaml"), "--set", "pol=1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert (
        done.stderr
        == f"error: {data}/real.yaml: setting 'pol' is unknown. Did you mean 'pool'?"
        + (done.stderr[done.stderr.index(" There are") :])
    )
    assert done.stdout == "" and done.stderr.count("\n") == 1


def test_check_data_reports_and_fails_where_a_gold_cannot_be_graded(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check-data", "gsm8k", str(data / "test.jsonl")]) == 0
    assert capsys.readouterr().out == "4 gold answers: 4 correct, 0 wrong, 0 ungradable\n"
    assert cli.main(["check-data", "math", str(data / "math_test.jsonl")]) == 2
    shown = capsys.readouterr().out
    assert shown.startswith("4 gold answers: 3 correct, 0 wrong, 1 ungradable") and "does not parse" in shown


def test_without_a_hub_the_libraries_are_told_and_behind_a_proxy_they_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "")  # so that what is set is undone
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    cli.go_offline_without_hub()
    assert os.environ["HF_HUB_OFFLINE"] == ""
    monkeypatch.delenv("HTTPS_PROXY")
    cli.go_offline_without_hub()
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with socket.create_server(("127.0.0.1", 0)) as hub:
        monkeypatch.setenv("HF_HUB_OFFLINE", "")
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}")
        cli.go_offline_without_hub()
        assert os.environ["HF_HUB_OFFLINE"] == ""


def test_the_environment_of_the_config_holds_for_the_check_of_the_hub(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_ENDPOINT"):
        monkeypatch.setenv(name, "")
    with socket.create_server(("127.0.0.1", 0)) as hub:
        for port, offline in ((hub.getsockname()[1], ""), (9, "1")):
            given = ["--set", f"env.HF_ENDPOINT=http://127.0.0.1:{port}", "--set", "base=./none"]
            assert cli.main(["sft", str(data / "real.yaml"), *given]) == 2
            assert "./none is no directory of a model" in capsys.readouterr().err
            assert os.environ["HF_HUB_OFFLINE"] == offline


# -- what scripts read ------------------------------------------------------------------------------------


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The JSON document of a command; fails if there is other output or progress."""
    captured = capsys.readouterr()
    assert captured.err == ""
    content = json.loads(captured.out)
    assert list(content)[:4] == ["command", "exit_status", "rows", "paths"]
    assert all(Path(path).exists() for path in content["paths"].values())
    return dict(content)


def test_json_of_a_run_has_the_rows_of_the_report_and_the_places_of_all_files(
    config: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    paths = {"run": finished} | dict(
        zip(("report", "table", "page", "curves"), (finished / n for n in REPORT), strict=True)
    )
    for command in ("run", "report"):
        assert run(config, finished, "--json", command=command) == 0
        assert document(capsys) == {
            "command": command,
            "exit_status": 0,
            "rows": report["rows"],
            "paths": {name: str(path) for name, path in paths.items()},
        }
    made = {"sft": STEPS[:3], "pool": STEPS[3:4], "train": STEPS[4:6], "evaluate": STEPS[6:]}
    for command, steps in made.items():
        assert run(config, finished, "--json", command=command) == 0
        assert document(capsys)["paths"] == {step: str(finished / step) for step in steps}
    assert run(config, finished, "--json", "--dry-run") == 0
    assert f"  done  {STEPS[0]}" in document(capsys)["plan"]


def test_json_of_a_measurement_and_of_a_finding(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": "?", "answer": "18", "kind": "number", "response": "18", "response_label": True}]
    rows += [rows[0] | {"response": "17"}]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = ["eval", str(tmp_path / "out"), "--recorded", str(tmp_path / "r.jsonl"), "--json"]
    assert cli.main(given) == 2  # a label that differs
    found = document(capsys)
    assert found["exit_status"] == 2 and set(found["paths"]) == {"records", "report"}
    assert found["rows"] == json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["rows"]
    assert found["agreement"]["labelled"] == 2 and len(found["agreement"]["differing"]) == 1

    assert cli.main(["check-data", "math", str(data / "math_test.jsonl"), "--json", "--quiet"]) == 2
    (row,) = document(capsys)["rows"]
    assert (row["task"], row["correct"], row["wrong"], row["ungradable"]) == ("math", 3, 0, 1)
    assert row["failures"][0]["gold"] == "$$" and "does not parse" in row["failures"][0]["reason"]


def test_json_of_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records, judge = tmp_path / "records.jsonl", tmp_path / "judge"
    save_untrained(judge, seed=1)
    rows = [asdict(replace(asked_episode(i), sample=sample)) for i in range(3) for sample in range(2)]
    records.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    few = ["--judge", str(judge), "--prompts", "compact", "--max-tokens", "8"]
    with serving_judge() as server:
        for command, file, more in (
            ("self-critique", "self_critique.json", few),
            ("audit", "audit.json", ["--judge", server.url]),
        ):
            output = tmp_path / command
            given = [command, str(records), str(output), *more, "--quiet", "--json"]
            capsys.readouterr()
            assert cli.main(given) == 0
            found = document(capsys)
            result = json.loads((output / file).read_text(encoding="utf-8"))
            assert found["rows"] == result["rows"] and str(output / file) in found["paths"].values()


def test_an_error_is_text_on_stderr_also_with_json(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, tmp_path / "none", "--json", command="report") == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: not finished: base, actor, sft")


def test_what_a_library_prints_does_not_get_into_the_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(arguments: Namespace) -> Outcome:
        sys.stdout.write("a library says hello\n")
        return Outcome("for people", rows=[{"acc": 0.5}], status=2)

    def declare(parser: ArgumentParser) -> None:
        parser.add_argument("--more")

    noisy = cli.Command("Check", "make noise", ("noisy",), lambda: (declare, work))
    monkeypatch.setattr(cli, "COMMANDS", {"noisy": noisy})
    assert cli.main(["noisy", "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "a library says hello\n"
    assert json.loads(captured.out) == {
        "command": "noisy",
        "exit_status": 2,
        "rows": [{"acc": 0.5}],
        "paths": {},
    }
    assert cli.main(["noisy"]) == 2
    assert capsys.readouterr() == ("a library says hello\nfor people\n", "")


# -- the real program -------------------------------------------------------------------------------------


def program(*given: str) -> list[str]:
    return [sys.executable, "-m", "critique_rl.cli", *given]


@pytest.mark.processes
def test_a_reader_that_goes_away_ends_it_with_1_and_without_a_traceback() -> None:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    for unbuffered in ("", "1"):
        env = environment() | {"PYTHONUNBUFFERED": unbuffered}
        given = program("check-data", "modular_chain", "--quiet")
        with subprocess.Popen(given, text=True, env=env, **pipes) as process:
            process.stdout.close()  # type: ignore[union-attr]
            error = process.stderr.read()  # type: ignore[union-attr]
        assert (process.returncode, error) == (1, ""), unbuffered


@pytest.mark.processes
def test_a_failure_of_the_program_ends_it_with_1_and_a_traceback_to_report(
    config: Path, fresh: Fresh
) -> None:
    output = fresh()
    marker = output / "sft" / "step.json"
    marker.write_text(json.dumps(json.loads(marker.read_text("utf-8")) | {"seconds": "many"}), "utf-8")
    given = program("report", str(config), "--set", f"output={output}", "--json")
    done = subprocess.run(given, capture_output=True, text=True, env=environment())
    assert done.returncode == 1 and done.stdout == "" and "Traceback" in done.stderr


def on_a_terminal(given: Sequence[str], more: dict[str, str]) -> str:
    """Output of a command on stderr, which is a terminal."""
    leader, follower = os.openpty()
    shown = {key: value for key, value in environment().items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    shown |= {"TERM": "xterm-256color", **more}
    with subprocess.Popen(program(*given), stdout=subprocess.PIPE, stderr=follower, env=shown) as process:
        os.close(follower)
        written = b""
        while True:
            try:
                piece = os.read(leader, 4096)
            except OSError:  # so a terminal says on Linux that nobody writes to it any more
                break
            if not piece:
                break
            written += piece
        out = process.stdout.read() if process.stdout else b""
    os.close(leader)
    assert process.returncode == 0 and b"\x1b" not in out and b"correct" in out
    return written.decode()


@pytest.mark.processes
def test_colours_are_for_terminals_alone_and_not_with_no_color() -> None:
    given, colour = ["check-data", "modular_chain"], re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|38;|9[0-7])[0-9;]*m")
    assert colour.search(on_a_terminal(given, {}))
    bare = on_a_terminal(given, {"NO_COLOR": "1"})
    assert not colour.search(bare) and "modular_chain, test" in bare
    assert on_a_terminal([*given, "--quiet"], {}) == ""
    # Many CI systems set FORCE_COLOR: a log file is still no place to move a cursor in.
    forced = {**environment(), "FORCE_COLOR": "1"}
    done = subprocess.run(program(*given), capture_output=True, text=True, check=True, env=forced)
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr.splitlines()[0] == "[1/1] modular_chain, test"


# -- completion -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def completion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "critique-rl"
    done = subprocess.run(
        program("--print-completion", "bash"), capture_output=True, check=True, env=environment()
    )
    path.write_bytes(done.stdout)
    return path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("critique-rl ", set(cli.COMMANDS)),
        ("critique-rl se", {"self-critique"}),
        ("critique-rl run --s", {"--seeds", "--set"}),
        ("critique-rl eval o --history ", {"markov", "full"}),
        ("critique-rl eval o --task m", {"made_up_facts", "math", "modular_chain"}),
        ("critique-rl check-data gs", {"gsm8k"}),
        ("critique-rl run --quiet configs/", {"configs/a.yaml", "configs/deeper"}),
        ("critique-rl run con", {"configs"}),
        ("critique-rl self-critique ", {"records.jsonl", "configs"}),
        ("critique-rl --print-completion z", {"zsh"}),
    ],
)
def test_tab_completes_commands_options_values_and_files(
    completion: Path, tmp_path: Path, line: str, expected: set[str]
) -> None:
    (tmp_path / "configs" / "deeper").mkdir(parents=True)
    for name in ("configs/a.yaml", "configs/notes.txt", "records.jsonl", "report.json"):
        (tmp_path / name).touch()
    words = " ".join(shlex.quote(word) for word in line.split(" "))
    script = (
        f"source {shlex.quote(str(completion))}; COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ));"
        r"$(complete -p critique-rl | sed 's/.*-F \([^ ]*\).*/\1/'); printf '%s\n' \"${COMPREPLY[@]}\""
    ).replace('\\"', '"')
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert set(done.stdout.split()) == expected, done.stderr


def test_no_model_of_a_step_outlives_it(config: Path, fresh: Fresh) -> None:
    """A trainer is part of reference cycles: policy, reference and optimizer would stay beside the next."""

    def live(kind: type) -> list[Any]:
        return [value for value in gc.get_objects() if issubclass(type(value), kind)]

    output = fresh()
    for stage in ("stage1", "stage2"):
        shutil.rmtree(output / "seed0" / stage)
    run = Run(load_config(config, [f"output={output}"]), display=Display(quiet=True))
    gc.collect()
    before = sum(p.numel() for p in live(torch.nn.Parameter))
    gc.disable()
    try:
        run.execute(("train",))
        weights = sum(p.numel() for p in live(torch.nn.Parameter))
        optimizers = live(torch.optim.Optimizer)
    finally:
        gc.enable()
    actor = sum(p.numel() for p in run.context.actor()._model.parameters())  # type: ignore[attr-defined]
    assert weights == before + actor and not optimizers


def test_what_is_kept_of_a_run_is_a_finished_run(config: Path, finished: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"

    def keep(source: Path, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "experiments" / "keep.py"), str(source), str(kept), *options]
        return subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)

    assert f"{len(STEPS) - 1} steps copied" in keep(finished).stdout
    assert (kept / "report.json").is_file() and (kept / "seed0/stage1/README.md").is_file()
    assert not [*kept.rglob("checkpoint-*"), *kept.rglob("completions"), *kept.glob("base")]
    steps = Run(load_config(config, [f"output={kept}"])).steps()
    assert [step.name for step in steps if not step.finished()] == ["base"]
    (kept / "seed0/stage1/model.safetensors").unlink()
    assert "1 steps copied" in keep(finished).stdout
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    unfinish(copy / "seed0/stage2")
    (copy / "seed0/stage1/model.safetensors").write_bytes(b"")
    (kept / "seed0/stage1/model.safetensors").unlink()
    refused = keep(copy)
    assert refused.returncode == 2 and "stage1 is not as the step left it" in refused.stderr
    shutil.copy2(finished / "seed0/stage1/model.safetensors", copy / "seed0/stage1")
    assert "left out: seed0/stage2" in keep(copy).stdout
    said = keep(copy, "--unfinished").stdout
    (checkpoint,) = (kept / "seed0/stage2").glob("checkpoint-*")
    assert f"seed0/stage2: not finished, {checkpoint.name} kept" in said and "left out" not in said
    assert last_checkpoint(kept / "seed0/stage2") == str(checkpoint)
    assert not (kept / "seed0/stage2/model.safetensors").exists()
    assert "holds no step of a run" in keep(tmp_path / "configs").stderr


def test_a_run_whose_texts_may_outgrow_the_context_says_so_before_it_starts(
    config: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"output={tmp_path}", f"base={finished / 'base'}", "cold_start.base=null"]
    lengths = "lengths={response: 200, critique: 200, refinement: 200}"
    for more, noted in (([lengths], True), ([], False)):
        preflight.check(Run(load_config(config, [*given, *more]), display=Display()).context)
        said = capsys.readouterr()
        words = "a refinement with its prompt may need 6"
        assert ((words in said.out + said.err) is noted) and "a critique with its" not in said.out + said.err
