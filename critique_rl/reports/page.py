"""The pages of a report: Markdown made from a result file, and the same as one self-contained HTML file.

Everything in a page may hold what a model or a stranger wrote: texts are fenced, names are escaped, and the HTML
is rendered with raw HTML switched off, with no script, and with a policy that lets it load nothing.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Template
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from critique_rl.records import write
from critique_rl.reports.costs import HOW
from critique_rl.reports.markdown import escape, fenced, table
from critique_rl.reports.settings import (
    differences_from,
    paper_config,
    reward,
    setting,
    shown,
    tasks,
    without_folders,
)

# -- sections ---------------------------------------------------------------------------------------------


def sections(content: Mapping[str, Any], *, whole: bool = True) -> str:
    """What a report says below its figures: what ran, where, health, cost, differences from the paper.

    Args:
        content: A result file. Health and cost are left out if it holds none, as older ones do.
        whole: With the configuration, and all findings of health, not only those outside.
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
    measured = config["evaluation"]
    lengths = config["lengths"]
    benchmarks = ", ".join(b["name"] for b in measured.get("benchmarks") or ())
    through = "policy benchmarks through lmms-eval" if measured.get("policy_benchmarks") else ""
    facts = {
        "Base": config["base"],
        "Actor": (config.get("actor") or {}).get("model"),
        "Prompts": config["prompts"],
        "Train": tasks(config["train"]),
        "Evaluation": ", ".join(filter(None, (tasks(measured["tasks"]), benchmarks, through))),
        "Tokens at most": ", ".join(f"{name} {number:,}" for name, number in lengths.items()),
        "Seeds": ", ".join(map(str, content["seeds"])),
    }
    lines = [f"* {name}: {escape(shown(value))}" for name, value in facts.items() if value]
    head = ("Stage", "Name", "Method", "Starts from", "Reward", "RL steps", "Learning rate", "KL")
    rows = [
        [
            stage["label"],
            name,
            stage["method"],
            stage["start"],
            reward(stage),
            *("–" if value is None else shown(value) for value in _numbers(stage)),
        ]
        for name, stage in config["stages"].items()
    ]
    return "\n".join(lines) + ("\n\n" + table(head, rows, numbers=3) if rows else "")


def _numbers(stage: Mapping[str, Any]) -> list[Any]:
    return [setting(stage, key) for key in ("rl_steps", "learning_rate", "beta")]


def _where(content: Mapping[str, Any]) -> str:
    commit = str(content["commit"] or "unknown: not a git checkout")
    dirty = bool(content.get("dirty")) or commit.endswith("-dirty")
    versions = {k: v for k, v in content["versions"].items() if k != "device" and v}
    return "\n".join(
        [
            f"* Commit: {escape(commit.removesuffix('-dirty'))}"
            + (", with changes that are in no commit" if dirty else ""),
            f"* Device: {escape(content['versions'].get('device'))}",
            "* Versions: " + ", ".join(f"{escape(name)} {escape(v)}" for name, v in versions.items()),
        ]
    )


def _health(health: Mapping[str, Any], *, whole: bool) -> str:
    findings, checked = health["findings"], health["checked"]
    outside = [f for f in findings if f["outside"]]
    if not checked:
        return "No training by RL was logged."
    lines = [
        f"{len(outside)} of {checked} metrics are outside of what is healthy. Compared is the mean over the first "
        "tenth of the RL steps with that over the last; a rise or fall counts if it is above two standard errors."
    ]
    alike: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for f in outside:
        alike.setdefault(tuple(f[key] for key in ("stage", "metric", "healthy", "outside")), []).append(f)
    rows = []
    for (stage, metric, healthy, reason), of in alike.items():
        last = sorted(f["last"] for f in of)
        ends = dict.fromkeys(_number(value) for value in (last[0], last[-1]))
        rows.append(
            [stage, metric, ", ".join(str(f["seed"]) for f in of), " to ".join(ends), healthy, reason]
        )
    if rows:
        lines.append(table(("Stage", "Metric", "Seeds", "Last", "Healthy", "Outside"), rows))
    for stage in dict.fromkeys(f["stage"] for f in findings) if whole else ():
        of_stage = [f for f in findings if f["stage"] == stage]
        seeds = list(dict.fromkeys(f["seed"] for f in of_stage))
        rows = []
        for metric in dict.fromkeys(f["metric"] for f in of_stage):
            by_seed = {f["seed"]: f for f in of_stage if f["metric"] == metric}
            cells = [_course(by_seed[s]) if s in by_seed else "–" for s in seeds]
            wrong = [str(s) for s, f in by_seed.items() if f["outside"]]
            state = f"outside (seed {', '.join(wrong)})" if wrong else "healthy"
            rows.append([metric, *cells, next(iter(by_seed.values()))["healthy"], state])
        head = ("Metric", *(f"Seed {s}" for s in seeds), "Healthy", "State")
        lines.append(f"### {escape(stage)}\n\n" + table(head, rows))
    return "\n\n".join(lines)


