"""Preference pairs on images, from the published sets to one schema (LLaVA-Critic-R1, arXiv 2509.00676).

```python
found = load_pairs("llava-critic-113k/pairwise", image_store="images")
found = found.through(
    lambda pairs: decontaminate(pairs, load_benchmark("vl_rewardbench.parquet", name="VL-RewardBench")),
    lambda pairs: drop_long(pairs, token_length(processor, prompt_of), max_length=6142),
)
print(markdown_table(found))
write_pairs(found.pairs, "pairs.jsonl")
```

What is dropped is counted by source and reason and never silently; a row that does not have its layout is an
error that names file, row and field.
"""

from critique_rl.critic_data.filters import (
    BenchmarkItem,
    decontaminate,
    drop_long,
    drop_unreadable,
    load_benchmark,
    token_length,
)
from critique_rl.critic_data.layouts import HUB, LAYOUTS, parse_judgement, split_prompt
from critique_rl.critic_data.load import load_pairs
from critique_rl.critic_data.pairs import (
    Drop,
    PreferencePair,
    Selection,
    balance,
    markdown_table,
    pairs_of_responses,
    subsample_pairs,
    swap,
    to_dataset,
    write_pairs,
)
from critique_rl.vision.images import (
    ImageError,
    MissingImageError,
    difference_hash,
    hash_distances,
    open_image,
    pixel_hash,
    store_image,
)

__all__ = [
    "HUB",
    "LAYOUTS",
    "BenchmarkItem",
    "Drop",
    "ImageError",
    "MissingImageError",
    "PreferencePair",
    "Selection",
    "balance",
    "decontaminate",
    "difference_hash",
    "drop_long",
    "drop_unreadable",
    "hash_distances",
    "load_benchmark",
    "load_pairs",
    "markdown_table",
    "open_image",
    "pairs_of_responses",
    "parse_judgement",
    "pixel_hash",
    "split_prompt",
    "store_image",
    "subsample_pairs",
    "swap",
    "to_dataset",
    "token_length",
    "write_pairs",
]
