"""Table 5: the 7B critics with a reasoning model as actor, which they were not trained with."""

from critique_rl.config.data import TaskConfig
from critique_rl.studies.script import main
from critique_rl.studies.study import Study, Table, other_actor

ACTOR = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
TASKS = (
    TaskConfig("math", label="math500", split="math500", ungradable="drop"),
    TaskConfig("theoremqa", split="test", ungradable="drop"),
)


def build(study: Study) -> Table:
    """Its rows."""
    return other_actor(study, "qwen2.5-7b", ACTOR, TASKS)


if __name__ == "__main__":
    main(__file__, build)
