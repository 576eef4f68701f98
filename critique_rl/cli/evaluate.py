"""What is measured outside a run.

`critique-rl eval`: any actor with any critic on any data set, or recorded replies. `critique-rl audit`: the
critiques of an evaluation before a judge.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from critique_rl.actors import make_actor
from critique_rl.actors.reward_model import make_scorer
from critique_rl.config.data import LengthConfig, TaskConfig
from critique_rl.config.evaluation import CRITIQUES, HISTORIES, ProtocolConfig
from critique_rl.config.reading import as_dict, build, parse_yaml
from critique_rl.display import Display, Outcome
from critique_rl.evaluation.episodes import Episode, read_episodes
from critique_rl.evaluation.intervals import ByProblem
from critique_rl.evaluation.protocol import evaluate
from critique_rl.evaluation.recorded import read_recorded
from critique_rl.evaluation.scaling import by_round, majority, passing, powers_of_two
from critique_rl.evaluation.summary import summarise
from critique_rl.grading.scoring import Rater, ScoreRange
from critique_rl.prompts import PROMPT_SETS, prompt_set
from critique_rl.reports.markdown import markdown_table
from critique_rl.reports.provenance import result
from critique_rl.runs.folder import MARKER
from critique_rl.runs.problems import load_problems
from critique_rl.runs.protocol import protocol_of
from critique_rl.runs.step import Step
from critique_rl.tasks import TASKS
from critique_rl.types import GradedKind, Problem, UserError

DISAGREE = 2
"""Exit code where a recorded label and a grade differ: something for the user to look at."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `critique-rl eval`."""
    parser.add_argument("output", help="folder for records and report; the same command goes on there")
    what = parser.add_argument_group("what is measured")
    what.add_argument("--recorded", metavar="FILE", help="replies that are there already: see the README")
    what.add_argument("--kind", choices=get_args(GradedKind), help="how recorded answers are graded")
    _task_arguments(what)
    what.add_argument("--limit", type=int, help="most problems, drawn by seed")
    what.add_argument("--actor", help="path, hub id, or URL of an OpenAI-compatible server")
    what.add_argument("--critic", help="the same; without it the actor is measured alone")
    how = parser.add_argument_group(
        "how, by default as in the paper: greedy, one critique and one refinement"
    )
    how.add_argument("--prompts", default="paper", choices=list(PROMPT_SETS), help="prompt set")
    how.add_argument("--temperature", type=float, default=0.0, help="of all three texts")
    how.add_argument("--samples", type=int, default=1, help="independent chains of each problem")
    how.add_argument("--rounds", type=int, default=1, help="critiques and refinements in a chain")
    how.add_argument("--history", default="markov", choices=HISTORIES, help="what later rounds see")
    how.add_argument(
        "--critiques", default="critic", choices=CRITIQUES, help="the critic's, or a control in their place"
    )
    how.add_argument("--spare-correct", action="store_true", help="keep right responses: an oracle verifier")
    how.add_argument("--scorer", metavar="MODEL", help="reward model of a task with scores, or keywords")
    how.add_argument(
        "--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="scores that are ratings of 1 and 10"
    )
    how.add_argument(
        "--tokens",
        type=int,
        nargs=3,
        metavar=("RESPONSE", "CRITIQUE", "REFINEMENT"),
        help="most tokens of each text",
    )
    how.add_argument("--seed", type=int, default=0, help="of draws and intervals")


def _task_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--task", choices=list(TASKS), metavar="TASK", help=f"one of {', '.join(TASKS)}")
    group.add_argument("--source", help="local file or directory of the task; the hub if left out")
    group.add_argument("--split", default="test", help="train, validation or test, which is the default")
    group.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="option of the task"
    )


def run(arguments: argparse.Namespace) -> Outcome:
    """Measure what the arguments of `critique-rl eval` say, write records and report.

    Returns:
        The table.

    Raises:
        UserError: An argument is missing or wrong, or the folder holds another measurement.
    """
    if (arguments.recorded is None) == (arguments.task is None):
        raise UserError("say either --task NAME with --actor, or --recorded FILE.")
    return _recorded(arguments) if arguments.recorded else _measured(arguments)


