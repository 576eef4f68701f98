"""Methods that train: Critique-RL, and those that it is compared with, each a module with `check` and `train`.

All start from the same critic (or actor), with the same data and budget. docs/baselines.md says what the paper
states of each baseline, and what is inferred. `critique_rl.config.methods` has the facts that need no import.

May import cold start, training, evaluation, configuration and what is below them; no run or report.

>>> sorted(METHODS)[:4]
['actor_rl', 'critic_cot', 'critique_rl', 'label_sft']
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from critique_rl.config.methods import METHODS as INFO
from critique_rl.methods.base import Inputs, Rollout
from critique_rl.types import UserError, nearest

__all__ = ["BASELINES", "METHODS", "Inputs", "Method", "PlannedMethod", "Rollout", "baseline", "method"]


class Method(Protocol):
    """A method: a module, or an object, with these two functions."""

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse unknown and invalid options; cheap, called before any work.

        Raises:
            UserError: The message names the option and says what to do.
        """
        ...

    def train(self, inputs: Inputs) -> None:
        """Train and write model and tokenizer to `inputs.output`; called again, go on where possible."""
        ...


@runtime_checkable
class PlannedMethod(Method, Protocol):
    """A method that also says, without loading a model, how it would train."""

    def arguments(self, inputs: Inputs, **overrides: Any) -> Any:
        """The trainer's configuration; `overrides` win over the options of the stage.

        Raises:
            UserError: An option is unknown, invalid or has no effect here.
        """
        ...

    def rollout(self, args: Any) -> Rollout:
        """One RL step with this configuration, in words and tokens, for a plan."""
        ...


class _Registry(Mapping[str, Method]):
    """Methods by name; the module of a method is imported when the method is looked up."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __getitem__(self, name: str) -> Method:
        if name not in self.names:
            raise KeyError(name)
        info = INFO[name]
        module: Any = importlib.import_module(f"{__name__}.{info.module}")
        return module if info.attribute is None else getattr(module, info.attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


METHODS: Mapping[str, Method] = _Registry(*INFO)
"""All methods by name, as `method` of a stage has it."""
BASELINES: Mapping[str, Method] = _Registry(*(name for name in INFO if name != "critique_rl"))
"""The methods that Critique-RL is compared with."""


def method(name: str) -> Method:
    """Look up a method.

    Raises:
        UserError: No method has that name.
    """
    if name not in INFO:
        raise UserError(f"no method '{name}'. {nearest(name, INFO)}")
    return METHODS[name]


baseline = method
