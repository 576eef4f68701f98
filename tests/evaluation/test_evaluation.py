"""The protocol, its records, and every metric against arithmetic done by hand."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
from helpers import ToyActor

from critique_rl.config.data import LengthConfig
from critique_rl.config.evaluation import ProtocolConfig
from critique_rl.evaluation.episodes import Episode, read_episodes
from critique_rl.evaluation.metrics import metrics, resampled
from critique_rl.evaluation.protocol import ADVICE, Protocol, evaluate
from critique_rl.prompts import COMPACT, PAPER, VERDICT_LABEL, PromptSet
from critique_rl.runs.problems import protocol_of
from critique_rl.types import Conversation, Problem, Sampling, UserError

PROBLEMS = [Problem(f"id{i}", "toy", f"What is {i} + 1?", "", str(i + 1), "number") for i in range(10)]


def number(conversation: Conversation) -> int:
    return int(conversation[0]["content"].split("What is ")[1].split(" ")[0])


def actor_rule(conversation: Conversation) -> str:
    """Right on even numbers; refines rightly what is criticised as Wrong, and spoils number 4."""
    i = number(conversation)
    refining = len(conversation) > 2
    right = i % 2 == 0
    if refining:
        right = (right or "Wrong" in conversation[2]["content"]) and i != 4
    return f"The answer is {i + 1 if right else 99}"


def critic_rule(conversation: Conversation) -> str:
    """Calls everything below 5 correct, the rest wrong, and says nothing about 9."""
    i = number(conversation)
    return "Hm." if i == 9 else f"{VERDICT_LABEL} {'Correct' if i < 5 else 'Wrong'}"


def protocol(prompts: PromptSet = COMPACT, temperature: float = 0.0, **settings: Any) -> Protocol:
    return Protocol(prompts, *(Sampling(n, temperature) for n in (8, 16, 8)), seed=7, **settings)


def episode(o: bool | None, verdict: str, o2: bool | None) -> Episode:
    return Episode("i", "toy", "q", "1", "number", "y", o, "c", verdict, "z", o2, 5)


# Ten episodes: response right?, verdict, refinement right?
TABLE = [
    (True, "correct", True),
    (True, "correct", True),
    (True, "wrong", False),
    (True, "unparsed", True),
    (False, "wrong", True),
    (False, "wrong", False),
    (False, "correct", False),
    (False, "unparsed", True),
    (None, "correct", True),  # response could not be graded
    (True, "correct", None),  # refinement could not be graded
]


def test_metrics_by_hand() -> None:
    measured = metrics([episode(*row) for row in TABLE])
    # Graded are the first eight: 4 right and 4 wrong responses.
    expected = {
        "graded_rate": 8 / 10,
        "acc": 4 / 8,
        "acc_refine": 5 / 8,  # rows 1, 2, 4, 5, 8
        "delta": 1 / 8,  # 5/8 - 4/8
        "delta_ci": 1 / 8,  # row 3
        "delta_ic": 2 / 8,  # rows 5, 8
        "delta_ci_given_correct": 1 / 4,
        "delta_ic_given_wrong": 2 / 4,
        "acc_dis": 4 / 8,  # rows 1, 2, 5, 6; unparsed counts as wrong
        "acc_dis_parsed": 4 / 6,  # without the unparsed rows 4 and 8
        "acc_dis_on_correct": 2 / 4,  # rows 1, 2 of 1 to 4
        "acc_dis_on_wrong": 2 / 4,  # rows 5, 6 of 5 to 8
        "acc_dis_balanced": 1 / 2,
        "parse_rate": 6 / 8,
        "tokens": 5.0,
    }
    assert measured == pytest.approx(expected, abs=1e-12)


def test_both_classes_count_by_themselves() -> None:
    rows = [(True, "correct", True)] * 3 + [(True, "wrong", True), (False, "correct", False)]
    measured = metrics([episode(*row) for row in rows])
    assert (measured["acc_dis_on_correct"], measured["acc_dis_on_wrong"]) == (3 / 4, 0.0)
    assert measured["acc_dis_balanced"] == 3 / 8


def test_delta_is_what_is_corrected_less_what_is_spoiled() -> None:
    rng = random.Random(0)
    for _ in range(50):
        rows = [(rng.choice((True, False)), "wrong", rng.choice((True, False, None))) for _ in range(7)]
        measured = metrics([episode(*row) for row in rows])
        if measured["delta"] is not None:
            assert measured["delta"] == pytest.approx(measured["delta_ic"] - measured["delta_ci"], abs=1e-12)


@pytest.mark.parametrize(
    ("rows", "undefined"),
    [
        ([], {"acc", "graded_rate", "tokens"}),
        ([(True, "correct", True)], {"delta_ic_given_wrong", "acc_dis_on_wrong", "acc_dis_balanced"}),
        ([(False, "wrong", True)], {"delta_ci_given_correct", "acc_dis_on_correct", "acc_dis_balanced"}),
        ([(True, "unparsed", True), (False, "unparsed", True)], {"acc_dis_parsed"}),
    ],
)
def test_an_empty_class_gives_none_and_never_a_number(rows: list, undefined: set[str]) -> None:
    measured = metrics([episode(*row) for row in rows])
    assert {name for name, value in measured.items() if value is None} == undefined


def test_without_a_critic_there_is_accuracy_alone() -> None:
    alone = dataclasses.replace(
        episode(True, "", True), critique=None, verdict=None, refinement=None, refinement_correct=None
    )
    assert metrics([alone]) == {"acc": 1.0, "graded_rate": 1.0, "tokens": 5.0}


def test_a_resample_draws_all_samples_of_a_problem_together() -> None:
    # Two problems: every sample of one is right, none of the other. By samples the spread would be small.
    rows = [
        dataclasses.replace(episode(right, "correct", right), id=str(right), sample=i)
        for right in (True, False)
        for i in range(50)
    ]
    drawn = resampled(rows, resamples=400)["acc"]
    assert set(drawn) == {0.0, 0.5, 1.0}
    assert drawn.mean() == pytest.approx(0.5, abs=0.1)
    assert metrics(rows)["acc"] == 0.5


def test_the_protocol_asks_in_order_and_records_what_came_back(tmp_path: Path) -> None:
    actor, critic = ToyActor(actor_rule), ToyActor(critic_rule)
    records = tmp_path / "deep" / "records.jsonl"
    episodes = evaluate(PROBLEMS, actor, critic, protocol(), records=records)
    assert [e.id for e in episodes] == [p.id for p in PROBLEMS]
    assert [e.response_correct for e in episodes] == [i % 2 == 0 for i in range(10)]
    assert [e.verdict for e in episodes] == ["correct"] * 5 + ["wrong"] * 4 + ["unparsed"]
    # Right before and not 4: 0, 2, 6, 8; called wrong, so corrected: 5, 7.
    assert [i for i, e in enumerate(episodes) if e.refinement_correct] == [0, 2, 5, 6, 7, 8]
    assert all(e.tokens == 3 * 13 for e in episodes)
    assert read_episodes(records) == episodes
    assert all("The answer is" not in prompt[0]["content"].split("\n")[0] for prompt in actor.asked)
    assert len(actor.asked) == 20 and len(critic.asked) == 10


def test_prefills_are_part_of_the_stored_texts(tmp_path: Path) -> None:
    actor = ToyActor(actor_rule)
    first = evaluate(
        PROBLEMS[:1], actor, ToyActor(critic_rule), protocol(PAPER), records=tmp_path / "records.jsonl"
    )[0]
    assert first.response == PAPER.reasoning_prefill + "The answer is 1"
    assert first.refinement == PAPER.refinement_prefill + "The answer is 1"


def test_the_critic_never_sees_the_gold_answer(tmp_path: Path) -> None:
    secret = [dataclasses.replace(p, answer="7654321", solution="7654321") for p in PROBLEMS]
    actor, critic = ToyActor(actor_rule), ToyActor(critic_rule)
    evaluate(secret, actor, critic, protocol(), records=tmp_path / "records.jsonl")
    assert "7654321" not in json.dumps([*critic.asked, *actor.asked])


@pytest.mark.parametrize("kept", [4, 5, 9])  # a whole chunk, the middle of a chunk, all but one
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_killed_evaluation_goes_on_and_ends_as_an_unbroken_one(
    tmp_path: Path, kept: int, temperature: float
) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    settings = protocol(temperature=temperature)
    unbroken = ToyActor(actor_rule)
    expected = evaluate(PROBLEMS, unbroken, None, settings, records=whole, chunk_size=4)
    lines = whole.read_text(encoding="utf-8").splitlines(keepends=True)
    broken.write_text("".join(lines[:kept]) + lines[kept][:17], encoding="utf-8")

    actor = ToyActor(actor_rule)
    assert evaluate(PROBLEMS, actor, None, settings, records=broken, chunk_size=4) == expected
    assert broken.read_bytes() == whole.read_bytes()
    assert len(actor.asked) == 10 - kept // 4 * 4  # chunks that were finished are not asked again
    assert actor.samplings == unbroken.samplings[kept // 4 :]  # and the others draw as they would have

    again = ToyActor(actor_rule)
    assert evaluate(PROBLEMS, again, None, settings, records=broken, chunk_size=4) == expected
    assert again.asked == []


def fails_at(call: int, *, after: ToyActor) -> ToyActor:
    """An actor that is stopped in its call of that number, from 1; `after` gives the rule."""

    class Stopped(ToyActor):
        def generate(self, prompts: Any, sampling: Sampling) -> Any:
            if len(self.samplings) + 1 == call:
                raise KeyboardInterrupt
            return super().generate(prompts, sampling)

    return Stopped(after.rule)


def test_a_kill_inside_a_chunk_loses_one_turn_and_changes_no_text(tmp_path: Path) -> None:
    settings, whole, broken = protocol(temperature=1.0), tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"

    def run(actor: ToyActor, critic: ToyActor, records: Path) -> list[Episode]:
        return evaluate(PROBLEMS, actor, critic, settings, records=records, chunk_size=4)

    unbroken = ToyActor(actor_rule), ToyActor(critic_rule)
    expected = run(*unbroken, whole)
    with pytest.raises(KeyboardInterrupt):  # while it refines in the second chunk
        run(fails_at(4, after=unbroken[0]), ToyActor(critic_rule), broken)
    partial = tmp_path / "broken.partial.jsonl"
    assert len(read_episodes(broken)) == 4 and len(partial.read_text(encoding="utf-8").splitlines()) == 2
    with partial.open("a", encoding="utf-8") as file:
        file.write('{"chunk": 1, "key": "cut')
    actor, critic = ToyActor(actor_rule), ToyActor(critic_rule)
    assert run(actor, critic, broken) == expected and broken.read_bytes() == whole.read_bytes()
    assert actor.samplings == unbroken[0].samplings[3:] and critic.samplings == unbroken[1].samplings[2:]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.jsonl", "whole.jsonl"]


def test_texts_of_an_unfinished_chunk_are_not_taken_for_those_of_another_model(tmp_path: Path) -> None:
    records, seen = tmp_path / "records.jsonl", []
    for name, call in (("one", 2), ("two", 0)):
        actor = fails_at(call, after=ToyActor(actor_rule))
        actor.identity = {"weights": name}
        try:
            evaluate(PROBLEMS, actor, ToyActor(critic_rule), protocol(), records=records)
        except KeyboardInterrupt:
            assert (tmp_path / "records.partial.jsonl").exists()
        seen.append(len(actor.samplings))
    assert seen == [1, 2]


def test_each_chunk_and_each_turn_has_a_seed_of_its_own() -> None:
    settings = protocol(temperature=0.7)
    turns = ("response", "critique", "refinement")
    seeds = [settings.sampling(turn, chunk).seed for turn in turns for chunk in range(3)]
    assert len(set(seeds)) == 9
    assert settings.sampling("critique", 1).max_tokens == 16
    assert len({settings.sampling("refinement", 0, round).seed for round in range(3)}) == 3


def test_each_call_is_sampled_as_its_turn_chunk_and_round_have_it(tmp_path: Path) -> None:
    how = Protocol(COMPACT, Sampling(8, 0.1), Sampling(16, 0.2), Sampling(9, 0.3), seed=7, rounds=2)
    actor, critic = ToyActor(actor_rule), ToyActor(critic_rule)
    evaluate(PROBLEMS[:4], actor, critic, how, records=tmp_path / "r.jsonl", chunk_size=2)
    both = [(chunk, at) for chunk in (0, 1) for at in (0, 1)]
    assert critic.samplings == [how.sampling("critique", *place) for place in both]
    assert actor.samplings == [
        sampling
        for chunk in (0, 1)
        for sampling in (
            how.sampling("response", chunk),
            *(how.sampling("refinement", chunk, at) for at in (0, 1)),
        )
    ]
    settings = ProtocolConfig(response_temperature=0.1, critique_temperature=0.2, refinement_temperature=0.3)
    made = protocol_of(settings, COMPACT, LengthConfig(1, 2, 3), 0)
    of_turns = (made.response, made.critique, made.refinement)
    assert [(s.max_tokens, s.temperature) for s in of_turns] == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_actor_and_critic_are_shown_the_picture_at_every_turn(tmp_path: Path) -> None:
    shown = [dataclasses.replace(p, image="x.png") for p in PROBLEMS[:3]]
    actor, critic = ToyActor(actor_rule), ToyActor(critic_rule)
    evaluate(shown, actor, critic, protocol(rounds=2), records=tmp_path / "r.jsonl")
    assert [len(actor.asked), len(critic.asked)] == [9, 6]
    assert {c[0].get("image") for c in (*actor.asked, *critic.asked)} == {"x.png"}


@pytest.mark.parametrize("kept", [-1, -3])
def test_an_evaluation_killed_inside_a_chain_goes_on_with_its_rounds(tmp_path: Path, kept: int) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    actor, critic = ToyActor(actor_rule), ToyActor(critic_rule)
    expected = evaluate(PROBLEMS, actor, critic, protocol(rounds=2), records=whole)
    lines = whole.read_text(encoding="utf-8").splitlines(keepends=True)
    broken.write_text("".join(lines[:kept]), encoding="utf-8")
    assert evaluate(PROBLEMS, actor, critic, protocol(rounds=2), records=broken) == expected


def test_foreign_records_are_refused(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    evaluate(PROBLEMS, ToyActor(actor_rule), None, protocol(), records=records)
    with pytest.raises(UserError, match="records of other problems"):
        evaluate(PROBLEMS[:5], ToyActor(actor_rule), None, protocol(), records=records)


# -- rounds, samples and what the actor is shown ----------------------------------------------------------


def counting_rule(conversation: Conversation) -> str:
    """Answers the number of messages it was shown, so that a refinement tells what it has seen."""
    return f"The answer is {len(conversation)}"


@pytest.mark.parametrize(("history", "messages"), [("markov", [3, 3, 3]), ("full", [3, 5, 7])])
def test_rounds_go_on_from_the_last_refinement_with_or_without_what_came_before(
    tmp_path: Path, history: str, messages: list[int]
) -> None:
    actor, critic = ToyActor(counting_rule), ToyActor(lambda c: f"critique {len(c)}")
    settings = protocol(rounds=3, history=history)
    episodes = evaluate(PROBLEMS[:2], actor, critic, settings, records=tmp_path / "records.jsonl")
    first = episodes[:3]
    assert [(e.id, e.round) for e in episodes] == [(i, r) for i in ("id0", "id1") for r in range(3)]
    assert first[0].response == "The answer is 1"
    assert [e.refinement for e in first] == [f"The answer is {n}" for n in messages]
    assert [e.response for e in first[1:]] == [e.refinement for e in first[:-1]]
    # Whatever the history, the last thing that the critic reads is the latest response.
    asked = [c for c in critic.asked if "What is 0" in c[0]["content"]]
    assert [c[-1]["content"].split("Solution: ")[1] for c in asked] == [e.response for e in first]
    assert [len(c) for c in asked] == ([1, 1, 1] if history == "markov" else [1, 3, 5])
    if history == "full":
        assert [m["content"] for m in asked[2][1::2]] == [e.critique for e in first[:2]]
        assert [m["content"] for m in actor.asked[-2]][1::2] == [e.response for e in first]
        assert [m["content"] for m in actor.asked[-2]][2::2] == [e.critique for e in first]


def test_samples_are_independent_chains_and_more_of_them_may_be_asked_for_later(tmp_path: Path) -> None:
    few, many = tmp_path / "few.jsonl", tmp_path / "many.jsonl"
    critic = ToyActor(critic_rule)
    settings = protocol(temperature=0.7, samples=2)
    evaluate(PROBLEMS, ToyActor(actor_rule), critic, settings, records=few, chunk_size=4)
    more = dataclasses.replace(settings, samples=3)
    actor = ToyActor(actor_rule)
    expected = evaluate(PROBLEMS, ToyActor(actor_rule), critic, more, records=many, chunk_size=4)
    assert evaluate(PROBLEMS, actor, critic, more, records=few, chunk_size=4) == expected
    assert [(e.sample, e.id) for e in expected] == [(s, p.id) for s in range(3) for p in PROBLEMS]
    assert len(actor.asked) == 2 * 10  # of 30 chains in chunks of 4, the first five chunks were whole


def test_controls_change_what_the_actor_is_shown(tmp_path: Path) -> None:
    def shown(kind: str, critic: ToyActor | None) -> list[str | None]:
        settings = protocol(critiques=kind)
        records = tmp_path / f"{kind}.jsonl"
        return [
            e.critique
            for e in evaluate(PROBLEMS[3:6], ToyActor(actor_rule), critic, settings, records=records)
        ]

    critic = ToyActor(lambda c: f"Long advice for {number(c)}.\n" + critic_rule(c))
    correct, wrong = f"{VERDICT_LABEL} Correct", f"{VERDICT_LABEL} Wrong"
    written = [
        f"Long advice for 3.\n{correct}",
        f"Long advice for 4.\n{correct}",
        f"Long advice for 5.\n{wrong}",
    ]
    assert shown("critic", critic) == written
    assert shown("verdict", critic) == [correct, correct, wrong]
    assert shown("shuffled", critic) == [*written[1:], written[0]]
    assert shown("empty", None) == ["", "", ""]
    # 3 and 5 are answered wrongly, 4 rightly, whatever the critic thinks of them.
    assert shown("oracle", None) == [f"{ADVICE}\n{wrong}", f"{ADVICE}\n{correct}", f"{ADVICE}\n{wrong}"]
    with pytest.raises(UserError, match="two problems or more"):
        evaluate(PROBLEMS[:1], critic, critic, protocol(critiques="shuffled"), records=tmp_path / "one.jsonl")


@pytest.mark.parametrize("samples", [1, 3])
def test_a_shuffled_critique_is_of_another_problem_wherever_the_chunks_end(
    tmp_path: Path, samples: int
) -> None:
    critic = ToyActor(lambda c: f"Of {number(c)}.")
    settings = protocol(critiques="shuffled", samples=samples)
    # Of ten problems: a last chunk of one, and one with two samples of a problem at its ends.
    for size in (2, 3, 9, 11, 256):
        records = tmp_path / f"{size}.jsonl"
        made = evaluate(PROBLEMS, ToyActor(actor_rule), critic, settings, records=records, chunk_size=size)
        assert len(made) == 10 * samples
        for e in made:
            assert str(e.critique) != f"Of {number([{'role': 'user', 'content': e.question}])}."


def test_an_empty_critique_that_nobody_wrote_is_no_judgement(tmp_path: Path) -> None:
    """One that a critic wrote is: it has no verdict."""
    control, silent = protocol(critiques="empty"), ToyActor(lambda _: "")
    nobody = evaluate(PROBLEMS, ToyActor(actor_rule), None, control, records=tmp_path / "nobody.jsonl")
    somebody = evaluate(PROBLEMS, ToyActor(actor_rule), silent, protocol(), records=tmp_path / "silent.jsonl")
    assert {e.critique for e in (*nobody, *somebody)} == {""}
    shares = [metrics(episodes) for episodes in (nobody, somebody)]
    assert shares[0]["acc_refine"] == shares[1]["acc_refine"] is not None
    assert [(m["acc_dis"], m["parse_rate"]) for m in shares] == [(None, None), (0.0, 0.0)]


def test_an_oracle_verifier_spares_right_responses(tmp_path: Path) -> None:
    actor, critic = ToyActor(actor_rule), ToyActor(critic_rule)
    settings = protocol(spare_correct=True, rounds=2)
    episodes = evaluate(PROBLEMS, actor, critic, settings, records=tmp_path / "records.jsonl")
    first, second = episodes[::2], episodes[1::2]
    assert [e.critique is None for e in first] == [i % 2 == 0 for i in range(10)]
    assert all(e.refinement == e.response and e.refinement_correct for e in first[::2])
    # Without the verifier 4 is spoiled; 5 and 7 are called wrong and corrected, 9 is not judged.
    assert [i for i, e in enumerate(first) if e.refinement_correct] == [0, 2, 4, 5, 6, 7, 8]
    measured = metrics(first)
    assert (measured["acc_refine"], measured["delta_ci"], measured["delta_ic"]) == (0.7, 0.0, 0.2)
    assert measured["acc_dis"] == measured["acc_dis_on_wrong"] == 2 / 5  # of the five that were criticised
    assert measured["acc_dis_on_correct"] is None and measured["acc_dis_balanced"] is None
    assert [e.critique is None for e in second] == [e.refinement_correct for e in first]
    assert len(critic.asked) == 5 + 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"history": "markow"}, "Did you mean 'markov'"),
        ({"critiques": "shufled"}, "Did you mean 'shuffled'"),
        ({"critiques": "shuffled", "spare_correct": True}, "set spare_correct to false"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        protocol(**settings)
