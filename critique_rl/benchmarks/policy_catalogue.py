"""The list of the paper's benchmarks: category, task of lmms-eval, and weight in the averages.

LLaVA-Critic-R1 (arXiv 2509.00676) reports 26 benchmarks in six categories. It does not say which benchmark is in
which category; that is reconstructed from the released scripts and from its category averages: 7, 9, 4, 2 and 2
benchmarks with equal weights, without the two agent tasks, give its overall averages within rounding. Its harness
for the Qwen models was not released, and its scorers accept more than those of lmms-eval: compare checkpoints with
each other, and with the paper only in their differences.
"""

from __future__ import annotations

from dataclasses import dataclass

from critique_rl.critic_data.benchmarks import MM_RLHF_REWARDBENCH, VL_REWARDBENCH
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
    task: str | None
    metric: str = ""
    percent: bool = False
    parts: tuple[str, ...] = ()
    asks_model: bool = False
    headline: bool = True
    note: str = ""


_VIDEO_MMMU = ("video_mmmu_perception", "video_mmmu_comprehension", "video_mmmu_adaptation")
_NATIVE = "judged by critique_rl.reward_benchmarks in both orders"

BENCHMARKS: dict[str, Benchmark] = {
    b.name: b
    for b in (
        Benchmark("BLINK", PERCEPTION, "blink", "blink_acc"),
        Benchmark(
            "HallusionBench",
            PERCEPTION,
            "hallusion_bench_image",
            "aAcc",
            percent=True,
            asks_model=True,
            note="the paper does not say which of aAcc, qAcc and fAcc it reports",
        ),
        Benchmark("MMStar", PERCEPTION, "mmstar", "average"),
        Benchmark(
            "MMBench",
            PERCEPTION,
            "mmbench_en_dev_static",
            "gpt_eval_score",
            percent=True,
            note="dev split; the labels of the paper's test split are hidden, mmbench_en_test writes a submission",
        ),
        Benchmark(
            "MMVP",
            PERCEPTION,
            "mmvp",
            "mmvp_pair_accuracy",
            note="pairs as in MMVP's own score; the paper does not say whether it counts pairs or questions",
        ),
        Benchmark(
            "MMHal-Bench", PERCEPTION, None, note=f"no task in lmms-eval {CHECKED_VERSION}; needs a GPT judge"
        ),
        Benchmark("RealWorldQA", PERCEPTION, "realworldqa", "exact_match"),
        Benchmark(
            "MathVista",
            REASONING,
            "mathvista_testmini_format",
            "llm_as_judge_eval",
            percent=True,
            asks_model=True,
        ),
        Benchmark("MathVision", REASONING, "mathvision_testmini", "mathvision_standard_eval", percent=True),
        Benchmark("MathVerse", REASONING, "mathverse_testmini", "gpt_eval_score", asks_model=True),
        Benchmark(
            "MMMU", REASONING, "mmmu_val", "mmmu_acc", note="all images; the released script shows the first"
        ),
        Benchmark("EMMA-mini", REASONING, "emma-mini", "emma_score", asks_model=True),
        Benchmark("VLMsAreBlind", REASONING, "vlmsareblind", "accuracy"),
        Benchmark("V*", REASONING, "vstar_bench", "vstar_overall_acc", percent=True),
        Benchmark("VisuLogic", REASONING, "visulogic", "visulogic_acc"),
        Benchmark(
            "ZeroBench-sub",
            REASONING,
            None,
            note=f"lmms-eval {CHECKED_VERSION} has the main questions alone (zerobench), not the subquestions",
        ),
        Benchmark("ChartQA", CHART, "chartqa", "relaxed_overall"),
        Benchmark("OCRBench", CHART, "ocrbench", "ocrbench_accuracy"),
        Benchmark("AI2D", CHART, "ai2d", "exact_match"),
        Benchmark("CharXiv", CHART, "charxiv_val_reasoning", "reasoning_acc", asks_model=True),
        Benchmark("MMVU", VIDEO, "mmvu_val", "accuracy", percent=True, asks_model=True),
        Benchmark("VideoMMMU", VIDEO, "video_mmmu", "mmmu_acc", parts=_VIDEO_MMMU),
        Benchmark(
            VL_REWARDBENCH,
            REWARD,
            None,
            note=f"{_NATIVE}; lmms-eval's vl_rewardbench shows one order, samples and asks GPT-4o-mini",
        ),
        Benchmark(MM_RLHF_REWARDBENCH, REWARD, None, note=f"{_NATIVE}; no task in lmms-eval"),
        Benchmark("Agent 1", AGENT, None, headline=False, note="the paper's agent tasks are not known to us"),
        Benchmark("Agent 2", AGENT, None, headline=False, note="the paper's agent tasks are not known to us"),
    )
}
"""Benchmarks by name, in the order of the released scripts."""

HEADLINE = tuple(b.name for b in BENCHMARKS.values() if b.headline)
"""The 24 benchmarks whose plain mean is the paper's headline average; each weighs 1/24."""

POLICY = tuple(name for name in HEADLINE if BENCHMARKS[name].category != REWARD)
"""The 22 benchmarks of `HEADLINE` that measure the policy."""


def weight(name: str) -> float:
    """Weight of a benchmark in the headline average.

    Raises:
        UserError: There is no such benchmark.

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
