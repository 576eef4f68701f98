"""Table 8: policy first, critic first or both at once, each with the whole budget; SFT on labels without RL."""

from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table


def build(study: Study) -> Table:
    """Its rows."""
    rows, missing = study.served(
        [
            Row("Base", "no_critic"),
            Row("SFT on labels", "label_sft"),
            Row("Policy RL", "policy"),
            Row("Critic RL", "critic"),
            Row("Policy RL, then critic RL", "policy_then_critic"),
            Row("Critic RL, then policy RL", "critic_then_policy"),
            Row("Mixed", "mixed"),
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
