"""Settings of a configuration in words, and where they differ from the paper's.

The paper's setting is a configuration of `experiments/configs`. Each value there names its source: the paper, the
released code, or a gap that was filled in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critique_rl.config.methods import METHODS
from critique_rl.config.reading import as_dict
from critique_rl.config.run import EXPERIMENTS, load_config
from critique_rl.methods.arms import arms, pairwise_arms
from critique_rl.methods.options import defaults, option

CONFIGS = EXPERIMENTS / "configs"
"""Folder of the configurations in a checkout; an installed package has none."""
OF_PAPERS = {
    "Critique-RL": ("qwen2.5-3b", "qwen2.5-7b", "llama3.2-3b"),
    "Critique-RL, summaries": ("qwen2.5-7b-summarisation",),
    "LLaVA-Critic-R1": ("qwen2.5-vl-7b", "thinklite-vl-7b", "mimo-vl-7b"),
}
"""Configurations of the papers' settings, the main one first."""
SFT = ("actor_sft", "critic_sft")
NOT_COMPARED = (
    *("name", "seeds", "threads", "launch", "output", "stages"),
    *("actor_server", "actor_server_options"),
)
OF_MACHINE = {
    *("checkpoint_rl_steps", "dataloader_pin_memory", "disable_tqdm", "gradient_checkpointing"),
    *("logging_steps", "report_to", "use_cpu", "use_vllm", "vllm_mode"),
}
"""Options of a trainer that change no result."""


@dataclass(frozen=True)
class Difference:
    """A setting that differs from the paper's.

    Attributes:
        setting: Name of the setting.
        paper: Value in the configuration of the paper's setting.
        ours: Value in our configuration.
        stages: Stages that differ in it; empty for a setting outside of stages.
    """

    setting: str
    paper: str
    ours: str
    stages: tuple[str, ...] = ()


def paper_config(config: Mapping[str, Any], configs: Path = CONFIGS) -> Path | None:
    """Find the file with the paper's setting for a configuration, of the same base model if there is one.

    None in an installed package, which has no folder of configurations.
    """
    if config.get("scorer"):
        names = OF_PAPERS["Critique-RL, summaries"]
    else:
        names = OF_PAPERS["LLaVA-Critic-R1" if "critic" in config["stages"] else "Critique-RL"]
    paths = [configs / f"{name}.yaml" for name in names if (configs / f"{name}.yaml").exists()]
    same_base = [path for path in paths if load_config(path).base == config["base"]]
    return next(iter([*same_base, *paths]), None)


def differences_from(paper: Path, config: Mapping[str, Any]) -> list[Difference]:
    """List the settings in which a result file's configuration differs from the paper's, see `paper_config`.

    Each stage is compared with the paper's stage of that name; the stages of a table script are variants.
    """
    theirs = load_config(paper)
    stages = dict(theirs.stages)
    if set(config["stages"]) - set(stages):
        stages = {**(pairwise_arms if "critic" in stages else arms)(theirs), **stages}
    both = (as_dict(theirs), config)
    options = {key for c in both for name in SFT for key in c["cold_start"].get(name) or ()}
    before, after = (_outside_stages(c, sorted(options - OF_MACHINE)) for c in both)
    differing_settings = [key for key in before | after if before.get(key) != after.get(key)]
    of_run = [Difference(key, shown(before.get(key)), shown(after.get(key))) for key in differing_settings]
    by_stage: dict[tuple[str, str, str], list[str]] = {}
    for name, stage in config["stages"].items():
        differing = [("stage", "none", shown(stage["label"]))]
        if name in stages:
            differing = _stage_differences(as_dict(stages[name]), stage)
        for difference in differing:
            by_stage.setdefault(difference, []).append(name)
    order = list(dict.fromkeys(key for key, *_ in by_stage))
    ordered = dict(sorted(by_stage.items(), key=lambda item: order.index(item[0][0])))
    return of_run + [Difference(*difference, tuple(names)) for difference, names in ordered.items()]


