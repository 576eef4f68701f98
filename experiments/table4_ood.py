"""Table 4: tasks unlike those of training; Acc greedily, Pass@10 from ten chains at temperature 0.7."""

from critique_rl.evaluation.scaling import passing
from critique_rl.studies.script import main
from critique_rl.studies.study import COMPARED, NotRun, Row, Study, Table, sampled


def build(study: Study) -> Table:
    """Its rows."""
    tasks = tuple(study.config.evaluation.out_of_domain)
    if not tasks:
        return Table([], [NotRun(method, "", "the preset has no task out of domain") for method in COMPARED])
    ten = sampled(10)
    rows = [Row(method, arm, tasks=tasks) for method, arm in COMPARED.items()]
    rows += [
        Row(method, arm, ten, "pass10", tasks=tasks, by_problem=passing([10]))
        for method, arm in COMPARED.items()
    ]
    return Table(
        rows,
        columns=("acc_refine", "delta", "acc_dis", "pass_at_10"),
        bars=("acc_refine", "acc_dis", "pass_at_10"),
    )


if __name__ == "__main__":
    main(__file__, build)
