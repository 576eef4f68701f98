"""`critique-rl eval`: any actor with any critic on any data set, outside a run; or recorded replies."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from critique_rl.actors import make_actor
from critique_rl.config import LengthConfig, ProtocolConfig, TaskConfig, as_dict, build
from critique_rl.display import Display
from critique_rl.evaluation import Episode, evaluate, read_episodes
from critique_rl.measures import by_round, majority, passing, powers_of_two
from critique_rl.pipeline import Step, load_problems, protocol_of
from critique_rl.prompts import prompt_set
from critique_rl.recorded import read_recorded
from critique_rl.report import ByProblem, markdown_table, result, summarise
from critique_rl.types import UserError

DISAGREE = 2
"""Exit code where a recorded label and a grade differ: something for the user to look at."""


def run(arguments: argparse.Namespace) -> int:
    """Measure what the arguments of `critique-rl eval` say, print the table, write records and report.

    Returns:
        The exit code.

    Raises:
        UserError: An argument is missing or wrong, or the folder holds another measurement.
    """
    if (arguments.recorded is None) == (arguments.task is None):
        raise UserError("say either --task NAME with --actor, or --recorded FILE.")
    return _recorded(arguments) if arguments.recorded else _measured(arguments)


def _recorded(arguments: argparse.Namespace) -> int:
    path, output = Path(arguments.recorded), Path(arguments.output)
    episodes, agreement = read_recorded(path, kind=arguments.kind)
    output.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(e), ensure_ascii=False) + "\n" for e in episodes]
    (output / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    settings = {"recorded": str(path), "kind": arguments.kind}
    _report(output, settings, 0, path.stem, "recorded", episodes, {})
    if agreement.labelled:
        sys.stdout.write(f"{agreement.summary()}\n")
    return DISAGREE if agreement.differing else 0


def _measured(arguments: argparse.Namespace) -> int:
    if arguments.actor is None:
        raise UserError("--actor is missing: a path, a hub id or the URL of a server.")
    task = TaskConfig(
        arguments.task,
        split=arguments.split,
        source=arguments.source,
        limit=arguments.limit,
        options=_options(arguments.option),
    )
    chosen = {
        "samples": arguments.samples,
        "rounds": arguments.rounds,
        "history": arguments.history,
        "critiques": arguments.critiques,
        "spare_correct": arguments.spare_correct,
        **{f"{turn}_temperature": arguments.temperature for turn in ("response", "critique", "refinement")},
    }
    protocol: ProtocolConfig = build(ProtocolConfig, chosen, "critique-rl eval")
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
    }

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
            on_progress=display.advance,
        )

    step = Step("eval", "evaluate", output, settings, (), measure)
    if not step.finished():
        problems = load_problems(task, display)  # before anything is written
        with display.step(f"{task.title}, {task.split}", 1, 1):
            step.execute()
    episodes = read_episodes(output / "records.jsonl")
    further: dict[str, Any] = {}
    if protocol.samples > 1:
        ks = powers_of_two(protocol.samples)
        further |= {**majority(ks)(episodes), **passing(ks)(episodes)}
    if protocol.rounds > 1:
        further |= by_round(range(1, protocol.rounds + 1))(episodes)
    method = "No critic" if arguments.critic is None and protocol.critiques == "critic" else "Critic"
    _report(output, settings, arguments.seed, task.title, method, episodes, further)
    return 0


def _options(given: Sequence[str]) -> dict[str, Any]:
    options = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise UserError(f"--option {item} is not of the form key=value.")
        options[key] = yaml.safe_load(value)
    return options


def _report(
    output: Path,
    settings: dict[str, Any],
    seed: int,
    dataset: str,
    method: str,
    episodes: Sequence[Episode],
    further: ByProblem,
) -> None:
    first = [e for e in episodes if e.round == 0]
    measured = summarise([first], [further])
    row = {"method": method, "dataset": dataset, "metrics": measured}
    content = result(settings, [seed], [row])
    path = output / "report.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{markdown_table([row])}\n\n")
    for name in further:
        if name in measured:
            m = measured[name]
            sys.stdout.write(f"{name}: {m['mean']:.1%} ({m['low']:.1%} to {m['high']:.1%})\n")
    sys.stdout.write(f"results: {path}\n")