def reward(stage: Mapping[str, Any]) -> str:
    """Describe the reward of a stage in the paper's terms; a dash for a baseline with another objective.

    >>> stage = {"method": "critique_rl", "trainer": {"refinement_reward": "r_refine"}}
    >>> reward(stage), reward({**stage, "trainer": {}})
    ('r_refine + 0.2 r_dis', 'r_dis')
    """
    info = METHODS.get(stage["method"])
    if info is None or not info.by_rl:
        return "–"
    if info.pairs:
        alpha = option(stage, "alpha")
        right = "(r_pref or r_oracle)" if info.problems else "r_pref"
        return f"{alpha:g} {right} + {1 - alpha:g} r_format"
    if "critic" not in info.roles:
        return "r_oracle of the response"
    refinement, beta_1 = option(stage, "refinement_reward"), option(stage, "beta_1")
    if refinement is None:
        return "r_dis in {-1, 1}" if option(stage, "signed_dis") else "r_dis"
    if option(stage, "combination") == "gated":
        return f"{refinement} where the verdict is right, else -1"
    return f"{refinement} + {beta_1:g} r_dis" if beta_1 else str(refinement)


def shown(value: Any) -> str:
    """Write a setting as text; an absolute path, which belongs to one machine, as its last part.

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
    """Replace absolute paths in settings by their last part."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def tasks(configured: Sequence[Mapping[str, Any]]) -> str:
    """List the tasks of a configuration.

    >>> tasks([{"name": "math", "split": "test", "limit": 500}, {"name": "gsm8k", "split": "test"}])
    'math (test, 500), gsm8k (test)'
    """
    parts = []
    for task in configured:
        limit = f", {task['limit']:,}" if task.get("limit") else ""
        parts.append(f"{task.get('label') or task['name']} ({task['split']}{limit})")
    return ", ".join(parts)


def _outside_stages(config: Mapping[str, Any], sft_options: Sequence[str]) -> dict[str, Any]:
    """Settings outside of stages by path; tasks and the making of a base take one line each."""
    config = {key: value for key, value in config.items() if key not in NOT_COMPARED}
    cold, evaluation = dict(config.pop("cold_start", {})), dict(config.pop("evaluation", {}))
    teacher, base = cold.pop("teacher", {}), cold.pop("base", None)
    model = teacher.get("actor", {}).get("model")
    settings: dict[str, Any] = {key: config.pop(key, None) for key in ("base", "base_gguf", "prompts")}
    settings["train"] = tasks(config.pop("train", ())) or None
    settings["cold_start.base"] = f"made on the spot in {len(base['passes'])} passes" if base else None
    settings["cold_start.teacher"] = " ".join(filter(None, (teacher.get("kind"), model)))
    if teacher.get("kind") == "model":
        settings["cold_start.teacher.temperature"] = teacher.get("temperature")
    for name in SFT:
        options = cold.pop(name, {})
        settings[f"cold_start.{name}"] = "supervised fine-tuning" if options else "none: the base as it is"
        if options:
            known = defaults("sft") | options
            settings |= {f"cold_start.{name}.{key}": known.get(key) for key in sft_options}
    for key in ("tasks", "out_of_domain"):
        settings[f"evaluation.{key}"] = tasks(evaluation.pop(key, ())) or None
    for prefix, part in (("cold_start.", cold), ("evaluation.", evaluation), ("", config)):
        settings |= _flat(part, prefix)
    return {key: value for key, value in settings.items() if value is not None}


def _flat(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value not in (None, []):
            flat[prefix + key] = value
    return flat


def _stage_differences(paper: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, the paper's value and ours of each setting of a stage that differs."""
    pairs = {key: (paper[key], ours[key]) for key in ("method", "start", "lora")}
    for key in dict.fromkeys([*paper["trainer"], *ours["trainer"]]):
        if key not in OF_MACHINE:
            pairs[key] = option(paper, key), option(ours, key)
    return [(key, shown(theirs), shown(own)) for key, (theirs, own) in pairs.items() if theirs != own]
