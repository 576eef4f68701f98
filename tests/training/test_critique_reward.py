"""The reward of a critique by itself: its values, its metrics, and what is unknown or noisy."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from helpers import Reply, ToyActor, chat_completion, environment, follow_critique, hear_ctrl_c, serving
from transformers import TrainerState

from critique_rl.actors import ActorError, OpenAIActor, TransformersActor
from critique_rl.grading import grade_batch
from critique_rl.prompts import PAPER, VERDICT_LABEL
from critique_rl.training.critique_reward import CritiqueReward
from critique_rl.training.stage_config import CritiqueConfig, Stage1Config, Stage2Config
from critique_rl.types import NO_REPLY, Generation

Make = Callable[..., Any]
RIGHT, WRONG = (f"Correctness of the final answer: {value}" for value in ("Correct", "Wrong"))


class TestReward:
    """`CritiqueReward` by itself: four critiques of responses of which the first two are right."""

    CRITIQUES = (
        f"Explanation: 7\n{RIGHT}",  # right verdict, right refinement
        f"Explanation: 1\n{WRONG}",  # wrong verdict, wrong refinement
        f"Explanation: 7\n{WRONG}",  # right verdict, right refinement
        "Explanation: 7",  # no verdict, right refinement
    )

    def reward(
        self,
        args: CritiqueConfig,
        actor: Any = None,
        grader: Any = grade_batch,
        correct: Any = (True, True, False, False),
        extra: dict[str, list[Any]] | None = None,
    ) -> tuple[list[float | None], dict[str, list[float]]]:
        metrics: dict[str, list[float]] = {}
        values = CritiqueReward(args, actor, grader)(
            completions=[[{"role": "assistant", "content": c}] for c in self.CRITIQUES],
            question=["3+4"] * 4,
            response=["The answer is 7"] * 4,
            answer=["7"] * 4,
            kind=["number"] * 4,
            response_correct=list(correct),
            trainer_state=SimpleNamespace(global_step=0),
            log_extra=lambda name, column: (extra if extra is not None else {}).update({name: column}),
            log_metric=lambda name, value: metrics.setdefault(name, []).append(value),
        )
        return values, metrics

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"refinement_reward": None}, [1.0, 0.0, 1.0, 0.0]),
            ({"refinement_reward": None, "signed_dis": True}, [1.0, -1.0, 1.0, -1.0]),
            ({}, [1.2, 0.0, 1.2, 1.0]),
            ({"combination": "gated"}, [1.2, -1.0, 1.2, -1.0]),
            ({"beta_1": 0.0}, [1.0, 0.0, 1.0, 1.0]),
            ({"refinement_reward": "r_delta"}, [0.2, -1.0, 1.2, 1.0]),
            ({"refinement_reward": "r_correction"}, [0.4, 0.0, 1.2, 1.0]),
        ],
    )
    def test_values(self, config: Make, settings: dict[str, Any], expected: list[float]) -> None:
        values, metrics = self.reward(config(Stage2Config, **settings), ToyActor(follow_critique))
        assert values == pytest.approx(expected)
        assert metrics["critic/acc_dis"] == [1.0, 0.0, 1.0, 0.0]
        assert metrics["critic/parse_rate"] == [1.0, 1.0, 1.0, 0.0]

    def test_the_metrics_of_each_critique(self, config: Make) -> None:
        _, metrics = self.reward(config(Stage2Config), ToyActor(follow_critique))
        # Of two right responses the second is spoiled, both wrong ones are corrected.
        assert metrics["actor/acc_refine"] == [1.0, 0.0, 1.0, 1.0]
        assert metrics["actor/delta_ci"] == [0.0, 1.0, 0.0, 0.0]
        assert metrics["actor/delta_ic"] == [0.0, 0.0, 1.0, 1.0]
        assert metrics["actor/delta_ci_given_correct"] == [0.0, 1.0]
        assert metrics["actor/delta_ic_given_wrong"] == [1.0, 1.0]
        _, metrics = self.reward(config(), correct=(True, True, True, False))
        assert metrics["critic/acc_dis_on_correct"] == [1.0, 0.0, 0.0]
        assert metrics["critic/acc_dis_on_wrong"] == [0.0]

    def test_a_prefill_is_part_of_what_is_graded_and_recorded(self, config: Make) -> None:
        extra: dict[str, list[Any]] = {}
        self.reward(config(Stage2Config, prompts="paper"), ToyActor(follow_critique), extra=extra)
        assert PAPER.refinement_prefill
        assert all(text.startswith(PAPER.refinement_prefill) for text in extra["refinement"])

    @pytest.mark.parametrize("combination", ["additive", "gated"])
    def test_a_refinement_that_never_came_is_no_score_and_is_counted(
        self, config: Make, combination: str
    ) -> None:
        class Server(ToyActor):
            def generate(self, prompts: Any, sampling: Any) -> list[Generation]:
                return [NO_REPLY, *super().generate(prompts[1:], sampling)]

        extra: dict[str, list[Any]] = {}
        args = config(Stage2Config, combination=combination)
        values, metrics = self.reward(args, Server(follow_critique), extra=extra)
        plain, _ = self.reward(args, ToyActor(follow_critique))
        assert values == [None, *plain[1:]]
        assert extra["refinement"][0] == "" and extra["refinement_correct"][0] is None
        assert metrics["actor/graded_rate"][0] == 0.0 and metrics["tokens/actor"][0] % 13 == 0

    def test_what_is_unknown_is_no_score(self, config: Make) -> None:
        def grader(items: Sequence[Mapping[str, str]]) -> list[bool | None]:
            return [None if "1" in item["reply"] else True for item in items]

        values, metrics = self.reward(config(Stage2Config), ToyActor(follow_critique), grader)
        assert values == pytest.approx([1.2, None, 1.2, 1.0])
        assert metrics["actor/graded_rate"] == [1.0, 0.0, 1.0, 1.0]
        assert metrics["actor/acc_refine"] == [1.0, 1.0, 1.0]
        values, metrics = self.reward(
            config(Stage2Config), ToyActor(follow_critique), correct=(True, None, False, None)
        )
        assert values == pytest.approx([1.2, None, 1.2, None])
        assert metrics["critic/acc_dis"] == [1.0, 1.0]
        assert "critic/acc_dis_on_wrong" in metrics and len(metrics["critic/acc_dis_on_wrong"]) == 1
        assert len(metrics["actor/delta_ic"]) == 2


@pytest.mark.parametrize("stage", [Stage1Config, Stage2Config])
def test_noisy_labels_reach_the_reward_and_not_the_log(
    actor_dir: Path, pool: Dataset, config: Make, stage: type[CritiqueConfig]
) -> None:
    """Each verdict is right, so a Stage I reward is 0 just where the label is inverted."""
    rows = [dict(row) for row in pool]
    says = {True: "Correct", False: "Wrong"}
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    critiques = [f"{VERDICT_LABEL} {says[row['response_correct']]}" for row in rows]
    logged: dict[str, list[float]] = {}
    args = config(stage, oracle_noise=0.25, refinement_max_tokens=10)
    reward = CritiqueReward(args, TransformersActor(actor_dir), grade_batch)
    values = reward(
        critiques,
        **columns,
        trainer_state=TrainerState(),
        log_extra=lambda name, column: None,
        log_metric=lambda name, value: logged.setdefault(name, []).append(value),
    )
    assert set(logged["critic/acc_dis"]) == {1.0}  # each verdict is right
    if stage is Stage1Config:
        wrong = values.count(0.0) / len(values)
        assert set(values) == {0.0, 1.0} and 0.15 < wrong < 0.35
    else:
        plain = CritiqueReward(config(stage, refinement_max_tokens=10), reward.actor, grade_batch)
        truth = plain(
            critiques,
            **columns,
            trainer_state=TrainerState(),
            log_extra=lambda name, column: None,
            log_metric=lambda name, value: None,
        )
        changed = [a != b for a, b in zip(values, truth, strict=True)]
        assert 0.3 < sum(changed) / len(changed) < 0.6  # 1 - 0.75^2 of the rows, where a label is inverted


class TestBegin:
    """Refinements that a server is asked for before the reward is due."""

    CRITIQUES = TestReward.CRITIQUES

    def columns(self, step: int = 0) -> dict[str, Any]:
        n = len(self.CRITIQUES)
        return {
            "question": ["3+4"] * n,
            "response": ["The answer is 7"] * n,
            "answer": ["7"] * n,
            "kind": ["number"] * n,
            "response_correct": [True, True, False, False],
            "trainer_state": SimpleNamespace(global_step=step),
            "log_extra": lambda name, column: None,
            "log_metric": lambda name, value: None,
        }

    @pytest.mark.parametrize("combination", ["additive", "gated"])
    def test_each_row_is_asked_once_and_those_of_the_blocking_way(
        self, config: Make, combination: str
    ) -> None:
        args, plain = config(Stage2Config, combination=combination), ToyActor(follow_critique)
        expected = CritiqueReward(args, plain, grade_batch)(self.CRITIQUES, **self.columns())
        with serving(lambda body: chat_completion(follow_critique(body["messages"]))) as server:
            reward = CritiqueReward(args, OpenAIActor(server.url, concurrency=1), grade_batch)
            reward.begin(self.CRITIQUES, self.columns(), step=0)
            assert reward(self.CRITIQUES, **self.columns()) == expected
            assert [body["messages"] for body in server.requests] == plain.asked
        assert len(plain.asked) == (4 if combination == "additive" else 2)

    def test_an_actor_in_this_process_and_a_stage_without_refinements_begin_nothing(
        self, config: Make
    ) -> None:
        plain = ToyActor(follow_critique)
        CritiqueReward(config(Stage2Config), plain, grade_batch).begin(self.CRITIQUES, self.columns(), step=0)
        assert plain.asked == []
        with serving(lambda body: chat_completion("7")) as server:
            reward = CritiqueReward(config(Stage1Config), OpenAIActor(server.url), grade_batch)
            reward.begin(self.CRITIQUES, self.columns(), step=0)
            assert reward._begun is None and server.requests == []

    def test_an_error_is_that_of_the_blocking_way_and_the_next_call_is_free_of_it(self, config: Make) -> None:
        mended = Event()

        def answer(body: dict[str, Any]) -> Reply:
            if mended.is_set():
                return chat_completion(follow_critique(body["messages"]))
            return Reply({"error": {"message": "no"}}, 400)

        with serving(answer) as server:
            reward = CritiqueReward(config(Stage2Config), OpenAIActor(server.url, concurrency=1), grade_batch)
            with pytest.raises(ActorError, match="refused prompt 0") as blocking:
                reward(self.CRITIQUES, **self.columns())
            reward.begin(self.CRITIQUES, self.columns(), step=0)
            with pytest.raises(ActorError) as begun:
                reward(self.CRITIQUES, **self.columns())
            assert str(begun.value) == str(blocking.value)
            mended.set()
            assert reward(self.CRITIQUES, **self.columns()) == pytest.approx([1.2, 0.0, 1.2, 1.0])

    def test_replies_to_another_request_are_not_taken(self, config: Make) -> None:
        def answer(body: dict[str, Any]) -> Reply:
            return chat_completion(f"The answer is {body['seed'] % 2 + 6}")

        args = config(Stage2Config, refinement_temperature=1.0)
        with serving(answer) as server:
            actor = OpenAIActor(server.url)
            expected = CritiqueReward(args, actor, grade_batch)(self.CRITIQUES, **self.columns(step=1))
            seeds = {body["seed"] for body in server.requests}
        with serving(answer) as server:
            reward = CritiqueReward(args, OpenAIActor(server.url), grade_batch)
            reward.begin(self.CRITIQUES, self.columns(), step=0)
            assert reward(self.CRITIQUES, **self.columns(step=1)) == expected
            assert seeds <= {body["seed"] for body in server.requests}

    @pytest.mark.processes
    @pytest.mark.parametrize("taken", [False, True], ids=["error before", "ctrl-c while waiting"])
    def test_a_server_that_hangs_does_not_keep_the_process_from_its_end(
        self, tmp_path: Path, taken: bool
    ) -> None:
        asked, done = Event(), Event()

        def hang(_: dict[str, Any]) -> Reply:
            asked.set()
            done.wait(60)
            return chat_completion("7")

        code = """
