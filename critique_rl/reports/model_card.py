"""Model cards: a README.md for each checkpoint of a run, with its figures in the hub's metadata format.

A card is written when a checkpoint is saved; the report adds the metrics. Both go through `huggingface_hub`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Template

from critique_rl.adapters import holds_model, is_adapter
from critique_rl.config.data import TaskConfig
from critique_rl.config.methods import METHODS
from critique_rl.config.reading import as_dict
from critique_rl.config.training import StageConfig
from critique_rl.critic_data.layouts import HUB
from critique_rl.markdown import escape, table
from critique_rl.methods.options import option
from critique_rl.prompts import prompt_set
from critique_rl.records import write
from critique_rl.reports.columns import COLUMNS, PAIRWISE_COLUMNS, SCORED_COLUMNS
from critique_rl.reports.provenance import origin
from critique_rl.reports.settings import reward, shown, tasks
from critique_rl.runs.folder import RunFolder
from critique_rl.runs.step import Step
from critique_rl.tasks import TASKS
from critique_rl.training.citations import CRITIQUE_RL, LLAVA_CRITIC_R1, TRL
from critique_rl.vision.models import is_vision_model

NAMES = COLUMNS | SCORED_COLUMNS | PAIRWISE_COLUMNS
"""Metrics that a card holds, with their headings."""

Measured = tuple[str, TaskConfig, Mapping[str, Mapping[str, Any]]]
"""Row (`sft`, a stage, `STAGE@STEP`), task and metrics with one value per seed."""

CARD = Template((files(__package__) / "card.md").read_text("utf-8"))
NOUNS = {"actor": "actor", "sft": "SFT critic"}


def write_all(folder: RunFolder, measured: Iterable[Measured]) -> None:
    """Write the cards of all checkpoints that a run has made, and add the metrics of its rows to them.

    Results of other measurements in a card stay. Models that the package ships are left as they are.
    """
    measured = list(measured)
    for name in ("actor", "sft"):
        made_here = folder.shipped is None and not (name == "actor" and folder.config.actor.get("model"))
        if made_here and holds_model(folder.model_path(name)):
            write_cards(folder, name, measured=measured)
    for seed in folder.config.seeds:
        for name in folder.config.stages:
            write_cards(folder, name, seed, measured)


def write_new(folder: RunFolder, step: Step) -> None:
    """Write the cards of a checkpoint that a step has just made; for `Run.execute(after_step=...)`."""
    if step.kind == "train":
        write_cards(folder, step.subject, step.seed)
    elif step.kind in NOUNS and holds_model(folder.model_path(step.kind)):
        write_cards(folder, step.kind)


def write_cards(
    folder: RunFolder, name: str, seed: int | None = None, measured: Iterable[Measured] | None = None
) -> list[Path]:
    """Write the card of a checkpoint, and those of the critics that its stage kept after some RL steps.

    Args:
        name: `actor`, `sft` or, with a seed, a stage.
        measured: Metrics to add to those in the card; None for a new checkpoint, which is not measured yet.

    Returns:
        Paths of the cards.
    """
    stage = folder.config.stages.get(name)
    kept = [f"{name}@{step}" for step in stage.keep_rl_steps or ()] if stage else []
    written = []
    for row in [name, *kept]:
        directory = Path(folder.model_path(row, seed))
        if not directory.is_dir():  # the training did not reach that RL step
            continue
        path = directory / "README.md"
        results = list[EvalResult]()
        if measured is None:
            made_with = origin()
        else:
            held = _held(path)
            results = _merged(held.eval_results or [], _results(folder, row, seed, list(measured)))
            made_with = held.to_dict().get("made_with")  # of the training, not of this report
        write(path, str(card(folder, row, seed, results, made_with)))
        written.append(path)
    return written


def card(
    folder: RunFolder,
    row: str,
    seed: int | None,
    results: list[EvalResult],
    made_with: Mapping[str, Any] | None,
) -> ModelCard:
    """The card of a checkpoint: `actor`, `sft` or, with a seed, a stage or `STAGE@STEP`.

    `made_with` holds commit and versions of the training; None where they were not recorded.
    """
    config, name = folder.config, row.partition("@")[0]
    stage = config.stages.get(name)
    directory = Path(folder.model_path(row, seed))
    sees = is_vision_model(str(directory))
    pairs = stage is not None and METHODS[stage.method].pairs
    # The role that the model was trained for comes first.
    roles = ("critic", "actor") if pairs else ("actor",) if name == "actor" else folder.roles(name)
    papers = [LLAVA_CRITIC_R1 if pairs else CRITIQUE_RL, TRL]
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", config.base) and not Path(config.base).exists()
    hub = config.base if on_hub else None
    adapter = is_adapter(directory)
    title = f"{config.name}, {stage.label if stage else NOUNS[name]}"
    title += "" if row == name else f" after {row.partition('@')[2]} RL steps"
    title += "" if seed is None else f", seed {seed}"
    data = ModelCardData(
        base_model=hub,
        base_model_relation=("adapter" if adapter else "finetune") if hub else None,
        datasets=_datasets(folder, stage) or None,
        library_name="peft" if adapter else "transformers",
        license="apache-2.0" if config.base == "tiny" else None,  # otherwise the base model's licence applies
        model_name=title,
        pipeline_tag="image-text-to-text" if sees else "text-generation",
        tags=["critique-rl", *roles, *(f"arxiv:{p.id}" for p in papers if p.id), "trl"],
        eval_results=results or None,
        made_with=made_with,
    )
    body = CARD.render(
        title=escape(title),
        roles=roles,
        stage=stage,
        pairs=pairs,
        prompts=config.prompts,
        parse="parse_verdict" if config.scorer is None else "parse_rating",
        lengths=config.lengths,
        training=_training(folder, row, seed, stage),
        evaluation=_evaluation(results),
        made_with=made_with,
        escape=escape,
        papers=papers,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")


def _training(folder: RunFolder, row: str, seed: int | None, stage: StageConfig | None) -> str:
    config, prompts = folder.config, prompt_set(folder.config.prompts)
    on_the_spot = ", made on the spot" if config.base == "tiny" else ""
    facts: dict[str, Any] = {"Base model": config.base + on_the_spot}
    if stage is None:
        options = config.cold_start.actor_sft if row == "actor" else config.cold_start.critic_sft
        facts["Method"] = "supervised fine-tuning" if options else "none: the base as it is"
        facts["LoRA"] = config.cold_start.lora
        facts["Teacher"] = config.cold_start.teacher.actor.get("model") or config.cold_start.teacher.kind
    else:
        plain = as_dict(stage)
        options = stage.trainer
        facts["Method"] = f"{stage.method} (`critique_rl.methods.{METHODS[stage.method].module}`)"
        facts["Starts from"] = stage.start
        facts["Reward"] = reward(plain)
        facts["RL steps"] = row.partition("@")[2] or option(plain, "rl_steps")
        facts["Pairs"] = options.get("pairs", {}).get("origin")
        facts["LoRA"] = stage.lora
    facts["Data"] = tasks(as_dict(config)["train"])
    facts["Prompts"] = f"{prompts.name}, version {prompts.version}"
    facts["Seed"] = config.cold_start.seed if seed is None else seed
    facts |= {f"`{key}`": value for key, value in options.items() if key not in ("pairs", "rl_steps")}
    rows = [(name, shown(value)) for name, value in facts.items() if value not in (None, "", "–")]
    return table(("Setting", "Value"), rows).replace("\\`", "`")


def _evaluation(results: Iterable[EvalResult]) -> str:
    rows = []
    for r in results:
        where = (r.dataset_name, r.dataset_split or "", r.dataset_config or "")
        rows.append((*where, r.metric_name, f"{r.metric_value:.4f}"))
    return table(("Data set", "Split", "Options", "Metric", "Value"), rows, numbers=1) if rows else ""


def _datasets(folder: RunFolder, stage: StageConfig | None) -> list[str]:
    """Hub names of the training data; local files and generators have none."""
    names = [TASKS[task.name].hub for task in folder.config.train]
    if stage and METHODS[stage.method].pairs:
        pairs = stage.trainer.get("pairs", {}).get("origin")
        names = [HUB[pairs].repo] if pairs in HUB else [] if pairs else names
    return [name for name in dict.fromkeys(names) if name]


def _results(folder: RunFolder, row: str, seed: int | None, measured: list[Measured]) -> list[EvalResult]:
    """Results of one checkpoint: those of its seed, or the mean over the seeds that share it."""
    sees = is_vision_model(folder.model_path(row, seed))
    results = []
    for measured_row, task, metrics in measured:
        if measured_row != ("no_critic" if row == "actor" else row):
            continue
        options = {"limit": task.limit, **task.options}
        # The hub joins results of one type, config and split, so the config tells two measurements apart.
        told = [task.title] if task.title != task.name else []
        told += [f"{key}={shown(value)}" for key, value in options.items() if value is not None]
        for name in NAMES if row != "actor" else ("acc", "score"):
            metric = metrics.get(name)
            if metric is None:
                continue
            value = metric["mean"] if seed is None else metric["values"][folder.config.seeds.index(seed)]
            results.append(
                EvalResult(
                    task_type="image-text-to-text" if sees else "text-generation",
                    dataset_type=(TASKS[task.name].hub if task.name in TASKS else None) or task.name,
                    dataset_name=task.title,
                    dataset_config=", ".join(told) or None,
                    dataset_split=task.split,
                    metric_type=name,
                    metric_name=NAMES[name],
                    metric_value=round(float(value), 6),
                )
            )
    return results


def _held(path: Path) -> ModelCardData:
    """Metadata of a card; empty where the card is missing or broken."""
    try:
        return ModelCard.load(path, ignore_metadata_errors=True).data if path.exists() else ModelCardData()
    except ValueError:
        return ModelCardData()


def _merged(held: Iterable[EvalResult], new: Iterable[EvalResult]) -> list[EvalResult]:
    """All results; a new one replaces the old one of the same measurement. The order depends on neither."""
    order = list(NAMES)

    def key(r: EvalResult) -> tuple[str, int]:
        return json.dumps(r.unique_identifier), order.index(r.metric_type) if r.metric_type in order else -1

    by_key = {key(r): r for r in held} | {key(r): r for r in new}
    return [by_key[k] for k in sorted(by_key)]
