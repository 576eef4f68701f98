"""An actor behind a server that leaves fields out, garbles replies, fails, changes its model, repeats secrets."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread
from traceback import format_exception
from typing import Any, ClassVar

import pytest
import tenacity
from helpers import Reply, ScriptedServer, chat_completion, free_port, read_jsonl, serving

from critique_rl.actors import ActorError, OpenAIActor
from critique_rl.actors import server as server_module
from critique_rl.actors.identity import check_models
from critique_rl.config.data import LengthConfig
from critique_rl.evaluation import ProtocolConfig, evaluate
from critique_rl.evaluation.metrics import metrics
from critique_rl.grading.replies import where_replied
from critique_rl.pool import collect_pool
from critique_rl.prompts import prompt_set
from critique_rl.runs.problems import protocol_of
from critique_rl.self_critique import ActorJudge
from critique_rl.self_critique.knockout import Comparison
from critique_rl.tasks import load_task
from critique_rl.types import Conversation, Sampling, UserError

GREEDY, SAMPLED = Sampling(24), Sampling(24, temperature=1.0, seed=3)
CASES = {row["id"]: row["reply"] for row in read_jsonl(Path(__file__).with_name("server_replies.jsonl"))}
PREFILL = "Let's break it down:\n"


def connect(server: ScriptedServer, **options: Any) -> OpenAIActor:
    patience = {"max_retries": 1, "outage_s": 2.0, "timeout_s": 5.0}
    return OpenAIActor(server.url, options.pop("model", "tiny"), **{**patience, **options})


def ask(text: str, prefill: str | None = None) -> Conversation:
    chat: Conversation = [{"role": "user", "content": text}]
    return chat if prefill is None else [*chat, {"role": "assistant", "content": prefill}]


def texts(actor: OpenAIActor, n: int = 20, sampling: Sampling = GREEDY) -> list[str | None]:
    return [g.text for g in actor.generate([ask(f"question {i}") for i in range(n)], sampling)]


def question(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"])


def broken_at(numbers: set[int], broken: Reply | None) -> Callable[[dict[str, Any]], Reply | None]:
    """Answers the number of the question, except for some."""

    def answer(body: dict[str, Any]) -> Reply | None:
        number = int(question(body).split()[1])
        return broken if number in numbers else chat_completion(str(number))

    return answer


# -- replies without a text, and odd ones --------------------------------------------------------------


@pytest.mark.parametrize("case", ["s01", "s02"])
def test_a_published_reply_without_a_text_is_unknown_and_counted(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(lambda body: Reply(CASES[case])) as server:
        actor = connect(server, max_retries=0)
        (reply,) = actor.generate([ask("2+3?")], GREEDY)
        assert reply.text is None and actor.unknown == 1
        assert "1 of 1 replies cannot be used" in caplog.text
        assert "'choices[0].message.content' is empty" in caplog.text
        with pytest.raises(
            ActorError, match=r"5 of 2\d replies .*max_unknown=0\.05.*message\.content' is empty"
        ):
            texts(actor)


def test_published_replies_with_odd_content_and_usage_give_their_text() -> None:
    replies = {"parts": Reply(CASES["s03"]), "usage": Reply(CASES["s04"])}
    with serving(lambda body: replies[question(body)]) as server:
        parts, usage = connect(server).generate([ask("parts"), ask("usage")], GREEDY)
    assert parts.text == "The answer is -3" and parts.tokens == 5
    assert (usage.text, usage.tokens) == ("The answer is 5", None)


@pytest.mark.parametrize("case", [pytest.param(CASES["s05"], id="s05")])
def test_a_prefill_that_the_server_repeats_is_stored_once(case: dict[str, Any]) -> None:
    content = case["choices"][0]["message"]["content"]
    echo = content.replace("<the prefill once more> ", PREFILL)
    assert echo == f"{PREFILL}2+3=5"
    for sent in (echo, f" {echo}", "2+3=5"):
        with serving(lambda body, sent=sent: chat_completion(sent)) as server:
            (reply,) = connect(server).generate([ask("2+3?", PREFILL)], GREEDY)
            assert reply.after(PREFILL) == f"{PREFILL}2+3=5"


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {},
        {"prompt_tokens": None},
        {"completion_tokens": "3"},
        "none",
        5,
        {"prompt_tokens": "9", "completion_tokens": 3},
        {"prompt_tokens": -1, "completion_tokens": 3},
    ],
)
def test_odd_usage_is_unknown_and_said_once(usage: Any, caplog: pytest.LogCaptureFixture) -> None:
    body = {**chat_completion("5").body, "usage": usage}
    with serving(lambda _: Reply(body)) as server:
        actor = connect(server)
        assert {g.tokens for g in actor.generate([ask("a"), ask("b")], GREEDY)} == {None}
        texts(actor)
    assert caplog.text.count("no whole token usage") == 1


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": 4, "total_tokens": 6}, {"completion_tokens": 2, "total_tokens": 6}]
)
def test_a_count_that_follows_from_the_total_is_known(usage: dict[str, int]) -> None:
    with serving(lambda _: Reply({**chat_completion("5").body, "usage": usage})) as server:
        (reply,) = connect(server).generate([ask("a")], GREEDY)
    assert (reply.prompt_tokens, reply.completion_tokens) == (4, 2)


BROKEN = {
    "null": chat_completion(None),
    "empty": chat_completion(""),
    "reasoning": chat_completion(None, reasoning="2+3 is 5."),
    "refusal": chat_completion("", refusal="I cannot."),
    "number": chat_completion(5),
    "no finish": chat_completion("5", finish=None),
    "tool": chat_completion(None, finish="tool_calls"),
    "cut JSON": Reply(b'{"choices": [{"mess'),
    "HTML": Reply(b"<html>busy</html>", headers={"content-type": "text/html"}),
    "no choices": Reply({"choices": []}),
    "odd choices": Reply({"choices": "none"}),
    "null message": Reply({"choices": [{"message": None, "finish_reason": "stop"}]}),
    "error": Reply({"error": {"message": "overloaded"}}),
    "list": Reply([1, 2]),
    "nothing": Reply(b""),
    "bytes": Reply(b"\xff\xfe\x00"),
    "deep": Reply(b"[" * 100_000),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_reply_that_stays_broken_is_one_unknown_row_and_all_others_are_kept(kind: str) -> None:
    with serving(broken_at({7}, BROKEN[kind])) as server:
        actor = connect(server)
        assert texts(actor) == [None if i == 7 else str(i) for i in range(20)]
        assert actor.unknown == 1 and actor.sequences_generated == 19
        assert len(server.requests) == 21  # asked for once more
        server.answer = broken_at(set(), None)
        assert texts(actor)[7] == "7"  # nothing broken was remembered


def test_a_body_of_another_content_type_is_read() -> None:
    plain = Reply(chat_completion("5").body, headers={"content-type": "text/plain"})
    with serving(lambda _: plain) as server:
        assert texts(connect(server), 1) == ["5"]


def test_an_empty_content_that_the_token_limit_explains_is_a_reply() -> None:
    with serving(lambda _: chat_completion(None, finish="length", reasoning_content="2+")) as server:
        (reply,) = connect(server).generate([ask("a")], GREEDY)
    assert (reply.text, reply.truncated, reply.thought) == ("", True, "2+")


def test_lone_surrogates_are_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        return (
            chat_completion("", refusal="\ud800")
            if question(body) == "0"
            else chat_completion("7\udcff \ud83d\ude00")
        )

    with serving(answer) as server:
        _, reply = connect(server).generate([ask("0"), ask("1")], GREEDY)
        with pytest.raises(ActorError, match=r"refused prompt 0: .*half a surrogate pair"):
            connect(server).generate([ask("\ud800")], GREEDY)
    assert reply.text == "7\ufffd \U0001f600"
    (tmp_path / "a.txt").write_text(f"{reply.text}{caplog.text}", encoding="utf-8")


# -- unknown rows on their way -------------------------------------------------------------------------


def test_too_many_unknown_rows_end_the_call_at_once() -> None:
    with serving(broken_at(set(range(0, 200, 2)), Reply(b"<html>"))) as server:
        actor = connect(server, max_retries=0, concurrency=1)
        with pytest.raises(ActorError, match=r"11 of 200 replies cannot be used.*11 x the body is no JSON"):
            texts(actor, 200)
        assert len(server.requests) < 30
        server.requests.clear()
        with pytest.raises(ActorError, match="1 of 200 replies"):
            texts(connect(server, max_retries=0, max_unknown=0), 200)


def test_an_unknown_row_of_an_evaluation_is_never_scored(tmp_path: Path) -> None:
    problems = load_task("modular_chain", split="test", size=60)[:20]
    prompts = prompt_set("compact")
    lost: dict[str, int] = {"response": 3, "critique": 5, "refinement": 7}

    def answer(body: dict[str, Any]) -> Reply:
        turn = ("response", "critique", "refinement")[
            1 if body["model"] == "critic" else 0 if len(body["messages"]) == 1 else 2
        ]
        known = question(body).find(problems[lost[turn]].question) < 0
        return chat_completion("The answer is 5." if known else None, model=body["model"])

    protocol = protocol_of(ProtocolConfig(), prompts, LengthConfig(24, 24, 24), 0)
    with serving(answer, ["actor", "critic"]) as server:
        actor = connect(server, model="actor", max_retries=0, max_unknown=0.2)
        critic = connect(server, model="critic", max_retries=0, max_unknown=0.2)
        episodes = evaluate(problems, actor, critic, protocol, records=tmp_path / "records.jsonl")
    by_place = dict(enumerate(episodes))
    unknown = {i for i, e in by_place.items() if e.response_correct is None or e.refinement_correct is None}
    assert (
        by_place[3].response == "" and by_place[3].response_correct is None and by_place[3].critique is None
    )
    assert unknown == {3, 5, 7} and (actor.unknown, critic.unknown) == (2, 1)
    values = metrics(episodes)
    assert values["graded_rate"] == 1 - 3 / len(problems) and values["tokens"] == 39
    assert all(e.verdict is None for i, e in by_place.items() if e.critique == "")


def test_a_pool_leaves_unknown_rows_out() -> None:
    problems = load_task("modular_chain", split="train", size=60)[:20]
    first = problems[0].question

    def answer(body: dict[str, Any]) -> Reply:
        return chat_completion(None if first in question(body) else "The answer is 5.")

    with serving(answer) as server:
        actor = connect(server, max_retries=0)
        pool = collect_pool(
            problems, actor, prompt_set("compact"), samples=1, sampling=SAMPLED, balanced=False
        )
    assert len(pool) == 19 and first not in pool["question"]


def test_graders_see_known_replies_alone() -> None:
    seen: list[str] = []
    assert where_replied(lambda items: [seen.append(i["reply"]) for i in items], [{"reply": None}]) == [None]
    assert not seen


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_judge_that_thinks_is_read_where_the_server_takes_its_thought_away(field: str) -> None:
    asked = [Comparison(str(i), 0, 0, "forward", (0, 1), f"q{i}", "a", "b", None) for i in range(3)]
    replies = {
        "q0": chat_completion("The second is better: \\boxed{2}", **{field: "The first is \\boxed{1}?"}),
        "q1": chat_completion("", finish="length", **{field: "\\boxed{1}"}),
        "q2": chat_completion(None),
    }

    def answer(body: dict[str, Any]) -> Reply:
        text = json.dumps(body["messages"])
        return next(reply for name, reply in replies.items() if name in text)

    with serving(answer) as server:
        judge = ActorJudge(connect(server, max_retries=0), thinking=True)
        read, cut, missing = judge(asked)
        inline = "<think>\nThe first is \\boxed{1}?\n</think>\n\nThe second is better: \\boxed{2}"
        server.answer = lambda _: chat_completion(inline)
        assert judge([replace(asked[0], question="q9")])[0] == read
    assert (read.label, read.reply) == (2, inline)
    assert cut.label is None and cut.reply
    assert (missing.label, missing.reply, missing.tokens) == (None, "", None)


# -- servers that fail ---------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", ["half", "drop", "429", "500", "503"])
def test_a_share_of_failures_changes_no_row(failure: str) -> None:
    failed: set[str] = set()
    status = {"429": 429, "500": 500, "503": 503}.get(failure, 200)
    headers = {"retry-after": "0.1"} if failure == "429" else {}

    def answer(body: dict[str, Any]) -> Reply | None:
        number = question(body).split()[1]
        if int(number) % 3 or number in failed:
            return chat_completion(number)
        failed.add(number)
        half = Reply(
            chat_completion(number).body, status, headers, missing_bytes=9 if failure == "half" else 0
        )
        return None if failure == "drop" else half

    with serving(answer) as server:
        assert texts(connect(server, max_retries=0)) == [str(i) for i in range(20)]
    assert len(failed) == 7


def test_retry_after_is_obeyed() -> None:
    sent: list[float] = []

    def answer(_: dict[str, Any]) -> Reply:
        sent.append(time.monotonic())
        return Reply({}, 429, {"retry-after": "1.2"}) if len(sent) == 1 else chat_completion("5")

    with serving(answer) as server:
        assert texts(connect(server), 1) == ["5"]
    assert sent[1] - sent[0] >= 1.2


def test_a_server_that_starts_again_is_waited_for_and_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_NOTICE_S", 0.5)
    monkeypatch.setattr(server_module, "_pause", tenacity.wait_fixed(0.3))
    with serving(broken_at(set(), None)) as server:
        actor, port = connect(server, outage_s=30), server.server_port
        assert texts(actor, 3) == ["0", "1", "2"]
    replies: list[Any] = []
    waiting = Thread(target=lambda: replies.append(texts(actor, 20, SAMPLED)))
    waiting.start()
    time.sleep(2.2)
    with serving(broken_at(set(), None), port=port):
        waiting.join(20)
    assert replies == [[str(i) for i in range(20)]]
    assert "has not answered for" in caplog.text and "trying until" in caplog.text
    assert "refused" in caplog.text and "answers again" in caplog.text


def test_a_server_that_stays_away_ends_in_order() -> None:
    with serving(broken_at(set(), None)) as server:
        actor = connect(server, outage_s=0.6)
    started = time.monotonic()
    with pytest.raises(
        ActorError, match=r"(?s)failed on prompt \d+ after \d+ attempts.*same command.*outage_s"
    ):
        texts(actor)
    assert 0.5 < time.monotonic() - started < 10


def test_a_server_that_hangs_is_said_before_its_timeout(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_NOTICE_S", 0.5)

    def hang(_: dict[str, Any]) -> Reply:
        time.sleep(2.5)
        return chat_completion("5")

    with serving(hang) as server:
        assert texts(connect(server, timeout_s=9), 1) == ["5"]
    assert "has not answered for" in caplog.text and "waits up to 9 s (timeout_s)" in caplog.text


@pytest.mark.processes
def test_a_request_that_hangs_does_not_keep_the_process_from_its_end() -> None:
    def answer(body: dict[str, Any]) -> Reply:
        if question(body) == "hang":
            time.sleep(30)
        return Reply({}, 400)

    code = """
