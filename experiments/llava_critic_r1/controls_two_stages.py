"""The two stages of Critique-RL on pictures: verdicts on single responses, then refinements that see the picture.

Budget and optimiser are those of critic RL on pairs. What differs are data and rewards: r_dis of a verdict instead
of r_pref of a preference, then r_refine as well.
"""

from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table


def build(study: Study) -> Table:
    """Its rows."""
    rows, missing = study.served(
        [
            Row("No critic", "no_critic"),
            Row("SFT critic", "sft"),
            Row("Stage I", "stage1"),
            Row("Critique-RL", "stage2"),
        ]
    )
    return Table(rows, missing)


if __name__ == "__main__":
    main(__file__, build)
