"""TODO docstring."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from critique_rl.actors import Actor, make_actor
from critique_rl.cli.evaluate import _task, _task_arguments, _write
from critique_rl.config.data import TaskConfig
from critique_rl.config.reading import as_dict
from critique_rl.display import Display, Outcome
from critique_rl.evaluation import audit
from critique_rl.evaluation.episodes import Episode, read_finished
from critique_rl.evaluation.localisation import problem_of
from critique_rl.reports.provenance import result
from critique_rl.runs.problems import load_problems
from critique_rl.types import AnswerKind, Problem, UserError


def add_audit_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `critique-rl audit`."""
    parser.add_argument("records", help="records.jsonl of an evaluation")
    parser.add_argument("output", help="folder for opinions and summary; the same command goes on there")
    parser.add_argument(
        "--judge", required=True, help="path, hub id, or URL of an OpenAI-compatible server; asked greedily"
    )
    parser.add_argument("--model", metavar="NAME", help="served model, by default the first of the server")
    parser.add_argument("--limit", type=int, default=600, help="most critiques, drawn by seed")
    parser.add_argument("--seed", type=int, default=0, help="of that draw")
    parser.add_argument(
        "--max-tokens", type=int, default=512, help="of a reply; what is judged already is not asked again"
    )
    _task_arguments(
        parser.add_argument_group(
            "where the gold solutions are; without a task the judge sees gold answers alone"
        )
    )


def run_audit(arguments: argparse.Namespace) -> Outcome:
    """Audit what the arguments of `critique-rl audit` say, write opinions and summary.

    Returns:
        The table.

    Raises:
        UserError: The records are missing, empty or not finished, nothing in them can be audited, the task
            lacks one of their problems, or the folder holds another audit.
        ActorError: The judge does not answer; the same command goes on after its last opinions.
    """
    records, output = Path(arguments.records), Path(arguments.output)
    if arguments.task is None and (arguments.source or arguments.option):
        raise UserError("--source and --option belong to a task: say which with --task NAME.")
    task = None if arguments.task is None else _task(arguments)
    episodes = read_finished(records)
    if not audit.corrections(episodes):
        raise UserError(f"{records} has no critique to audit: none turned a wrong response into a right one.")
    display = Display(quiet=arguments.quiet)
    problems = _problems(episodes, task, display)
    judge = _judge(arguments)  # after all that may be refused: a local one takes long to load
    with display.step(f"audit by {judge.name}", 1, 1):
        opinions = audit.audit(
            episodes,
            problems,
            judge,
            limit=arguments.limit,
            seed=arguments.seed,
            records=output / "opinions.jsonl",
            max_tokens=arguments.max_tokens,
            on_progress=display.advance,
        )
    settings = {
        "records": str(records),
        "task": None if task is None else as_dict(task),
        "judge": arguments.judge,
        "model": judge.name,
        "limit": arguments.limit,
        "max_tokens": arguments.max_tokens,
    }
    found = audit.summary(opinions)
    row = {"judge": judge.name, "dataset": ", ".join(sorted({e.dataset for e in episodes})), **found}
    path = output / "audit.json"
    _write(path, result(settings, [arguments.seed], [row]))
    text = f"{audit.markdown_table(found)}\n\nresults: {path}"
    return Outcome(text, [row], {"opinions": output / "opinions.jsonl", "audit": path})


def _problems(
    episodes: Sequence[Episode], task: TaskConfig | None, display: Display
) -> Mapping[str, Problem]:
    """Problems of the episodes: those of the task, else without solutions."""
    if task is None:
        return {
            e.id: Problem(e.id, e.dataset, e.question, "", e.answer, cast(AnswerKind, e.kind))
            for e in episodes
        }
    known = {p.id: p for p in load_problems(task, display)}
    return {e.id: problem_of(known, e.id) for e in episodes}


def _judge(arguments: argparse.Namespace) -> Actor:
    if arguments.model is None:
        return make_actor(arguments.judge)
    return make_actor({"backend": "openai", "base_url": arguments.judge, "model": arguments.model})
