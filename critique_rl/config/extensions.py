"""Import of a user's files and modules that add tasks, prompt sets, rewards or actor backends."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from critique_rl.types import UserError


def import_extensions(extensions: Sequence[str]) -> None:
    """Import files and modules that add to the registries, each once per process.

    Raises:
        UserError: A file or module does not exist. Errors inside an extension are raised unchanged.
    """
    for extension in extensions:
        if not extension.endswith(".py"):
            if importlib.util.find_spec(extension.partition(".")[0]) is None:
                raise UserError(f"extensions: no module '{extension}' is installed; a file ends in .py.")
            importlib.import_module(extension)
            continue
        path = Path(extension).resolve()
        name = f"critique_rl_extension_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise UserError(f"extensions: no file at {extension}.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]  # the next import fails as well
            raise
