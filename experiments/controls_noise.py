"""Part of the labels that reward the critic is wrong, the same share of those of responses and of refinements."""

from critique_rl.methods.arms import NOISE, noisy
from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table


def build(study: Study) -> Table:
    """Its rows, by share of wrong labels."""
    rows = [Row("SFT critic", "sft", x=0.0)]
    for label, arm in (("Stage I", "stage1"), ("Critique-RL", "stage2")):
        rows.append(Row(label, arm, x=0.0))
        rows += [Row(label, noisy(arm, share), x=share) for share in NOISE]
    return Table(rows, lines=("acc_refine", "acc_dis", "acc_dis_balanced"), x_label="share of wrong labels")


if __name__ == "__main__":
    main(__file__, build)
