"""Settings of a run: one typed dataclass a concern, read from YAML and checked before any work.

Nothing here touches the network or a model. May import tasks, prompts and types."""

from typing import Any

from critique_rl.moved import find


def __getattr__(name: str) -> Any:
    parts = ("run", "data", "cold_start", "training", "evaluation", "methods", "reading", "extensions")
    return find(name, __name__, [f"config.{part}" for part in (*parts, "checks")])
