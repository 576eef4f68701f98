"""Table 13: Acc@Refine and Acc@Dis after each fifth of both stages."""

from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table


def build(study: Study) -> Table:
    """Its rows; step 0 of a stage is what it starts from."""
    rows = []
    for label, name in (("Stage I", "stage1"), ("Stage I+II", "stage2")):
        arm = study.arms[name]
        rows.append(Row(label, arm.start, x=0))
        rows += [Row(label, f"{name}@{step}", x=step) for step in arm.keep_rl_steps or ()]
        rows.append(Row(label, name, x=arm.trainer["rl_steps"]))
    return Table(rows, lines=("acc_refine", "acc_dis"))


if __name__ == "__main__":
    main(__file__, build)
