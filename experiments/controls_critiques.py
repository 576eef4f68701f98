"""Does the critique matter? The actor reads nothing, the verdict, another problem's critique, or the truth."""

from dataclasses import replace

from critique_rl.studies.script import main
from critique_rl.studies.study import MAIN, Row, Study, Table


def build(study: Study) -> Table:
    """Its rows."""
    other = {kind: replace(MAIN, critiques=kind) for kind in ("empty", "oracle", "verdict", "shuffled")}
    return Table(
        [
            Row("No critic", "no_critic"),
            Row("Empty critique", "no_critic", other["empty"], "empty"),
            Row("True verdict, generic advice", "no_critic", other["oracle"], "truth"),
            Row("Verdict only", "stage2", other["verdict"], "verdict"),
            Row("Critique of another problem", "stage2", other["shuffled"], "shuffled"),
            Row("SFT critic", "sft"),
            Row("Critique-RL", "stage2"),
        ]
    )


if __name__ == "__main__":
    main(__file__, build)