def _recorded(arguments: argparse.Namespace) -> Outcome:
    path, output = Path(arguments.recorded), Path(arguments.output)
    if (output / MARKER).exists():
        raise UserError(f"{output} holds the evaluation of a task: choose another folder.")
    episodes, agreement = read_recorded(path, kind=arguments.kind)
    output.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(e), ensure_ascii=False) + "\n" for e in episodes]
    (output / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    settings = {"recorded": str(path), "kind": arguments.kind}
    measured = _report(output, settings, 0, path.stem, "recorded", episodes, {})
    if not agreement.labelled:
        return measured
    return replace(
        measured,
        text=f"{measured.text}\n{agreement.summary()}",
        status=DISAGREE if agreement.differing else 0,
        more={"agreement": asdict(agreement)},
    )


def _measured(arguments: argparse.Namespace) -> Outcome:
    if arguments.actor is None:
        raise UserError("--actor is missing: a path, a hub id or the URL of a server.")
    task = replace(_task(arguments), limit=arguments.limit)
    chosen = {
        "samples": arguments.samples,
        "rounds": arguments.rounds,
        "history": arguments.history,
        "critiques": arguments.critiques,
        "spare_correct": arguments.spare_correct,
        **{f"{turn}_temperature": arguments.temperature for turn in ("response", "critique", "refinement")},
    }
    protocol: ProtocolConfig = build(ProtocolConfig, chosen, "critique-rl eval")
    if arguments.critic is None and protocol.asks_critic and protocol.critiques != "critic":
        raise UserError(f"--critiques {protocol.critiques} shows what a critic has written: give --critic.")
    lengths = LengthConfig(*arguments.tokens) if arguments.tokens else LengthConfig()
    prompts, output = prompt_set(arguments.prompts), Path(arguments.output)
    display = Display(quiet=arguments.quiet)
    settings = {
        "task": as_dict(task),
        "protocol": as_dict(protocol),
        "prompts": {"name": prompts.name, "version": prompts.version},
        "lengths": as_dict(lengths),
        "actor": arguments.actor,
        "critic": arguments.critic,
        "seed": arguments.seed,
    } | ({} if arguments.scorer is None else {"scorer": arguments.scorer, "range": arguments.range})

    def measure() -> None:
        actor = make_actor(arguments.actor)
        same = arguments.critic == arguments.actor
        critic = actor if same else make_actor(arguments.critic) if arguments.critic else None
        evaluate(
            problems,
            actor,
            critic,
            protocol_of(protocol, prompts, lengths, arguments.seed),
            records=output / "records.jsonl",
            rater=rater,
            on_progress=display.advance,
        )

    step = Step("eval", output, kind="evaluate", command="evaluate", settings=settings)
    if not step.finished():
        problems = load_problems(task, display)  # before anything is written
        rater = _rater(arguments, problems)
        with display.step(f"{task.title}, {task.split}", 1, 1):
            step.execute(measure)
    episodes = read_episodes(output / "records.jsonl")
    further: dict[str, Any] = {}
    if protocol.samples > 1 and arguments.scorer is None:  # of scored replies there is neither vote nor pass
        ks = powers_of_two(protocol.samples)
        further |= {**majority(ks)(episodes), **passing(ks)(episodes)}
    if protocol.rounds > 1:
        further |= by_round(range(1, protocol.rounds + 1))(episodes)
    method = "No critic" if arguments.critic is None and protocol.critiques == "critic" else "Critic"
    return _report(output, settings, arguments.seed, task.title, method, episodes, further)


def _rater(arguments: argparse.Namespace, problems: Sequence[Problem]) -> Rater | None:
    """What scores the replies of a task with scores; None for all other tasks."""
    scored = problems[0].kind == "score"
    if scored != (arguments.scorer is not None):
        raise UserError(
            f"task {arguments.task}: "
            + ("its replies are scored, give --scorer." if scored else "--scorer is for tasks with scores.")
        )
    if not scored:
        return None
    if arguments.range is None:
        raise UserError("--range LOW HIGH is missing: which scores are ratings of 1 and 10.")
    name = arguments.scorer
    spec = {"kind": "keywords"} if name == "keywords" else {"kind": "reward_model", "model": name}
    return Rater(make_scorer(spec), ScoreRange(*arguments.range))


def _task(arguments: argparse.Namespace) -> TaskConfig:
    return TaskConfig(
        arguments.task,
        split=arguments.split,
        source=arguments.source,
        options=task_options(arguments.option),
    )


def task_options(given: Sequence[str]) -> dict[str, Any]:
    """Options of a task from `--option KEY=VALUE`, the values as YAML."""
    options = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise UserError(f"--option {item} is not of the form key=value.")
        options[key] = parse_yaml(value)
    return options


def _report(
    output: Path,
    settings: dict[str, Any],
    seed: int,
    dataset: str,
    method: str,
    episodes: Sequence[Episode],
    further: ByProblem,
) -> Outcome:
    first = [e for e in episodes if e.round == 0]
    measured = summarise([first], [further])
    row = {"method": method, "dataset": dataset, "metrics": measured}
    content = result(settings, [seed], [row])
    path = output / "report.json"
    _write(path, content)
    lines = [f"{markdown_table([row])}\n"]
    for name in further:
        if name in measured:
            m = measured[name]
            lines.append(f"{name}: {m['mean']:.1%} ({m['low']:.1%} to {m['high']:.1%})")
    lines.append(f"results: {path}")
    return Outcome("\n".join(lines), [row], {"records": output / "records.jsonl", "report": path})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
