"""Model cards: a README.md for each checkpoint of a run, with its figures in the hub's metadata format.

Written through `huggingface_hub`'s cards when a checkpoint is saved; the report adds what was measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Template

from critique_rl.config.data import TaskConfig
from critique_rl.config.methods import PLACES
from critique_rl.config.reading import as_dict
from critique_rl.config.training import StageConfig
from critique_rl.critic_data.layouts import HUB
from critique_rl.records import write
from critique_rl.reports.columns import COLUMNS, PAIRWISE_COLUMNS, SCORED_COLUMNS
from critique_rl.reports.markdown import escape, table
from critique_rl.reports.provenance import origin
from critique_rl.reports.settings import reward, setting, shown, tasks
from critique_rl.runs.run import Run
from critique_rl.tasks import TASKS
from critique_rl.training.citations import CRITIQUE_RL, LLAVA_CRITIC_R1, TRL
from critique_rl.vision.models import is_vision_model

NAMES = COLUMNS | SCORED_COLUMNS | PAIRWISE_COLUMNS
"""Metrics that a card holds, with their headings."""


OF_PAIRS = ("pairwise_critic", "label_sft", "mixed")
"""Methods that belong to LLaVA-Critic-R1; all others belong to Critique-RL or what it is compared with."""

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
CARD = Template(
    """
# {{ title }}

{{ about }}

## Use

```python
from critique_rl.actors import TransformersActor
{%- if parse %}
from critique_rl.prompts import {{ parse }}, prompt_set
{%- else %}
from critique_rl.prompts import prompt_set
{%- endif %}
from critique_rl.types import Sampling

prompts = prompt_set("{{ prompts }}")
model = TransformersActor("path or hub id of this model")
question, response = "What is 3 + 4?", "3 + 4 = 7\\nThe answer is 7"
{{ use }}
```

## Training

{{ training }}

## Evaluation

{{ evaluation }}

## Made with

{{ made_with }}

