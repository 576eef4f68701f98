"""Table 5: where the policy's gain comes from: the format reward alone, or the preference as well."""

from critique_rl.studies.script import main
from critique_rl.studies.study import NotRun, Row, Study, Table


def build(study: Study) -> Table:
    """Its rows."""
    reason = "a preset has one prompt set: give another with --set prompts=NAME and an output of its own"
    return Table(
        [
            Row("Base", "no_critic"),
            Row("Format-RFT", "format_only"),
            Row("LLaVA-Critic-R1", "critic"),
        ],
        [NotRun("Base without template", task.title, reason) for task in study.config.evaluation.tasks],
        columns=("acc", "critic_acc_mean", "critic_parse_rate"),
        bars=("acc", "critic_acc_mean"),
    )


if __name__ == "__main__":
    main(__file__, build)
