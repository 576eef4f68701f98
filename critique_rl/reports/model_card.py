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

USES = {
    "actor": """prompt = prompts.reasoning_prompt(question)
reply = model.generate([prompt], Sampling(max_tokens={response}))[0]
print(prompts.reasoning_prefill + reply.text)""",
    "critic": """prompt = prompts.critique_prompt(question, response)
critique = model.generate([prompt], Sampling(max_tokens={critique}))[0].text
print(critique, {parse}(critique))""",
    "pairs": """prompt = prompts.pairwise_prompt(question, response, "It is 7.")
print(model.generate([prompt], Sampling(max_tokens={critique}))[0].text)""",
}
CARD = Template((files(__package__) / "card.md").read_text("utf-8"))


def write_all(folder: RunFolder, measured: Iterable[Measured]) -> None:
    """Write the cards of all checkpoints in a run's folder, with their metrics.

    Args:
        folder: Folder of a run that has these checkpoints; models that the package ships are left as they are.
        measured: Metrics of the run's rows. Results of other measurements in a card stay.
    """
    measured = list(measured)
    for name in ("actor", "sft"):
        made_here = folder.shipped is None and not (name == "actor" and folder.config.actor.get("model"))
        if made_here and (Path(folder.model_path(name)) / "config.json").exists():
            write_cards(folder, name, measured=measured)
    for seed in folder.config.seeds:
        for name in folder.config.stages:
            write_cards(folder, name, seed, measured)


def write_new(folder: RunFolder, step: Step) -> None:
    """Write the cards of a checkpoint that a step has just made; for `Run.execute(after_step=...)`."""
    if step.kind == "train":
        write_cards(folder, step.subject, step.seed)
    elif step.kind in NOUNS and (Path(folder.model_path(step.kind)) / "config.json").exists():
        write_cards(folder, step.kind)


def write_cards(
    folder: RunFolder, name: str, seed: int | None = None, measured: Iterable[Measured] | None = None
) -> list[Path]:
    """Write the card of a checkpoint, and those of the critics that its stage kept after some RL steps.

    Args:
        folder: Folder of the run.
        name: `actor`, `sft` or a stage.
        seed: Seed of a stage.
        measured: Metrics of the run's rows, added to those in the card; None for a new checkpoint, which is not
            measured yet.

    Returns:
        Paths of the cards.
    """
    stage = folder.config.stages.get(name)
    kept = [f"{name}@{step}" for step in stage.keep_rl_steps] if stage else []
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
    """The card of one checkpoint.

    Args:
        folder: Folder of the run.
        row: `actor`, `sft`, a stage or `STAGE@STEP`.
        seed: Seed of a stage.
        results: Metrics of the checkpoint.
        made_with: Commit and versions of the training; None where they were not recorded.
    """
    config, name = folder.config, row.partition("@")[0]
    stage = config.stages.get(name)
    directory = Path(folder.model_path(row, seed))
    sees = is_vision_model(str(directory))
    papers = [LLAVA_CRITIC_R1 if stage and METHODS[stage.method].pairs else CRITIQUE_RL, TRL]
    hub = (
        config.base
        if re.fullmatch(r"[\w.-]+/[\w.-]+", config.base) and not Path(config.base).exists()
        else None
    )
    adapter = (directory / "adapter_config.json").exists()
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
        tags=["critique-rl", *_roles(folder, name), *(f"arxiv:{p.id}" for p in papers if p.id), "trl"],
        eval_results=results or None,
        made_with=made_with,
    )
    kind = "pairs" if stage and METHODS[stage.method].pairs else _roles(folder, name)[0]
    parse = ("parse_verdict" if config.scorer is None else "parse_rating") if kind == "critic" else ""
    body = CARD.render(
        title=escape(title),
        about=_about(folder, name, stage),
        prompts=config.prompts,
        parse=parse,
        use=USES[kind].format(**as_dict(config.lengths), parse=parse),
        training=_training(folder, row, seed, stage),
        evaluation=_evaluation(results),
        made_with=_made_with(made_with),
        papers=papers,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")


NOUNS = {"actor": "actor", "sft": "SFT critic"}


def _roles(folder: RunFolder, name: str) -> tuple[str, ...]:
    """Roles of the model; the one that it was trained for comes first."""
    if name == "actor":
        return ("actor",)
    stage = folder.config.stages.get(name)
    if stage and METHODS[stage.method].pairs:
        return ("critic", "actor")
    return folder.roles(name)


def _about(folder: RunFolder, name: str, stage: StageConfig | None) -> str:
    if name == "actor":
        return (
            "The frozen actor: it answers a question, and refines its answer after a critique. It was fine-tuned "
            "by supervision and is not trained by RL."
        )
    if stage is None:
        return (
            "A critic after supervised fine-tuning on critiques that led to a right refinement, from which RL "
            f"starts. {CRITIC}"
        )
    if METHODS[stage.method].pairs:
        return "A critic of pairs: it reads a question and two responses and names the better one in a box."
    if "critic" not in folder.roles(name):
        return "An actor that was trained by RL on its own responses; it answers questions."
    return (
        f"A critic. {CRITIC} It was trained with one frozen actor and one set of prompts, and is measured with "
        "them alone."
    )


CRITIC = "It reads a question and a response and writes a critique, step by step, that ends in a verdict."


def _training(folder: RunFolder, row: str, seed: int | None, stage: StageConfig | None) -> str:
    config, prompts = folder.config, prompt_set(folder.config.prompts)
    facts: dict[str, Any] = {
        "Base model": f"{config.base}, made on the spot" if config.base == "tiny" else config.base
    }
    if stage is None:
        options = config.cold_start.actor_sft if row == "actor" else config.cold_start.critic_sft
        facts["Method"] = "supervised fine-tuning" if options else "none: the base as it is"
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
    facts |= {
        "Data": tasks(as_dict(config)["train"]),
        "Prompts": f"{prompts.name}, version {prompts.version}",
    }
    facts["Seed"] = config.cold_start.seed if seed is None else seed
    facts |= {f"`{key}`": value for key, value in options.items() if key not in ("pairs", "rl_steps")}
    rows = [(name, shown(value)) for name, value in facts.items() if value not in (None, "", "–")]
    return table(("Setting", "Value"), rows).replace("\\`", "`")


def _evaluation(results: list[EvalResult]) -> str:
    if not results:
        return "Not measured yet."
    rows = [
        (
            r.dataset_name,
            r.dataset_split or "",
            r.dataset_config or "",
            r.metric_name,
            f"{r.metric_value:.4f}",
        )
        for r in results
    ]
    return (
        "Greedy or sampled as the run's protocol says, with the run's actor. Shares are fractions of 1; intervals "
        "are in the run's report.\n\n"
        + table(("Data set", "Split", "Options", "Metric", "Value"), rows, numbers=1)
    )


def _made_with(made: Mapping[str, Any] | None) -> str:
    if made is None:
        return "Not recorded when it was trained."
    versions = {k: v for k, v in made["versions"].items() if k != "device" and v}
    lines = [
        f"* Commit: {made['commit'] or 'unknown'}",
        f"* Device: {escape(made['versions']['device'])}",
        "* Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    return "\n".join(lines)


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
