"""The documentation: it is built without a warning, its examples run, and what it says of the code is so."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import griffe
import pytest
from datasets import Dataset
from helpers import ROOT
from trl import GRPOConfig

import critique_rl
from critique_rl import PairwiseCriticConfig, Stage1Config, Stage2Config, config
from critique_rl.actors import TransformersActor
from critique_rl.benchmarks.reward_measures import METRICS
from critique_rl.cli.commands import COMMANDS
from critique_rl.config.evaluation import Course
from critique_rl.config.run import RunConfig, load_config
from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.metrics import metrics
from critique_rl.evaluation.uptake import uptake
from critique_rl.prompts import PROMPT_SETS
from critique_rl.reports.columns import CHOSEN, label
from critique_rl.rewards import REFINEMENT_REWARDS
from critique_rl.self_critique.results import BASELINES
from critique_rl.training.config import CriticConfig
from critique_rl.training.pairwise import PairwiseCriticTrainer
from critique_rl.training.stages import Stage1Trainer, Stage2Trainer

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
Table = list[dict[str, str]]


def text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def fences(page: str, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(text(page)) if name == language]


def tables(page: str) -> list[Table]:
    """Each table of a page as rows by heading."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", FENCE.sub("", text(page)), re.MULTILINE):
        head, _, *rows = (
            [cell.strip() for cell in line.strip()[1:-1].split("|")] for line in block.splitlines()
        )
        found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages; a warning is an error."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.docs
def test_the_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        html = page.read_text(encoding="utf-8")
        tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*", html)
        loaded = [tag for tag in tags if re.search(r"(?:src|href)=\"?(?:https?:)?//", tag)]
        assert not loaded, f"{page.name} loads {loaded}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet


# -- the reference ----------------------------------------------------------------------------------------


@cache
def package() -> griffe.Module:
    return griffe.load("critique_rl", search_paths=[ROOT], docstring_parser="google")  # type: ignore[return-value]


def public(of: griffe.Object) -> Iterator[griffe.Object]:
    """Public modules, classes, functions and methods, as they are defined."""
    for member in of.members.values():
        if isinstance(member, griffe.Alias) or member.name.startswith("_"):
            continue
        if not member.is_attribute:
            yield member
        if member.is_module or member.is_class:
            yield from public(member)


def test_every_public_symbol_is_described() -> None:
    """A method may leave that to the method of a base class that it fills in."""

    def inherits(member: griffe.Object) -> bool:
        bases = member.parent.mro() if isinstance(member.parent, griffe.Class) else []
        return any(member.name in base.members and base.members[member.name].docstring for base in bases)

    assert [m.path for m in public(package()) if not (m.docstring or inherits(m))] == []


def described(cls: type) -> set[str]:
    """Fields and parameters that the docstrings of a class and of its bases explain."""
    sections = (
        section
        for part in cls.__mro__
        for section in griffe.Docstring(part.__doc__ or "", parser="google").parse(warnings=False)
    )
    kinds = (griffe.DocstringSectionKind.attributes, griffe.DocstringSectionKind.parameters)
    return {item.name for section in sections if section.kind in kinds for item in section.value}


def test_every_field_of_a_public_dataclass_is_described() -> None:
    """In the docstring, or, as an option of a trainer, in the help of the field."""
    classes = {m.path: m for m in public(package()) if isinstance(m, griffe.Class)}
    open_fields = []
    for path, found in classes.items():
        cls = getattr(importlib.import_module(found.module.path), found.name)
        if dataclasses.is_dataclass(cls):
            own = [f for f in dataclasses.fields(cls) if f.name in vars(cls).get("__annotations__", {})]
            known = described(cls)
            open_fields += [
                f"{path}.{f.name}"
                for f in own
                if not (f.name in known or f.name.startswith("_") or "help" in f.metadata)
            ]
    assert len(classes) > 50
    assert open_fields == []


@pytest.mark.docs
def test_every_public_symbol_is_in_the_reference(site: Path) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html"))
    shown = set(re.findall(r"id=\"?(critique_rl[\w.]*)", pages))
    described = [m.path for m in public(package()) if m.docstring]
    assert [path for path in described if path not in shown] == [], "add it to docs/reference"


def with_examples() -> list[str]:
    files = {
        m.name: importlib.util.find_spec(m.name)
        for m in pkgutil.walk_packages(critique_rl.__path__, "critique_rl.")
    }
    return [
        name for name, spec in files.items() if spec and ">>> " in Path(str(spec.origin)).read_text("utf-8")
    ]


@pytest.mark.parametrize("name", with_examples())
def test_the_examples_of_docstrings_hold(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed


# -- the examples -------------------------------------------------------------------------------------------


@pytest.fixture
def registries() -> Iterator[None]:
    """What an example adds is taken away again."""
    kept = [(registry, dict(registry)) for registry in (PROMPT_SETS, REFINEMENT_REWARDS)]
    yield
    for registry, content in kept:
        registry.clear()
        registry.update(content)


EXAMPLES = [page for page in (str(p.relative_to(DOCS)) for p in PAGES) if fences(page, "python")]


@pytest.mark.docs
@pytest.mark.parametrize("page", EXAMPLES)
def test_the_examples_of_a_page_run_one_after_the_other(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registries: None
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(fences(page, "python")), page, "exec"), {"__name__": "example"})


