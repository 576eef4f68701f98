"""Figure 1: one answer, and the best of n by self-critique, before and after critic RL."""

from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table


def build(study: Study) -> Table:
    """Its rows and bars."""
    how = study.config.evaluation.pairwise
    most = f"self_critique_at_{how.samples}" if how is not None else "acc"
    rows, missing = study.served(
        [
            Row("Base", "no_critic"),
            Row("LLaVA-Critic-R1", "critic"),
            Row("ThinkLite-VL (policy RL)", "policy"),
            Row("LLaVA-Critic-R1+", "policy_then_critic"),
        ]
    )
    return Table(
        rows,
        missing,
        columns=("acc", most, "critic_acc_mean"),
        bars=("acc", most, "critic_acc_mean"),
    )


if __name__ == "__main__":
    main(__file__, build)
