"""How much data critic RL needs, and whether ties help; each with the same number of RL steps."""

from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table


def build(study: Study) -> Table:
    """Its rows."""
    return Table(
        [
            Row("Base", "no_critic"),
            Row("a quarter of the pairs", "quarter"),
            Row("half of the pairs", "half"),
            Row("all pairs", "critic"),
            Row("all pairs, with ties", "ties"),
        ],
        columns=("acc", "critic_acc_mean", "critic_acc_both"),
        bars=("acc", "critic_acc_mean"),
    )


if __name__ == "__main__":
    main(__file__, build)
