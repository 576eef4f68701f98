"""Pages of a report: Markdown from a result file, and the same as one self-contained HTML file.

A page may hold text of a model or a stranger. Texts are fenced and names escaped. The HTML file shows raw HTML as
text, has no script, and its policy lets it load nothing.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Template
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from critique_rl.markdown import escape, fenced, table
from critique_rl.methods.options import option
from critique_rl.records import write
from critique_rl.reports.costs import HOW
from critique_rl.reports.settings import differences_from, paper_config, reward, shown, tasks, without_folders
from critique_rl.training.metrics import EVALUATION

# -- sections ---------------------------------------------------------------------------------------------


def sections(content: Mapping[str, Any], *, whole: bool = True) -> str:
    """Write the sections below the figures of a result file; older files hold neither health nor cost.

    `whole` adds the configuration and the healthy findings.
    """
    parts = [
        ("What ran", _what(content)),
        ("Where", _where(content)),
        ("Health", _health(content["health"], whole=whole) if "health" in content else ""),
        ("Cost", _cost(content["costs"]) if "costs" in content else ""),
        ("Differences from the paper's setting", _differences(content["config"])),
    ]
    if whole:
        plain = yaml.safe_dump(without_folders(content["config"]), allow_unicode=True, sort_keys=False)
        parts.append(("Configuration", fenced(plain.rstrip(), "yaml")))
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in parts if text)


def _what(content: Mapping[str, Any]) -> str:
    config = content["config"]
    evaluation = config["evaluation"]
    benchmarks = ", ".join(b["name"] for b in evaluation.get("benchmarks") or ())
    through = "policy benchmarks through lmms-eval" if evaluation.get("policy_benchmarks") else ""
    facts = {
        "Base": config["base"],
        "Actor": (config.get("actor") or {}).get("model"),
        "Prompts": config["prompts"],
        "Train": tasks(config["train"]),
        "Evaluation": ", ".join(filter(None, (tasks(evaluation["tasks"]), benchmarks, through))),
        "Tokens at most": ", ".join(f"{name} {number:,}" for name, number in config["lengths"].items()),
        "Seeds": ", ".join(map(str, content["seeds"])),
    }
    lines = [f"* {name}: {escape(shown(value))}" for name, value in facts.items() if value]
    head = ("Stage", "Name", "Method", "Starts from", "Reward", "RL steps", "Learning rate", "KL")
    rows = []
    for name, stage in config["stages"].items():
        options = [option(stage, key) for key in ("rl_steps", "learning_rate", "beta")]
        numbers = ["–" if value is None else shown(value) for value in options]
        rows.append([stage["label"], name, stage["method"], stage["start"], reward(stage), *numbers])
    return "\n".join(lines) + ("\n\n" + table(head, rows, numbers=3) if rows else "")


def _where(content: Mapping[str, Any]) -> str:
    commit = str(content["commit"] or "unknown: not a git checkout")
    dirty = bool(content.get("dirty")) or commit.endswith("-dirty")
    changes = ", with changes that are in no commit" if dirty else ""
    versions = {k: v for k, v in content["versions"].items() if k != "device" and v}
    return (
        f"* Commit: {escape(commit.removesuffix('-dirty'))}{changes}\n"
        f"* Device: {escape(content['versions'].get('device'))}\n"
        "* Versions: " + ", ".join(f"{escape(name)} {escape(v)}" for name, v in versions.items())
    )


def _health(health: Mapping[str, Any], *, whole: bool) -> str:
    findings, checked = health["findings"], health["checked"]
    outside = [f for f in findings if f["outside"]]
    if not checked:
        return "No training by RL was logged."
    parts = [
        f"{len(outside)} of {checked} metrics are outside of what is healthy. Compared is the mean over the first "
        "tenth of the RL steps with that over the last; a rise or fall counts if it is above two standard errors."
    ]
    if any(f["metric"] in EVALUATION for f in outside):
        parts.append("Of a row of the table, its value is judged.")
    if outside:
        parts.append(_unhealthy(outside))
    for stage in dict.fromkeys(f["stage"] for f in findings) if whole else ():
        of_stage = [f for f in findings if f["stage"] == stage]
        parts.append(f"### {escape(stage)}\n\n{_all_findings(of_stage)}")
    return "\n\n".join(parts)


def _unhealthy(outside: Sequence[Mapping[str, Any]]) -> str:
    """A row for each violated rule of a stage, over all seeds."""
    alike: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for f in outside:
        alike.setdefault(tuple(f[key] for key in ("stage", "metric", "healthy", "outside")), []).append(f)
    rows = []
    for (stage, metric, healthy, reason), same in alike.items():
        last = sorted(f["last"] for f in same)
        ends = dict.fromkeys(f"{value:.3g}" for value in (last[0], last[-1]))
        seeds = ", ".join(str(f["seed"]) for f in same)
        rows.append([stage, metric, seeds, " to ".join(ends), healthy, reason])
    return table(("Stage", "Metric", "Seeds", "Last", "Healthy", "Outside"), rows, numbers=0)


def _all_findings(findings: Sequence[Mapping[str, Any]]) -> str:
    """A row for each metric of one stage, a column for each seed."""
    seeds = list(dict.fromkeys(f["seed"] for f in findings))
    by_metric: dict[str, dict[int, Mapping[str, Any]]] = {}
    for f in findings:
        by_metric.setdefault(f["metric"], {})[f["seed"]] = f
    rows = []
    for metric, by_seed in by_metric.items():
        # No-break spaces keep a cell in one line.
        ends = {s: f"{f['first']:.3g}\u00a0→\u00a0{f['last']:.3g}" for s, f in by_seed.items()}
        wrong = [str(s) for s, f in by_seed.items() if f["outside"]]
        state = f"outside (seed {', '.join(wrong)})" if wrong else "healthy"
        healthy = next(iter(by_seed.values()))["healthy"]
        rows.append([metric, *(ends.get(s, "–") for s in seeds), healthy, state])
    return table(("Metric", *(f"Seed {s}" for s in seeds), "Healthy", "State"), rows, numbers=0)


def _cost(costs: Sequence[Mapping[str, Any]]) -> str:
    formats = {"trained": ",", "generated": ",", "flops": ".2e", "hours": ".2f"}

    def cells(cost: Mapping[str, Any]) -> list[str]:
        return ["–" if cost[key] is None else format(cost[key], form) for key, form in formats.items()]

    rows = [[cost["part"], cost["kind"], cost["steps"], *cells(cost)] for cost in costs]
    known = {key: [cost[key] for cost in costs if cost[key] is not None] for key in formats}
    total = {key: sum(values) if values else None for key, values in known.items()}
    rows.append(["All that was recorded", "", sum(cost["steps"] for cost in costs), *cells(total)])
    head = ("Part", "Kind", "Steps", "Tokens trained", "Tokens generated", "FLOPs", "Hours")
    return table(head, rows, numbers=5) + "\n\n" + HOW


def _differences(config: Mapping[str, Any]) -> str:
    path = paper_config(config)
    if path is None:
        return ""  # an installed package has no configuration of the paper
    where = f"`experiments/configs/{path.name}`"
    differences = differences_from(path, config)
    if not differences:
        return f"None: every setting is that of {where}."
    rows = []
    for d in differences:
        every = d.stages and len(d.stages) == len(config["stages"])
        owner = "every stage" if every else ", ".join(d.stages) or "the run"
        rows.append([d.setting, owner, d.paper, d.ours])
    return (
        f"Compared with {where}, where each value has its source: the paper, its released code, or a gap that was "
        "filled in. Settings that change no result are left out.\n\n"
        + table(("Setting", "Of", path.stem, "Here"), rows, numbers=0)
    )


# -- HTML -------------------------------------------------------------------------------------------------

PAGE = Template((files(__package__) / "page.html").read_text("utf-8"), autoescape=True)


def html(markdown: str, title: str, pictures: Mapping[str, bytes]) -> str:
    """Render a Markdown page as one self-contained HTML file.

    `pictures` holds PNG files by their name in the page; any other picture is left out.
    """
    parser = MarkdownIt("js-default", {"html": False, "linkify": False})  # raw HTML is shown as text
    parser.add_render_rule("table_open", lambda *_: '<div class="table"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = parser.parse(markdown)
    headings = list[tuple[str, str]]()
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            token.attrSet("id", f"section-{len(headings) + 1}")
            texts = (t.content for t in inline.children or () if t.type in ("text", "code_inline"))
            headings.append(("".join(texts), f"section-{len(headings) + 1}"))
    for token in tokens:
        for child in token.children or ():
            if child.type == "text":  # no-break spaces keep an interval in one line
                child.content = re.sub(r"(?<=\d) (±|to) (?=\d)", "\u00a0\\1\u00a0", child.content)
            if child.type == "image":
                picture = pictures.get(str(child.attrGet("src")))
                data = "" if picture is None else base64.b64encode(picture).decode()
                child.attrSet("src", f"data:image/png;base64,{data}")
    tokens = [_folded(t, parser) if t.type == "fence" and t.info == "yaml" else t for t in tokens]
    body = Markup(parser.renderer.render(tokens, parser.options, {}))  # the parser escapes
    return PAGE.render(title=title, headings=headings, body=body)


def _folded(token: Token, parser: MarkdownIt) -> Token:
    """Fold the configuration, which is long, behind a line that opens it."""
    block = parser.renderer.render([token], parser.options, {})
    content = f"<details><summary>Show all settings</summary>\n{block}</details>\n"
    return Token("html_block", "", 0, content=content)


def write_pages(markdown: str, title: str, stem: Path, pictures: Sequence[Path] = ()) -> None:
    """Write a page as `STEM.md` and `STEM.html`; the pictures are PNG files that it shows, in the same folder."""
    write(stem.with_name(stem.name + ".md"), markdown)
    contents = {path.name: path.read_bytes() for path in pictures}
    write(stem.with_name(stem.name + ".html"), html(markdown, title, contents))
