"""Send hostile replies through the grader and all parsers: none may hang, run code, or be graded right unduly.

    python experiments/hostile.py --strings 20000

A critic that is trained against a grader finds what the grader overlooks. The strings are drawn by seed, in four
groups: `wrong` says another number than gold by a sign or word near it, `right` says gold in an unusual way,
`bait` tries to run code, to fill memory or to take for ever, `noise` mutates real answers at random. Wrong ones
that are graded True, and files that code in a reply has written, are violations: then the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critique_rl.grading import explain, grade_batch
from critique_rl.grading.workers import SHARED
from critique_rl.markdown import table
from critique_rl.pairwise_rewards import parse_preference, r_format
from critique_rl.prompts import RATING_LABEL, VERDICT_LABEL, parse_rating, parse_verdict
from critique_rl.reports.provenance import result
from critique_rl.runs.process import guarded
from critique_rl.types import child_seed

RESULT = Path(__file__).resolve().parent / "results" / "hostile.json"
KINDS = ("number", "mixed", "math")
STYLES = (
    *("The answer is {}.", "The answer is ${}$.", "#### {}", "\\boxed{{{}}}", "{}", "**Answer:** {}"),
    *("<think>Perhaps {g}.</think> The answer is {}.", "First {g}. Therefore, the answer is: {}"),
)
WRONG = (
    *(
        "{}²",
        "{}³",
        "{}½",
        "{}⅓",
        "{}⁄7",
        "{}∕7",
        "{}√2",
        "√{}",
        "∛{}",
        "{}×3",
        "{}⋅3",
        "{}÷7",
        "{}π",
        "{}e5",
        "{}^2",
    ),
    *(
        "‒{}",
        "－{}",
        "−{}",
        "⁻{}",
        "﹣{}",
        "-{}",
        "±{}",
        "{}±2",
        "x<{}",
        "≠ {}",
        "{}\u200b0",
        "{}\u20601",
        "{}\u0336",
    ),
    *(
        "{} minus 2",
        "{} plus 2",
        "{} times 3",
        "{} squared",
        "{} thousand",
        "{} million",
        "{}% of 50",
        "{} or 1001",
    ),
    *(
        "{}? No, 1001",
        "{} (wrong)",
        "{} is wrong",
        "{} is incorrect",
        "not {}",
        "{}, no, 1001",
        "{}.5",
        "{}/7",
        "{}x",
    ),
    *(
        "half of {}",
        "twice {}",
        "minus {}",
        "more than {}",
        "{} 1/7",
        "{} 3",
        "({})^2",
        "{}万",
        "1{}",
        "{}:30",
        "{}7",
    ),
)
RIGHT = (
    *(
        "{}.0",
        "roughly {}",
        "a total of {}",
        "+{}",
        "x = {}",
        "{} apples",
        "{} km/h",
        "≈{}",
        "**{}**",
        "{} €",
    ),
    *("{} years old", "{}, which is right", "{} (checked)", "exactly {}", "{} m²"),
)
BAITS = (
    *(
        "__import__('os').system('touch {c}')",
        "eval(\"open('{c}','w')\")",
        "\\input{{{c}}}",
        "{c}; touch {c}",
    ),
    *(
        "exec('import os;os.mkdir(\"{c}\")')",
        "lambda: open('{c}', 'w')",
        "\\write18{{touch {c}}}",
        "$(touch {c})",
    ),
    *("9^{{9^{{9^{{9}}}}}}", "9**9**9**9", "((((9!)!)!)!)!", "\\frac{{1}}{{10^{{-10^{{10}}}}}}"),
    *("(a+b+c+d+e)^{{99}}", "\\binom{{10^9}}{{10^8}}", "\\sum_{{n=1}}^{{\\infty}} \\frac{{1}}{{n^n!}}"),
)
ALPHABET = "0123456789.,-+/*^_{}()[]$%=<>\\ \n\t\"'`~|&;:!?eixπ√²½⁄−‒\u200b\u202e７٣一\u0336\x00\ud800abcXYZ"
SEEDS = (
    *(
        "The answer is $\\frac{3}{4}$.",
        "16 - 3 = 13\n#### 13",
        "\\boxed{x^2 + 2x + 1}",
        "(B) 5 km",
        "yes",
        "[1, 2, 3]",
    ),
    *("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "x=1 or x=-2", "The answer is 1,234.50", "<think>5</think> 7"),
    *(
        f"{VERDICT_LABEL} Correct",
        f"{RATING_LABEL} 7/10",
        "<think>a</think> \\boxed{1}",
        "Step sentence: 2+2=4",
    ),
)

GOLDS = {
    "number": ("13", "7"),
    "mixed": ("13", "[1, 2, 3]", "yes", "(b)"),
    "math": ("13", "\\frac{3}{4}", "x=1 or x=-2", "x^2 + 2x + 1"),
    "choice": ("B",),
    "yes_no": ("yes",),
}
"""Gold answers by kind of grading."""


@dataclass(frozen=True)
class Case:
    """One reply.

    Attributes:
        group: `wrong`, `right`, `bait` or `noise`.
        gold: Gold answer.
        reply: The reply.
        kind: Way to grade it.
        pattern: What it was made from, for the report.
    """

    group: str
    gold: str
    reply: str
    kind: str
    pattern: str


def cases(count: int, seed: int, canary: str) -> list[Case]:
    """Draw `count` cases: 3 of 10 wrong, 1 right, 6 noise; each bait comes once in each kind of grading."""
    draw = random.Random(child_seed(seed, "hostile"))
    drawn = [Case("bait", "7", bait.format(c=canary), kind, bait) for bait in BAITS for kind in KINDS]
    makers: Sequence[Callable[[random.Random], Case]] = (*[_wrong] * 3, _right, *[_noise] * 6)
    drawn += [draw.choice(makers)(draw) for _ in range(count - len(drawn))]
    draw.shuffle(drawn)
    return drawn


def _said(draw: random.Random, group: str, patterns: Sequence[str]) -> Case:
    gold, pattern, style = str(draw.randint(3, 998)), draw.choice(patterns), draw.choice(STYLES)
    kind = draw.choice(KINDS)
    return Case(group, gold, style.format(pattern.format(gold), g=1001), kind, pattern)


def _wrong(draw: random.Random) -> Case:
    return _said(draw, "wrong", WRONG)


def _right(draw: random.Random) -> Case:
    return _said(draw, "right", RIGHT)


def _noise(draw: random.Random) -> Case:
    text = draw.choice(SEEDS)
    for _ in range(draw.randint(1, 12)):
        place, end = sorted(draw.randint(0, len(text)) for _ in range(2))
        change = draw.randint(0, 3)
        if change == 0:
            text = text[:place] + draw.choice(ALPHABET) + text[place:]
        elif change == 1:
            text = text[:place] + draw.choice(ALPHABET) + text[place + 1 :]
        elif change == 2:
            text = text[:place] + draw.choice(SEEDS) + text[place:]
        else:
            text = text[:end] + text[place:end] * draw.randint(1, 5) + text[end:]
    kind = draw.choice(list(GOLDS))
    return Case("noise", draw.choice(GOLDS[kind]), text, kind, "mutation")


def peak_megabytes() -> float:
    """Most memory that a living worker of the grader has held."""
    peaks = [0.0]
    for worker in SHARED.pool._idle:
        status = Path(f"/proc/{worker._process.pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        peaks += [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
    return max(peaks)


def parse_all(text: str) -> float:
    """Seconds that all parsers take for one text."""
    began = time.perf_counter()
    parse_verdict(text)
    parse_rating(text)
    for thinking in (False, True):
        parse_preference(text, thinking=thinking)
    r_format([text])
    return time.perf_counter() - began


def attack(count: int, seed: int) -> dict[str, Any]:
    """Grade and parse all cases, and measure."""
    with tempfile.TemporaryDirectory() as folder:
        canary = os.path.join(folder, "canary")
        drawn = cases(count, seed, canary)
        grades: list[bool | None] = []
        slowest, peak, began = 0.0, 0.0, time.monotonic()
        for start in range(0, len(drawn), 100):
            items = [{"gold": c.gold, "reply": c.reply, "kind": c.kind} for c in drawn[start : start + 100]]
            batch_began = time.monotonic()
            grades += grade_batch(items)
            slowest = max(slowest, time.monotonic() - batch_began)
            peak = max(peak, peak_megabytes())
        graded_s = time.monotonic() - began
        labels = (
            f"{VERDICT_LABEL} Correct\n",
            f"{RATING_LABEL} 7\n",
            "\\boxed{1} ",
            f'"{VERDICT_LABEL} Wrong" ',
        )
        megabytes = [parse_all(label * (1_000_000 // len(label))) for label in labels]
        parsed = [parse_all(c.reply) for c in drawn]
        canaries = sorted(os.listdir(folder))
    graded = list(zip(drawn, grades, strict=True))
    unknown = [c for c, is_right in graded if is_right is None]
    return {
        "strings": len(drawn),
        "groups": Counter(c.group for c in drawn),
        "right": Counter(c.group for c, is_right in graded if is_right),
        "violations": [vars(c) for c, is_right in graded if is_right and c.group == "wrong"],
        "missed": Counter(c.pattern for c, is_right in graded if c.group == "right" and not is_right),
        "canaries": canaries,
        "unknown": Counter(explain(gold=c.gold, reply=c.reply, kind=c.kind).reason[:60] for c in unknown),
        "graded_per_second": round(len(drawn) / graded_s, 1),
        "slowest_batch_of_100_s": round(slowest, 2),
        "worker_peak_mb": round(peak, 1),
        "parsers_slowest_ms": round(1000 * max(parsed), 2),
        "parsers_megabyte_s": round(max(megabytes), 2),
    }


def main() -> int:
    """Attack, print a table and write the result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strings", type=int, default=20_000, help="number of strings")
    parser.add_argument("--seed", type=int, default=0, help="seed of the strings")
    parser.add_argument("--output", type=Path, default=RESULT, help="the result file")
    given = parser.parse_args()
    if given.strings < len(BAITS) * len(KINDS):
        parser.error(f"--strings must be at least {len(BAITS) * len(KINDS)}, as each bait comes once a kind")
    outcome = attack(given.strings, given.seed)
    content = result({"strings": given.strings}, [given.seed], []) | outcome
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n", "utf-8")
    rows: list[list[object]] = [[name, json.dumps(value)[:300]] for name, value in outcome.items()]
    sys.stdout.write(f"{table(['measure', 'value'], rows)}\n\nresults: {given.output}\n")
    return 1 if outcome["violations"] or outcome["canaries"] else 0


if __name__ == "__main__":
    sys.exit(guarded(main))
