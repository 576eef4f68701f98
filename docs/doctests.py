"""Shows the doctests of docstrings as code; without it Markdown takes `>>>` for a quotation in a quotation."""

from __future__ import annotations

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"^>>> .+(?:\n(?=\S).+)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Puts each doctest of a docstring into a fence."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring:
            obj.docstring.value = _DOCTEST.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
