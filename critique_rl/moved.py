"""Former module paths: `import critique_rl.trainer` still works after its names have moved.

Published model cards, notebooks, users' code and pickled `training_args.bin` name these paths. A former path
stands for one new module, or for several that are searched in order. New code imports the new paths.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

FORMER: dict[str, tuple[str, ...]] = {
    "arms": ("methods.arms",),
    "artifacts": ("records",),
    "audit": ("evaluation.audit",),
    "baselines": ("methods",),
    "baselines.actor_rl": ("methods.actor_rl", "methods.rl"),
    "callbacks": ("training.callbacks",),
    "citations": ("training.citations",),
    "images": ("vision.images",),
    "localisation": ("evaluation.localisation",),
    "measures": ("evaluation.scaling", "studies.study"),
    "metrics": ("evaluation.metrics",),
    "model_card": ("reports.model_card",),
    "notebook": ("studies.notebook",),
    "objectives": ("training.objectives",),
    "pair_evaluation": ("benchmarks.pairs",),
    "pairwise": ("training.pairwise",),
    "pipeline": (
        *("runs.run", "runs.folder", "runs.step", "runs.problems"),
        "training.checkpoints",
    ),
    "plan": ("runs.dry_run", "runs.sizes"),
    "policy_benchmarks": (  # the first is the program of `python -m critique_rl.policy_benchmarks`
        *("benchmarks.policy_boxes", "benchmarks.policy"),
        *("benchmarks.policy_catalogue", "benchmarks.policy_results"),
    ),
    "preflight": ("runs.preflight", "runs.steps.cold_start"),
    "recorded": ("evaluation.recorded",),
    "report": (
        *("reports.report", "reports.results", "reports.markdown", "reports.columns"),
        *("reports.curves", "reports.provenance", "markdown"),
        *("evaluation.summary", "evaluation.intervals", "records"),
    ),
    "reports.metrics": ("training.metrics",),
    "reward_benchmarks": ("benchmarks", "critic_data.benchmarks"),
    "reward_benchmarks.judging": ("benchmarks.judging",),
    "reward_benchmarks.lenient": ("benchmarks.lenient",),
    "reward_benchmarks.load": ("critic_data.benchmarks",),
    "reward_benchmarks.measures": ("benchmarks.reward_measures",),
    "scaling": ("evaluation.scaling", "evaluation.intervals"),
    "scoring": ("grading.scoring", "actors.reward_model"),
    "self_critique.command": ("cli.self_critique",),
    "stages": ("training.stages", "training.stage_config", "training.critique_reward"),
    "standalone": ("cli.evaluate", "cli.audit", "cli.shared"),
    "study": ("studies.study", "studies.execute", "studies.script", "studies.write"),
    "tables": (
        *("studies.tables", "studies.paper", "studies.results"),
        *("studies.charts", "studies.claims", "reports.columns"),
    ),
    "teachers": ("cold_start.teachers", "tasks.scripted"),
    "tiny": ("cold_start.tiny", "cold_start.from_scratch"),
    "tiny_vl": ("cold_start.tiny_vl",),
    "trainer": ("training.trainer", "training.config", "training.checkpoints", "training.images"),
    "value_model": ("training.value_model",),
    "view.command": ("cli.view",),
}
"""Former name -> modules that have its names now, both below `critique_rl`."""


def find(name: str, package: str, homes: Iterable[str]) -> Any:
    """Look up a name in several modules, in order; for the `__getattr__` of a package.

    Args:
        name: The name.
        package: Module that lacks the name, for the message.
        homes: Modules to search, below `critique_rl`.

    Raises:
        AttributeError: No module has the name.
    """
    if not name.startswith("__"):
        for home in homes:
            if f"critique_rl.{home}" != f"{package}.{name}":  # a submodule that is being imported
                module = importlib.import_module(f"critique_rl.{home}")
                if hasattr(module, name):
                    return getattr(module, name)
    raise AttributeError(f"module '{package}' has no attribute '{name}'")


def _homes(name: str) -> tuple[str, ...]:
    """New modules of a former path; a submodule of a former package is looked up where the package is now."""
    root, _, former = name.partition(".")
    if root != "critique_rl":
        return ()
    if former in FORMER:
        return FORMER[former]
    package, _, rest = former.partition(".")
    places = [f"{home}.{rest}" for home in FORMER.get(package, ()) if len(FORMER[package]) == 1]
    return tuple(place for place in places if importlib.util.find_spec(f"critique_rl.{place}") is not None)


class FormerPaths(MetaPathFinder, Loader):
    """Imports former paths, which exist as files no more."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Spec of a former path; None for any other name."""
        homes = _homes(name)
        is_package = len(homes) == 1 or any(
            f"critique_rl.{former}".startswith(f"{name}.") for former in FORMER
        )
        return ModuleSpec(name, self, is_package=is_package) if homes else None

    def exec_module(self, module: ModuleType) -> None:
        """Replace a former path by its new module, or let it search its new modules."""
        name = module.__name__
        homes = _homes(name)
        if len(homes) == 1:
            sys.modules[name] = importlib.import_module(f"critique_rl.{homes[0]}")
        else:
            module.__getattr__ = partial(find, package=name, homes=homes)  # type: ignore[method-assign]

    def get_code(self, name: str) -> Any:
        """Code of the first new module, for `python -m`."""
        spec = importlib.util.find_spec(f"critique_rl.{_homes(name)[0]}")
        assert spec is not None
        return spec.loader.get_code(spec.name)  # type: ignore[union-attr]
