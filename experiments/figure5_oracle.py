"""Figure 5: with an oracle verifier, which spares right responses, and without."""

from dataclasses import replace

from critique_rl.studies.script import main
from critique_rl.studies.study import COMPARED, MAIN, Row, Study, Table


def build(study: Study) -> Table:
    """Its rows."""
    oracle = replace(MAIN, spare_correct=True)
    critics = {label: arm for label, arm in COMPARED.items() if arm != "no_critic"}
    return Table(
        [
            *(Row(label, arm) for label, arm in critics.items()),
            *(Row(f"{label}, oracle", arm, oracle, "oracle") for label, arm in critics.items()),
        ]
    )


if __name__ == "__main__":
    main(__file__, build)
