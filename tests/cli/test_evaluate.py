"""`critique-rl eval`: any actor and critic, and recorded replies."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import Reply, chat_completion, read_jsonl, serving, write_jsonl

from critique_rl.actors import server as server_module
from critique_rl.cli import commands as cli
from critique_rl.manifest import only_process
from critique_rl.prompts import VERDICT_LABEL
from critique_rl.tasks import load_task

TASK = ["--task", "modular_chain", "--option", "steps=1", "--option", "size=105", "--prompts", "compact"]


KEY, PASSWORD = "sk-planted-1234", "planted-word"


def evaluate(output: Path, actor: Path | str, critic: Path | None, *more: str) -> int:
    models = ["--actor", str(actor), *([] if critic is None else ["--critic", str(critic)])]
    return cli.main(["eval", str(output), *TASK, *models, "--quiet", "--tokens", "20", "20", "20", *more])


def test_two_models_are_measured_and_the_same_command_goes_on(
    tmp_path: Path, actor_dir: Path, critic_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--samples", "2", "--rounds", "2", "--temperature", "0.7")
    assert evaluate(tmp_path, actor_dir, critic_dir, *more) == 0
    shown = capsys.readouterr().out
    records = tmp_path / "records.jsonl"
    rows = read_jsonl(records)
    problems = {row["id"] for row in rows}
    assert len(rows) == 4 * len(problems) and {row["dataset"] for row in rows} == {"modular_chain"}
    measured = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["rows"][0]["metrics"]
    first, second = ([r["refinement_correct"] for r in rows if r["round"] == n] for n in (0, 1))
    assert measured["acc_refine"]["mean"] == pytest.approx(sum(first) / len(first))
    assert measured["refinement_at_2"]["mean"] == pytest.approx(sum(second) / len(second))
    assert measured["pass_at_2"]["mean"] >= measured["pass_at_1"]["mean"]
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    used = {"batch_size": "32768 tokens", "dtype": "torch.float32", "device": "cpu"}
    assert report["models"] == {
        role: {"name": str(path), **used} for role, path in (("actor", actor_dir), ("critic", critic_dir))
    }
    assert f"{len(problems)} problems, 2 samples of each" in shown
    assert f"actor: {actor_dir}" in shown and f"critic: {critic_dir}" in shown
    assert re.search(r"acc_refine: [\d.]+% \([\d.]+% to [\d.]+%\)", shown)
    assert "| Critic |" in shown and "pass_at_2: " in shown

    whole = records.read_bytes()
    records.write_bytes(whole[: len(whole) // 2])
    marker = tmp_path / "step.json"
    marker.write_text(marker.read_text(encoding="utf-8").replace('"finished": true', '"finished": false'))
    assert evaluate(tmp_path, actor_dir, critic_dir, *more) == 0
    assert sorted(records.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert evaluate(tmp_path, actor_dir, critic_dir, "--samples", "3", "--temperature", "0.5") == 2
    assert "protocol.samples: 2 -> 3" in capsys.readouterr().err


def test_an_actor_alone_and_the_controls_need_no_critic(tmp_path: Path, actor_dir: Path) -> None:
    assert evaluate(tmp_path / "alone", actor_dir, None, "--limit", "5") == 0
    assert evaluate(tmp_path / "oracle", actor_dir, None, "--limit", "5", "--critiques", "oracle") == 0
    rows = [json.loads((tmp_path / n / "report.json").read_text())["rows"][0] for n in ("alone", "oracle")]
    assert [row["method"] for row in rows] == ["No critic", "Critic"]
    assert "acc_dis" not in rows[0]["metrics"] and rows[1]["metrics"]["acc_dis"]["mean"] == 1.0


def test_each_phase_is_named_with_its_speed(
    tmp_path: Path, actor_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["eval", str(tmp_path), *TASK, "--actor", str(actor_dir), "--critiques", "empty"]
    assert cli.main([*argv, "--tokens", "9", "9", "9"]) == 0
    shown = capsys.readouterr().err
    assert re.search(r"response: writing \d+ texts", shown) and re.search(r"refinement: writing \d+", shown)
    assert re.search(r"refinement: \d+ tokens a second", shown)


def test_texts_that_are_cut_are_counted_and_said(
    tmp_path: Path, actor_dir: Path, critic_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path, actor_dir, critic_dir, "--limit", "6", "--tokens", "2", "40", "2") == 0
    shown = capsys.readouterr().out
    for text in ("response", "refinement"):
        assert f"warning: 6 of 6 {text}s were cut at 2 tokens: raise --tokens" in shown
    assert "critiques were cut" not in shown and "| cut |" in shown
    rows = read_jsonl(tmp_path / "records.jsonl")
    assert [(r["response_cut"], r["critique_cut"], r["refinement_cut"]) for r in rows] == [
        (True, False, True)
    ] * 6
    measured = json.loads((tmp_path / "report.json").read_text())["rows"][0]["metrics"]
    assert measured["cut"]["mean"] == pytest.approx(2 / 3) and measured["critique_cut"]["mean"] == 0
    # Records of older versions say nothing about it.
    for row in rows:
        for text in ("response", "critique", "refinement"):
            del row[f"{text}_cut"]
    write_jsonl(tmp_path / "records.jsonl", rows)
    marker = json.loads((tmp_path / "step.json").read_text(encoding="utf-8"))
    marker.pop("files", None)
    (tmp_path / "step.json").write_text(json.dumps(marker), encoding="utf-8")
    assert evaluate(tmp_path, actor_dir, critic_dir, "--limit", "6", "--tokens", "2", "40", "2") == 0
    shown = capsys.readouterr().out
    assert "warning" not in shown and "| cut |" not in shown


def test_what_a_critic_has_written_needs_one(
    tmp_path: Path, actor_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path, actor_dir, None, "--limit", "5", "--critiques", "shuffled") == 2
    assert "--critiques shuffled uses the critic's critiques: give --critic" in capsys.readouterr().err


def test_recorded_replies_do_not_take_the_place_of_an_evaluation(
    tmp_path: Path, actor_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path / "out", actor_dir, None, "--limit", "5") == 0
    records = (tmp_path / "out" / "records.jsonl").read_bytes()
    path = write(tmp_path / "replies.jsonl", RECORDED)
    assert cli.main(["eval", str(tmp_path / "out"), "--recorded", str(path)]) == 2
    assert "holds the evaluation of a task: choose another folder" in capsys.readouterr().err
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == records


def test_samples_of_scored_replies_have_no_vote(tmp_path: Path, actor_dir: Path) -> None:
    task = ["--task", "made_up_facts", "--option", "size=40", "--prompts", "summary", "--limit", "4"]
    scored = ["--scorer", "keywords", "--range", "0", "1", "--samples", "2", "--temperature", "0.7"]
    given = ["eval", str(tmp_path), *task, *scored, "--actor", str(actor_dir), "--tokens", "8", "8", "8"]
    assert cli.main([*given, "--quiet"]) == 0
    measured = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["rows"][0]["metrics"]
    assert "score" in measured and not any("_at_" in name for name in measured)


RECORDED = [
    {"response": "9 * 2 = $<<9*2=18>>18\nA: 18", "response_label": True},
    {"response": "So 26.\nA: 26", "response_label": False},
    {"response": "The answer is $18.00.", "response_label": True},
    {"response": "The answer is 1,800.", "response_label": True},  # a label that is wrong
]


def write(path: Path, rows: list[dict]) -> Path:
    filled = [{"question": "How many?", "answer": "18", "kind": "number"} | row for row in rows]
    return write_jsonl(path, filled)


def test_recorded_replies_are_compared_with_their_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "replies.jsonl", RECORDED)
    assert cli.main(["eval", str(tmp_path / "out"), "--recorded", str(path)]) == 2
    shown = capsys.readouterr().out
    assert "3 of 4 labelled replies are graded as labelled, 0 could not be graded" in shown
    assert f"{path}, line 4: response_label True, graded False" in shown
    assert cli.main(["eval", str(tmp_path / "out"), "--recorded", str(write(path, RECORDED[:3]))]) == 0
    measured = json.loads((tmp_path / "out" / "report.json").read_text())["rows"][0]["metrics"]
    assert measured["acc"]["mean"] == pytest.approx(2 / 3)


def test_recorded_critiques_are_read_by_the_one_parser(tmp_path: Path) -> None:
    rows = [
        {"response": "18", "critique": f"{VERDICT_LABEL} Correct", "refinement": "18"},
        {"response": "17", "critique": f"{VERDICT_LABEL} Correct", "refinement": "18"},
        {"response": "17", "critique": "Hm.", "refinement": "16"},
    ]
    assert (
        cli.main(["eval", str(tmp_path / "out"), "--recorded", str(write(tmp_path / "r.jsonl", rows))]) == 0
    )
    measured = json.loads((tmp_path / "out" / "report.json").read_text())["rows"][0]["metrics"]
    expected = {
        "acc": 1 / 3,
        "acc_refine": 2 / 3,
        "acc_dis": 1 / 3,
        "acc_dis_parsed": 1 / 2,
        "parse_rate": 2 / 3,
    }
    assert {name: measured[name]["mean"] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"response": 3}, "line 1, field 'response': found 3, expected text"),
        ({"response": "3", "kind": "numbr"}, "line 1, field 'kind': found 'numbr', expected one of"),
        ({"response": "3", "kind": None}, "line 1: no field 'kind'; give the kind of all rows with --kind"),
        (
            {"response": "3", "critique": "c"},
            "line 1: a row has both `critique` and `refinement`, or neither",
        ),
        ({"response": "3", "response_label": "yes"}, "field 'response_label': found 'yes', expected true or"),
        ({"reply": "3"}, "line 1: missing field 'response'"),
    ],
)
def test_a_bad_recorded_row_is_named(
    tmp_path: Path, row: dict, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "r.jsonl", [row])
    assert cli.main(["eval", str(tmp_path / "out"), "--recorded", str(path)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say either --task NAME with --actor, or --recorded FILE"),
        (["--task", "gsm8k", "--recorded", "x"], "say either"),
        (["--task", "gsm8k"], "--actor is missing"),
        (["--task", "gsm8k", "--actor", "x", "--source", "no/such.jsonl"], "no/such.jsonl: no such file"),
        (["--task", "gsm8k", "--actor", "x", "--option", "splits"], "--option splits is not of the form"),
        (["--task", "gsm8k", "--actor", "x", "--history", "markow"], "Did you mean 'markov'"),
        (["--task", "gsm8k", "--actor", "x", "--prompts", "papr"], "Did you mean 'paper'"),
        (["--recorded", "no/such.jsonl"], "no/such.jsonl: no such file"),
    ],
)
def test_a_mistake_is_one_clear_error(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["eval", str(tmp_path / "out"), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and message in captured.err and captured.out == ""
    assert not (tmp_path / "out").exists()


# -- a served actor ----------------------------------------------------------------------------------------


def test_a_served_actor_leaves_no_secret_and_its_missing_replies_are_said(
    tmp_path: Path,
    critic_dir: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    sent: list[int] = []

    def answer(body: dict[str, Any]) -> Reply:
        sent.append(1)
        if len(sent) > healthy[0]:
            return Reply({"error": {"message": f"bad key {KEY} of {PASSWORD}"}}, 401)
        lost = problems[2].question in body["messages"][0]["content"]
        return chat_completion(None if lost else "The answer is 5.", reasoning_content=f"hm {len(sent)}")

    problems, healthy = load_task("modular_chain", split="test", steps=1, size=105), [0]
    monkeypatch.setattr(server_module, "_AGAIN_S", 0.0)
    with serving(answer) as server:
        url = server.url.replace("http://", f"http://me:{PASSWORD}@")
        for most, status in ((0, 2), (10**6, 0)):
            healthy[0] = most
            assert evaluate(tmp_path / "out", url, critic_dir) == status
        shown = capfd.readouterr()
        server.models = ["another"]
        marker = tmp_path / "out" / "step.json"
        marker.write_text(marker.read_text(encoding="utf-8").replace('"finished": true', '"finished": false'))
        assert evaluate(tmp_path / "out", url, critic_dir) == 2
        assert "two models would be mixed" in capfd.readouterr().err
    assert "error: http://***@127.0.0.1" in shown.err
    assert f"unknown: 1 of {len(problems)} (1 without a reply" in shown.out
    written = "".join(p.read_text(encoding="utf-8") for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert "http://***@127.0.0.1" in written and "planted" not in f"{written}{shown.out}{shown.err}"


def test_records_are_not_continued_with_other_weights(
    tmp_path: Path, actor_dir: Path, critic_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [Path(shutil.copytree(d, tmp_path / d.name)) for d in (actor_dir, critic_dir)]
    output = tmp_path / "out"
    assert evaluate(output, *models, "--limit", "5") == 0
    (output / "step.json").write_text(
        (output / "step.json").read_text(encoding="utf-8").replace('"finished": true', '"finished": false')
    )
    before = (output / "records.jsonl").read_bytes()
    assert evaluate(output, *models, "--limit", "5") == 0
    shutil.copy(actor_dir / "model.safetensors", models[1] / "model.safetensors")
    (output / "step.json").write_text(
        (output / "step.json").read_text(encoding="utf-8").replace('"finished": true', '"finished": false')
    )
    assert evaluate(output, *models, "--limit", "5") == 2
    assert "comes from the critic" in capsys.readouterr().err
    assert (output / "records.jsonl").read_bytes() == before


def test_an_attempt_that_failed_does_not_lock_its_folder(
    tmp_path: Path, actor_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path / "out", tmp_path / "no-model", None, "--limit", "5") != 0
    assert evaluate(tmp_path / "out", actor_dir, None, "--limit", "5") == 0
    assert "other settings" not in capsys.readouterr().err


def test_records_that_lines_were_taken_from_are_named_and_give_no_figures(
    tmp_path: Path, actor_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path, actor_dir, None, "--limit", "5") == 0
    records, lines = tmp_path / "records.jsonl", (tmp_path / "records.jsonl").read_bytes().splitlines(True)
    for changed in (lines[1:], [*lines, lines[0]], []):
        records.write_bytes(b"".join(changed))
        capsys.readouterr()
        assert evaluate(tmp_path, actor_dir, None, "--limit", "5") == 2
        shown = capsys.readouterr()
        assert "records.jsonl has" in shown.err and shown.out == "" and "Delete that folder" in shown.err


def test_a_folder_in_use_is_refused(
    tmp_path: Path, actor_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with only_process(tmp_path):
        assert evaluate(tmp_path, actor_dir, None, "--limit", "5") == 2
    assert f"{tmp_path} is in use by process" in capsys.readouterr().err
    assert not (tmp_path / "records.jsonl").exists()
