"""Does a critic flag the step that is wrong? Only where the task knows its right steps."""

from critique_rl.measures import localised
from critique_rl.study import NotRun, Row, Study, Table, main
from critique_rl.tasks import TASKS

ROWS = {"SFT critic": "sft", "CTRL": "ctrl", "Stage I": "stage1", "Critique-RL": "stage2"}


def build(study: Study) -> Table:
    """Its rows."""
    rows, not_run = [], []
    for task in study.config.evaluation.tasks:
        if TASKS[task.name].first_error is None:
            not_run += [NotRun(label, task.title, "the task's steps are not known") for label in ROWS]
            continue
        measure = localised(study, task)
        rows += [Row(label, arm, tasks=(task,), by_problem=measure) for label, arm in ROWS.items()]
    return Table(rows, not_run)


if __name__ == "__main__":
    main(__file__, build)
