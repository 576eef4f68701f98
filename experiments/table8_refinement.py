"""Table 8: other ways to a refinement. Self-Refine is one model as actor and critic, for one and two rounds."""

from dataclasses import replace

from critique_rl.studies.script import main
from critique_rl.studies.study import MAIN, Row, Study, Table


def build(study: Study) -> Table:
    """Its rows."""
    twice = replace(MAIN, rounds=2)
    return Table(
        [
            Row("Self-Refine, iteration 1", "self_refine", twice, "twice"),
            Row("Self-Refine, iteration 2", "self_refine", twice, "twice", round=1),
            Row("Critic-CoT", "critic_cot"),
            Row("SuperCorrect", "super_correct"),
            Row("Critique-RL", "stage2"),
        ]
    )


if __name__ == "__main__":
    main(__file__, build)
