"""How good a critic is: VL-RewardBench, MM-RLHF-RewardBench and any preference pairs, judged in both orders.

```python
judge = ActorJudge(actor, prompts=prompt_set("thinking"), thinking=True)
vl = evaluate_benchmark(load_reward_benchmark("VL-RewardBench"), judge, seed=0, records=folder / "vl.jsonl")
held_out = pair_accuracy(pairs, judge, seed=0, records=folder / "pairs.jsonl")
print(markdown_table(vl.summary))
```

The evaluation of LLaVA-Critic-R1 (arXiv 2509.00676) shows each pair once, in an order that an unseeded coin
decides, and its scorer was not released. Here each pair is shown in both orders, a hash of the seed decides which
of the two counts where a single order is measured, and two scorers stand side by side: `strict`, the parser with
which the critic is trained, and `lenient`, what the standard harnesses accept (see `parse_lenient`).

`lenient.py` reads replies, `load.py` reads the benchmarks, `judging.py` keeps judgements on disk, `measures.py`
counts.
"""

from critique_rl.benchmarks.judging import PairJudgement, drawn_order, judge_pairs
from critique_rl.benchmarks.lenient import parse_lenient
from critique_rl.benchmarks.reward_measures import (
    METRICS,
    SCORERS,
    CriticResult,
    evaluate_benchmark,
    grouped_by_item,
    markdown_table,
    mean_of,
    metrics_by_item,
    pair_accuracy,
    summarise_benchmark,
    summarise_pairs,
    visual_rewardbench,
)
from critique_rl.critic_data.benchmarks import (
    HUB,
    MM_RLHF_REWARDBENCH,
    VL_REWARDBENCH,
    RewardBenchmark,
    load_reward_benchmark,
)

__all__ = [
    "HUB",
    "METRICS",
    "MM_RLHF_REWARDBENCH",
    "SCORERS",
    "VL_REWARDBENCH",
    "CriticResult",
    "PairJudgement",
    "RewardBenchmark",
    "drawn_order",
    "evaluate_benchmark",
    "grouped_by_item",
    "judge_pairs",
    "load_reward_benchmark",
    "markdown_table",
    "mean_of",
    "metrics_by_item",
    "pair_accuracy",
    "parse_lenient",
    "summarise_benchmark",
    "summarise_pairs",
    "visual_rewardbench",
]
