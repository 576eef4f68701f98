"""Tests of `critique_rl.reports.curves`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from critique_rl.reports import curves


def test_every_one_of_many_stages_is_drawn_and_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    kept = curves.save

    def save(figure: Any, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        kept(figure, *arguments, **options)

    monkeypatch.setattr(curves, "save", save)
    log = [{"critic/acc_dis": 0.1 * step, "kl": 0.01} for step in range(5)]
    curves.plot_curves({f"arm {i}": [log] for i in range(20)}, tmp_path / "curves.png")
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == [f"arm {i}" for i in range(20)]
    looks = {(line.get_color(), line.get_linestyle()) for line in figures[0].axes[0].get_lines()}
    assert len(looks) == 20
