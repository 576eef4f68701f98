"""`critique-rl audit`: a judge model reads the critiques of an evaluation that turned a wrong response right."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

from critique_rl.actors import make_actor
from critique_rl.cli.shared import add_task_arguments, task_config, write_result
from critique_rl.config.reading import as_dict
from critique_rl.display import Display, Outcome
from critique_rl.evaluation import audit
from critique_rl.evaluation.episodes import read_finished
from critique_rl.evaluation.localisation import problem_of
from critique_rl.manifest import only_process
from critique_rl.runs.problems import load_problems
from critique_rl.types import AnswerKind, Problem, UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `critique-rl audit`."""
    parser.add_argument("records", help="records.jsonl of an evaluation")
    parser.add_argument("output", help="folder for opinions and summary; the same command goes on there")
    parser.add_argument(
        "--judge", required=True, help="path, hub id, or URL of an OpenAI-compatible server; asked greedily"
    )
    parser.add_argument("--model", metavar="NAME", help="served model, by default the first of the server")
    parser.add_argument("--limit", type=int, default=600, help="most critiques, drawn by seed")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument(
        "--max-tokens", type=int, default=512, help="tokens of a reply; finished opinions are not asked again"
    )
    add_task_arguments(
        parser.add_argument_group("task with the gold solutions; without it the judge sees only gold answers")
    )


def run(arguments: argparse.Namespace) -> Outcome:
    """Have the judge read critiques; write opinions and their summary.

    Raises:
        UserError: The records are missing, empty or not finished, no critique corrected a response, the task lacks
            one of the problems, or the folder holds another audit.
        ActorError: The judge does not answer; the same command goes on after its last opinion.
    """
    records, output = Path(arguments.records), Path(arguments.output)
    if arguments.task is None and (arguments.source or arguments.option):
        raise UserError("--source and --option belong to a task: say which with --task NAME.")
    task = None if arguments.task is None else task_config(arguments)
    episodes = read_finished(records)
    if not audit.corrections(episodes):
        raise UserError(f"{records} has no critique to audit: none turned a wrong response into a right one.")
    display = Display(quiet=arguments.quiet)
    if task is None:  # records lack the solutions
        rows = ((e.id, e.dataset, e.question, "", e.answer, cast(AnswerKind, e.kind)) for e in episodes)
        problems = {row[0]: Problem(*row) for row in rows}
    else:
        by_id = {p.id: p for p in load_problems(task, display)}
        problems = {e.id: problem_of(by_id, e.id) for e in episodes}
    server = {"backend": "openai", "base_url": arguments.judge, "model": arguments.model}
    # A local judge takes long to load: after all checks.
    judge = make_actor(arguments.judge if arguments.model is None else server)
    with only_process(output), display.step(f"audit by {judge.name}", 1, 1):
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
    summary = audit.summary(opinions)
    row = {"judge": judge.name, "dataset": ", ".join(sorted({e.dataset for e in episodes})), **summary}
    path = output / "audit.json"
    write_result(path, settings, arguments.seed, [row])
    text = f"{audit.markdown_table(summary)}\n\nresults: {path}"
    return Outcome(text, [row], {"opinions": output / "opinions.jsonl", "audit": path})
