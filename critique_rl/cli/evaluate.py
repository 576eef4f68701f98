"""`critique-rl eval`: evaluate any actor with any critic on a task, or grade recorded replies."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from critique_rl.actors import Actor, make_actor
from critique_rl.actors.reward_model import make_scorer
from critique_rl.adapters import is_adapter
from critique_rl.cli.shared import add_task_arguments, task_config, write_result
from critique_rl.config.data import LengthConfig
from critique_rl.config.evaluation import CRITIQUES, HISTORIES, ProtocolConfig
from critique_rl.config.reading import as_dict, build
from critique_rl.display import Display, Outcome
from critique_rl.evaluation.episodes import Episode, read_episodes, unknown_replies
from critique_rl.evaluation.intervals import ByProblem, percent
from critique_rl.evaluation.protocol import evaluate
from critique_rl.evaluation.recorded import read_recorded
from critique_rl.evaluation.scaling import by_round, majority, passing, powers_of_two
from critique_rl.evaluation.summary import summarise
from critique_rl.grading.scoring import Rater, ScoreRange
from critique_rl.manifest import only_process
from critique_rl.prompts import PROMPT_SETS, prompt_set
from critique_rl.records import is_first_process, rank_of_ranks, write
from critique_rl.reports.columns import is_share
from critique_rl.reports.markdown import markdown_table
from critique_rl.runs.folder import MARKER
from critique_rl.runs.problems import load_problems, protocol_of
from critique_rl.runs.step import Step
from critique_rl.training.metrics import EVALUATION, level
from critique_rl.types import GradedKind, Problem, UserError, redacted

MODELS = "models.json"
"""File of an evaluation with name, batch size, type and device of its models, by role."""
MAIN = ("acc", "acc_refine", "acc_dis", "parse_rate")
"""Metrics that are printed with their intervals."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `critique-rl eval`."""
    parser.add_argument("output", help="folder for records and report; the same command goes on there")
    what = parser.add_argument_group("what is measured")
    what.add_argument("--recorded", metavar="FILE", help="replies that are there already: see the README")
    what.add_argument("--kind", choices=get_args(GradedKind), help="how recorded answers are graded")
    add_task_arguments(what)
    what.add_argument("--limit", type=int, help="most problems, drawn by seed")
    what.add_argument("--actor", help="path, hub id, or URL of an OpenAI-compatible server")
    what.add_argument("--critic", help="the same; without it the actor is measured alone")
    what.add_argument("--base", help="model that adapters are on, instead of the one that they name")
    what.add_argument("--dtype", help="type of weights in this process, such as bfloat16 or fastest")
    how = parser.add_argument_group(
        "how, by default as in the paper: greedy, one critique and one refinement"
    )
    how.add_argument("--prompts", default="paper", choices=list(PROMPT_SETS), help="prompt set")
    how.add_argument("--temperature", type=float, default=0.0, help="sampling temperature of all three texts")
    how.add_argument("--samples", type=int, default=1, help="independent chains of each problem")
    how.add_argument("--rounds", type=int, default=1, help="critiques and refinements in a chain")
    how.add_argument("--history", default="markov", choices=HISTORIES, help="earlier texts in later rounds")
    how.add_argument(
        "--critiques", default="critic", choices=CRITIQUES, help="the critic's, or a control in their place"
    )
    how.add_argument("--spare-correct", action="store_true", help="keep right responses: an oracle verifier")
    how.add_argument("--scorer", metavar="MODEL", help="reward model of a task with scores, or keywords")
    ends = ("LOW", "HIGH")
    how.add_argument("--range", type=float, nargs=2, metavar=ends, help="scores that are ratings of 1 and 10")
    texts = ("RESPONSE", "CRITIQUE", "REFINEMENT")
    how.add_argument("--tokens", type=int, nargs=3, metavar=texts, help="most tokens of each text")
    how.add_argument("--seed", type=int, default=0, help="seed of draws and intervals")


def run(arguments: argparse.Namespace) -> Outcome | int:
    """Measure, and write records and report.

    Several processes of a launch share the problems of a task; only the first has an outcome.

    Raises:
        UserError: An argument is missing or wrong, or the folder holds another measurement.
    """
    if (arguments.recorded is None) == (arguments.task is None):
        raise UserError("say either --task NAME with --actor, or --recorded FILE.")
    if arguments.recorded:
        return _recorded(arguments) if is_first_process() else 0
    return _measured(arguments)


