"""One stage or two, r_dis added, gating or absent in the second, with and without KL: which of them does it?"""

from critique_rl.studies.script import main
from critique_rl.studies.study import Row, Study, Table

CELLS = {
    "two stages, additive, KL": "stage2",
    "two stages, gated, KL": "two_gated",
    "two stages, none, KL": "two_none",
    "one stage, additive, KL": "one_stage",
    "one stage, gated, KL": "one_gated",
    "one stage, none, KL": "r_refine",
    "two stages, additive, no KL": "two_additive_no_kl",
    "two stages, gated, no KL": "two_gated_no_kl",
    "two stages, none, no KL": "two_none_no_kl",
    "one stage, additive, no KL": "one_additive_no_kl",
    "one stage, gated, no KL": "one_gated_no_kl",
    "one stage, none, no KL": "one_none_no_kl",
}


def build(study: Study) -> Table:
    """Its rows."""
    return Table([Row(label, arm) for label, arm in CELLS.items()])


if __name__ == "__main__":
    main(__file__, build)
