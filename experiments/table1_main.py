"""Table 1: the main comparison. One indirect reward and one stage against discrimination first.

The paper's Retroformer is PPO and its CTRL is GRPO, while Critique-RL is RLOO, so reward and algorithm differ at
once; `Retroformer (RLOO)` and `r_refine, RLOO` differ from Critique-RL in the reward alone.
"""

from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table


def build(study: Study) -> Table:
    """Its rows."""
    return Table(
        [
            Row("No critic", "no_critic"),
            Row("SFT critic", "sft"),
            Row("STaR", "star"),
            Row("Retroformer", "retroformer"),
            Row("Retroformer (RLOO)", "r_delta"),
            Row("CTRL", "ctrl"),
            Row("r_refine, RLOO", "r_refine"),
            Row("Stage I", "stage1"),
            Row("Critique-RL", "stage2"),
        ]
    )


if __name__ == "__main__":
    main(__file__, build)
