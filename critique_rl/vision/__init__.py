"""Images and the models that see: how an image is opened, and how such a model is loaded.

May import types alone."""

from typing import Any

from critique_rl.moved import find

_HOMES = ("vision.models",)


def __getattr__(name: str) -> Any:
    return find(name, __name__, _HOMES)
