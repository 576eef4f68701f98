"""Figure 4: critique and refine again and again; each round sees the latest response alone."""

from dataclasses import replace

from critique_rl.evaluation.scaling import by_round, powers_of_two
from critique_rl.studies.script import main
from critique_rl.studies.study import MAIN, Row, Study, Table

ROUNDS = 32
ROWS = {"SFT critic": "sft", "CTRL": "ctrl", "Stage I": "stage1", "Critique-RL": "stage2"}


def build(study: Study) -> Table:
    """Its rows: of the first round what tables show, of the later ones the refinements."""
    protocol, tasks, measure = (
        replace(MAIN, rounds=ROUNDS),
        study.sampled_tasks(),
        by_round(powers_of_two(ROUNDS)),
    )
    return Table(
        [Row(label, arm, protocol, "rounds", tasks=tasks, by_problem=measure) for label, arm in ROWS.items()],
        columns=[f"refinement_at_{n}" for n in powers_of_two(ROUNDS)],
        lines=("refinement_at",),
        x_label="rounds",
    )


if __name__ == "__main__":
    main(__file__, build)
