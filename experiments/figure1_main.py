"""Figure 1 (left): accuracy and discrimination of the compared methods. Its right half is figure6_scaling."""

from critique_rl.studies.script import main
from critique_rl.studies.study import COMPARED, Row, Study, Table


def build(study: Study) -> Table:
    """Its rows."""
    return Table([Row(label, arm) for label, arm in COMPARED.items()])


if __name__ == "__main__":
    main(__file__, build)
