"""Preference pairs on images, from the published sets to one schema (LLaVA-Critic-R1, arXiv 2509.00676).

```python
selection = load_pairs("llava-critic-113k/pairwise", image_store="images")
selection = selection.through(
    lambda pairs: decontaminate(pairs, load_benchmark("vl_rewardbench.parquet", name="VL-RewardBench")),
    lambda pairs: drop_long(pairs, token_length(processor, prompt_of), max_length=6142),
)
print(markdown_table(selection))
write_pairs(selection.pairs, "pairs.jsonl")
```

Every dropped pair is counted, by source and reason. A row of another layout is an error that names file, row and
field. May import tasks, pairwise rewards, vision and types.
"""

from typing import Any

from critique_rl.moved import find

_HOMES = (
    "critic_data.filters",
    "critic_data.layouts",
    "critic_data.load",
    "critic_data.pairs",
    "vision.images",
)


def __getattr__(name: str) -> Any:
    return find(name, __name__, _HOMES)
