"""Result files: reading and checking them, and joining files of other seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from critique_rl.config.reading import differences
from critique_rl.evaluation.intervals import t_interval
from critique_rl.types import UserError

NOT_SETTINGS = ("seeds", "output", "actor_server", "actor_server_options")
"""Settings that may differ between files of one table: seeds, folder, and how the actor's server is asked."""
OF_SEEDS = ("curves", "examples", "costs", "health")
"""Parts of a result file that describe its own seeds only; a joined file has none of them."""


def load_result(path: str | Path) -> dict[str, Any]:
    """Read a result file.

    Raises:
        UserError: The file is not valid JSON, or a row lacks a field or has not one value for each seed.
    """

    def broken(problem: str) -> UserError:
        return UserError(f"{path}{problem}. Make it anew with its script.")

    try:
        content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise broken(f" is not valid JSON: {error}") from error
    missing = [key for key in ("config", "commit", "versions", "seeds", "rows") if key not in content]
    if missing:
        raise broken(f" is no result file: {', '.join(missing)} missing")
    for i, row in enumerate(content["rows"]):
        missing = [key for key in ("method", "dataset", "metrics") if key not in row]
        if missing:
            raise broken(f": rows[{i}] lacks {', '.join(missing)}")
        for name, metric in row["metrics"].items():
            values, seeds = metric.get("values", ()), len(content["seeds"])
            if len(values) != seeds or not {"mean", "low", "high"} <= metric.keys():
                needs = f"{name} needs mean, low, high and one value for each of {seeds} seeds"
                raise broken(f": rows[{i}] ('{row['method']}', {row['dataset']}): {needs}, got {len(values)}")
    return dict(content)


def combine(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join result files of one table that were run with different seeds.

    A row or metric that one file lacks is left out, since its mean would be over other seeds than its neighbours'.
    Rows that are left out are listed under "not_run".

    Raises:
        UserError: The files differ in table, preset, prompt version or a setting outside of `NOT_SETTINGS`, or two
            have a seed in common. Names the difference.
    """
    first, *others = results
    name = f"result files of '{first.get('table')}'"
    for other in others:
        differing = differences(_identity(first), _identity(other))
        if differing:
            raise UserError(f"{name} cannot be mixed, they differ:\n  " + "\n  ".join(differing))
    seeds = [seed for content in results for seed in content["seeds"]]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise UserError(f"{name} cannot be mixed, seed {twice[0]} is in two of them; remove one.")
    if not others:
        return dict(first)
    by_key = [{_key(row): row for row in content["rows"]} for content in results]
    rows, not_run = [], {(r["method"], r["dataset"]): r for c in results for r in c.get("not_run", ())}
    for key in dict.fromkeys(key for index in by_key for key in index):
        parts = [index[key] for index in by_key if key in index]
        if len(parts) < len(results):
            lacking = [s for c, i in zip(results, by_key, strict=True) if key not in i for s in c["seeds"]]
            reason = f"no row for seed {', '.join(map(str, lacking))}"
            not_run[key[:2]] = {"method": key[0], "dataset": key[1], "reason": reason}
            continue
        shared = [n for n in parts[0]["metrics"] if all(n in part["metrics"] for part in parts)]
        measured = {
            n: t_interval([v for part in parts for v in part["metrics"][n]["values"]]) for n in shared
        }
        records = [record for part in parts for record in part.get("records", ())]
        rows.append({**parts[0], "metrics": measured, "records": records})
    commits = dict.fromkeys(str(content["commit"]) for content in results)
    return {
        **{key: value for key, value in first.items() if key not in OF_SEEDS},
        "seeds": seeds,
        "commit": ", ".join(commits),
        "dirty": any(content.get("dirty") for content in results),
        "rows": rows,
        "not_run": list(not_run.values()),
    }


def _identity(content: Mapping[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in content["config"].items() if key not in NOT_SETTINGS}
    prompts = content.get("prompts", content["versions"].get("prompts"))
    return {key: content.get(key) for key in ("table", "preset")} | {"config": settings, "prompts": prompts}


def _key(row: Mapping[str, Any]) -> tuple[str, str, float | None]:
    return row["method"], row["dataset"], row.get("x")
