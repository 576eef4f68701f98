"""What a configuration asks for, in words, and where it differs from the paper's setting.

The paper's setting is a configuration of `experiments/configs`, in which the source of each value stands beside
it: the paper, the released code, or a gap that was filled in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from critique_rl.config.reading import as_dict
from critique_rl.config.run import EXPERIMENTS, load_config

CONFIGS = EXPERIMENTS / "configs"
"""Of a checkout; an installed package has none."""
OF_PAPERS = {
    "Critique-RL": ("qwen2.5-3b", "qwen2.5-7b", "llama3.2-3b"),
    "Critique-RL, summaries": ("qwen2.5-7b-summarisation",),
    "LLaVA-Critic-R1": ("qwen2.5-vl-7b", "thinklite-vl-7b", "mimo-vl-7b", "llama3.2-11b-vision"),
}
"""Configurations of the papers' settings, the main one first."""
SFT = ("actor_sft", "critic_sft")
BY_PAIRWISE_TRAINER = ("pairwise_critic", "mixed")
"""Methods with the options of `PairwiseCriticConfig`."""
NOT_COMPARED = ("name", "seeds", "threads", "output", "actor_server", "stages")
OF_MACHINE = (
    "checkpoint_rl_steps",
    "dataloader_pin_memory",
    "disable_tqdm",
    "gradient_checkpointing",
    "logging_steps",
    "report_to",
    "use_cpu",
)
"""Options of a trainer that change no result."""


@dataclass(frozen=True)
class Difference:
    """A setting that is not the paper's.

    Attributes:
        setting: Its name.
        paper: Value in the configuration of the paper's setting.
        ours: Value here.
        stages: Stages whose setting it is; empty if it is of none.
    """

    setting: str
    paper: str
    ours: str
    stages: tuple[str, ...] = ()


def paper_config(config: Mapping[str, Any], configs: Path = CONFIGS) -> Path | None:
    """The configuration that holds the paper's setting, of the same base model if there is one.

    Args:
        config: A configuration, as a result file holds it.
        configs: Folder of the configurations.

    Returns:
        Its path; None if it is not there, as in an installed package.
    """
    if config.get("scorer"):
        names = OF_PAPERS["Critique-RL, summaries"]
    elif "critic" in config["stages"]:
        names = OF_PAPERS["LLaVA-Critic-R1"]
    else:
        names = OF_PAPERS["Critique-RL"]
    found = [configs / f"{name}.yaml" for name in names if (configs / f"{name}.yaml").exists()]
    same = [path for path in found if load_config(path).base == config["base"]]
    return next(iter([*same, *found]), None)


def differences_from(paper: Path, config: Mapping[str, Any]) -> list[Difference]:
    """Settings in which a configuration differs from the paper's; a stage is compared with that of its name.

    Args:
        paper: The paper's configuration, see `paper_config`.
        config: A configuration, as a result file holds it; of a table script, its stages are arms.
    """
    from critique_rl.methods.arms import arms, pairwise_arms

    theirs = load_config(paper)
    if set(config["stages"]) - set(theirs.stages):
        made = pairwise_arms(theirs) if "critic" in theirs.stages else arms(theirs)
        stages = as_dict_of(made) | as_dict_of(theirs.stages)
    else:
        stages = as_dict_of(theirs.stages)
    both = (as_dict(theirs), config)
    options = {key for c in both for name in SFT for key in c["cold_start"].get(name) or ()}
    before, after = (_top(c, sorted(options.difference(OF_MACHINE))) for c in both)
    found = [
        Difference(key, shown(before.get(key)), shown(after.get(key)))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]
    by_setting: dict[tuple[str, str, str], list[str]] = {}
    for name, stage in config["stages"].items():
        if name not in stages:
            by_setting.setdefault(("stage", "none", shown(stage["label"])), []).append(name)
            continue
        for key, old, new in _of_stage(stages[name], stage):
            by_setting.setdefault((key, old, new), []).append(name)
    order = list(dict.fromkeys(key for key, *_ in by_setting))
    ordered = sorted(by_setting.items(), key=lambda item: order.index(item[0][0]))
    return found + [Difference(key, old, new, tuple(names)) for (key, old, new), names in ordered]


