"""What is shown while a run works: on a terminal, in a log file, and where it is to be quiet."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from critique_rl.display import Display, sparkline


def display(*, terminal: bool, width: int = 80) -> tuple[Display, io.StringIO]:
    stream = io.StringIO()
    shown = Display()
    shown.console = Console(file=stream, force_terminal=terminal, width=width, highlight=False)
    return shown, stream


def test_a_log_file_gets_at_most_eleven_lines_of_progress_a_step() -> None:
    shown, stream = display(terminal=False)
    with shown.step("seed0/stage1", 2, 9):
        for done in range(1, 501):
            shown.advance(done, 500, "Acc@Dis 50 (right 50, wrong 50)  Acc@Refine 40  KL 0.012  " + "▁" * 24)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[2/9] seed0/stage1" and lines[-1].startswith("[2/9] seed0/stage1: done in")
    assert 10 <= len(lines) - 2 <= 11  # none of them broken in two
    assert lines[-2].startswith("    500/500  Acc@Dis 50")


def test_a_step_that_fails_is_not_shown_as_done_and_leaves_no_bar_behind() -> None:
    for terminal in (False, True):
        shown, stream = display(terminal=terminal)
        with pytest.raises(RuntimeError), shown.step("sft", 1, 2):
            raise RuntimeError
        assert "done in" not in stream.getvalue()
        shown.advance(1, 1)  # would raise if the closed bar were still in use


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = Display(quiet=True)
    with quiet.step("pool", 1, 1):
        quiet.advance(1, 2)
        quiet.note("x")
    assert capsys.readouterr() == ("", "")


def test_a_sparkline_spans_its_own_range() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.3, 0.3]) == "▁▁"
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert len(sparkline(list(range(500)))) <= 24


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_says_how_long_it_will_take_also_where_a_step_takes_minutes(terminal: bool) -> None:
    stream, clock = io.StringIO(), [0.0]
    shown = Display()
    shown.console = Console(file=stream, force_terminal=terminal, width=100, get_time=lambda: clock[0])
    with shown.step("seed0/stage1", 1, 1):
        for done in range(40, 51):  # 40 of 50 were done before: they say nothing of the speed
            clock[0] += 600
            shown.advance(done, 50)
            if done == 45 and shown._progress is not None:
                shown._progress.refresh()
    assert "0:50:00" in stream.getvalue()  # five more at ten minutes each
    if not terminal:
        lines = stream.getvalue().splitlines()
        assert lines[1:-1] == ["    40/50", "    45/50  0:50:00 left", "    50/50"]


def test_a_step_that_counts_two_things_shows_both(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Display()
    with shown.step("sft", 1, 1):
        for total in (3, 4):
            for done in range(1, total + 1):
                shown.advance(done, total)
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()[1:-1]] == (
        ["1/3", "2/3", "3/3", "1/4", "2/4", "3/4", "4/4"]
    )
