"""The frozen actor, in this process or behind a server."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from critique_rl.actors.base import Actor, ActorError
from critique_rl.types import UserError, nearest

if TYPE_CHECKING:
    from critique_rl.actors.openai_actor import OpenAIActor
    from critique_rl.actors.transformers_actor import TransformersActor

__all__ = ["BACKENDS", "Actor", "ActorError", "OpenAIActor", "TransformersActor", "make_actor"]

_MODULES = {
    "OpenAIActor": "critique_rl.actors.openai_actor",
    "TransformersActor": "critique_rl.actors.transformers_actor",
}

BACKENDS: dict[str, str | Callable[..., Actor]] = {
    "openai": "OpenAIActor",
    "transformers": "TransformersActor",
}
"""Backends by name, those of this package by their class's. One's own is put in: `BACKENDS["mine"] = Mine`."""


def __getattr__(name: str) -> Any:
    # Backends are imported when used: torch and openai cost seconds that `--help` should not take.
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def make_actor(spec: Mapping[str, Any] | str) -> Actor:
    """Build an actor from a config entry.

    Args:
        spec: `{"backend": "transformers", "model": path, ...}` or
            `{"backend": "openai", "base_url": url, ...}`, with further arguments of `TransformersActor` or
            `OpenAIActor`, or another of `BACKENDS` with its own; or a string: a URL is an `openai` server,
            anything else the path or hub id of a `transformers` model.

    Raises:
        UserError: Unknown backend or key (with a suggestion), or a missing one.
        ActorError: The model cannot be loaded, or the server not reached.
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
    known = BACKENDS[backend]
    actor_class = __getattr__(known) if isinstance(known, str) else known
    parameters = inspect.signature(actor_class).parameters
    for key in options:
        if key not in parameters:
            raise UserError(f"actor: unknown key {key!r}. {nearest(key, parameters)}")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options:
            raise UserError(f"actor: backend {backend!r} needs {key!r}")
    actor: Actor = actor_class(**options)
    return actor
