"""Table 3: what critic RL does to the policy, beside RL of the policy on questions with the same budget.

On the preset's own tasks, and on the paper's benchmarks through lmms-eval where it has `policy_benchmarks`.
"""

from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table


def build(study: Study) -> Table:
    """Its rows."""
    rows, missing = study.served(
        [
            Row("Base", "no_critic"),
            Row("Policy RL", "policy"),
            Row("LLaVA-Critic-R1", "critic"),
            Row("LLaVA-Critic-R1+", "policy_then_critic"),
        ]
    )
    return Table(
        rows,
        missing,
        columns=("acc", "critic_acc_mean", "critic_acc_both"),
        bars=("acc", "critic_acc_mean"),
    )


if __name__ == "__main__":
    main(__file__, build)
