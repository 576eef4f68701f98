"""Benchmarks: critics on preference pairs in both orders, and policies through lmms-eval.

```python
judge = ActorJudge(actor, prompts=prompt_set("thinking"), thinking=True)
vl = evaluate_benchmark(load_reward_benchmark("VL-RewardBench"), judge, seed=0, records=folder / "vl.jsonl")
held_out = pair_accuracy(pairs, judge, seed=0, records=folder / "pairs.jsonl")
print(markdown_table(vl.summary))
```

The evaluation of LLaVA-Critic-R1 (arXiv 2509.00676) shows each pair once, in an order that an unseeded coin
decides, and its scorer was not released. Here each pair is shown in both orders, and a hash of the seed decides
which order counts where one order is measured. Two scorers read the replies: `strict`, the parser with which the
critic is trained, and `lenient`, the rules of the standard harnesses (see `parse_lenient`).

`judging.py` keeps judgements on disk, `lenient.py` reads replies, `reward_measures.py` computes metrics,
`pairs.py` measures a model of a run; the `policy*.py` files call lmms-eval. May import self_critique and lower
layers.
"""

from typing import Any

from critique_rl.moved import find

_HOMES = ("benchmarks.reward_measures", "benchmarks.judging", "benchmarks.lenient", "critic_data.benchmarks")


def __getattr__(name: str) -> Any:
    return find(name, __name__, _HOMES)