def _cost(costs: Sequence[Mapping[str, Any]]) -> str:
    def cells(cost: Mapping[str, Any]) -> list[str]:
        tokens = ["–" if cost[k] is None else f"{cost[k]:,}" for k in ("trained", "generated")]
        flops = "–" if cost["flops"] is None else f"{cost['flops']:.2e}"
        return [*tokens, flops, "–" if cost["hours"] is None else f"{cost['hours']:.2f}"]

    rows = [[cost["part"], cost["kind"], cost["steps"], *cells(cost)] for cost in costs]
    numbers = ("trained", "generated", "flops", "hours")
    known = {key: [cost[key] for cost in costs if cost[key] is not None] for key in numbers}
    total = {key: sum(values) if values else None for key, values in known.items()}
    rows.append(["All that was recorded", "", sum(cost["steps"] for cost in costs), *cells(total)])
    head = ("Part", "Kind", "Steps", "Tokens trained", "Tokens generated", "FLOPs", "Hours")
    return table(head, rows, numbers=5) + "\n\n" + HOW


def _differences(config: Mapping[str, Any]) -> str:
    path = paper_config(config)
    if path is None:
        return ""  # an installed package has no configuration of the paper
    where = f"`experiments/configs/{path.name}`"
    found = differences_from(path, config)
    if not found:
        return f"None: every setting is that of {where}."
    rows = []
    for d in found:
        every = d.stages and len(d.stages) == len(config["stages"])
        of = "every stage" if every else ", ".join(d.stages) or "the run"
        rows.append([d.setting, of, d.paper, d.ours])
    return (
        f"Compared with {where}, where each value has its source: the paper, its released code, or a gap that was "
        "filled in. Settings that change no result are left out.\n\n"
        + table(("Setting", "Of", path.stem, "Here"), rows)
    )


def _course(finding: Mapping[str, Any]) -> str:
    """From where to where, in one unbroken cell."""
    return f"{_number(finding['first'])}\u00a0→\u00a0{_number(finding['last'])}"


def _number(value: float) -> str:
    return f"{value:.3g}"


# -- HTML -------------------------------------------------------------------------------------------------

PAGE = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark;
  --text: #1c1e21; --soft: #5b6168; --line: #d6d9dd; --back: #fff; --block: #f4f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e6e8; --soft: #a3a9b0; --line: #3c4147; --back: #16181a; --block: #212427; }
}
body { margin: 0 auto; padding: 1.5rem; max-width: 75rem; color: var(--text); background: var(--back);
  font: 1rem/1.5 system-ui, sans-serif; }
h2 { margin-top: 2.5rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
a { color: inherit; }
img { max-width: 100%; height: auto; background: #fff; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
pre { overflow-x: auto; padding: .8rem; background: var(--block); white-space: pre-wrap; overflow-wrap: anywhere; }
code { background: var(--block); overflow-wrap: anywhere; }
summary { cursor: pointer; }
</style>
</head>
<body>
<nav aria-label="Sections">{% for name, id in headings %}<a href="#{{ id }}">{{ name }}</a>{% endfor %}</nav>
<main>
{{ body }}
</main>
</body>
</html>
""",
    autoescape=True,
)


def html(markdown: str, title: str, pictures: Mapping[str, bytes]) -> str:
    """A Markdown page as one HTML file that needs no other.

    Args:
        markdown: The page.
        title: Of the window.
        pictures: PNG files that the page shows, by the name it calls them; any other picture is left out.
    """
    parser = MarkdownIt("js-default", {"html": False, "linkify": False})  # raw HTML is shown as text
    parser.add_render_rule("table_open", lambda *_: '<div class="table"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = parser.parse(markdown)
    headings = list[tuple[str, str]]()
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            token.attrSet("id", f"section-{len(headings) + 1}")
            headings.append((_text(inline), f"section-{len(headings) + 1}"))
    for token in tokens:
        for child in token.children or ():
            if child.type == "text":  # an interval stays in one line
                child.content = re.sub(r"(?<=\d) (±|to) (?=\d)", "\u00a0\\1\u00a0", child.content)
            if child.type == "image":
                picture = pictures.get(str(child.attrGet("src")))
                data = "" if picture is None else base64.b64encode(picture).decode()
                child.attrSet("src", f"data:image/png;base64,{data}")
    folded: list[Token] = []
    for token in tokens:
        if token.type == "fence" and token.info == "yaml":  # long, and seldom read
            token = _folded(token, parser)
        folded.append(token)
    body = Markup(parser.renderer.render(folded, parser.options, {}))  # the parser escapes
    return PAGE.render(title=title, headings=headings, body=body)


def _folded(token: Token, parser: MarkdownIt) -> Token:
    """A block behind a line that opens it."""
    block = parser.renderer.render([token], parser.options, {})
    return Token(
        "html_block", "", 0, content=f"<details><summary>Show all settings</summary>\n{block}</details>\n"
    )


def _text(inline: Token) -> str:
    return "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline"))


def write_pages(markdown: str, title: str, stem: Path, pictures: Sequence[Path] = ()) -> None:
    """Write a page as `STEM.md` and `STEM.html`.

    Args:
        markdown: The page.
        title: Of the HTML file's window.
        stem: Path without ending.
        pictures: PNG files beside it that it shows.
    """
    write(stem.with_name(stem.name + ".md"), markdown)
    shown_there = {path.name: path.read_bytes() for path in pictures}
    write(stem.with_name(stem.name + ".html"), html(markdown, title, shown_there))
