"""The frozen actor, in this process or behind a server."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from critique_rl.actors.base import Actor, ActorError
from critique_rl.types import UserError, nearest

if TYPE_CHECKING:
    from critique_rl.actors.openai_actor import OpenAIActor
    from critique_rl.actors.transformers_actor import TransformersActor

__all__ = ["Actor", "ActorError", "OpenAIActor", "TransformersActor", "make_actor"]

_BACKENDS = {
    "openai": ("critique_rl.actors.openai_actor", "OpenAIActor"),
    "transformers": ("critique_rl.actors.transformers_actor", "TransformersActor"),
}


def __getattr__(name: str) -> Any:
    # Backends are imported when used: torch and openai cost seconds that `--help` should not take.
    for module, class_name in _BACKENDS.values():
        if name == class_name:
            return getattr(import_module(module), class_name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def make_actor(spec: Mapping[str, Any] | str) -> Actor:
    """Build an actor from a config entry.

    Args:
        spec: `{"backend": "transformers", "model": path, ...}` or
            `{"backend": "openai", "base_url": url, ...}`, with further arguments of `TransformersActor` or
            `OpenAIActor`; or a string: a URL is an `openai` server, anything else the path or hub id of a
            `transformers` model.

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
        raise UserError(f"actor: 'backend' is missing; it is one of {', '.join(_BACKENDS)}")
    backend = options.pop("backend")
    if backend not in _BACKENDS:
        raise UserError(f"actor: unknown backend {backend!r}. {nearest(str(backend), _BACKENDS)}")
    module, class_name = _BACKENDS[backend]
    actor_class = getattr(import_module(module), class_name)
    parameters = inspect.signature(actor_class).parameters
    for key in options:
        if key not in parameters:
            raise UserError(f"actor: unknown key {key!r}. {nearest(key, parameters)}")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options:
            raise UserError(f"actor: backend {backend!r} needs {key!r}")
    actor: Actor = actor_class(**options)
    return actor
