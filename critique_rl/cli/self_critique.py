"""`critique-rl self-critique`: judges choose among the samples of an evaluation, next to votes and the oracle.

Judges and baselines see the same problems, pools and blocks, so that a judge can be compared with the majority
vote problem by problem.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from critique_rl.actors import make_actor
from critique_rl.cli.shared import write_result
from critique_rl.config.checks import at_least
from critique_rl.display import Display, Outcome
from critique_rl.evaluation.episodes import Episode, read_finished
from critique_rl.evaluation.intervals import percent
from critique_rl.manifest import only_process
from critique_rl.markdown import table
from critique_rl.prompts import PROMPT_SETS, prompt_set
from critique_rl.self_critique import results
from critique_rl.self_critique.judges import ActorJudge
from critique_rl.self_critique.knockout import Bracket, Item
from critique_rl.self_critique.records import self_critique
from critique_rl.types import UserError, child_seed

LABELS = {
    "single": "One sample, pass@1",
    "majority": "Majority vote",
    "random": "Random pick",
    "pass": "Oracle, pass@n",
}
SHARES = {
    "unparsed": "Unparsed",
    "said_first": "Names the first",
    "agreement": "Both orders agree",
    "accuracy": "Accuracy",
}
_NAMED = re.compile(r"([\w.-]+)=(.*)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `critique-rl self-critique`."""
    parser.add_argument("records", help="records.jsonl of an evaluation with several samples, as of `eval`")
    parser.add_argument(
        "output", help="folder for judgements, tables and result; the same command goes on there"
    )
    parser.add_argument(
        "--judge",
        action="append",
        required=True,
        metavar="[NAME=]SPEC",
        help="path, hub id, or URL of an OpenAI-compatible server; asked greedily; several are compared. The "
        "model that wrote the samples makes it self-critique. NAME is for tables and files",
    )
    parser.add_argument(
        "--one-order",
        action="store_true",
        help="ask about each pair once: half the calls, but a preference for a position can decide a match",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of pairing, coins, draw and intervals")
    names, text = list(PROMPT_SETS), "prompt set; thinking is LLaVA-Critic-R1's"
    parser.add_argument("--prompts", default="paper", choices=names, help=text)
    parser.add_argument("--max-tokens", type=int, default=2048, help="most tokens of a reply")
    parser.add_argument("--limit", type=int, help="most problems, drawn by seed")


def run(arguments: argparse.Namespace) -> Outcome:
    """Have each judge choose; write judgements, tables and result.

    Raises:
        UserError: An argument is wrong; the records are missing, cut short, scored or ungraded, or have one
            sample per problem; a file of judgements belongs to another measurement.
        ActorError: A judge cannot be loaded or does not answer; the same command goes on after its last judgement.
    """
    records, output, seed = Path(arguments.records), Path(arguments.output), arguments.seed
    specs = judges(arguments.judge)
    at_least(1, "--", **{"limit": arguments.limit, "max-tokens": arguments.max_tokens})
    # All checks of the records come before a judge is loaded.
    episodes = read_finished(records)
    items = drawn(_pools(records, episodes, seed), arguments.limit, seed=seed)
    display = Display(quiet=arguments.quiet)
    brackets: dict[str, list[Bracket]] = {}
    models: dict[str, str] = {}
    for number, (name, spec) in enumerate(specs.items(), start=1):
        with display.step(f"judge {name}", number, len(specs)):
            judgements = output / "judgements" / f"{name}.jsonl"
            models[name], brackets[name] = _judged(items, spec, judgements, arguments, display)
    settings = {
        "records": str(records),
        "judges": {name: {"spec": spec, "model": models[name]} for name, spec in specs.items()},
        "both_orders": not arguments.one_order,
        "max_tokens": arguments.max_tokens,
        "prompts": arguments.prompts,
        "limit": arguments.limit,
    }
    measured = rows(items, brackets, dataset=", ".join(sorted({e.dataset for e in episodes})), seed=seed)
    tables, path = markdown(measured), output / "self_critique.json"
    write_result(path, settings, seed, measured)
    path.with_suffix(".md").write_text(f"{tables}\n", encoding="utf-8")
    paths = {"result": path, "tables": path.with_suffix(".md"), "judgements": output / "judgements"}
    return Outcome(f"{tables}\n\nresults: {path}", measured, paths)


def _judged(
    items: Sequence[Item], spec: str, records: Path, arguments: argparse.Namespace, display: Display
) -> tuple[str, list[Bracket]]:
    """Name and brackets of one judge; its model leaves memory on return, since two may not fit."""
    prompts = prompt_set(arguments.prompts)
    judge = ActorJudge(make_actor(spec), prompts=prompts, max_tokens=arguments.max_tokens)
    with only_process(Path(arguments.output)):
        brackets = self_critique(
            items,
            judge,
            name=judge.name,
            seed=arguments.seed,
            both_orders=not arguments.one_order,
            records=records,
            on_progress=display.advance,
        )
    return judge.name, brackets


def judges(items: Sequence[str]) -> dict[str, str]:
    """Models by name, from `NAME=SPEC` or `SPEC`.

    Without a name, the last part of a path or hub id, or the host of a URL is the name.

    Raises:
        UserError: A judge has no model, or has the name of a baseline or of another judge.

    >>> judges(["self=runs/policy", "Qwen/Qwen2.5-3B-Instruct", "http://localhost:8000/v1?a=b"])
    {'self': 'runs/policy', 'Qwen2.5-3B-Instruct': 'Qwen/Qwen2.5-3B-Instruct', \
'localhost-8000': 'http://localhost:8000/v1?a=b'}
    """
    specs: dict[str, str] = {}
    for item in items:
        named = _NAMED.fullmatch(item)
        name, spec = named.groups() if named else (_default_name(item), item)
        if not spec:
            raise UserError(f"--judge {item!r} has no model: give a path, a hub id or the URL of a server.")
        if name in results.BASELINES:
            raise UserError(f"--judge {item}: {name!r} is a baseline: give it another name, NAME={spec}.")
        if name in specs:
            raise UserError(f"--judge {item}: two judges are called {name!r}: name them, NAME={spec}.")
        specs[name] = spec
    return specs


def _default_name(spec: str) -> str:
    # Tables must not hold the user and password before the host.
    end = urlsplit(spec).netloc.rpartition("@")[2] if "://" in spec else Path(spec).absolute().name
    return re.sub(r"[^\w.-]+", "-", end)


def _pools(records: Path, episodes: Sequence[Episode], seed: int) -> list[Item]:
    """Pools of candidates, one per problem; refuses records without a choice between right and wrong."""
    counts = Counter(e.id for e in episodes)
    most, fewest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if counts[fewest] < counts[most]:
        raise UserError(
            f"{records} has {counts[most]} records of problem {most} and {counts[fewest]} of {fewest}: let the "
            "evaluation go on to its end first."
        )
    if any(e.kind == "score" for e in episodes):
        raise UserError(
            f"{records}: its replies are scored, but judges choose between right and wrong replies: give the "
            "records of a task with gold answers."
        )
    try:
        items = results.items_of(episodes)
        if len(items[0].candidates) == 1:
            raise UserError(
                "one sample per problem leaves no choice: evaluate with several, for instance "
                "`critique-rl eval ... --samples 8 --temperature 0.7`."
            )
        if all(grade is None for item in items for grade in item.correct):
            raise UserError(
                "none of its replies is graded, so no choice is right or wrong: evaluate a task whose answers "
                "can be graded, see `critique-rl check-data`."
            )
        results.by_item(items, {}, seed=seed)
    except UserError as error:
        raise UserError(f"{records}: {error}") from error
    return items


def drawn(items: Sequence[Item], limit: int | None, *, seed: int) -> list[Item]:
    """At most `limit` items in their order, drawn by a hash: a smaller limit gives a subset of a larger one."""
    ranked = sorted(items, key=lambda item: (child_seed(seed, "self_critique", item.id), item.id))
    ids = {item.id for item in ranked[:limit]}
    return [item for item in items if item.id in ids]


def rows(
    items: Sequence[Item], brackets: Mapping[str, Sequence[Bracket]], *, dataset: str, seed: int
) -> list[dict[str, Any]]:
    """Rows of a result file, one per baseline and judge.

    Returns:
        `method`, `dataset`, and `metrics`: `acc_at_N`, and for judges `gain_at_N` over the majority vote, paired
        by problem. `counts` has for each N the problems with a value, and the calls and tokens of one choice.
        Judges also have `judge`, see `judge_summary`.
    """
    values = results.by_item(items, brackets, seed=seed)
    points = results.curve(items, brackets, seed=seed)
    table_rows = []
    for method in values:
        own = [p for p in points if p.method == method]
        metrics = {f"acc_at_{p.n}": p.accuracy for p in own}
        row: dict[str, Any] = {"method": method, "dataset": dataset}
        if method in brackets:
            gains = {p.n: results.difference(values, method, "majority", p.n, seed=seed) for p in own}
            metrics |= {f"gain_at_{n}": gain for n, gain in gains.items()}
            row["judge"] = {
                name: asdict(value) if isinstance(value, results.Estimate) else value
                for name, value in results.judge_summary(items, brackets[method]).items()
            }
        known = {name: estimate for name, estimate in metrics.items() if estimate.mean is not None}
        row["metrics"] = {name: {**asdict(e), "values": [e.mean]} for name, e in known.items()}
        row["counts"] = {str(p.n): {"problems": p.items, "calls": p.calls, "tokens": p.tokens} for p in own}
        table_rows.append(row)
    return table_rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Tables: accuracy by n, gain of the judges over the majority vote, and behaviour of the judges."""
    ns = list(rows[0]["counts"])
    head = ["Method", *(f"n = {n}" for n in ns)]
    judged = [row for row in rows if "judge" in row]

    def cells(row: Mapping[str, Any], metric: str, sign: str = "") -> list[str]:
        return [percent(row["metrics"].get(f"{metric}_at_{n}"), sign) for n in ns]

    accuracies = [[LABELS.get(row["method"], row["method"]), *cells(row, "acc")] for row in rows]
    gains = [[row["method"], *cells(row, "gain", "+")] for row in judged]
    behaviour = [
        [
            row["method"],
            *(str(row["judge"][count]) for count in ("calls", "reasks", "tokens")),
            *(percent(row["judge"][share]) for share in SHARES),
        ]
        for row in judged
    ]
    problems = max(count["problems"] for row in rows for count in row["counts"].values())
    return "\n\n".join(
        [
            f"Accuracy of the one that is chosen of n candidates; {rows[0]['dataset']}, {problems} problems, 95 % "
            "bootstrap intervals over them:",
            table(head, accuracies, raw=True),
            "Difference to the majority vote in percentage points, paired by problem:",
            table(["Judge", *head[1:]], gains, raw=True),
            "The judges over all their calls, with Wilson's 95 % intervals; accuracy is on pairs of a right and a "
            "wrong candidate:",
            table(["Judge", "Calls", "Re-asks", "Tokens", *SHARES.values()], behaviour, raw=True),
        ]
    )
