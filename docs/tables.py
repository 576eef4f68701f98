"""Writes the tables of `PAGES` that follow from the code: settings, options of the trainers, costs, metrics.

python docs/tables.py
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import re
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import griffe
from trl import GRPOConfig

from critique_rl.config.run import RunConfig, load_config
from critique_rl.markdown import table as markdown_table
from critique_rl.reports.columns import label
from critique_rl.runs import growth as growth_model
from critique_rl.runs.launch import DEFAULT_GPU, GPUS
from critique_rl.runs.lengths import assumed_counts
from critique_rl.runs.roofline import READING, WORKING, phase_seconds
from critique_rl.runs.sizes import PUBLISHED
from critique_rl.training.config import SOURCE, CriticConfig
from critique_rl.training.metrics import GROUPS
from critique_rl.training.pairwise import PairwiseCriticConfig
from critique_rl.training.stage_config import Stage1Config, Stage2Config

PAGES = (
    "configuration.md",
    "scale.md",
    "several_machines.md",
    "metrics.md",
    "performance.md",
    *(f"trainers/{name}.md" for name in ("common", "ppo", "stage1", "stage2", "pairwise")),
)
DOCS = Path(__file__).resolve().parent
CONFIGS = DOCS.parent / "experiments" / "configs"
BENCH = DOCS.parent / "experiments" / "results" / "bench"


def main() -> None:
    """Write each table between its marks."""
    for page in PAGES:
        path = DOCS / page
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


def filled(page: str) -> str:
    """The page with its generated tables as they should be."""
    for name, table in TABLES.items():
        page = re.sub(
            rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)",
            lambda marks, table=table: f"{marks[1]}\n{table()}\n\n{marks[2]}",  # type: ignore[misc]
            page,
            flags=re.DOTALL,
        )
    return page


# -- the configuration ------------------------------------------------------------------------------------


def configuration() -> str:
    """A section for each mapping of settings, with a row for each key."""
    return "\n\n".join(
        f"### {path or 'The top of the file'}\n\n{_summary(cls)}\n\n| key | default | meaning |\n"
        + "| --- | --- | --- |\n"
        + "\n".join(_row(field, path, meaning) for field, meaning in settings(cls))
        for cls, path in sections(RunConfig)
    )


def sections(cls: type, path: str = "", seen: tuple[type, ...] = ()) -> Iterator[tuple[type, str]]:
    """Each dataclass that settings are read into, with the first place where it stands."""
    yield cls, path
    hints, met = typing.get_type_hints(cls), {cls, *seen}
    for field in dataclasses.fields(cls):
        inner, suffix = _inside(hints[field.name])
        if inner is not None and inner not in met:
            for found in sections(inner, f"{path}.{field.name}{suffix}".lstrip("."), tuple(met)):
                if found[0] not in met:
                    met.add(found[0])
                    yield found


def _inside(hint: Any) -> tuple[type | None, str]:
    """The dataclass that a setting holds, and how a place in it is written."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _inside(next(a for a in arguments if a is not type(None)))
    if origin in (list, dict):
        inner, _ = _inside(arguments[-1])
        return inner, "[]" if origin is list else ".NAME"
    return (hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None), ""


def settings(cls: type) -> Iterator[tuple[dataclasses.Field[Any], str]]:
    """Each field of a dataclass with what its docstring, or that of a base, says of it."""
    said: dict[str, str] = {}
    for part in reversed(cls.__mro__):
        for section in griffe.Docstring(part.__doc__ or "", parser="google").parse(warnings=False):
            if section.kind is griffe.DocstringSectionKind.attributes:
                said |= {a.name: " ".join(a.description.split()) for a in section.value}
    for field in dataclasses.fields(cls):
        yield field, said[field.name]


