"""Training and measuring of what tables lack, one process a seed."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace

from critique_rl.display import Display
from critique_rl.studies.study import Row, Study, Table
from critique_rl.types import UserError


def measure(tables: Mapping[str, Table], study: Study) -> dict[str, BaseException]:
    """Train and measure what tables lack: `study.jobs` processes, of which no two work on one seed.

    A seed goes through the tables in their order.

    Returns:
        Errors by stem; the other tables are complete.
    """
    studies = {stem: table.study or study for stem, table in tables.items()}
    failed: dict[str, BaseException] = {}
    waiting: list[tuple[str, int]] = []
    for stem, table in tables.items():
        try:
            missing = [seed for seed in study.seeds if studies[stem].unfinished(table.rows, seed)]
            if missing:  # first the part that all seeds share
                studies[stem].execute([], missing, ("base", "actor", "sft"))
            waiting += [(stem, seed) for seed in missing]
        except UserError as error:
            failed[stem] = error
    if study.jobs == 1 or len({seed for _, seed in waiting}) == 1:
        for stem, seed in waiting:
            try:
                _run_seed(studies[stem], tables[stem].rows, seed)
            except UserError as error:
                failed.setdefault(stem, error)
        return failed
    display, total = Display(), len(waiting)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(study.jobs, context, initializer=_end_with_parent) as pool:
        running: dict[Future[None], tuple[str, int]] = {}
        while waiting or running:
            busy = {seed for _, seed in running.values()}
            for stem, seed in list(waiting):
                if len(running) < study.jobs and seed not in busy:
                    waiting.remove((stem, seed))
                    busy.add(seed)
                    # Functions that measure episodes are for the results; they cannot be sent to another process.
                    rows = [replace(row, by_problem=None) for row in tables[stem].rows]
                    running[pool.submit(_run_seed, studies[stem], rows, seed)] = stem, seed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                stem, seed = running.pop(future)
                raised = future.exception()
                if raised is not None:
                    failed.setdefault(stem, raised)
                state = "done" if raised is None else "failed"
                ended = total - len(waiting) - len(running)
                display.note(f"{stem}, seed {seed}: {state} ({ended} of {total})")
    return failed


def _end_with_parent() -> None:
    """End this process with its parent: a parent that is killed and started again would train the seed twice."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)  # the next start goes on from the files

    threading.Thread(target=watch, daemon=True).start()


def _run_seed(study: Study, rows: Sequence[Row], seed: int) -> None:
    """Run one seed, in this process or a new one."""
    from critique_rl.runs.process import quiet_libraries, set_threads

    set_threads(study.config)
    quiet_libraries()
    study.execute(rows, [seed])
