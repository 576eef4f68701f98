"""Former module paths: `import critique_rl.trainer` goes on to work after its names have moved.

Published model cards, notebooks, users' code and pickled `training_args.bin` name these paths. Each of them stands
for one module, or for several that are searched in order. New code imports the new paths.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

FORMER: dict[str, tuple[str, ...]] = {
    "arms": ("methods.arms",),
    "artifacts": ("records",),
    "audit": ("evaluation.audit",),
    "baselines": ("methods",),
    "callbacks": ("training.callbacks",),
    "citations": ("training.citations",),
    "images": ("vision.images",),
    "localisation": ("evaluation.localisation",),
    "measures": ("evaluation.scaling",),
    "metrics": ("evaluation.metrics",),
    "model_card": ("reports.model_card",),
    "notebook": ("studies.notebook",),
    "objectives": ("training.objectives",),
    "pair_evaluation": ("benchmarks.pairs",),
    "pairwise": ("training.pairwise",),
    "pipeline": (
        *("runs.run", "runs.folder", "runs.step", "runs.problems", "runs.protocol"),
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
    "reward_benchmarks": ("benchmarks", "critic_data.benchmarks"),
    "scaling": ("evaluation.scaling", "evaluation.intervals"),
    "scoring": ("grading.scoring", "actors.reward_model"),
    "stages": ("training.stages", "training.stage_config", "training.critique_reward"),
    "standalone": ("cli.evaluate", "cli.audit"),
    "study": ("studies.study", "studies.execute", "studies.script", "studies.write"),
    "tables": ("studies.tables", "studies.paper", "studies.results", "studies.charts", "studies.claims"),
    "teachers": ("cold_start.teachers", "tasks.scripted"),
    "tiny": ("cold_start.tiny", "cold_start.byte_tokenizer"),
    "tiny_vl": ("cold_start.tiny_vl",),
    "trainer": ("training.trainer", "training.config", "training.checkpoints", "training.images"),
    "value_model": ("training.value_model",),
}
"""Former name -> modules that hold its names now, both below `critique_rl`."""


def find(name: str, package: str, homes: Iterable[str]) -> Any:
    """Look up a name in several modules, in order; for a package's `__getattr__`.

    Args:
        name: The name.
        package: Module that it is asked of, for the message.
        homes: Modules below `critique_rl`.

    Raises:
        AttributeError: None of them has it.
    """
    if not name.startswith("__"):
        for home in homes:
            if f"critique_rl.{home}" != f"{package}.{name}":  # a submodule that is being imported
                module = importlib.import_module(f"critique_rl.{home}")
                if hasattr(module, name):
                    return getattr(module, name)
    raise AttributeError(f"module '{package}' has no attribute '{name}'")


class _FormerModule(ModuleType):
    """A former path whose names live in several modules now."""

    __homes__: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        return find(name, self.__name__, self.__homes__)


class _FormerLoader(Loader):
    """Makes a former path: the new module itself where there is one, else a module that searches several."""

    def __init__(self, homes: tuple[str, ...]) -> None:
        self.homes = homes

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = _FormerModule(spec.name, f"Former path of {', '.join(self.homes)}.")
        module.__homes__ = self.homes
        return module

    def exec_module(self, module: ModuleType) -> None:
        if len(self.homes) == 1:
            sys.modules[module.__name__] = importlib.import_module(f"critique_rl.{self.homes[0]}")

    def get_code(self, name: str) -> Any:
        """Code of the first new module, for `python -m`."""
        spec = importlib.util.find_spec(f"critique_rl.{self.homes[0]}")
        assert spec is not None
        return spec.loader.get_code(spec.name)  # type: ignore[union-attr]


class FormerPaths(MetaPathFinder):
    """Finds former paths; no module of such a name exists any more."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Spec of a former path; None for any other name."""
        package, _, former = name.partition(".")
        if package != "critique_rl" or former not in FORMER:
            return None
        return ModuleSpec(name, _FormerLoader(FORMER[former]))
