"""Table 7: another family of models, on GSM8K."""

from critique_rl.studies.script import main
from critique_rl.studies.study import COMPARED, NotRun, Row, Study, Table

PRESET = "llama3.2-3b"


def build(study: Study) -> Table:
    """Its rows."""
    if study.preset != PRESET:
        return Table([], [NotRun(method, "gsm8k", f"is about preset {PRESET}") for method in COMPARED])
    return Table([Row(method, arm) for method, arm in COMPARED.items()])


if __name__ == "__main__":
    main(__file__, build)
