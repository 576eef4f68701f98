"""Table 7: critics on held-out pairs, in both orders."""

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
        columns=(
            "critic_acc_mean",
            "critic_acc_both",
            "critic_agreement",
            "critic_said_first",
            "critic_parse_rate",
            "critic_acc_mean_lenient",
        ),
        bars=("critic_acc_mean", "critic_acc_both"),
    )


if __name__ == "__main__":
    main(__file__, build)
