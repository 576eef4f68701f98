"""Figures 1 (right) and 6: majority vote over K chains with a critic, and over K, 2K and 3K responses without.

One chain costs about three generations; the tokens that each point cost are in the result file.
"""

from critique_rl.evaluation.scaling import majority, powers_of_two
from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table, sampled


def build(study: Study) -> Table:
    """Its rows."""
    ks = powers_of_two(study.config.evaluation.most_samples)
    tasks = study.sampled_tasks()
    most = ks[-1]
    rows = [
        Row(label, arm, sampled(most), "majority", tasks=tasks, by_problem=majority(ks))
        for label, arm in (("SFT critic", "sft"), ("CTRL", "ctrl"), ("Critique-RL", "stage2"))
    ]
    plain = sampled(3 * most)
    rows.append(
        Row(
            "No critic",
            "no_critic",
            plain,
            "majority",
            tasks=tasks,
            by_problem=majority(sorted({m * k for k in ks for m in (1, 2, 3)})),
        )
    )
    return Table(rows, columns=[f"majority_at_{k}" for k in ks], lines=("majority_at",))


if __name__ == "__main__":
    main(__file__, build)
