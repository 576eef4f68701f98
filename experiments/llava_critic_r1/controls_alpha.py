"""The weight of r_pref beside r_format: the paper's 0.9, and others."""

from critique_rl.methods.arms import ALPHAS
from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table


def build(study: Study) -> Table:
    """Its rows."""
    own = study.arms["critic"].trainer.get("alpha", 0.9)
    named = {0.0: "format_only", own: "critic", **{a: f"alpha_{100 * a:g}" for a in ALPHAS}}
    return Table(
        [Row("LLaVA-Critic-R1", arm, x=alpha) for alpha, arm in sorted(named.items())],
        columns=("acc", "critic_acc_mean", "critic_parse_rate"),
        lines=("acc", "critic_acc_mean"),
        x_label="alpha",
    )


if __name__ == "__main__":
    main(__file__, build)