## Citation
{% for paper in papers %}
{{ paper.name }}{% if paper.id %} ([arXiv {{ paper.id }}](https://arxiv.org/abs/{{ paper.id }})){% endif %}:

```bibtex
{{ paper.citation }}
```
{% endfor %}"""
)


def write_all(run: Run, measured: Iterable[Measured]) -> None:
    """Write the cards of all checkpoints in the run's folder, with what was measured.

    Args:
        run: A run of which these checkpoints are there; what the package ships is left as it is.
        measured: Metrics of its rows. What a card holds of other measurements stays.
    """
    measured = list(measured)
    for name in ("actor", "sft"):
        made_here = run.shipped is None and not (name == "actor" and run.config.actor.get("model"))
        if made_here and (Path(run.model_path(name)) / "config.json").exists():
            write_cards(run, name, measured=measured)
    for seed in run.config.seeds:
        for name in run.config.stages:
            write_cards(run, name, seed, measured)


def write_cards(
    run: Run, name: str, seed: int | None = None, measured: Iterable[Measured] | None = None
) -> list[Path]:
    """Write the card of a checkpoint and of those kept on its way.

    Args:
        run: The run.
        name: `actor`, `sft` or a stage.
        seed: Seed of a stage.
        measured: Metrics of the run's rows, added to what a card holds; None for a checkpoint that is new, of
            which nothing is measured.

    Returns:
        Paths of the cards.
    """
    stage = run.config.stages.get(name)
    kept = [f"{name}@{step}" for step in stage.keep_rl_steps] if stage else []
    written = []
    for row in [name, *kept]:
        directory = Path(run.model_path(row, seed))
        if not directory.is_dir():  # of an RL step that the training did not reach
            continue
        path = directory / "README.md"
        results = list[EvalResult]()
        if measured is None:
            made_with = origin()
        else:
            held = _held(path)
            results = _merged(held.eval_results or [], _results(run, row, seed, list(measured)))
            made_with = held.to_dict().get("made_with")  # what the checkpoint was made with, not this report
        write(path, str(card(run, row, seed, results, made_with)))
        written.append(path)
    return written


def card(
    run: Run,
    row: str,
    seed: int | None,
    results: list[EvalResult],
    made_with: Mapping[str, Any] | None,
) -> ModelCard:
    """The card of one checkpoint.

    Args:
        run: The run.
        row: `actor`, `sft`, a stage or `STAGE@STEP`.
        seed: Seed of a stage.
        results: What was measured.
        made_with: Commit and versions of its training; None where they were not recorded.
    """
    config, name = run.config, row.partition("@")[0]
    stage = config.stages.get(name)
    directory = Path(run.model_path(row, seed))
    sees = is_vision_model(str(directory))
    papers = [LLAVA_CRITIC_R1 if stage and stage.method in OF_PAIRS else CRITIQUE_RL, TRL]
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
        datasets=_datasets(run, stage) or None,
        library_name="peft" if adapter else "transformers",
        license="apache-2.0" if config.base == "tiny" else None,  # else that of the base model applies
        model_name=title,
        pipeline_tag="image-text-to-text" if sees else "text-generation",
        tags=["critique-rl", *_roles(run, name), *(f"arxiv:{p.id}" for p in papers if p.id), "trl"],
        eval_results=results or None,
        made_with=made_with,
    )
    kind = "pairs" if stage and stage.method in OF_PAIRS else _roles(run, name)[0]
    parse = ("parse_verdict" if config.scorer is None else "parse_rating") if kind == "critic" else ""
    body = CARD.render(
        title=escape(title),
        about=_about(run, name, stage),
        prompts=config.prompts,
        parse=parse,
        use=USES[kind].format(**as_dict(config.lengths), parse=parse),
        training=_training(run, row, seed, stage),
        evaluation=_evaluation(results),
        made_with=_made_with(made_with),
        papers=papers,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{body}\n")


NOUNS = {"actor": "actor", "sft": "SFT critic"}


def _roles(run: Run, name: str) -> tuple[str, ...]:
    """What the model is, the role that it was trained for first."""
    if name == "actor":
        return ("actor",)
    stage = run.config.stages.get(name)
    if stage and stage.method in OF_PAIRS:
        return ("critic", "actor")
    return run.roles(name)


def _about(run: Run, name: str, stage: StageConfig | None) -> str:
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
    if stage.method in OF_PAIRS:
        return "A critic of pairs: it reads a question and two responses and names the better one in a box."
    if "critic" not in run.roles(name):
        return "An actor that was trained by RL on its own responses; it answers questions."
    return (
        f"A critic. {CRITIC} It was trained with one frozen actor and one set of prompts, and is measured with "
        "them alone."
    )


CRITIC = "It reads a question and a response and writes a critique, step by step, that ends in a verdict."


def _training(run: Run, row: str, seed: int | None, stage: StageConfig | None) -> str:
    config = run.config
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
        of = PLACES[stage.method].module if stage.method in PLACES else ""
        facts["Method"] = stage.method + (f" (`critique_rl.baselines.{of}`)" if of else "")
        facts["Starts from"] = stage.start
        facts["Reward"] = reward(plain)
        facts["RL steps"] = row.partition("@")[2] or setting(plain, "rl_steps")
        facts["Pairs"] = options.get("pairs", {}).get("origin")
        facts["LoRA"] = stage.lora
    facts |= {
        "Data": tasks(as_dict(config)["train"]),
        "Prompts": f"{run.prompts.name}, version {run.prompts.version}",
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


def _datasets(run: Run, stage: StageConfig | None) -> list[str]:
    """Hub names of what it was trained on; of local files and generators there are none."""
    found = [TASKS[task.name].hub for task in run.config.train]
    if stage and stage.method in OF_PAIRS:
        pairs = stage.trainer.get("pairs", {}).get("origin")
        found = [HUB[pairs].repo] if pairs in HUB else [] if pairs else found
    return [name for name in dict.fromkeys(found) if name]


def _results(run: Run, row: str, seed: int | None, measured: list[Measured]) -> list[EvalResult]:
    """What was measured of one checkpoint: with its seed, or the mean over seeds of one that they share."""
    sees = is_vision_model(run.model_path(row, seed))
    found = []
    for of_row, task, metrics in measured:
        if of_row != ("no_critic" if row == "actor" else row):
            continue
        options = {"limit": task.limit, **task.options}
        # The hub joins results of one type, config and split, so what tells two measurements apart is the config.
        told = [task.title] if task.title != task.name else []
        told += [f"{key}={shown(value)}" for key, value in options.items() if value is not None]
        for name in NAMES if row != "actor" else ("acc", "score"):
            metric = metrics.get(name)
            if metric is None:
                continue
            value = metric["mean"] if seed is None else metric["values"][run.config.seeds.index(seed)]
            found.append(
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
    return found


def _held(path: Path) -> ModelCardData:
    """Metadata of a card; none of one that is not there, or broken."""
    try:
        return ModelCard.load(path, ignore_metadata_errors=True).data if path.exists() else ModelCardData()
    except ValueError:
        return ModelCardData()


def _merged(held: Iterable[EvalResult], new: Iterable[EvalResult]) -> list[EvalResult]:
    """All results, the new one where both are of one measurement; the order is the same whichever is new."""
    order = list(NAMES)

    def key(r: EvalResult) -> tuple[str, int]:
        return json.dumps(r.unique_identifier), order.index(r.metric_type) if r.metric_type in order else -1

    found = {key(r): r for r in held} | {key(r): r for r in new}
    return [found[k] for k in sorted(found)]
