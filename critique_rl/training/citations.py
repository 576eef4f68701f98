"""Publications to cite for the methods of this package, from `citations.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import yaml


@dataclass(frozen=True)
class Publication:
    """A publication.

    Attributes:
        name: Name of the method.
        title: Title of the publication.
        id: arXiv identifier; empty if there is none.
        citation: BibTeX entry.
    """

    name: str
    title: str
    id: str
    citation: str

    @property
    def for_trl(self) -> dict[str, str]:
        """Fields that trl's trainers take for the model cards that they write."""
        return {"title": self.title, "id": self.id, "citation": self.citation}


CRITIQUE_RL, LLAVA_CRITIC_R1, TRL = (
    Publication(**entry)
    for entry in yaml.safe_load((files(__package__) / "citations.yaml").read_text("utf-8"))
)
