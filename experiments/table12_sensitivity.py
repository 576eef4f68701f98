"""Table 12: coefficients moved up and down, `beta` in both stages, `beta_1` and `beta_2` in Stage II.

The paper moves beta_1 and beta_2 by 2 %, less than what two runs with the same coefficients differ by; here they
are halved and doubled.
"""

from critique_rl.methods.arms import coefficients
from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table


def build(study: Study) -> Table:
    """Its rows: of each coefficient the smaller value, the preset's own and the larger one."""
    return Table(
        [
            Row(coefficient, arm, x=value)
            for coefficient, values in coefficients(study.config).items()
            for arm, value in values.items()
        ]
    )


if __name__ == "__main__":
    main(__file__, build)
