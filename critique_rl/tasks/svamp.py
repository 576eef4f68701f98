"""SVAMP: one-step word problems that vary the wording of simpler problems.

Source: https://huggingface.co/datasets/ChilleD/SVAMP, licence MIT; 700 train, 300 test. `SVAMP.json` of
arkilpatel/SVAMP is an array of all 1,000 problems; as a local file it is test data unless `splits` is set, and
`splits: published` cuts it as the hub does:

    {"ID": "chal-1", "Body": "Mia had 9 shells and lost 4.", "Question": "How many shells are left?",
     "Equation": "( 9.0 - 4.0 )", "Answer": 5.0, "Type": "Subtraction"}

On the hub a row also has `question_concat`, which joins body and question, and `Answer` is text.
"""

from __future__ import annotations

import math
import re

from critique_rl.tasks.published import make_problem, published_task
from critique_rl.tasks.rows import HubSplit, Row
from critique_rl.types import Problem

HUB = {split: HubSplit("ChilleD/SVAMP", ("default",), split) for split in ("train", "test")}
HUB_LAYOUT = ("question_concat", "Equation", "Answer")
FILE_LAYOUT = ("Body", "Question", "Equation", "Answer")
_TEST_ROWS = """
1 4 7 8 12 20 22 26 28 31 33 45 47 49 58 60 61 66 68 70 71 72 73 74 81 82 88 90 94 95 96 97 100 104 105
109 113 115 118 124 128 129 132 136 142 143 147 157 160 162 164 166 167 168 170 176 183 195 197 204 206
215 217 218 220 221 224 225 226 229 231 234 235 236 239 244 246 247 249 251 253 254 258 270 271 272 274
275 277 282 285 286 297 301 306 315 320 323 324 332 333 339 345 347 349 353 363 364 368 371 372 374 380
383 388 389 390 391 395 406 409 411 417 430 433 434 439 442 446 449 460 463 465 470 471 474 480 485 487
498 501 506 512 513 518 520 522 527 530 541 542 544 546 547 550 552 553 559 563 566 567 568 571 575 581
585 591 592 598 599 603 604 605 611 614 617 619 622 624 634 641 643 644 647 651 655 656 657 659 664 666
672 675 676 678 686 687 688 693 697 699 700 702 705 707 710 715 719 722 725 729 731 734 735 736 737 739
740 747 748 750 754 755 759 760 763 765 768 769 774 778 781 782 785 787 788 792 795 797 799 809 812 825
826 827 828 829 831 832 835 842 845 850 855 856 864 866 867 868 873 875 876 882 883 888 891 895 900 907
908 909 914 926 931 932 934 937 939 947 948 955 956 957 959 964 965 968 971 972 974 975 979 983 984 987
991 993 995 999 1000
"""
TEST_ROWS = frozenset(map(int, _TEST_ROWS.split()))
"""Rows N of `SVAMP.json` (ID `chal-N`) that are the test split on the hub."""


def parse(row: Row) -> Problem:
    """Turn a row into a problem; the solution is the equation, `4 - 3 = 1` for `( 4.0 - 3.0 )` and 1."""
    if row.layout(HUB_LAYOUT, FILE_LAYOUT) == HUB_LAYOUT:
        question = row.text("question_concat")
    else:  # joined as on the hub, so that both layouts give the same problem id
        question = f"{row.text('Body', may_be_empty=True)} {row.text('Question')}".strip()
    answer = _number(row)
    solution = f"{_equation(row.text('Equation'))} = {answer}"
    return make_problem(dataset="svamp", question=question, solution=solution, answer=answer, kind="number")


def _split_of(row: Row) -> str:
    """The hub's split of a row of `SVAMP.json`."""
    row.layout(("ID", *FILE_LAYOUT))
    number = row.text("ID").removeprefix("chal-")
    if not number.isdecimal():
        raise row.error("ID", "`chal-` and a number")
    return "test" if int(number) in TEST_ROWS else "train"


def _equation(text: str) -> str:
    """An equation as people write it.

    >>> _equation("( ( 7.0 + 0.5 ) * 4.0 )")
    '(7 + 0.5) * 4'
    """
    whole = re.sub(r"(\d+)\.0\b", r"\1", text).replace("( ", "(").replace(" )", ")")
    return whole[1:-1] if re.fullmatch(r"\((?:[^()]|\([^()]*\))*\)", whole) else whole


def _number(row: Row) -> str:
    value = row.known("Answer")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise row.error("Answer", "a number")
    try:
        number = float(value.replace(",", "") if isinstance(value, str) else value)
    except ValueError as error:
        raise row.error("Answer", "a number") from error
    if not math.isfinite(number):
        raise row.error("Answer", "a finite number")
    return str(int(number)) if number.is_integer() else str(number)


TASK = published_task(
    "svamp",
    parse,
    HUB,
    kind="number",
    licence="MIT",
    about="One-step word problems in varied wording.",
    split_of=_split_of,
)
