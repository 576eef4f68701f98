"""Table 5: the 7B critics with a reasoning model as actor, which they were not trained with."""

from critique_rl.config import TaskConfig
from critique_rl.study import COMPARED, NotRun, Row, Study, Table, main

ACTOR = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
PRESET = "qwen2.5-7b"
TASKS = (
    TaskConfig("math", split="math500", ungradable="drop"),
    TaskConfig("theoremqa", split="test", ungradable="drop"),
)


def build(study: Study) -> Table:
    """Its rows."""
    if study.preset != PRESET:
        reason = f"needs the critics of preset {PRESET} and {ACTOR}"
        return Table([], [NotRun(method, task.title, reason) for task in TASKS for method in COMPARED])
    return Table(
        [Row(method, arm, tasks=TASKS, name="other_actor", actor=ACTOR) for method, arm in COMPARED.items()]
    )


if __name__ == "__main__":
    main(__file__, build)