def _recorded(arguments: argparse.Namespace) -> Outcome:
    """Grade recorded replies, and compare the grades with their labels."""
    path, output = Path(arguments.recorded), Path(arguments.output)
    if (output / MARKER).exists():
        raise UserError(f"{output} holds the evaluation of a task: choose another folder.")
    episodes, agreement = read_recorded(path, kind=arguments.kind)
    output.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(e), ensure_ascii=False) + "\n" for e in episodes]
    (output / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    settings = {"recorded": str(path), "kind": arguments.kind}
    outcome = _report(output, settings, 0, path.stem, "recorded", episodes, {}, {})
    if not agreement.labelled:
        return outcome
    return replace(
        outcome,
        text=f"{outcome.text}\n{agreement.summary()}",
        status=2 if agreement.differing else 0,  # the user has to look at them
        more={"agreement": asdict(agreement)},
    )


def _measured(arguments: argparse.Namespace) -> Outcome | int:
    """Evaluate an actor on a task, with or without a critic."""
    if arguments.actor is None:
        raise UserError("--actor is missing: a path, a hub id or the URL of a server.")
    task = replace(task_config(arguments), limit=arguments.limit)
    protocol = _protocol(arguments)
    lengths = LengthConfig(*(arguments.tokens or ()))
    lengths.check()
    prompts, output = prompt_set(arguments.prompts), Path(arguments.output)
    scored = {} if arguments.scorer is None else {"scorer": arguments.scorer, "range": arguments.range}
    rank, ranks = rank_of_ranks()
    display = Display(quiet=arguments.quiet or rank > 0)
    settings: dict[str, Any] = {
        "task": as_dict(task),
        "protocol": as_dict(protocol),
        "prompts": {"name": prompts.name, "version": prompts.version},
        "lengths": as_dict(lengths),
        "actor": redacted(arguments.actor),
        "critic": redacted(arguments.critic),
        "seed": arguments.seed,
        **scored,
        **({"dtype": arguments.dtype} if arguments.dtype else {}),
    }

    def measure() -> None:
        actor = make_actor(_spec(arguments.actor, arguments))
        same = arguments.critic == arguments.actor
        critic = (
            actor if same else make_actor(_spec(arguments.critic, arguments)) if arguments.critic else None
        )
        if rank == 0:
            _write_models(output, actor, critic)
        evaluate(
            problems,
            actor,
            critic,
            protocol_of(protocol, prompts, lengths, arguments.seed),
            records=output / "records.jsonl",
            rater=rater,
            on_progress=display.advance,
            on_turn=display.turn,
            rank=rank,
            ranks=ranks,
        )

    step = Step("eval", output, kind="evaluate", command="evaluate", settings=settings, all_ranks=True)
    if not step.finished():
        problems = load_problems(task, display)  # before anything is written
        rater = _rater(arguments, problems)
        with (
            only_process(output) if rank == 0 else nullcontext(),
            display.step(f"{task.title}, {task.split}", 1, 1),
        ):
            if not step.finished():  # another process may have finished it since
                step.execute(measure)
    if rank > 0:
        return 0
    episodes = read_episodes(output / "records.jsonl")
    by_problem = _by_problem(episodes, protocol, scored=bool(scored))
    method = "No critic" if arguments.critic is None and protocol.critiques == "critic" else "Critic"
    models = {role: {"name": settings[role]} for role in ("actor", "critic") if settings[role]}
    if (output / MODELS).is_file():  # folders of older versions lack it
        models = json.loads((output / MODELS).read_text("utf-8"))
    return _report(output, settings, arguments.seed, task.title, method, episodes, by_problem, models)


def _by_problem(episodes: Sequence[Episode], protocol: ProtocolConfig, *, scored: bool) -> dict[str, Any]:
    """Further metrics of several samples or rounds."""
    by_problem: dict[str, Any] = {}
    if protocol.samples > 1 and not scored:  # scored replies have neither vote nor pass@k
        ks = powers_of_two(protocol.samples)
        by_problem |= {**majority(ks)(episodes), **passing(ks)(episodes)}
    if protocol.rounds > 1:
        by_problem |= by_round(range(1, protocol.rounds + 1))(episodes)
    return by_problem


def _write_models(output: Path, actor: Actor, critic: Actor | None) -> None:
    """Write names and settings of the models."""
    loaded = {"actor": actor} | ({} if critic is None else {"critic": critic})
    used = {role: {"name": m.name, **getattr(m, "settings", {})} for role, m in loaded.items()}
    write(output / MODELS, json.dumps(used, indent=1) + "\n")


def _spec(name: str, arguments: argparse.Namespace) -> dict[str, Any] | str:
    """A model as `make_actor` takes it; a server has a type of its own."""
    if "://" in name:
        return name
    loading = {"base": arguments.base if is_adapter(name) else None, "dtype": arguments.dtype}
    return {"backend": "transformers", "model": name, **{k: v for k, v in loading.items() if v is not None}}


def _protocol(arguments: argparse.Namespace) -> ProtocolConfig:
    names = ("samples", "rounds", "history", "critiques", "spare_correct")
    settings = {name: getattr(arguments, name) for name in names} | {
        f"{turn}_temperature": arguments.temperature for turn in ("response", "critique", "refinement")
    }
    protocol: ProtocolConfig = build(ProtocolConfig, settings, "critique-rl eval")
    if arguments.critic is None and protocol.asks_critic and protocol.critiques != "critic":
        raise UserError(f"--critiques {protocol.critiques} uses the critic's critiques: give --critic.")
    return protocol


def _rater(arguments: argparse.Namespace, problems: Sequence[Problem]) -> Rater | None:
    """Scorer and range of a task with scores; None for all other tasks."""
    scored = problems[0].kind == "score"
    if scored != (arguments.scorer is not None):
        remedy = "its replies are scored, give --scorer." if scored else "--scorer is for tasks with scores."
        raise UserError(f"task {arguments.task}: {remedy}")
    if not scored:
        return None
    if arguments.range is None:
        raise UserError("--range LOW HIGH is missing: the scores that are ratings of 1 and 10.")
    name = arguments.scorer
    spec = {"kind": "keywords"} if name == "keywords" else {"kind": "reward_model", "model": name}
    return Rater(make_scorer(spec), ScoreRange(*arguments.range))


def _report(
    output: Path,
    settings: dict[str, Any],
    seed: int,
    dataset: str,
    method: str,
    episodes: Sequence[Episode],
    by_problem: ByProblem,
    models: Mapping[str, Mapping[str, Any]],
) -> Outcome:
    """Write the report, with further metrics `by_problem`; `models` are names and settings by role."""
    metrics = summarise([[e for e in episodes if e.round == 0]], [by_problem])
    row = {"method": method, "dataset": dataset, "metrics": metrics}
    path = output / "report.json"
    write_result(path, settings, seed, [row], **({"models": models} if models else {}))
    lines = [f"{markdown_table([row])}\n", *_cut_texts(episodes, settings.get("lengths", {}))]
    problems, samples = len({e.id for e in episodes}), 1 + max(e.sample for e in episodes)
    lines.append(f"{problems} problems" + (f", {samples} samples of each" if samples > 1 else ""))
    lines += [f"{role}: {model['name']}" for role, model in models.items()]
    shown = (*(name for name in MAIN if name in metrics and is_share(name, "percent")), *by_problem)
    lines += [f"{name}: {percent(metrics[name])}" for name in shown if name in metrics]
    lines += filter(None, [unknown_replies(episodes), f"results: {path}"])
    return Outcome("\n".join(lines), [row], {"records": output / "records.jsonl", "report": path})


def _cut_texts(episodes: Sequence[Episode], lengths: Mapping[str, int]) -> list[str]:
    """A warning for each kind of text of which more ended at the token limit than its metric's rule allows."""
    lines = []
    for text in ("response", "critique", "refinement"):
        known = [cut for e in episodes if (cut := getattr(e, f"{text}_cut")) is not None]
        rule = EVALUATION[f"{text}_cut"].rule
        if known and rule is not None and level(rule, sum(known) / len(known), None):
            limit = f"{lengths[text]} tokens" if text in lengths else "their limit"
            lines.append(f"warning: {sum(known)} of {len(known)} {text}s were cut at {limit}: raise --tokens")
    return lines
