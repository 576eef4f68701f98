"""The list of the paper's benchmarks: category, task of lmms-eval, and weight in the averages.

LLaVA-Critic-R1 (arXiv 2509.00676) reports 26 benchmarks in six categories. It does not say which benchmark is in
which category; that is reconstructed from the released scripts and from its category averages: 7, 9, 4, 2 and 2
benchmarks with equal weights, without the two agent tasks, give its overall averages within rounding. Its harness
for the Qwen models was not released, and its scorers accept more than those of lmms-eval: compare checkpoints with
each other, and with the paper only in their differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import yaml

from critique_rl.types import UserError, nearest

CHECKED_VERSION = "0.7.3"
"""Version of lmms-eval for which the names and units below were checked, in its registry and scorers."""

PERCEPTION, REASONING, CHART, VIDEO, REWARD, AGENT = CATEGORIES = (
    "Perception & General VQA",
    "Image Reasoning",
    "Chart Understanding",
    "Video Reasoning",
    "Visual RewardBench",
    "Agent",
)


@dataclass(frozen=True)
class Benchmark:
    """One benchmark of the paper.

    Attributes:
        name: Name in the paper.
        category: One of `CATEGORIES`.
        task: Name of the task in lmms-eval; None if there is none, or it is not used.
        metric: Metric of the task that counts.
        percent: Whether lmms-eval gives that metric in percent; otherwise as a fraction of 1.
        parts: Tasks whose metrics are averaged, if `task` is a group without a number of its own.
        asks_model: Whether scoring asks another model behind an OpenAI-compatible address (OPENAI_API_KEY).
        headline: Whether it is among the 24 whose plain mean is the paper's headline average.
        note: Difference between the task and the paper's protocol, or the reason why there is no task.
    """

    name: str
    category: str
    task: str | None = None
    metric: str = ""
    percent: bool = False
    parts: tuple[str, ...] = ()
    asks_model: bool = False
    headline: bool = True
    note: str = ""


_LIST = yaml.safe_load((files(__package__) / "policy_catalogue.yaml").read_text("utf-8"))

BENCHMARKS = {
    name: Benchmark(name, **{**fields, "parts": tuple(fields.get("parts", ()))})
    for name, fields in _LIST.items()
}
"""Benchmarks by name, in the order of the released scripts."""

HEADLINE = tuple(b.name for b in BENCHMARKS.values() if b.headline)
"""The 24 benchmarks whose plain mean is the paper's headline average; each weighs 1/24."""

POLICY = tuple(name for name in HEADLINE if BENCHMARKS[name].category != REWARD)
"""The 22 benchmarks of `HEADLINE` that measure the policy."""


def weight(name: str) -> float:
    """Weight of a benchmark in the headline average; errors of `find_benchmark`.

    >>> weight("MMMU") * 24, weight("Agent 1")
    (1.0, 0.0)
    """
    return 1 / len(HEADLINE) if find_benchmark(name).headline else 0.0


def find_benchmark(name: str) -> Benchmark:
    """A benchmark by name.

    Raises:
        UserError: There is no such benchmark.
    """
    if name not in BENCHMARKS:
        raise UserError(f"no benchmark {name!r} in the paper's list. {nearest(name, BENCHMARKS)}")
    return BENCHMARKS[name]
