"""Figure 3: what happens in training under each indirect reward alone, and under both stages."""

from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table

ARMS = {
    "r_refine": ("r_refine",),
    "r_correction": ("r_correction",),
    "r_delta": ("r_delta",),
    "Critique-RL": ("stage1", "stage2"),
}


def build(study: Study) -> Table:
    """Its rows and curves."""
    return Table(
        [Row("SFT critic", "sft"), *(Row(label, arms[-1]) for label, arms in ARMS.items())], curves=ARMS
    )


if __name__ == "__main__":
    main(__file__, build)
