"""Table 11: a vote over K, 2K and 3K responses of the trained actor against K chains with the critic."""

from critique_rl.evaluation.scaling import majority
from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table, sampled

VOTES = (1, 2, 4)


def build(study: Study) -> Table:
    """Its rows."""
    most, plain = VOTES[-1], sorted({m * k for k in VOTES for m in (1, 2, 3)})
    return Table(
        [
            Row("Directly RL", "actor_rl", sampled(3 * most), "vote", by_problem=majority(plain)),
            Row("Critique-RL", "stage2", sampled(most), "vote", by_problem=majority(VOTES)),
        ],
        columns=[f"majority_at_{k}" for k in plain],
        lines=("majority_at",),
    )


if __name__ == "__main__":
    main(__file__, build)
