"""Figure 9: both stages find the error, and only after the critique of Stage II is the refinement right."""

from critique_rl.evaluation.episodes import Episode
from critique_rl.studies.script import main
from critique_rl.studies.study import Example, Row, Study, Table


def found_then_mended(first: Episode, second: Episode) -> bool:
    """Whether a pair of episodes is of that kind."""
    return (
        first.response_correct is False
        and first.verdict == second.verdict == "wrong"
        and first.refinement_correct is False
        and second.refinement_correct is True
    )


def build(study: Study) -> Table:
    """Its rows and examples."""
    about = (
        "a wrong response that both critics call wrong, and that is mended after Stage II's critique alone"
    )
    return Table(
        [Row("Stage I", "stage1"), Row("Critique-RL", "stage2")],
        example=Example("Stage I", "Critique-RL", found_then_mended, about),
    )


if __name__ == "__main__":
    main(__file__, build)
