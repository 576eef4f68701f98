"""The journal: records are asked for once, appended chunk by chunk, and read back after a kill."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from critique_rl.records import Journal, read_object, read_records, write, written_once
from critique_rl.types import UserError


@dataclass(frozen=True)
class Square:
    number: int
    square: int


def journal(path: Path, known: range = range(10)) -> Journal[int, Square]:
    return Journal(
        path, Square, lambda s: s.number, known=known.__contains__, others="squares of other numbers"
    )


def test_a_killed_journal_goes_on_with_the_missing_records(tmp_path: Path) -> None:
    path, asked, progress = tmp_path / "new" / "squares.jsonl", [], []

    def ask(chunk: int, numbers: Sequence[int]) -> list[Square]:
        asked.append((chunk, list(numbers)))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return [Square(n, n * n) for n in numbers]

    first = journal(path)
    with pytest.raises(KeyboardInterrupt):
        first.fill(first.missing(range(5), 2), ask, lambda *at: progress.append(at), 5)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"number": 2, "squ')  # cut short
    second = journal(path)
    second.fill(second.missing(range(5), 2), ask, lambda *at: progress.append(at), 5)
    assert asked == [(0, [0, 1]), (1, [2, 3]), (0, [2, 3]), (1, [4])]
    assert progress == [(2, 5), (4, 5), (5, 5)]
    assert journal(path).done == {n: Square(n, n * n) for n in range(5)}


def test_a_chunk_is_asked_for_its_missing_keys_and_repeats_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "squares.jsonl"
    squares = journal(path)
    squares.fill([([1], 1)], lambda chunk, numbers: [Square(1, 1)], None, 1)
    squares.fill([([1], 1), ([1, 2], 2)], lambda chunk, numbers: [Square(1, -1), Square(2, 4)], None, 2)
    assert squares.done == {1: Square(1, 1), 2: Square(2, 4)} and len(path.read_text().splitlines()) == 2


def test_records_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "squares.jsonl"
    path.write_text('{"number": 12, "square": 144}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"squares.jsonl holds squares of other numbers: delete it"):
        journal(path)


@pytest.mark.parametrize("broken", ["{}", "no json", "[1]", '{"number": 2, "score": 1}'])
def test_a_broken_line_is_named(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "squares.jsonl"
    path.write_text(
        f'{{"number": 1, "square": 1}}\n{broken}\n{{"number": 3, "square": 9}}\n', encoding="utf-8"
    )
    with pytest.raises(UserError, match=r"squares.jsonl, line 2 is no square record"):
        journal(path)


def test_a_half_line_stays_where_a_run_may_be_writing_it(tmp_path: Path) -> None:
    path = tmp_path / "squares.jsonl"
    path.write_bytes(half := b'{"number": 1, "square": 1}\n{"numb')
    assert read_records(path, Square, mend=False) == [Square(1, 1)]
    assert path.read_bytes() == half
    assert read_records(path, Square) == [Square(1, 1)]
    assert path.read_bytes() == half[:-6]


@pytest.mark.parametrize("content", ["{", "[1]", "\x00"])
def test_a_damaged_object_is_named_with_advice(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    with pytest.raises(FileNotFoundError):
        read_object(path, "Make it anew.")
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"state.json is damaged: .*\. Make it anew\."):
        read_object(path, "Make it anew.")


@pytest.mark.parametrize(("sync_every", "synced"), [(0.0, 8), (3600.0, 0)])
def test_records_are_brought_to_the_disk_no_more_often_than_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync_every: float, synced: int
) -> None:
    calls, sync = [], os.fsync

    def counted(descriptor: int) -> None:
        calls.append(descriptor)
        sync(descriptor)

    monkeypatch.setattr("os.fsync", counted)
    path = tmp_path / "squares.jsonl"
    for number in (1, 2):
        squares = Journal(
            path, Square, lambda s: s.number, known=lambda _: True, others="", sync_every=sync_every
        )
        squares.fill([([number], 1)], lambda _, numbers: [Square(n, n * n) for n in numbers], None, 1)
    assert len(calls) == synced and read_records(path, Square) == [Square(1, 1), Square(2, 4)]


def test_a_report_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.md"
    write(path, "old")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("critique_rl.manifest.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, "new")
    assert path.read_text("utf-8") == "old"


def test_records_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "squares.jsonl"
    path.write_text('{"number": 1, "square": 1}\n' * 2, encoding="utf-8")
    with pytest.raises(UserError, match=r"squares.jsonl holds 1 records twice: delete it"):
        journal(path)


@pytest.mark.parametrize(
    "content", [b'{"a": 1}\n{"a"', b'{"a": 1}\nno json\n', b"[1]\n", b"\xff\n", b'{"a": 1}']
)
def test_a_damaged_file_that_was_written_once_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rounds" / "0.jsonl"
    assert written_once(path, lambda: [{"a": 1}]) == written_once(path, list) == [{"a": 1}]
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"rounds/0.jsonl is damaged: .*\. Delete it"):
        written_once(path, list)


def test_a_record_that_has_changed_in_an_unfinished_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "squares.jsonl"

    def ask(chunk: int, numbers: Sequence[int]) -> list[Square]:
        if chunk == 1:
            raise KeyboardInterrupt
        return [Square(n, n * n) for n in numbers]

    with pytest.raises(KeyboardInterrupt):
        journal(path).fill([([1, 2], 2), ([3], 3)], ask, None, 3)
    assert len(journal(path).done) == 2
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"square": 4', b'"square": 5'))
    with pytest.raises(
        UserError, match=r"squares.jsonl, line 2 has changed since it was written: delete that line"
    ):
        journal(path)
    path.write_bytes(whole[whole.index(b"\n") + 1 :])  # a line that is gone is made again
    again = journal(path)
    again.fill([([1, 2], 2)], lambda chunk, numbers: [Square(n, n * n) for n in numbers], None, 2)
    again.put_in_order([1, 2])
    assert path.read_bytes() == whole and [p.name for p in tmp_path.iterdir()] == [path.name]
