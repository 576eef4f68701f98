"""Models that write, in this process or behind a server, and reward models that score.

May import grading and the layers below it. Backends are imported on first use: torch and openai take seconds that
`--help` should not take.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from critique_rl.actors.base import Actor, ActorError
from critique_rl.moved import find
from critique_rl.types import UserError, nearest

if TYPE_CHECKING:
    from critique_rl.actors.openai_actor import OpenAIActor
    from critique_rl.actors.transformers_actor import TransformersActor

__all__ = ["BACKENDS", "Actor", "ActorError", "OpenAIActor", "TransformersActor", "make_actor"]

_HOMES = {"OpenAIActor": "actors.openai_actor", "TransformersActor": "actors.transformers_actor"}

BACKENDS: dict[str, str | Callable[..., Actor]] = {
    "openai": "OpenAIActor",
    "transformers": "TransformersActor",
}
"""Backends by name: a class, or the name of a class of this package. Add one with `BACKENDS["mine"] = Mine`."""


def __getattr__(name: str) -> Any:
    return find(name, __name__, [_HOMES[name]] if name in _HOMES else [])


def make_actor(spec: Mapping[str, Any] | str) -> Actor:
    """Build an actor from a config entry.

    Args:
        spec: A mapping or a string. A mapping has `backend` and the arguments of its class, for instance
            `{"backend": "transformers", "model": path}` or `{"backend": "openai", "base_url": url}`. A string
            is the URL of an `openai` server, or the path or hub id of a `transformers` model.

    Raises:
        UserError: A backend or key is unknown (with a suggestion), or a required key is missing.
        ActorError: The model cannot be loaded, or the server cannot be reached.
    """
    if isinstance(spec, str):
        is_url = spec.startswith(("http://", "https://"))
        spec = (
            {"backend": "openai", "base_url": spec} if is_url else {"backend": "transformers", "model": spec}
        )
    options = dict(spec)
    if "backend" not in options:
        raise UserError(f"actor: 'backend' is missing; it is one of {', '.join(BACKENDS)}")
    backend = options.pop("backend")
    if backend not in BACKENDS:
        raise UserError(f"actor: unknown backend {backend!r}. {nearest(str(backend), BACKENDS)}")
    entry = BACKENDS[backend]
    actor_class: Callable[..., Actor] = __getattr__(entry) if isinstance(entry, str) else entry
    parameters = inspect.signature(actor_class).parameters
    for key in options:
        if key not in parameters:
            raise UserError(f"actor: unknown key {key!r}. {nearest(key, parameters)}")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options:
            raise UserError(f"actor: backend {backend!r} needs {key!r}")
    return actor_class(**options)
