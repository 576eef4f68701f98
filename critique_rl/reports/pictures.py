"""Style of all pictures: one colour per method in curves, charts, notebooks and the viewer; panels; legend."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from itertools import chain, cycle
from pathlib import Path
from typing import Any

from critique_rl.records import write

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


def panels(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, list[Any]]:
    """Make a figure of some inches with a grid of panels, listed row by row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **options)
    return figure, list(axes.flat)


def plain(panel: Any, axis: str = "both") -> None:
    """Give a panel a faint grid and no frame at the top and right."""
    panel.grid(axis=axis, alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def save(figure: Any, axes: Sequence[Any], path: Path, *, dpi: int, fontsize: float | None = None) -> None:
    """Add one legend below all panels, each label once, the paper's last; write a PNG and close the figure."""
    from matplotlib import pyplot as plt

    legends = [zip(*reversed(axis.get_legend_handles_labels()), strict=True) for axis in axes]
    handles = dict(sorted(chain(*legends), key=lambda pair: "paper" in pair[0]))
    columns = max(1, min(len(handles), int(figure.get_figwidth() // 2.6)))
    style: dict[str, Any] = {"loc": "outside lower center", "frameon": False, "fontsize": fontsize}
    figure.legend(handles.values(), handles.keys(), ncols=columns, **style)
    image = io.BytesIO()
    figure.savefig(image, dpi=dpi)
    plt.close(figure)
    write(path, image.getvalue())
