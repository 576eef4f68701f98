"""Figure 3: critic and policy after steps of critic RL."""

from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table


def build(study: Study) -> Table:
    """Its rows and lines."""
    arm = study.arms["critic"]
    steps = [*(arm.keep_rl_steps or ()), arm.trainer["rl_steps"]]
    label = "LLaVA-Critic-R1"
    return Table(
        [
            Row(label, "no_critic", x=0),
            *(Row(label, f"critic@{step}", x=step) for step in steps[:-1]),
            Row(label, "critic", x=steps[-1]),
        ],
        columns=("acc", "critic_acc_mean", "critic_acc_both"),
        lines=("acc", "critic_acc_mean"),
        x_label="RL step",
    )


if __name__ == "__main__":
    main(__file__, build)
