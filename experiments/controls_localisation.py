"""Does a critic flag the step that is wrong? Only where the task knows its right steps."""

from critique_rl.studies.script import main
from critique_rl.studies.study import NotRun, Row, Study, Table, localised
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
    columns = ("first_error_acc", "flagged_early", "flagged_late", "not_flagged", "right_unflagged")
    return Table(
        rows, not_run, columns=(*columns, "consistent_rate"), bars=("first_error_acc", "right_unflagged")
    )


if __name__ == "__main__":
    main(__file__, build)