import sys
from types import SimpleNamespace
from critique_rl import OpenAIActor, Stage2Config
from critique_rl.grading import grade_batch
from critique_rl.training.critique_reward import CritiqueReward
url, folder, taken = sys.argv[1:]
args = Stage2Config(output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False, prompts="compact")
reward = CritiqueReward(args, OpenAIActor(url), grade_batch)
columns = {"question": ["3+4"], "response": ["7"], "response_correct": [True], "answer": ["7"], "kind": ["number"]}
reward.begin(["Explanation: 7"], columns, 0)
if taken == "False":
    sys.stdin.readline()
    raise RuntimeError("the log-probabilities failed")
state = {"trainer_state": SimpleNamespace(global_step=0), "log_extra": None, "log_metric": None}
reward(["Explanation: 7"], **columns, **state)
"""
        with serving(hang) as server:
            process = subprocess.Popen(
                [sys.executable, "-c", code, server.url, str(tmp_path), str(taken)],
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(),
                preexec_fn=hear_ctrl_c,
            )
            try:
                assert asked.wait(120)
                if taken:
                    process.send_signal(signal.SIGINT)
                _, errors = process.communicate(None if taken else "go on\n", timeout=30)
            finally:
                done.set()
                process.kill()
        assert ("KeyboardInterrupt" if taken else "the log-probabilities failed") in errors
