"""Figure 7: several critiques and refinements of the same greedy response, Pass@K."""

from dataclasses import replace

from critique_rl.evaluation.scaling import passing, powers_of_two
from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table, sampled


def build(study: Study) -> Table:
    """Its rows."""
    ks = powers_of_two(min(64, study.config.evaluation.most_samples))
    protocol = replace(sampled(ks[-1]), response_temperature=0.0)
    return Table(
        [
            Row(label, arm, protocol, "refine", tasks=study.sampled_tasks(), by_problem=passing(ks))
            for label, arm in (("SFT critic", "sft"), ("Critique-RL", "stage2"))
        ],
        columns=[f"pass_at_{k}" for k in ks],
        lines=("pass_at",),
    )


if __name__ == "__main__":
    main(__file__, build)