def test_there_is_an_example_of_each_extension_and_of_the_trainers() -> None:
    assert {
        "tutorials/own-code.md",
        *(f"extend/{n}.md" for n in ("data", "rewards", "prompts", "actors")),
    } <= {*EXAMPLES}


def test_the_smallest_configuration_is_one(tmp_path: Path) -> None:
    (example,) = fences("configuration.md", "yaml")
    (tmp_path / "mine.yaml").write_text(example, encoding="utf-8")
    assert load_config(tmp_path / "mine.yaml").stages["stage2"].start == "stage1"


@pytest.mark.docs
@pytest.mark.parametrize("page", [str(p.relative_to(DOCS)) for p in PAGES])
def test_files_and_commands_that_a_page_names_are_there(page: str) -> None:
    content = text(page)
    for named in re.findall(r"(?<![\w/])((?:experiments|critique_rl|docs|tests)/[\w./-]+\.\w+)", content):
        made_by_the_reader = named == "critique_rl/tasks/shopping.py"
        assert made_by_the_reader or (ROOT / named).exists(), named
    for command in re.findall(r"critique-rl ([a-z][\w-]*)", content):
        assert command in COMMANDS, command
    for name, option in re.findall(r"critique-rl ([a-z-]+)[^`\n]* (--[a-z-]+)", content):
        assert option in help_of(name), (name, option)


