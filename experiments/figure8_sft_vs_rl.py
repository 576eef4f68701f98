"""Figure 8: the SFT critic misses an error that the trained critic finds, after which the refinement is right."""

from critique_rl.evaluation.episodes import Episode
from critique_rl.studies.script import main
from critique_rl.studies.study import Example, Row, Study, Table


def missed_then_found(sft: Episode, trained: Episode) -> bool:
    """Whether a pair of episodes is of that kind."""
    return (
        sft.response_correct is False
        and sft.verdict == "correct"
        and sft.refinement_correct is False
        and trained.verdict == "wrong"
        and trained.refinement_correct is True
    )


def build(study: Study) -> Table:
    """Its rows and examples."""
    about = (
        "a wrong response that the SFT critic calls correct and that Critique-RL criticises and has mended"
    )
    return Table(
        [Row("SFT critic", "sft"), Row("Critique-RL", "stage2")],
        example=Example("SFT critic", "Critique-RL", missed_then_found, about),
    )


if __name__ == "__main__":
    main(__file__, build)