import sys
from critique_rl.actors import ActorError, OpenAIActor
from critique_rl.types import Sampling
try:
    chats = [[{"role": "user", "content": text}] for text in ("hang", "refuse")]
    OpenAIActor(sys.argv[1], "tiny").generate(chats, Sampling(9))
except ActorError as error:
    print(error)
"""
    with serving(answer) as server:
        done = subprocess.run(
            [sys.executable, "-c", code, server.url], capture_output=True, text=True, timeout=25, check=True
        )
    assert "refused prompt 1" in done.stdout


def test_a_row_on_which_the_server_always_fails_is_unknown_where_it_answers_others() -> None:
    with serving(broken_at({0}, Reply({}, 500))) as server:

        def answer(body: dict[str, Any]) -> Reply | None:
            time.sleep(0.05)
            return broken_at({0}, Reply({}, 500))(body)

        server.answer = answer
        actor = connect(server, outage_s=0.5, concurrency=2)
        assert texts(actor, 40) == [None, *(str(i) for i in range(1, 40))]


# -- the served model ----------------------------------------------------------------------------------


def test_a_reply_of_another_model_is_an_error() -> None:
    named = pytest.raises(ActorError, match="answered as 'other', but 'tiny' was asked")
    with serving(lambda _: chat_completion("5", model="other"), ["tiny", "other"]) as server, named:
        texts(connect(server))
    names = iter(["tiny", "tiny", *["other"] * 99])
    with serving(lambda _: chat_completion("5", model=next(names))) as server:
        actor = connect(server, concurrency=1)
        assert texts(actor, 2) == ["5", "5"]
        with pytest.raises(ActorError, match="answered as 'other', but 'tiny' was asked"):
            texts(actor, 3, SAMPLED)


@pytest.mark.parametrize(
    ("asked", "stated", "models"),
    [
        ("tiny", None, ["tiny"]),
        ("a/tiny", "a/tiny@main", ["b"]),
        ("gpt-4o", "gpt-4o-2024-08-06", ["gpt-4o", "gpt-4o-2024-08-06"]),
        ("alias", "tiny", [{"id": "tiny", "root": "/models/7b"}, {"id": "alias", "root": "/models/7b"}]),
        ("anything", "tiny", ["tiny"]),
    ],
)
def test_other_names_of_one_model(asked: str, stated: str | None, models: list[Any]) -> None:
    with serving(lambda _: chat_completion("5", model=stated), models) as server:
        actor = connect(server, model=asked)
        assert texts(actor) == ["5"] * 20
        if asked == "anything":
            assert actor.identity == {"served": "tiny"}


def test_names_that_a_server_merely_lists_are_other_models() -> None:
    models = [{"id": "tiny", "root": "/models/1b"}, {"id": "other", "root": "/models/7b"}]
    named = pytest.raises(ActorError, match="another model runs there")
    with serving(lambda _: chat_completion("5", model="other"), models) as server, named:
        texts(connect(server))


def test_records_are_not_continued_with_another_served_model(tmp_path: Path) -> None:
    problems = load_task("modular_chain", split="test", size=60)[:8]
    protocol = protocol_of(ProtocolConfig(), prompt_set("compact"), LengthConfig(24, 24, 24), 0)
    records = tmp_path / "records.jsonl"

    def measure(url: str, count: int) -> None:
        actor = OpenAIActor(url, outage_s=1)
        evaluate(problems[:count], actor, None, protocol, records=records, chunk_size=4)

    models: list[Any] = [{"id": "tiny", "root": "/models/1b"}]
    with serving(lambda _: chat_completion("5", model=None), models) as server:
        measure(server.url, 4)
        told = json.loads((tmp_path / "records.models.json").read_text())
        assert told == {"actor": {"served": "tiny", "root": "/models/1b"}}
        written = records.read_bytes()
        for other in ({"id": "other", "root": "/models/1b"}, {"id": "tiny", "root": "/models/7b"}):
            server.models = [other]
            with pytest.raises(UserError, match="two models would be mixed"):
                measure(server.url, 8)
        assert records.read_bytes() == written
        server.models = models
        measure(server.url, 8)
        records.unlink()
        server.models = ["other"]
        measure(server.url, 8)  # nothing is mixed


def test_old_records_and_other_backends_go_on(tmp_path: Path) -> None:
    class Local:
        name = "path"
        identity: ClassVar = {"weights": "ab"}

    path = tmp_path / "records.models.json"
    with serving(lambda _: chat_completion("5")) as server:
        served = connect(server)
        check_models(path, {"actor": served, "critic": None}, begun=True)  # nothing is remembered
        check_models(path, {"actor": Local()}, begun=True)  # type: ignore[dict-item]
        check_models(path, {"actor": served}, begun=True)
        Local.identity = {"weights": "cd"}
        with pytest.raises(UserError, match="'ab' \\(weights\\), which is 'cd' now"):
            check_models(path, {"actor": Local()}, begun=True)  # type: ignore[dict-item]
        path.write_text("{")
        with pytest.raises(UserError, match="is damaged"):
            check_models(path, {"actor": served}, begun=True)


# -- greedy samples ------------------------------------------------------------------------------------


def test_a_server_that_samples_greedily_is_noticed_once(caplog: pytest.LogCaptureFixture) -> None:
    with serving(lambda body: chat_completion(f"{question(body)} is 5")) as server:
        actor = connect(server)
        texts(actor, 20, SAMPLED)
        texts(actor, 20, SAMPLED)  # the same draw
        assert not caplog.records
        for seed in (1, 2, 3):
            texts(actor, 20, replace(SAMPLED, seed=seed))
        assert caplog.text.count("decode greedily") == 1 and "tiny at http" in caplog.text


def test_a_server_that_samples_is_not_blamed(caplog: pytest.LogCaptureFixture) -> None:
    with serving(lambda body: chat_completion(f"{body.get('seed', 0) % 5}")) as server:
        actor = connect(server)
        for seed in range(4):
            texts(actor, 20, replace(SAMPLED, seed=seed))
        for _ in range(3):
            texts(actor)  # greedy replies are equal
    assert not caplog.records


# -- secrets -------------------------------------------------------------------------------------------

KEY, PASSWORD = "sk-planted-key-1234", "planted/word"


def test_a_login_in_the_url_is_sent_and_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(broken_at({0}, Reply({"error": {"message": f"bad login {PASSWORD} {KEY}"}}, 400))) as server:
        url = server.url.replace("http://", "http://me:planted%2Fword@")
        actor = OpenAIActor(url, "tiny", api_key=KEY)
        with pytest.raises(ActorError, match=r"http://\*\*\*@127.*bad login \*\*\* \*\*\*") as error:
            texts(actor, 1)
        assert server.logins == {"Basic bWU6cGxhbnRlZC93b3Jk"}
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("openai")]
    shown = "".join([*format_exception(error.value), *ours])
    assert not any(secret in shown for secret in (KEY, PASSWORD, "planted%2Fword", "bWU6cGxhbnRlZC93b3Jk"))


@pytest.mark.parametrize("status", [400, 401, 500, 200])
def test_a_key_that_the_server_echoes_is_in_no_message(status: int, caplog: pytest.LogCaptureFixture) -> None:
    with serving(lambda _: Reply({"error": {"message": f"Incorrect API key {KEY}"}}, status)) as server:
        actor = connect(server, api_key=KEY, outage_s=0.3, max_retries=0)
        with pytest.raises(ActorError, match=r"key \*\*\*") as error:
            texts(actor, 40)
    assert KEY not in str(error.value) and KEY not in caplog.text


def test_a_port_without_a_server_is_named_without_the_login() -> None:
    url = f"http://me:{PASSWORD.replace('/', '-')}@127.0.0.1:{free_port()}/v1"
    with pytest.raises(ActorError, match=r"no server answers at http://\*\*\*@127") as error:
        OpenAIActor(url)
    assert "planted" not in str(error.value)
