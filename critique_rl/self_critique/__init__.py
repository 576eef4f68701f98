"""Test-time self-critique: the best of n candidates by pairwise judgement, and the baselines it must beat.

The model that wrote the candidates of an item also judges them, two at a time, in a knock-out (LLaVA-Critic-R1,
arXiv 2509.00676, its Best-of-128; any other judge is a baseline). Its authors say that candidates are compared
in pairs, recursively, and released no code for it. Our choices are pairing, byes, and the treatment of a
judgement that cannot be read. The candidates of an item are shuffled by seed and neighbours meet; in a round of
odd size the last candidate goes on without a match. n candidates cost n - 1 judgements, and twice that if each
pair is judged in both orders.

One bracket measures every n. After r rounds each block of 2^r neighbours has one survivor. The order is random,
so a block is a random sub-sample of the pool, and its survivor is the winner of a knock-out of that sub-sample
alone. Baselines choose from the same blocks. The value of an item is the mean over its floor(N / n) whole
blocks, without blocks whose choice could not be graded. A candidate without an answer takes part, since its
tokens were paid for.

`knockout.py` holds the knock-out, `records.py` keeps its judgements on disk, `judges.py` makes a judge from a
model, `results.py` has pools, baselines and measures. May import evaluation, actors, prompts and lower layers.
"""

from typing import Any

from critique_rl.moved import find

_HOMES = ("self_critique.judges", "self_critique.knockout", "self_critique.records", "self_critique.results")


def __getattr__(name: str) -> Any:
    return find(name, __name__, _HOMES)
