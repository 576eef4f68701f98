"""Table 3: what each part of the method gives.

`w/o Stage I` has the Stage II objective from the SFT critic on, for as many RL steps as both stages together;
`w/o discrimination` has in Stage II neither r_dis nor a KL, as the paper's caption says.
"""

from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table


def build(study: Study) -> Table:
    """Its rows."""
    return Table(
        [
            Row("SFT critic", "sft"),
            Row("Critique-RL", "stage2"),
            Row("w/o Stage I", "one_stage"),
            Row("w/o Stage II", "stage1"),
            Row("w/o discrimination", "no_discrimination"),
            Row("w/ r_delta", "stage2_r_delta"),
            Row("w/ r_correction", "stage2_r_correction"),
        ]
    )


if __name__ == "__main__":
    main(__file__, build)
