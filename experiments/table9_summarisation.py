"""Table 9: summaries, whose replies are scored by a reward model instead of graded."""

from critique_rl.studies.script import main
from critique_rl.studies.study import NotRun, Row, Study, Table

METHODS = {"No critic": "no_critic", "Untrained critic": "sft", "Critique-RL": "stage2"}


def build(study: Study) -> Table:
    """Its rows."""
    scored = study.variant("summarisation")
    if scored is None:
        reason = f"preset {study.preset} has no configuration for summaries"
        return Table([], [NotRun(method, "cnn_dailymail", reason) for method in METHODS])
    return Table(
        [Row(method, arm) for method, arm in METHODS.items()],
        columns=("score_refine", "delta", "mse_dis", "mae_dis", "parse_rate"),
        bars=("score_refine", "mse_dis", "mae_dis"),
        study=scored,
    )


if __name__ == "__main__":
    main(__file__, build)