def _summary(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def _row(field: dataclasses.Field[Any], path: str, meaning: str) -> str:
    if field.default is not dataclasses.MISSING:
        default = f"`{_yaml(field.default)}`"
    elif field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        default = "see below" if dataclasses.is_dataclass(made) else f"`{_yaml(made)}`"
    else:
        default = "required"
    return f"| `{field.name}` | {default} | {meaning} |"


def _yaml(value: Any) -> str:
    return json.dumps(value)  # which YAML reads alike


# -- options of the trainers --------------------------------------------------------------------------------

PPO = ("gae_lambda", "value_learning_rate", "value_clip")
STAGE_2 = ("refinement_reward", "combination", "beta_1", "refinement_max_tokens", "refinement_temperature")


def options(cls: type, base: type, *, without: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> str:
    """A row for each option that a configuration adds to its base."""
    names = [name for name in _fields(cls) if name not in _fields(base) and name not in without]
    rows = [_option(cls, name) for name in names if not only or name in only]
    return markdown_table(["option", "default", "meaning", "source"], rows, raw=True)


def changed(cls: type, base: type, heading: str) -> str:
    """A row for each option of the base whose default a configuration changes."""
    rows = []
    for name, theirs in _fields(base).items():
        if theirs.default != _fields(cls)[name].default:
            option, default, _, source = _option(cls, name)
            rows.append([option, default, f"`{_python(theirs.default)}`", source])
    order = list(vars(cls)["__annotations__"])  # as the class lists them, not as its base does
    rows.sort(key=lambda row: order.index(row[0].strip("`")))
    return markdown_table(["option", "here", heading, "source"], rows, raw=True)


def _option(cls: type, name: str) -> tuple[str, str, str, str]:
    """Name, default, meaning and source; the meaning may stand in a base class, the source is the class's own."""
    helps = [_fields(c)[name].metadata.get("help") or "" for c in cls.__mro__ if name in _fields(c)]
    meaning = next(filter(None, (text.partition(SOURCE)[0].strip() for text in helps)), "")
    source = helps[0].partition(SOURCE)[2]
    default = _python(_fields(cls)[name].default)
    return f"`{name}`", f"`{default}`", meaning.removesuffix("."), source.removesuffix(".")


def _fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    return vars(cls).get("__dataclass_fields__", {})


def _python(value: Any) -> str:
    return repr(value.value if isinstance(value, enum.Enum) else value)


# -- costs at the papers' scale ------------------------------------------------------------------------------

PEAK = 312e12  # FLOP/s of an A100 or A800 in bfloat16, without sparsity
USED = 0.2  # assumed share of it, over rollout and update
PROMPT = 512  # assumed tokens of a question with its instructions
SIZES = {"3b": 3e9, "7b": 7e9}
FORWARD, TRAINED = (
    2,
    8,
)  # FLOPs a weight and token; trained: forward, again for the backward pass, and that twice


def costs() -> str:
    """Most tokens and FLOPs of each RL stage of the papers' configurations, and what that is in GPU hours."""
    lines = [
        "| config | stage | critiques | tokens of all critiques with their prompts | FLOPs | GPU hours |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in ("qwen2.5-3b", "qwen2.5-7b", "qwen2.5-vl-7b"):
        config = load_config(CONFIGS / f"{name}.yaml")
        for stage in config.stages:
            critiques, tokens, flops = stage_cost(config, stage)
            hours = flops / (PEAK * USED) / 3600
            lines.append(
                f"| `{name}` | `{stage}` | {critiques:,} | {tokens / 1e6:,.0f} M | {flops:.1e} | {hours:,.0f} |"
            )
    return "\n".join(lines)


def stage_cost(config: RunConfig, stage: str) -> tuple[int, int, float]:
    """Critiques, their tokens at most, and FLOPs of one stage; refinements are in the FLOPs alone."""
    options, lengths = config.stages[stage].trainer, config.lengths
    weights = next(size for name, size in SIZES.items() if name in config.base.lower())
    critiques = options["rl_steps"] * options["generation_batch_size"]
    shown = options.get("pairs", {}).get("max_prompt_tokens", PROMPT + lengths.response)
    tokens = critiques * (shown + lengths.critique)
    # written by the critic, read once more by itself and by its reference, then learned from
    flops = weights * tokens * (3 * FORWARD + options["num_iterations"] * TRAINED)
    if options.get("refinement_reward"):
        refined = PROMPT + lengths.response + lengths.critique + lengths.refinement
        flops += weights * critiques * refined * FORWARD
    return critiques, tokens, flops


# -- metrics ------------------------------------------------------------------------------------------------


def metrics(group: str) -> str:
    """A row for each metric of a group; headings where it is a column, healthy behaviour where it is logged."""
    logged = group in ("training", "trl")
    rows = []
    for name, metric in GROUPS[group].items():
        rule = metric.rule
        healthy = f"{rule.healthy}; else: {rule.reason}" if rule else metric.healthy
        facts = [metric.unit, metric.meaning, f"`{metric.function}`"]
        rows.append([f"`{name}`", *facts, healthy] if logged else [f"`{name}`", label(name), *facts])
    facts = ["unit", "meaning", "computed by"]
    return markdown_table(
        ["metric", *facts, "healthy"] if logged else ["metric", "heading", *facts], rows, raw=True
    )


# -- speed ----------------------------------------------------------------------------------------------------

SHAPES = ("qwen2.5-0.5b-lora", "qwen2.5-0.5b-full", "tiny")


def measured(name: str) -> dict[str, Any] | None:
    """A result file of the benchmarks; None if it was not run."""
    path = BENCH / f"{name}.json"
    content: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return content


def speed() -> str:
    """A row for each shape and stage: seconds of a step of both sides, and the ratio."""
    rows = []
    for name in (*SHAPES, "qwen2.5-0.5b-lora-to-float32"):
        content = measured(name)
        if content is None:
            rows.append([f"`{name}`", "", "", "", "not run", "", "", "", ""])
            continue
        alike = content["config"]["alike"]
        size = f"{alike['generation_batch_size'] // alike['num_generations']} x {alike['num_generations']}"
        place = f"{content['versions']['device']}, commit {content['commit'][:7]}"
        for stage in (key for key in content if key.startswith("stage")):
            compared = {content["dtype"]: content[stage]}
            compared |= {k[9:]: v for k, v in content[stage].items() if k.startswith("to_plain_")}
            for dtype, found in compared.items():
                plain = content[stage]["plain" if found is content[stage] else f"plain_{dtype}"]
                spread = (
                    f"{min(found['ratios']):.2f} to {max(found['ratios']):.2f}, n = {len(found['ratios'])}"
                )
                seconds = [f"{plain['median']:.2f}", f"{content[stage]['ours']['median']:.2f}"]
                ratio = [f"**{found['ratio']:.2f}**", spread]
                types = dtype if dtype == content["dtype"] else f"{content['dtype']}, plain {dtype}"
                rows.append([f"`{content['config']['shape']}`", stage, size, types, *seconds, *ratio, place])
    head = ["shape", "stage", "prompts x k", "type", "plain, s", "ours, s", "ratio", "each turn", "device"]
    return markdown_table(head, rows, raw=True)


def phases() -> str:
    """A row for each phase of a Stage II step of the first shape that was measured."""
    name, content = next((n, c) for n in SHAPES if (c := measured(n)) is not None)
    found = content[[key for key in content if key.startswith("stage")][-1]]
    rows = []
    for phase, seconds in sorted(found["ours"]["phases"].items(), key=lambda item: -item[1]):
        share = found["ours"]["share_of_limit"].get(phase)
        theirs = found["plain"]["phases"].get(phase, 0.0)
        ratio = f"{theirs / seconds:.2f}" if theirs and seconds else ""
        limit = "" if share is None else f"{100 * share:.0f} %"
        rows.append([phase, f"{theirs:.3f}", f"{seconds:.3f}", ratio, limit])
    shown = markdown_table(
        [f"phase, `{name}`", "plain, s", "ours, s", "ratio", "of the limit"], rows, raw=True
    )
    shares = [f"{side} {100 * found[side]['non_padding']:.0f} %" for side in ("plain", "ours")]
    memory = [f"{side} {(found[side]['peak_bytes'] or 0) / 2**30:.2f} GiB" for side in ("plain", "ours")]
    return f"{shown}\n\nPositions that are no padding: {', '.join(shares)}. Peak memory: {', '.join(memory)}."


def refinements() -> str:
    """The ratio to a bare generate, and what each piece of the decoding is worth."""
    content = measured("refinements")
    if content is None:
        return "Not run."
    rows = [[piece, f"{gain:.2f}"] for piece, gain in content["gains"].items()]
    rows.insert(0, ["all of them, against a bare `generate`", f"**{content['ratio']:.2f}**"])
    config, place = content["config"], content["versions"]["device"]
    step = f"{config['prompts']} responses with {config['k']} critiques each, {config['dtype']}, {place}"
    same = f"the same replies as `generate`: {100 * content['same_replies']:.0f} %"
    return f"{markdown_table(['piece', 'gain'], rows, raw=True)}\n\n{step}; {same}."


def growth() -> str:
    """Exponents of the cost of a step, memory, and the start."""
    content = measured("growth")
    if content is None:
        return "Not run."
    names = {
        "k": "critiques of a prompt",
        "prompts": "prompts of a step",
        "new_tokens": "tokens",
        "pool": "pool",
    }
    head = ["shape", *(names[name] for name in names)]
    rows = [
        [f"`{shape}`", *(f"{curves[name]['exponent']:.2f}" for name in names)]
        for shape, curves in content["shapes"].items()
    ]
    memory, start = content["memory"], content["start"]
    facts = f"Memory of `tiny` over {memory['steps']} RL steps: {memory['bytes_per_step'] / 1024:+.1f} KiB a step."
    begin = f"From the command to the first token: {start['first_token']:.1f} s."
    said = "Exponent of the cost of a Stage II step: 1 is proportional, 0 is independent."
    return f"{said}\n\n{markdown_table(head, rows, raw=True)}\n\n{facts} {begin}"


# -- growth on paper ------------------------------------------------------------------------------------------

GPU_COUNTS = (1, 8, 64, 512)
CLUSTER_PRESETS = ("qwen2.5-3b", "qwen2.5-7b")


def cluster() -> str:
    """A row for each model and number of GPUs, with as much work for each GPU as the paper's eight have."""
    card = GPUS[DEFAULT_GPU]
    rows = []
    for preset in CLUSTER_PRESETS:
        config = load_config(CONFIGS / f"{preset}.yaml")
        for gpus in GPU_COUNTS:
            found = _step(config, gpus, config.stages["stage2"].trainer["generation_batch_size"] / 8)
            parts = [f"{part.arithmetic:,.0f} / {part.network:,.1f}" for part in found.parts.values()]
            slower = f"{found.by_transformers:,.0f}"
            few, bound = max(1, gpus // 8), f"{found.longest}, {found.parts[found.longest].bound}"
            busy = f"{100 * found.busy(few):.0f} %"
            rows.append(
                [
                    *(f"`{preset}`", f"{gpus}", *parts, f"{found.seconds:,.0f}", bound, slower),
                    *(f"{found.servers:,}", busy),
                ]
            )
    head = ["config", "GPUs", "critiques, s", "log-probabilities, s", "update, s", "step, s", "bound by"]
    head += ["critiques by transformers, s", "actor servers", "busy with one for eight GPUs"]
    limits = f"{card.limits.flop / 1e12:,.0f} TFLOP/s and {card.limits.bandwidth / 1e12:.2f} TB/s of memory"
    network = (
        f"{growth_model.INSIDE / 1e9:.0f} GB/s to the GPUs of a machine, {growth_model.BETWEEN / 1e9:.0f} GB/s "
        f"to other machines, of which {100 * growth_model.MOVED:.0f} % are reached; "
        f"{1e6 * growth_model.HOP:.0f} µs a hop"
    )
    shares = (
        f"{100 * READING:.0f} % of the arithmetic in passes, {100 * WORKING:.0f} % in updates and decoding"
    )
    return f"{markdown_table(head, rows, raw=True)}\n\n{card.name}: {limits}; {shares}; {network}."


def cluster_paper() -> str:
    """Seconds of the paper's 256 critiques on more and more GPUs."""
    rows = []
    for preset in CLUSTER_PRESETS:
        config = load_config(CONFIGS / f"{preset}.yaml")
        options = config.stages["stage2"].trainer
        batch, rows_of_one = options["generation_batch_size"], options["per_device_train_batch_size"]
        for gpus in GPU_COUNTS:
            if batch / gpus < rows_of_one:
                most = batch // rows_of_one
                rows.append(
                    [f"`{preset}`", f"{gpus}", f"at most {most} GPUs have a micro-batch each", "", ""]
                )
                continue
            found = _step(config, gpus, batch / gpus)
            first = _step(config, 1, batch).seconds
            rows.append(
                [
                    *(f"`{preset}`", f"{gpus}", f"{found.seconds:,.0f}"),
                    *(f"{first / found.seconds:.1f}", f"{found.servers:,}"),
                ]
            )
    return markdown_table(["config", "GPUs", "step, s", "faster than one", "actor servers"], rows, raw=True)


def _step(config: RunConfig, gpus: int, critiques: float) -> growth_model.Step:
    """A Stage II step of a preset; texts are half as long as their limits."""
    parameters, shape = PUBLISHED[config.base]
    options = config.stages["stage2"].trainer
    work = growth_model.Shapes(
        critiques,
        options["num_generations"],
        options["per_device_train_batch_size"],
        options["num_iterations"],
        assumed_counts(config.lengths, pictured=False),
    )
    return growth_model.step(parameters, shape, work, gpus, GPUS[DEFAULT_GPU])


def cluster_measured() -> str:
    """Seconds of each phase that was measured on one machine beside those of the same formulas."""
    rows = []
    for name in ("qwen2.5-0.5b-lora", "qwen2.5-0.5b-full"):
        content = measured(name)
        if content is None:
            rows.append([f"`{name}`", "not run", "", "", ""])
            continue
        for phase, seconds in phase_seconds(content, adapter=name.endswith("lora")).items():
            found = content["stage2"]["ours"]["phases"][phase]
            rows.append([f"`{name}`", phase, f"{found:.1f}", f"{seconds:.1f}", f"{seconds / found:.2f}"])
    return markdown_table(["shape", "phase", "measured, s", "formula, s", "ratio"], rows, raw=True)


TABLES: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "costs": costs,
    "options": lambda: options(CriticConfig, GRPOConfig, without=PPO),
    "options-changed": lambda: changed(CriticConfig, GRPOConfig, "trl"),
    "options-ppo": lambda: options(CriticConfig, GRPOConfig, only=PPO),
    "options-stage1": lambda: options(Stage1Config, CriticConfig, without=STAGE_2),
    "options-stage2": lambda: options(Stage2Config, CriticConfig, only=STAGE_2),
    "options-pairwise": lambda: options(PairwiseCriticConfig, CriticConfig),
    "options-pairwise-changed": lambda: changed(PairwiseCriticConfig, CriticConfig, "other trainers"),
    "speed": speed,
    "phases": phases,
    "refinements": refinements,
    "growth": growth,
    "cluster": cluster,
    "cluster-paper": cluster_paper,
    "cluster-measured": cluster_measured,
    **{f"metrics-{group}": functools.partial(metrics, group) for group in GROUPS},
}

if __name__ == "__main__":
    main()
