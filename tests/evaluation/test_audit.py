"""The audit of critiques: who is asked what, what is kept, and what a judge behind HTTP says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    JudgeServer,
    asked_episode,
    audited_episode,
    critique_number,
    opinion_on,
    serving_judge,
    write_jsonl,
)

from critique_rl.actors import ActorError, OpenAIActor
from critique_rl.cli import commands as cli
from critique_rl.evaluation.audit import Opinion, audit, judge_prompt, markdown_table, parse_opinion, summary
from critique_rl.evaluation.episodes import Episode
from critique_rl.records import read_records
from critique_rl.types import Conversation, Generation, Problem, Sampling, UserError

PROBLEMS = {
    f"p{i}": Problem(f"p{i}", "toy", f"What is {i} + 1?", "", str(i + 1), "number") for i in range(40)
}


EPISODES = [audited_episode(i) for i in range(20)]
OTHERS = [  # none of these turned wrong into right
    audited_episode(20, True, True),
    audited_episode(21, True, False),
    audited_episode(22, False, False),
    audited_episode(23, None, True),
    audited_episode(24, False, None),
    audited_episode(25, critique=None, verdict=None),
    audited_episode(26, critique=""),
]


class ToyJudge:
    """Answers by a rule and remembers what it was asked; is killed when `kill_at` critiques are asked."""

    def __init__(self, name: str = "toy", kill_at: int | None = None) -> None:
        self.name, self.kill_at = name, kill_at
        self.asked: list[int] = []
        self.samplings: list[Sampling] = []

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        numbers = [critique_number(p[0]["content"]) for p in prompts]
        if self.kill_at is not None and len(self.asked) + len(numbers) > self.kill_at:
            raise KeyboardInterrupt
        self.asked += numbers
        self.samplings.append(sampling)
        return [Generation(opinion_on(i), 30, 8, False) for i in numbers]


def run(judge: Any, records: Path, episodes: Sequence[Episode] = EPISODES, **settings: Any) -> list[Opinion]:
    defaults: dict[str, Any] = {"limit": 100, "seed": 0, "chunk_size": 4}
    return audit(episodes, PROBLEMS, judge, records=records, **(defaults | settings))


# --- the draw -----------------------------------------------------------------------------------------


def test_only_critiques_that_turned_wrong_into_right_are_judged(tmp_path: Path) -> None:
    judge = ToyJudge()
    opinions = run(judge, tmp_path / "deep" / "opinions.jsonl", [*OTHERS, *EPISODES])
    assert sorted(judge.asked) == list(range(20))
    assert [int(o.id[1:]) for o in opinions] == judge.asked
    for opinion in opinions:
        i = int(opinion.id[1:])
        expected = (None, None) if i == 7 else (i % 2 == 1, i < 15)
        assert (opinion.accurate, opinion.high_quality) == expected
        assert (opinion.judge, opinion.reply, opinion.tokens) == ("toy", opinion_on(i), 38)
    assert judge.samplings == [Sampling(512)] * 5  # greedy, in chunks of 4
    assert run(judge, tmp_path / "none.jsonl", OTHERS) == []


def test_the_draw_follows_its_seed_and_no_order_of_the_records(tmp_path: Path) -> None:
    def drawn(name: str, episodes: Sequence[Episode] = EPISODES, **settings: Any) -> list[str]:
        return [o.id for o in run(ToyJudge(), tmp_path / name, episodes, **settings)]

    eight = drawn("a", limit=8)
    assert len(eight) == 8 and eight != [f"p{i}" for i in range(8)]
    assert drawn("b", EPISODES[::-1], limit=8) == eight
    assert drawn("c", limit=12)[:8] == eight
    assert set(drawn("d", limit=8, seed=1)) != set(eight)


def test_each_sample_and_round_is_a_critique_of_its_own(tmp_path: Path) -> None:
    episodes = [audited_episode(3), audited_episode(3, sample=1), audited_episode(3, sample=1, round=1)]
    opinions = run(ToyJudge(), tmp_path / "o.jsonl", episodes)
    assert sorted((o.sample, o.round) for o in opinions) == [(0, 0), (1, 0), (1, 1)]


def test_a_limit_below_one_and_a_missing_problem_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="limit must be at least 1, got 0"):
        run(ToyJudge(), tmp_path / "o.jsonl", limit=0)
    with pytest.raises(UserError, match="records of problem p40, which is not among the 40 problems"):
        run(ToyJudge(), tmp_path / "o.jsonl", [audited_episode(40)])


# --- going on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill_at", [0, 4, 11, 19])
def test_a_killed_audit_asks_nothing_twice(tmp_path: Path, kill_at: int) -> None:
    whole = ToyJudge()
    expected = run(whole, tmp_path / "whole.jsonl")
    records = tmp_path / "broken.jsonl"
    killed, second = ToyJudge(kill_at=kill_at), ToyJudge()
    with pytest.raises(KeyboardInterrupt):
        run(killed, records)
    assert len(killed.asked) == kill_at // 4 * 4
    assert run(second, records) == expected
    assert killed.asked + second.asked == whole.asked
    assert records.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    third = ToyJudge()
    assert run(third, records) == expected == read_records(records, Opinion)
    assert third.asked == []


def test_a_larger_limit_asks_for_the_rest_alone(tmp_path: Path) -> None:
    first, second = ToyJudge(), ToyJudge()
    eight = run(first, tmp_path / "o.jsonl", limit=8)
    twelve = run(second, tmp_path / "o.jsonl", limit=12)
    assert twelve[:8] == eight and len(second.asked) == 4
    assert run(ToyJudge(), tmp_path / "o.jsonl", limit=8) == eight  # and a smaller one takes its part


def test_foreign_records_are_refused(tmp_path: Path) -> None:
    records = tmp_path / "o.jsonl"
    run(ToyJudge(), records)
    with pytest.raises(UserError, match="another judge"):
        run(ToyJudge("another"), records)
    changed = [audited_episode(0, critique="critique number 0, rewritten"), *EPISODES[1:]]
    with pytest.raises(UserError, match="on other critiques"):
        run(ToyJudge(), records, changed)


# --- prompt, reply and summary ------------------------------------------------------------------------


def test_the_judge_sees_question_reference_response_and_critique() -> None:
    problem = Problem("p", "math", "What is {x}?", "Because {answer}: 40 + 2.", "42", "math")
    ((message),) = judge_prompt(problem, "I say {question} 41.", "Step one is off.\nQuality: High")
    text = message["content"]
    assert message["role"] == "user"
    places = [
        text.index(part)
        for part in (
            "What is {x}?",
            "Because {answer}: 40 + 2.",
            "42\n[end",
            "I say {question} 41.",
            "Step one",
        )
    ]
    assert places == sorted(places)
    assert "reference solution" in text
    without = judge_prompt(dataclasses.replace(problem, solution=""), "y", "c")[0]["content"]
    assert "reference solution" not in without and "[begin reference answer]\n42\n" in without


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Judgment: Accurate\nQuality: High", (True, True)),
        ("Judgment: Inaccurate\nQuality: Low", (False, False)),
        ("Judgment: Inaccurate\r\nQuality: High\r\n", (False, True)),
        ("The first step is wrong indeed.\n\nJudgment: Accurate \n\nQuality:Low\n", (True, False)),
        ("Quality: Low\nJudgment: Accurate", (True, False)),
        ("", None),
        ("Judgment: Accurate", None),  # half a reply is none
        ("Quality: High", None),
        ("Judgment: Accurate or Inaccurate\nQuality: High or Low", None),  # the format repeated
        ("Judgment: Accurate\nQuality: High\nJudgment: Inaccurate", None),  # two opinions
        ("Judgment: Accurate\nJudgment: Accurate\nQuality: High", None),
        ("Judgment: Mostly Accurate\nQuality: High", None),
        ("Judgment: accurate\nQuality: high", None),
        ("My Judgment: Accurate\nQuality: High", None),
        ("Judgment: Accurate, Quality: High", None),
        ("Judgment:\nAccurate\nQuality: High", None),
    ],
)
def test_the_reply_is_read_strictly(reply: str, expected: tuple[bool, bool] | None) -> None:
    assert parse_opinion(reply) == expected


def test_summary_by_hand(tmp_path: Path) -> None:
    found = summary(run(ToyJudge(), tmp_path / "o.jsonl"))
    # 20 critiques, of which 7 is not read: 9 odd ones and 14 below 15 are left.
    assert (found["audited"], found["parsed"]) == (20, 19)
    assert found["unparsed_rate"] == pytest.approx(1 / 20)
    assert found["accurate"]["mean"] == pytest.approx(9 / 19)
    assert found["high_quality"]["mean"] == pytest.approx(14 / 19)
    # Ends of Wilson's interval solve (p - x)^2 = z^2 x (1 - x) / n.
    for name in ("accurate", "high_quality"):
        for end in (found[name]["low"], found[name]["high"]):
            deviation = (found[name]["mean"] - end) ** 2
            assert deviation == pytest.approx(1.959964**2 * end * (1 - end) / 19)
        assert found[name]["low"] < found[name]["mean"] < found[name]["high"]


def test_summary_of_nothing_is_none() -> None:
    nothing = {"mean": None, "low": None, "high": None}
    unread = Opinion("k", "p0", 0, 0, "toy", None, None, "Hm.", 3)
    assert summary([]) == {
        "audited": 0,
        "parsed": 0,
        "unparsed_rate": None,
        "accurate": nothing,
        "high_quality": nothing,
        "tokens": 0,
    }
    assert summary([unread])["unparsed_rate"] == 1.0 and summary([unread])["accurate"] == nothing
    assert markdown_table(summary([unread])).splitlines()[-1] == "| 1 | 1 | – | – | 3 |"


# --- a judge behind HTTP ------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with serving_judge() as running:
        yield running


def judge_at(server: JudgeServer) -> OpenAIActor:
    return OpenAIActor(server.url, concurrency=1, max_retries=0)


def test_a_served_judge_is_asked_greedily_and_once(server: JudgeServer, tmp_path: Path) -> None:
    expected = run(ToyJudge("judge"), tmp_path / "toy.jsonl")
    records = tmp_path / "o.jsonl"
    server.healthy = 11  # the last request of the third chunk fails
    with pytest.raises(ActorError, match="no credit left"):
        run(judge_at(server), records)
    assert read_records(records, Opinion) == expected[:8]
    server.healthy = 10**6
    # A fresh client, so that no cache of the old one hides a second request.
    assert run(judge_at(server), records, max_tokens=99) == expected
    kept = [int(o.id[1:]) for o in expected]
    assert server.asked == [*kept[:11], *kept[8:]]  # the replies of the failed chunk were never seen
    assert {body["temperature"] for body in server.bodies} == {0}
    assert [body["max_tokens"] for body in server.bodies] == [512] * 11 + [99] * 12
    assert summary(run(judge_at(server), records)) == summary(expected)
    assert len(server.asked) == 11 + 12


# --- the command --------------------------------------------------------------------------------------


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """Records in which 40 responses are corrected, more than are asked and written together."""
    episodes = [*(asked_episode(i) for i in range(40)), asked_episode(0, sample=1, response_correct=True)]
    return write_jsonl(tmp_path / "records.jsonl", [asdict(e) for e in episodes])


@pytest.fixture
def gsm8k(tmp_path: Path) -> Path:
    """The problems of `evaluated`, with gold solutions."""
    rows = [{"question": f"What is {i} + 1?", "answer": f"Count on.\n#### {i + 1}"} for i in range(40)]
    return write_jsonl(tmp_path / "gsm8k.jsonl", rows)


def command(records: Path, server: JudgeServer, *more: str) -> int:
    output = records.parent / "out"
    return cli.main(["audit", str(records), str(output), "--judge", server.url, *more])


def test_the_command_prints_and_writes_what_the_judge_says(
    server: JudgeServer, evaluated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = evaluated.parent / "out"
    assert command(evaluated, server, "--max-tokens", "99") == 0
    shown = capsys.readouterr()
    # Of 40 critiques 7 is not read: 19 odd ones and 14 below 15 are left of 39.
    assert shown.out == (
        "| Audited | Unparsed | Accurate | High quality | Tokens |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| 40 | 1 | 48.7% (33.9% to 63.8%) | 35.9% (22.7% to 51.6%) | 1520 |\n"
        f"\nresults: {output / 'audit.json'}\n"
    )
    assert "32/40" in shown.err and "40/40" in shown.err
    assert sorted(server.asked) == list(range(40))
    assert {(body["max_tokens"], body["temperature"], body["model"]) for body in server.bodies} == {
        (99, 0, "judge")
    }
    texts = [body["messages"][0]["content"] for body in server.bodies]
    assert all(f"[begin reference answer]\n{critique_number(text) + 1}\n" in text for text in texts)
    assert not any("reference solution" in text for text in texts)
    opinions = read_records(output / "opinions.jsonl", Opinion)
    content = json.loads((output / "audit.json").read_text(encoding="utf-8"))
    assert set(content) == {"config", "commit", "versions", "seeds", "rows"}
    assert content["rows"] == [{"judge": "judge", "dataset": "toy", **summary(opinions)}]
    assert content["config"] == {
        "records": str(evaluated),
        "task": None,
        "judge": server.url,
        "model": "judge",
        "limit": 600,
        "max_tokens": 99,
    }


def test_a_named_task_gives_the_gold_solutions(
    server: JudgeServer, evaluated: Path, gsm8k: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = ["--task", "gsm8k", "--source", str(gsm8k)]
    assert command(evaluated, server, *task, "--limit", "5", "--seed", "1", "--quiet") == 0
    assert capsys.readouterr().err == ""
    assert len(server.asked) == 5
    for body in server.bodies:
        assert "[begin reference solution]\nCount on." in body["messages"][0]["content"]
    content = json.loads((evaluated.parent / "out" / "audit.json").read_text(encoding="utf-8"))
    assert content["config"]["task"]["source"] == str(gsm8k) and content["seeds"] == [1]


@pytest.mark.slow
def test_the_same_command_goes_on_and_asks_nothing_again(
    server: JudgeServer, evaluated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = evaluated.parent / "out"
    server.healthy = 35
    assert command(evaluated, server) == 2
    assert "no credit left" in capsys.readouterr().err
    kept = {o.id for o in read_records(output / "opinions.jsonl", Opinion)}
    assert len(kept) == 32 and not (output / "audit.json").exists()
    with serving_judge() as moved:  # the same judge elsewhere
        assert command(evaluated, moved) == 0
        assert sorted(moved.asked) == [i for i in range(40) if asked_episode(i).id not in kept]
        shown = capsys.readouterr()
        assert "| 40 | 1 | 48.7%" in shown.out and "40/40" in shown.err
        assert command(evaluated, moved) == 0
        assert capsys.readouterr().out == shown.out and len(moved.asked) == 8


@pytest.mark.slow
@pytest.mark.parametrize("other", ["judge", "critique", "reference"])
def test_another_audit_in_the_same_folder_is_refused(
    server: JudgeServer, evaluated: Path, gsm8k: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(evaluated, server) == 0
    opinions = evaluated.parent / "out" / "opinions.jsonl"
    before, asked = opinions.read_bytes(), len(server.asked)
    more: list[str] = []
    if other == "judge":
        server.model = "elder"
    elif other == "critique":
        evaluated.write_text(evaluated.read_text(encoding="utf-8").replace("number 3,", "number 3 again,"))
    else:
        more = ["--task", "gsm8k", "--source", str(gsm8k)]
    capsys.readouterr()
    assert command(evaluated, server, *more, "--quiet") == 2
    assert capsys.readouterr().err == (
        f"error: {opinions} holds opinions of another judge than {server.model}, on other critiques or with "
        "other references: delete it, or choose another folder.\n"
    )
    assert opinions.read_bytes() == before and len(server.asked) == asked


def test_a_task_without_one_of_the_problems_is_refused_before_the_judge_is_asked(
    server: JudgeServer, evaluated: Path, gsm8k: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = gsm8k.read_text(encoding="utf-8").splitlines(keepends=True)
    gsm8k.write_text("".join([*lines[:4], *lines[5:]]), encoding="utf-8")
    assert command(evaluated, server, "--task", "gsm8k", "--source", str(gsm8k)) == 2
    missing = asked_episode(4).id
    assert f"records of problem {missing}, which is not among the 39 problems" in capsys.readouterr().err
    assert server.asked == [] and not (evaluated.parent / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; give the records.jsonl of an evaluation"),
        ("", "is empty; give the records.jsonl"),
        ("\n", "is empty; give the records.jsonl"),
        ('{"id": "p0"}\n', "line 1 is no episode record"),
        ('{"id": "p0", "data', "the last line is cut short"),
        (json.dumps(asdict(audited_episode(0, True))) + "\n", "has no critique to audit"),
    ],
)
def test_records_that_cannot_be_audited_are_refused_and_left_alone(
    server: JudgeServer, tmp_path: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    records = tmp_path / "r.jsonl"
    if content is not None:
        records.write_text(content, encoding="utf-8")
    assert command(records, server) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {records}") and message in error and error.count("\n") == 1
    assert server.asked == [] and not (tmp_path / "out").exists()
    assert (records.read_text(encoding="utf-8") if records.exists() else None) == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --judge"),
        (["--judge", "http://127.0.0.1:9/v1"], "no server answers at http://127.0.0.1:9/v1"),
        (["--judge", "no/such/model"], "no/such/model"),
        (["--judge", "{url}", "--model", "elder"], "does not serve 'elder'; it lists: judge"),
        (["--judge", "{url}", "--limit", "0"], "limit must be at least 1, got 0"),
        (["--judge", "{url}", "--max-tokens", "0"], "max_tokens must be at least 1, got 0"),
        (["--judge", "{url}", "--source", "x"], "belong to a task: say which with --task"),
        (["--judge", "{url}", "--task", "gsm8"], "Did you mean 'gsm8k'"),
    ],
)
def test_a_mistake_in_the_command_is_one_clear_error(
    server: JudgeServer,
    evaluated: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = evaluated.parent / "out"
    given = [part.replace("{url}", server.url) for part in arguments]
    assert cli.main(["audit", str(evaluated), str(output), *given, "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and message in captured.err and captured.out == ""
    assert server.asked == [] and not (output / "audit.json").exists()
