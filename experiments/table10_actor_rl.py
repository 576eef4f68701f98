"""Table 10: RL of the actor alone against RL of a critic."""

from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table


def build(study: Study) -> Table:
    """Its rows."""
    return Table(
        [
            Row("No critic", "no_critic"),
            Row("Directly RL", "actor_rl"),
            Row("SCoRe", "score"),
            Row("SFT critic", "sft"),
            Row("Critique-RL", "stage2"),
        ]
    )


if __name__ == "__main__":
    main(__file__, build)
