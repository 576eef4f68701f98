"""What does the actor do with a critique? Whether it follows verdicts, and takes values that a critique states."""

from critique_rl.studies.script import main
from critique_rl.studies.study import Example, Row, Study, Table, taken_up

EPISODES = 10
ABOUT = "An episode picked by a hash of its problem, whatever its outcome"
ROWS = {"SFT critic": "sft", "Stage I": "stage1", "Critique-RL": "stage2", "r_refine, RLOO": "r_refine"}


def build(study: Study) -> Table:
    """Its rows."""
    rows = [Row(label, arm, by_problem=taken_up) for label, arm in ROWS.items()]
    columns = (
        "changed_after_wrong",
        "kept_after_correct",
        "followed_right_verdict",
        "followed_wrong_verdict",
    )
    return Table(
        rows,
        columns=(*columns, "took_stated_value"),
        bars=("changed_after_wrong", "kept_after_correct"),
        example=Example("SFT critic", "Critique-RL", lambda *_: True, ABOUT, most=EPISODES),
    )


if __name__ == "__main__":
    main(__file__, build)
