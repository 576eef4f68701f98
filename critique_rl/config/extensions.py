"""TODO docstring."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import typing
from pathlib import Path

from critique_rl.types import UserError


def import_extensions(extensions: typing.Sequence[str]) -> None:
    """Import files and modules that add to the registries, each once in a process.

    Raises:
        UserError: There is none of that name. What goes wrong inside of one is raised as it is.
    """
    for given in extensions:
        if not given.endswith(".py"):
            if importlib.util.find_spec(given.partition(".")[0]) is None:
                raise UserError(f"extensions: no module '{given}' is installed; a file ends in .py.")
            importlib.import_module(given)
            continue
        path = Path(given).resolve()
        name = f"critique_rl_extension_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise UserError(f"extensions: no file at {given}.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]  # so that the next import fails as well, and not later
            raise
