"""Table 4: the best of n of a model's own candidates by its own judgement, beside vote, chance and the oracle."""

from critique_rl.evaluation.scaling import powers_of_two
from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table


def build(study: Study) -> Table:
    """Its rows and lines."""
    how = study.config.evaluation.pairwise
    ns = powers_of_two(how.samples) if how is not None else []
    methods = ("self_critique", "majority", "random", "pass")
    rows, missing = study.served(
        [
            Row("Base", "no_critic"),
            Row("LLaVA-Critic-R1", "critic"),
            Row("LLaVA-Critic-R1+", "policy_then_critic"),
        ]
    )
    return Table(
        rows,
        missing,
        columns=("single_at_1", *(f"{method}_at_{n}" for n in ns[1:] for method in methods)),
        lines=("self_critique_at", "majority_at", "pass_at"),
        x_label="candidates",
    )


if __name__ == "__main__":
    main(__file__, build)
