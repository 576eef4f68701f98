"""Images, and models that take images: how an image is opened and how such a model is loaded.

May import `types` and `moved`. The names of `vision.models` are here as well.
"""

from typing import Any

from critique_rl.moved import find


def __getattr__(name: str) -> Any:
    return find(name, __name__, ["vision.models"])
