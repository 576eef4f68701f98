"""The same number of RL steps for each: more of Stage I, an indirect reward alone, RL of the actor itself."""

from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table


def build(study: Study) -> Table:
    """Its rows."""
    return Table(
        [
            Row("No critic", "no_critic"),
            Row("SFT critic", "sft"),
            Row("Stage I, steps of both", "stage1_long"),
            Row("r_refine, RLOO", "r_refine"),
            Row("CTRL", "ctrl"),
            Row("Directly RL", "actor_rl"),
            Row("Critique-RL", "stage2"),
        ]
    )


if __name__ == "__main__":
    main(__file__, build)
