"""Settings of a run: one typed dataclass a concern, read from YAML and checked before any work.

Nothing here touches the network or a model. May import tasks, prompts and types."""

from typing import Any

from critique_rl.moved import find

_HOMES = (
    *("config.run", "config.data", "config.cold_start", "config.training", "config.evaluation"),
    *("config.methods", "config.reading", "config.extensions", "config.checks"),
)


def __getattr__(name: str) -> Any:
    return find(name, __name__, _HOMES)
