"""Table 2: both stages again, from where they ended; each stage is held close to its own start."""

from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table


def build(study: Study) -> Table:
    """Its rows."""
    return Table(
        [
            Row("No critic", "no_critic"),
            Row("SFT critic", "sft"),
            Row("Iteration 1, Stage I", "stage1"),
            Row("Iteration 1, Stage II", "stage2"),
            Row("Iteration 2, Stage I", "iteration2_stage1"),
            Row("Iteration 2, Stage II", "iteration2_stage2"),
        ]
    )


if __name__ == "__main__":
    main(__file__, build)
