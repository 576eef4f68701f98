"""One colour for each method in every picture: curves, charts, notebooks and the viewer."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle

PALETTE = ("#0a58b0", "#b34700", "#13622c", "#7a2fa0", "#a1180f", "#00676b", "#6b5300", "#57606a")
"""Colours of `--c0` to `--c7` in the viewer's page.css, which has lighter ones for a dark screen."""
FIXED = {
    "Stage I": 0,
    **dict.fromkeys(("Stage I+II", "Critique-RL", "LLaVA-Critic-R1", "Critic RL"), 1),
    "CTRL": 2,
    "Retroformer": 3,
    **dict.fromkeys(("Directly RL", "Policy RL"), 4),
    "LLaVA-Critic-R1+": 5,
    "SFT critic": 6,
    **dict.fromkeys(("No critic", "Base"), 7),
}
"""Place in the palette by label of a method."""


def places(labels: Iterable[str]) -> dict[str, int]:
    """Place in the palette of each label.

    Known methods keep their place; the others get the unused places in order, then all places again.

    >>> places(["Stage I", "mine", "Critique-RL", "yours"])
    {'Stage I': 0, 'mine': 2, 'Critique-RL': 1, 'yours': 3}
    """
    labels = list(dict.fromkeys(labels))
    owner = {FIXED[label]: label for label in reversed(labels) if label in FIXED}
    free = [place for place in range(len(PALETTE)) if place not in owner] or list(range(len(PALETTE)))
    others = cycle(free)
    return {
        label: FIXED[label] if owner.get(FIXED.get(label, -1)) == label else next(others) for label in labels
    }


def colours(labels: Iterable[str]) -> dict[str, str]:
    """Colour of each label as `#rrggbb`."""
    return {label: PALETTE[place] for label, place in places(labels).items()}