def as_dict_of(stages: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Stages as a result file holds them."""
    return {name: as_dict(stage) for name, stage in stages.items()}


def setting(stage: Mapping[str, Any], key: str) -> Any:
    """An option of a stage's trainer, or its default; None if the method has no such option.

    Args:
        stage: A stage, as a result file holds it.
        key: The option.
    """
    return stage["trainer"].get(key, _defaults(stage["method"]).get(key))


def reward(stage: Mapping[str, Any]) -> str:
    """The reward of a stage in the paper's terms; a dash for a baseline that is not trained by it.

    >>> stage = {"method": "critique_rl", "trainer": {"refinement_reward": "r_refine"}}
    >>> reward(stage), reward({**stage, "trainer": {}})
    ('r_refine + 0.2 r_dis', 'r_dis')
    """
    if stage["method"] in BY_PAIRWISE_TRAINER:
        alpha = setting(stage, "alpha")
        right = "r_pref" if stage["method"] == "pairwise_critic" else "(r_pref or r_oracle)"
        return f"{alpha:g} {right} + {1 - alpha:g} r_format"
    if stage["method"] == "actor_rl":
        return "r_oracle of the response"
    if stage["method"] != "critique_rl":
        return "–"
    refinement, beta_1 = setting(stage, "refinement_reward"), setting(stage, "beta_1")
    if refinement is None:
        return "r_dis in {-1, 1}" if setting(stage, "signed_dis") else "r_dis"
    if setting(stage, "combination") == "gated":
        return f"{refinement} where the verdict is right, else -1"
    return f"{refinement} + {beta_1:g} r_dis" if beta_1 else str(refinement)


def shown(value: Any) -> str:
    """A setting as text; of an absolute path, which is of one machine, the name alone.

    >>> shown(None), shown(5e-7), shown(True), shown([1, "/a/b.json"])
    ('none', '5e-07', 'true', '[1, "b.json"]')
    """
    value = without_folders(value)
    if value is None:
        return "none"
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:g}" if isinstance(value, float) else str(value)


def without_folders(value: Any) -> Any:
    """Settings with the names alone of absolute paths."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def tasks(found: Sequence[Mapping[str, Any]]) -> str:
    """Tasks of a configuration in words.

    >>> tasks([{"name": "math", "split": "test", "limit": 500}, {"name": "gsm8k", "split": "test"}])
    'math (test, 500), gsm8k (test)'
    """
    return ", ".join(
        f"{task.get('label') or task['name']} ({task['split']}{f', {limit:,}' if limit else ''})"
        for task in found
        for limit in [task.get("limit")]
    )


def _top(config: Mapping[str, Any], sft_options: Sequence[str]) -> dict[str, Any]:
    """Settings outside of stages by path; tasks and how a base is made as one line."""
    config = {key: value for key, value in config.items() if key not in NOT_COMPARED}
    cold, evaluation = dict(config.pop("cold_start", {})), dict(config.pop("evaluation", {}))
    teacher = cold.pop("teacher", {})
    made: dict[str, Any] = {key: config.pop(key, None) for key in ("base", "base_gguf", "prompts")}
    made["train"] = tasks(config.pop("train", ())) or None
    base = cold.pop("base", None)
    made["cold_start.base"] = f"made on the spot in {len(base['passes'])} passes" if base else None
    given = teacher.get("actor", {}).get("model")
    made["cold_start.teacher"] = " ".join(filter(None, (teacher.get("kind"), given)))
    made["cold_start.teacher.temperature"] = (
        teacher.get("temperature") if teacher.get("kind") == "model" else None
    )
    for name in SFT:
        options = cold.pop(name, {})
        made[f"cold_start.{name}"] = "supervised fine-tuning" if options else "none: the base as it is"
        if options:
            known = _defaults("sft") | options
            made |= {f"cold_start.{name}.{key}": known.get(key) for key in sft_options}
    for key in ("tasks", "out_of_domain"):
        made[f"evaluation.{key}"] = tasks(evaluation.pop(key, ())) or None
    for name, part in (("cold_start", cold), ("evaluation", evaluation), ("", config)):
        made |= _flat(part, f"{name}." if name else "")
    return {key: value for key, value in made.items() if value is not None}


def _flat(value: Mapping[str, Any], path: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            made |= _flat(item, f"{path}{key}.")
        elif item not in (None, []):
            made[path + key] = item
    return made


def _of_stage(paper: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    found = []
    for key in ("method", "start", "lora"):
        if paper[key] != ours[key]:
            found.append((key, shown(paper[key]), shown(ours[key])))
    for key in dict.fromkeys([*paper["trainer"], *ours["trainer"]]):
        old, new = setting(paper, key), setting(ours, key)
        if old != new and key not in OF_MACHINE:
            found.append((key, shown(old), shown(new)))
    return found


def _defaults(method: str) -> dict[str, Any]:
    """Defaults of a method's options; empty for a baseline with options of its own."""
    cls: Any
    if method == "sft":
        from trl import SFTConfig as cls
    elif method in BY_PAIRWISE_TRAINER:
        from critique_rl.training.pairwise import PairwiseCriticConfig as cls
    elif method in ("critique_rl", "actor_rl", "score"):
        from critique_rl.training.stage_config import CritiqueConfig as cls
    else:
        return {}
    return {f.name: f.default for f in fields(cls) if f.default is not MISSING}