@cache
def help_of(command: str) -> str:
    shown = subprocess.run(
        [sys.executable, "-m", "critique_rl.cli", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    return shown.stdout


# -- tables that follow from the code ---------------------------------------------------------------------------


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("docs_tables", DOCS / "tables.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", generator().PAGES)
def test_generated_tables_are_up_to_date(page: str) -> None:
    assert text(page) == generator().filled(text(page)), "run `python docs/tables.py`"


def test_every_setting_has_a_row() -> None:
    made = generator()
    classes = [cls for cls, _ in made.sections(RunConfig)]
    names = [module.name for module in pkgutil.iter_modules(config.__path__, f"{config.__name__}.")]
    here = {c for name in names for c in vars(importlib.import_module(name)).values() if isinstance(c, type)}
    here = {c for c in here if dataclasses.is_dataclass(c) and c.__module__ in names} - {Course}
    assert set(classes) == here and len(classes) == len(here)
    for cls, found in zip(classes, tables("configuration.md"), strict=True):
        assert [quoted(row["key"])[0] for row in found] == [f.name for f in dataclasses.fields(cls)]
        assert all(row["meaning"] for row in found)


def defaults(cls: type) -> dict[str, Any]:
    made = {f.name: f.default for f in dataclasses.fields(cls)}
    return {name: None if value is dataclasses.MISSING else value for name, value in made.items()}


OPTIONS = {
    "trainers/common.md": Stage1Config,
    "trainers/ppo.md": Stage1Config,
    "trainers/stage1.md": Stage1Config,
    "trainers/stage2.md": Stage2Config,
    "trainers/pairwise.md": PairwiseCriticConfig,
}
"""Whose defaults the tables of a page show."""


@pytest.mark.parametrize("page", OPTIONS)
def test_options_stand_with_their_defaults_and_sources(page: str) -> None:
    ours, trl, others = defaults(OPTIONS[page]), defaults(GRPOConfig), defaults(CriticConfig)
    for row in (row for table in tables(page) for row in table if "option" in row):
        name = quoted(row["option"])[0]
        shown = ast.literal_eval(quoted(row.get("default") or row["here"])[0])
        assert (shown, type(shown)) == (ours[name], type(ours[name])), name
        assert row["source"] and row.get("meaning", "none in a table of changed defaults"), name
        for heading, theirs in (("trl", trl), ("other trainers", others)):
            if heading in row:
                assert ast.literal_eval(quoted(row[heading])[0]) == theirs[name] != shown, name


@pytest.mark.parametrize(
    ("cls", "pages"),
    [
        (Stage1Config, ("common", "ppo", "stage1", "stage2")),
        (Stage2Config, ("common", "ppo", "stage1", "stage2")),
        (PairwiseCriticConfig, ("common", "ppo", "pairwise")),
    ],
)
def test_every_option_of_ours_and_every_changed_default_is_on_a_page(
    cls: type, pages: tuple[str, ...]
) -> None:
    trl, ours = defaults(GRPOConfig), defaults(cls)
    changed = {name for name, value in ours.items() if name not in trl or trl[name] != value}
    changed |= {name for name, value in defaults(CriticConfig).items() if ours[name] != value}
    named = {
        quoted(row["option"])[0]
        for page in pages
        for table in tables(f"trainers/{page}.md")
        for row in table
        if "option" in row
    }
    assert changed <= named
    assert named <= {*ours}


# -- metrics ------------------------------------------------------------------------------------------------


def logged_by_the_code() -> set[str]:
    """Names of metrics in calls of the trainers, with the names that a placeholder stands for."""
    names: set[str] = set()
    for module in (
        path for room in ("training", "methods") for path in (ROOT / "critique_rl" / room).glob("*.py")
    ):
        for call in re.findall(
            r"(?:log_metric(?:\"\])?|_record|\.record)\(([^,]+),", module.read_text(encoding="utf-8")
        ):
            names |= set(re.findall(r"\"([\w/]+)\"", call))
    assert "kl" in names and "value/loss" in names and "actor/acc_refine" in names
    return names | {f"reward/{name}" for name in REFINEMENT_REWARDS}


@pytest.mark.docs
def test_every_metric_of_training_is_explained(
    critic_dir: Path, actor_dir: Path, pool: Dataset, config: Callable[..., Any]
) -> None:
    """`config` is the fixture of tiny configurations."""
    rows = pool.select(range(16))
    pairs = Dataset.from_list(
        [
            {"question": r["question"], "response_1": r["response"], "response_2": "7", "label": 1 + i % 2}
            for i, r in enumerate(rows)
        ]
    )
    value_model = {"advantage": "gae", "refinement_max_tokens": 20}
    trainers = (
        Stage1Trainer(critic_dir, args=config(Stage1Config), train_dataset=rows),
        Stage2Trainer(
            critic_dir,
            TransformersActor(actor_dir),
            config(Stage2Config, **value_model),
            train_dataset=rows,
        ),
        PairwiseCriticTrainer(
            critic_dir,
            config(PairwiseCriticConfig, num_generations=4, max_completion_length=8),
            train_dataset=pairs,
        ),
    )
    logged = set()
    for trainer in trainers:
        trainer.train()
        logged |= {name for entry in trainer.state.log_history for name in entry}
    training = text("metrics.md").split("## In evaluation")[0]
    explained = set(quoted(training)) - {"report_to", "kl_estimator", "advantage: gae"}
    assert logged | logged_by_the_code() <= explained
    ours = {
        name for name in explained if name.startswith(("critic/", "actor/", "reward/", "value/", "tokens/"))
    }
    assert ours <= logged | logged_by_the_code()


def test_every_metric_of_evaluation_is_explained() -> None:
    graded = Episode("i", "d", "q", "1", "number", "y", True, "c", "correct", "z", True, 7)
    graded = dataclasses.replace(graded, response_cut=False, critique_cut=False, refinement_cut=False)
    scored = dataclasses.replace(graded, kind="score", response_score=1.0, refinement_score=2.0)
    made = {*metrics([graded]), *metrics([scored]), *(f"critic_{name}" for name in METRICS)}
    made |= {f"{name}_at_K" for name in (*BASELINES, "self_critique")}
    made |= {name for name in uptake([graded]) if not name.startswith("n_")}
    rows = [row for table in tables("metrics.md") for row in table if "healthy" not in row]
    explained = {name for row in rows for name in quoted(row["metric"])}
    for row in rows:
        headings = [re.sub(r"@[KR]$", "", heading) for heading in row["heading"].split(", ")]
        names = [name.removesuffix("_K").removesuffix("_R") for name in quoted(row["metric"])]
        expected = [re.sub(r"@K$", "", heading) for name in names for heading in label(name).split(", ")]
        assert headings == expected, row
    assert {f"{name}_at_4": f"{heading}@4" for name, heading in CHOSEN.items()} == {
        f"{name}_at_4": label(f"{name}_at_4") for name in CHOSEN
    }
    assert made <= explained
    steps = {"refinement_at_R", "first_error_acc", "flagged_early", "flagged_late", "not_flagged"}
    assert explained - made == steps | {"right_unflagged", "consistent_rate"}


# -- equations and messages -----------------------------------------------------------------------------------


def names_in(file: str) -> set[str]:
    found: set[str] = set()
    for node in ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8")).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        found |= {prefix + n.name for n in inside if isinstance(n, ast.FunctionDef)}
    return found


def test_each_function_and_test_beside_an_equation_exists() -> None:
    rows = [row for table in tables("equations.md") for row in table]
    assert len(rows) > 30
    for row in rows:
        module, name = quoted(row["function"])[0].rsplit(".", 1)
        function = getattr(importlib.import_module(f"critique_rl.{module}"), name)
        assert callable(function) and function.__module__ == f"critique_rl.{module}", row
        file, _, test = quoted(row["test"])[0].partition("::")
        assert test in names_in(file), row


@cache
def words_of_the_code() -> str:
    """All texts in the package, with `…` for what is filled in."""
    said = []
    for file in (ROOT / "critique_rl").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)
                said.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
    return "\n".join(" ".join(s.split()) for s in said)


@pytest.mark.parametrize("message", fences("troubleshooting.md", "text"))
def test_each_quoted_message_is_one_of_the_code(message: str) -> None:
    pieces = [piece.strip() for piece in message.split("…")]
    assert max(map(len, pieces)) >= 12, "too little is fixed to find it"
    for piece in pieces:
        assert piece in words_of_the_code(), piece
