"""The paper's numbers as data, results beside them, and what they say of claims."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from matplotlib.container import ErrorbarContainer

from critique_rl.config.run import EXPERIMENTS
from critique_rl.evaluation.intervals import t_interval
from critique_rl.reports.pictures import save
from critique_rl.studies import charts
from critique_rl.studies.charts import draw_bars, draw_lines
from critique_rl.studies.claims import judge
from critique_rl.studies.paper import Claim, Paper, PaperRow, Side, load_paper
from critique_rl.studies.results import combine, load_result
from critique_rl.studies.tables import escape_latex, format_cell, latex, markdown
from critique_rl.types import UserError

Values = Mapping[tuple[str, str], Mapping[str, Sequence[float]]]


@pytest.fixture(scope="module")
def paper() -> Paper:
    return load_paper(EXPERIMENTS / "paper.yaml")


@pytest.fixture(scope="module")
def ledger() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ledger", EXPERIMENTS / "ledger.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["ledger"] = module
    spec.loader.exec_module(module)
    return module


def content(
    values: Values,
    *,
    table: str = "table1_main",
    seeds: Sequence[int] = (0, 1, 2),
    base: str = "tiny",
    **more: Any,
) -> dict[str, Any]:
    """A result file with one value per seed of each metric."""
    config = {"name": "toy", "base": base, "prompts": "compact", "actor": {}, "seeds": list(seeds)}
    return {
        "config": {**config, **more.pop("config", {})},
        "commit": "c" * 40,
        "versions": {"device": "CPU, 1 threads"},
        "seeds": list(seeds),
        "rows": [
            {
                "method": m,
                "dataset": d,
                "metrics": {n: t_interval(v) for n, v in metrics.items()},
                "records": [m],
            }
            for (m, d), metrics in values.items()
        ],
        "dirty": False,
        "preset": "toy",
        "table": table,
        "not_run": [],
        **more,
    }


def rows_of(paper: Paper, stem: str, method: str, model: str = "", **fields: Any) -> dict[str, PaperRow]:
    """The paper's rows of a method by data set."""
    return {
        r.dataset: r
        for r in paper.tables[stem].rows
        if r.method == method and model in r.model and all(getattr(r, k) == v for k, v in fields.items())
    }


# -- the paper's numbers ----------------------------------------------------------------------------------


def test_each_printed_delta_is_the_difference_of_the_printed_accuracies(paper: Paper) -> None:
    checked = 0
    for table in paper.tables.values():
        before = {(r.dataset, r.model, r.actor): r for r in table.rows if r.method == "No critic"}
        for row in table.rows:
            start = before.get((row.dataset, row.model, row.actor))
            if "delta" not in row.metrics or start is None:
                continue
            after, first = ("score_refine", "score") if table.unit == "score" else ("acc_refine", "acc")
            # Three numbers rounded to a step: to 0.01, 0.0001 or, in the tables with one decimal, 0.001.
            step = 0.01 if table.unit == "score" else 0.001 if table.source == "Table 2" else 0.0001
            gain = row.metrics[after] - start.metrics[first]
            assert gain == pytest.approx(row.metrics["delta"], abs=1.51 * step), row
            checked += 1
    # table 1: 2 models x 5 methods x 3 sets; 2: 5; 5 and 6: 4 x 2 each; 7: 4; 9: 2
    assert checked == 30 + 5 + 16 + 4 + 2


def test_means_that_the_paper_quotes_follow_from_its_table(paper: Paper) -> None:
    def gain(over: str, size: str, stem: str = "table1_main", metric: str = "acc_refine") -> float:
        best, other = rows_of(paper, stem, "Critique-RL", size), rows_of(paper, stem, over, size)
        return 100 * statistics.fmean(best[d].metrics[metric] - other[d].metrics[metric] for d in best)

    assert gain("No critic", "3B") == pytest.approx(9.42, abs=0.01)
    assert gain("No critic", "7B") == pytest.approx(9.03, abs=0.01)
    assert gain("CTRL", "3B") == pytest.approx(3.64, abs=0.01)
    assert gain("CTRL", "7B") == pytest.approx(3.90, abs=0.01)
    assert gain("SFT critic", "3B") == pytest.approx(7.11, abs=0.01)
    assert gain("Retroformer", "7B") == pytest.approx(5.11, abs=0.01)
    assert gain("Retroformer", "7B", metric="acc_dis") == pytest.approx(12.69, abs=0.01)
    assert gain("No critic", "7B", "table4_ood") == pytest.approx(5.70, abs=0.01)


def is_share_of(value: float, items: int, digits: int) -> bool:
    """Whether some k / items is printed as `value`; a half may have been rounded either way."""
    near = round(value * items)
    return any(abs(k / items - value) <= 0.5001 * 10**-digits for k in (near - 1, near, near + 1))


def test_the_values_noted_as_impossible_shares_are_those_that_are(paper: Paper) -> None:
    sizes = {"math": 5000, "gsm8k": 1319, "aqua": 254, "svamp": 300, "theoremqa": 800, "math500": 500}
    odd: dict[str, list[float]] = {}
    for stem, table in paper.tables.items():
        digits = 3 if table.source in ("Table 2", "Table 3", "Table 4") else 4
        for row in table.rows if table.unit == "percent" else ():
            for name, value in row.metrics.items():
                # acc of "No critic" is printed once, acc_refine is the same number
                if name not in ("delta", "acc") and not is_share_of(value, sizes[row.dataset], digits):
                    kind = "dis" if name == "acc_dis" else "acc"
                    odd.setdefault(f"{stem} {kind}", []).append(round(100 * value, 2))
    assert len(odd["table1_main dis"]) == 26
    assert {k: sorted(set(v)) for k, v in odd.items() if k.endswith("acc")} == {
        "table4_ood acc": [85.1],
        "table6_72b_actor acc": [79.14, 80.34],
        "table11_majority acc": [50.05, 52.39, 53.49, 56.75, 65.91],
        "table13_steps acc": [44.89],
    }
    for key, values in odd.items():
        if key.endswith("acc"):
            notes = " ".join(paper.tables[key.split()[0]].notes)
            assert all(f"{value:.2f}".rstrip("0") in notes for value in values)


def test_numbers_that_two_tables_print_are_the_same(paper: Paper) -> None:
    main = rows_of(paper, "table1_main", "Critique-RL", "3B")
    for dataset, row in rows_of(paper, "table3_ablation", "Critique-RL").items():
        assert row.metrics["acc_refine"] == pytest.approx(main[dataset].metrics["acc_refine"], abs=0.00051)
    assert rows_of(paper, "table8_refinement", "Critique-RL")["gsm8k"].metrics["acc_dis"] == 0.8744
    assert rows_of(paper, "table13_steps", "Stage I+II", x=500.0)["math"].metrics["acc_dis"] == 0.8280
    assert rows_of(paper, "table13_steps", "Stage I", x=0.0)["math"].metrics["acc_refine"] == 0.4424
    for method in ("SFT critic", "Critique-RL"):
        same = rows_of(paper, "table10_actor_rl", method)["math"].metrics
        assert same.items() <= rows_of(paper, "table1_main", method, "7B")["math"].metrics.items()
    assert rows_of(paper, "table11_majority", "Critique-RL")["math"].metrics["majority_at_1"] == 0.5840


def test_each_claim_quotes_the_difference_of_the_papers_own_rows(paper: Paper) -> None:
    quoted = 0
    for claim in paper.claims:
        rows = paper.tables[claim.stem].rows
        if claim.paper is None:
            assert not rows, claim.id
            continue
        of_reference = [
            {**dataclasses.asdict(r), "metrics": {n: t_interval([v]) for n, v in r.metrics.items()}}
            for r in rows
            if (r.model, r.dataset) == (rows[0].model, rows[0].dataset)
        ]
        (outcome,) = judge(claim, content({}, table=claim.stem, seeds=[0]) | {"rows": of_reference}, paper)
        assert outcome.difference is not None, outcome
        assert outcome.difference["mean"] == pytest.approx(claim.paper, abs=1e-9), claim.id
        quoted += 1
    assert quoted == 26


def test_every_table_and_figure_has_a_claim(paper: Paper) -> None:
    assert {claim.stem for claim in paper.claims} == set(paper.tables)
    numbered = [int(t.source.split()[1]) for t in paper.tables.values() if t.source.startswith("Table")]
    assert numbered == list(range(1, 14))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("unit: percents", "tables.t.unit 'percents' is unknown. Did you mean 'percent'?"),
        ("metrics: {acc: 36.9}", r"tables.t.rows\[0\] \('A', d, M\): acc is 36.9; shares are fractions of 1"),
        ("x: 3, metrics: {acc: 0.3}", "has x, but .*tables.t.x does not say"),
        ("metric: {acc: 0.3}", "setting 'metric' is unknown. Did you mean 'metrics'"),
        ("stem: u", "claims\\[0\\] \\('c'\\): stem 'u' is unknown"),
        ("x: middle", "left.x must be a number, 'first' or 'last', got 'middle'"),
        ("twice", r"tables.t.rows\[1\] \('A', d, M\) is rows\[0\] again"),
    ],
)
def test_a_mistake_in_the_papers_file_is_named_with_its_place(
    tmp_path: Path, change: str, message: str
) -> None:
    row = (
        "{method: A, dataset: d, model: M, " + (change if "metric" in change else "metrics: {acc: 0.3}") + "}"
    )
    text = (
        f"source: s\nours: {{}}\ntables:\n  t:\n    source: s\n    {change if 'unit' in change else 'notes: []'}\n"
        f"    rows:\n      - {row}\n" + (f"      - {row}\n" if change == "twice" else "") + "claims:\n"
        f"  - {{id: c, text: c, metric: acc, {change if 'stem' in change else 'stem: t'}, right: {{method: A}},\n"
        f"     left: {{method: A{', x: middle' if 'middle' in change else ''}}}}}\n"
    )
    path = tmp_path / "paper.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_paper(path)


# -- beside the paper -------------------------------------------------------------------------------------


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.split("\n") if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (lines[0], *lines[2:])]


def test_the_papers_number_stands_beside_ours_where_model_and_data_set_are_its(paper: Paper) -> None:
    ours = {
        ("Stage I+II", "gsm8k"): {"acc_refine": [0.70, 0.72, 0.74], "acc_dis": [0.5] * 3},
        ("Stage I+II", "aqua"): {"acc_refine": [0.5] * 3, "acc_dis": [0.5] * 3},
        ("r_refine only", "gsm8k"): {"acc_refine": [0.6] * 3},
    }
    missing = [{"method": "STaR", "dataset": "gsm8k", "reason": "no time"}]
    result = content(ours, base="Qwen/Qwen2.5-3B", not_run=missing)
    head, *body = cells(markdown(result, paper, ["acc_refine", "acc_dis", "acc"]))
    assert head == [
        *("Method", "Data set", "Acc@Refine", "Acc@Refine (paper)", "Acc@Dis", "Acc@Dis (paper)"),
        *("Acc", "Acc (paper)"),
    ]
    # mean 0.72, standard deviation 0.02, half width 4.303 * 0.02 / sqrt(3) = 0.0497
    assert body == [
        ["Stage I+II", "gsm8k", "72.0 ± 5.0", "75.9", "50.0", "87.4", "–", "–"],
        ["Stage I+II", "aqua", "50.0", "56.7", "50.0", "69.9", "–", "–"],
        ["r_refine only", "gsm8k", "60.0", "–", "–", "–", "–", "–"],
        ["STaR", "gsm8k", "not run (no time)", "72.0", "–", "74.8", "–", "–"],
    ]


def test_a_result_of_other_models_names_those_of_the_paper(paper: Paper) -> None:
    one = {("Stage I", "gsm8k"): {"acc_dis": [0.5] * 3}}
    seven = content({("CTRL", "math"): {"acc_dis": [0.5] * 3}}, base="local/Qwen2.5-7B")
    assert cells(markdown(seven, paper, ["acc_dis"])) == [
        ["Method", "Acc@Dis", "Acc@Dis (paper)"],
        ["CTRL", "50.0", "71.4"],
    ]
    other = content({("CTRL", "gsm8k"): {"acc_dis": [0.5] * 3}}, base="SmolLM2-135M")
    assert cells(markdown(other, paper, ["acc_dis"]))[0][2] == "Acc@Dis (paper, Qwen2.5-3B)"
    assert cells(markdown(other, paper, ["acc_dis"]))[1][2] == "76.7"
    chain = content({("CTRL", "modular_chain"): {"acc_dis": [0.5] * 3}})
    assert cells(markdown(chain, paper, ["acc_dis"]))[0][2] == "Acc@Dis (paper, Qwen2.5-3B on math)"
    assert cells(markdown(chain, paper, ["acc_dis"]))[1][2] == "69.3"
    llama = content(one, base="meta-llama/Llama-3.2-3B", table="table7_llama")
    assert cells(markdown(llama, paper, ["acc_dis"]))[0][2] == "Acc@Dis (paper)"
    instruct = content(one, base="meta-llama/Llama-3.2-3B-Instruct", table="table7_llama")
    assert cells(markdown(instruct, paper, ["acc_dis"]))[0][2] == "Acc@Dis (paper, Llama3.2-3B)"


def test_the_actor_counts_as_much_as_the_critic(paper: Paper) -> None:
    one = {("CTRL", "math500"): {"acc_dis": [0.5] * 3}}
    own = content(one, base="Qwen/Qwen2.5-7B", table="table6_72b_actor")
    assert cells(markdown(own, paper, ["acc_dis"]))[0][2] == (
        "Acc@Dis (paper, Qwen2.5-7B with Qwen2.5-72B-Instruct)"
    )
    own["config"]["actor"] = {"backend": "openai", "model": "Qwen/Qwen2.5-72B-Instruct"}
    assert cells(markdown(own, paper, ["acc_dis"]))[0][2] == "Acc@Dis (paper)"


def test_rows_with_x_meet_the_papers_row_of_that_x(paper: Paper) -> None:
    result = content({}, table="table13_steps", base="Qwen2.5-3B", seeds=[0])
    result["rows"] = [
        {"method": "Stage I", "dataset": "math", "x": x, "metrics": {"acc_dis": t_interval([0.5])}}
        for x in (100, 150)
    ]
    assert cells(markdown(result, paper, ["acc_dis"])) == [
        ["Method", "RL step", "Acc@Dis", "Acc@Dis (paper)"],
        ["Stage I", "100", "50.0", "68.3"],
        ["Stage I", "150", "50.0", "–"],
    ]


def test_scores_are_not_shown_as_percent(paper: Paper) -> None:
    values = {
        ("Critique-RL", "cnn_dailymail"): {
            "score_refine": [8.0, 9.0],
            "delta": [0.5, 0.5],
            "acc_dis": [0.5] * 2,
        }
    }
    result = content(values, table="table9_summarisation", base="Qwen/Qwen2.5-7B-Instruct", seeds=[0, 1])
    text = markdown(result, paper, ["score_refine", "delta", "mse_dis", "acc_dis"])
    # half width 12.706 * 0.7071 / sqrt(2) = 6.353
    assert cells(text)[1][1:] == ["8.50 ± 6.35", "20.81", "0.50", "1.12", "–", "1.59", "50.0"]
    assert format_cell(t_interval([0.25]), "delta") == "25.0"
    assert format_cell(t_interval([812.0]), "tokens_at_4") == "812.00"


def test_below_the_table_stand_seeds_commit_and_the_oddities_of_the_papers_numbers(paper: Paper) -> None:
    values = {("CTRL", "svamp"): {"acc_refine": [0.5, 0.5]}}
    result = content(values, table="table4_ood", base="Qwen/Qwen2.5-7B", seeds=[7, 3], dirty=True)
    text = markdown(result, paper, ["acc_refine"])
    assert "over 2 seeds (7, 3); without ±: the same for all seeds" in text
    assert "Preset toy, commit " + "c" * 40 + "-dirty, CPU" in text
    assert "Paper: arXiv 2510.24320, version 1, Table 4." in text and "85.1 for CTRL" in text
    alone = content({("CTRL", "svamp"): {"acc_refine": [0.5]}}, table="table4_ood", seeds=[7])
    assert "one seed (7), intervals over items" in markdown(alone, paper, ["acc_refine"])


def test_a_column_or_table_that_does_not_exist_is_refused_with_the_nearest(paper: Paper) -> None:
    result = content({("CTRL", "math"): {"acc_dis": [0.5] * 3}})
    with pytest.raises(UserError, match=r"column 'acc_disc' .* Did you mean 'acc_dis'"):
        markdown(result, paper, ["acc_disc"])
    with pytest.raises(UserError, match=r"table 'table1' .* Did you mean 'table1_main'"):
        markdown(result | {"table": "table1"}, paper, ["acc_dis"])


def test_each_special_character_of_latex_is_escaped_once() -> None:
    assert escape_latex("a_b & 5 % #1 $x {y} ~ ^ \\") == (
        r"a\_b \& 5 \% \#1 \$x \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
    assert escape_latex("72.0 ± 5.0, –, c→i, Δ") == r"72.0 $\pm$ 5.0, --, c$\to$i, $\Delta$"


def test_the_latex_table_is_balanced_and_each_line_has_its_cells(paper: Paper) -> None:
    values = {
        ("w/ r_delta", "math"): {"acc_refine": [0.5] * 3},
        ("50 % {x}", "aqua"): {"acc_refine": [0.5] * 3},
    }
    missing = [{"method": "w/o Stage I", "dataset": "math", "reason": "a & b\\"}]
    text = latex(content(values, table="table3_ablation", not_run=missing), paper, ["acc_refine", "delta_ci"])
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().split("\n")
    assert body == [
        r"w/ r\_delta & math & 50.0 & 48.2 & -- \\",
        r"50 \% \{x\} & aqua & 50.0 & -- & -- \\",
        r"w/o Stage I & math & not run (a \& b\textbackslash{}) & 47.6 & -- \\",
    ]
    assert (
        r"\begin{tabular}{llrrr}" in text and "Acc@Refine (paper, Qwen2.5-3B)" in text and r"c$\to$i" in text
    )
    bare = re.sub(r"\\[\\{}&%$#_]", "", text)  # what is left opens and closes groups
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0 and bare.count("$") % 2 == 0 and "%" not in bare and "#" not in bare
    assert re.findall(r"\\begin\{(\w+)\}", text) == re.findall(r"\\end\{(\w+)\}", text)[::-1]
    assert text.isascii()


def test_charts_show_means_intervals_and_the_papers_values(
    paper: Paper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(
        charts, "save", lambda figure, *rest, **style: (figures.append(figure), save(figure, *rest, **style))
    )
    values = {(m, "math"): {"acc_dis": [0.5, 0.6]} for m in ("SFT critic", "Stage I+II")}
    missing = [{"method": "STaR", "dataset": "math", "reason": "no time"}]
    result = content(values, base="Qwen2.5-3B", seeds=[0, 1], not_run=missing)
    draw_bars(result, paper, ["acc_dis"], tmp_path / "bars.png")
    (axis,) = figures[0].axes
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([55, 55])
    half = 100 * 12.706 * statistics.stdev([0.5, 0.6]) / math.sqrt(2)
    bars = [c for c in axis.containers if isinstance(c, ErrorbarContainer)]
    (whisker,) = bars[0].lines[2][0].get_segments()
    assert whisker[:, 0] == pytest.approx([55 - half, 55 + half])
    hollow = [line for line in axis.lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in hollow] == pytest.approx([66.51, 82.80, 66.97])  # STaR's too
    assert [text.get_text().strip() for text in axis.texts] == ["not run"]
    assert axis.get_xlabel() == "Acc@Dis (percent)"

    votes = {("Stage I+II", "math"): {f"majority_at_{k}": [0.1 * k] for k in (4, 1, 2)}}
    draw_lines(
        content(votes, table="table11_majority", base="Qwen2.5-7B", seeds=[0]),
        paper,
        ["majority_at"],
        tmp_path / "lines.png",
    )
    (axis,) = figures[1].axes
    ours, *_, theirs = axis.lines
    assert list(ours.get_xdata()) == [1, 2, 4] and list(ours.get_ydata()) == pytest.approx([10, 20, 40])
    assert list(theirs.get_xdata()) == [1, 2, 4] and list(theirs.get_ydata()) == pytest.approx(
        [58.40, 59.10, 65.91]
    )
    assert axis.get_ylabel() == "Majority@K (percent)" and axis.get_xlabel() == "K"
    with pytest.raises(UserError, match="no row of 'table1_main' has x and 'acc_dis'"):
        draw_lines(result, paper, ["acc_dis"], tmp_path / "none.png")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "lines.png").read_bytes().startswith(b"\x89PNG")


# -- joining files ----------------------------------------------------------------------------------------


def test_files_of_other_seeds_are_joined_in_the_order_of_their_seeds() -> None:
    of_seeds = {"costs": [{"part": "pool"}], "health": {"checked": 0, "findings": []}, "curves": {}}
    one = content(
        {("A", "d"): {"acc": [0.1, 0.2], "delta": [0.0, 0.0]}}, seeds=[3, 4], dirty=True, **of_seeds
    )
    two = content(
        {("A", "d"): {"acc": [0.6]}, ("B", "d"): {"acc": [0.5]}}, seeds=[0], config={"output": "elsewhere"}
    )
    joined = combine([one, two])
    assert joined["seeds"] == [3, 4, 0] and joined["dirty"] is True and joined["commit"] == "c" * 40
    assert not set(of_seeds) & set(joined)  # they are of two seeds alone
    (row,) = joined["rows"]
    assert set(row["metrics"]) == {"acc"} and row["records"] == ["A", "A"]  # delta is of some seeds only
    # mean 0.3; deviations -0.2, -0.1, 0.3; variance 0.14 / 2
    half = 4.303 * math.sqrt(0.07) / math.sqrt(3)
    assert row["metrics"]["acc"]["values"] == [0.1, 0.2, 0.6]
    assert row["metrics"]["acc"]["high"] == pytest.approx(0.3 + half)
    assert joined["not_run"] == [{"method": "B", "dataset": "d", "reason": "no row for seed 3, 4"}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"pool": {"samples": 4}}}, r"config.pool: None -> \{'samples': 4\}"),
        ({"config": {"prompts": "paper"}}, "config.prompts: 'compact' -> 'paper'"),
        ({"prompts": {"name": "compact", "version": 2}}, "prompts.version: 1 -> 2"),
        ({"preset": "smollm2"}, "preset: 'toy' -> 'smollm2'"),
        ({"table": "table2_iterative"}, "table: 'table1_main' -> 'table2_iterative'"),
        ({"seeds": [9, 1]}, "seed 1 is in two of them"),
    ],
)
def test_files_that_differ_in_more_than_seeds_are_not_mixed(change: dict[str, Any], message: str) -> None:
    prompts = {"name": "compact", "version": 1}
    one = content({}, seeds=[0, 1], prompts=prompts)
    two = content({}, **{"seeds": [2], "prompts": prompts, **change})
    assert combine([one, content({}, seeds=[2], prompts=prompts)])["seeds"] == [0, 1, 2]
    with pytest.raises(UserError, match=message):
        combine([one, two])


def test_a_result_file_without_a_value_for_each_seed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table1_main.json"
    broken = content({("A", "d"): {"acc": [0.1, 0.2]}}, seeds=[0, 1, 2])
    for text, message in (
        (json.dumps(broken), r"rows\[0\] \('A', d\): acc needs .* one value for each of 3 seeds, got 2"),
        ("{", "not valid JSON"),
        (json.dumps({"rows": []}), "config, commit, versions, seeds missing"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            load_result(path)


# -- claims -----------------------------------------------------------------------------------------------

CLAIM = Claim("c", "text", "table1_main", "acc_dis", Side("Critique-RL"), Side("CTRL"), paper=0.1351)


def test_a_difference_is_taken_seed_by_seed(paper: Paper) -> None:
    left, right = [0.50, 0.70, 0.90], [0.48, 0.67, 0.89]  # seeds differ by far more than the methods do
    values = {("Stage I+II", "d"): {"acc_dis": left}, ("CTRL", "d"): {"acc_dis": right}}
    (outcome,) = judge(CLAIM, content(values), paper)
    # differences 0.02, 0.03, 0.01: mean 0.02, standard deviation 0.01, half width 4.303 * 0.01 / sqrt(3) = 0.02484
    assert outcome.difference is not None
    assert outcome.difference["values"] == pytest.approx([0.02, 0.03, 0.01])
    assert outcome.difference["low"] == pytest.approx(0.02 - 0.024843, abs=1e-6)
    assert outcome.status == "undecided"
    two = content({("Stage I+II", "d"): {"acc_dis": left}, ("CTRL", "d"): {"acc_dis": right[::-1]}})
    (unordered,) = judge(CLAIM, two, paper)  # the same means, other pairs: much wider
    assert unordered.difference is not None and unordered.difference["low"] < -0.5


@pytest.mark.parametrize(
    ("right", "bound", "status"),
    [
        # left is 0.6, 0.7, 0.8
        ([0.5, 0.6, 0.7], 0.0, "holds"),  # 0.1 each time
        ([0.5, 0.6, 0.7], 0.1001, "does not show"),
        ([0.6, 0.7, 0.8], 0.0, "does not show"),  # no difference is not above 0
        ([0.6, 0.7, 0.8], -0.01, "holds"),
        ([0.7, 0.8, 0.9], 0.0, "does not show"),  # the wrong way round
        # differences 0.10, 0.12, 0.08: half width 4.303 * 0.02 / sqrt(3) = 0.0497, low 0.0503
        ([0.5, 0.58, 0.72], 0.05, "holds"),
        ([0.5, 0.58, 0.72], 0.051, "undecided"),  # the interval has both sides of the bound
        ([0.5, 0.58, 0.72], 0.149, "undecided"),
        ([0.5, 0.58, 0.72], 0.151, "does not show"),
    ],
)
def test_a_claim_holds_if_the_interval_is_above_its_bound(
    paper: Paper, right: list[float], bound: float, status: str
) -> None:
    values = {("Stage I+II", "d"): {"acc_dis": [0.6, 0.7, 0.8]}, ("CTRL", "d"): {"acc_dis": right}}
    (outcome,) = judge(dataclasses.replace(CLAIM, at_least=bound), content(values), paper)
    assert outcome.status == status


def test_one_seed_decides_nothing_and_a_missing_row_is_not_run(paper: Paper) -> None:
    values = {("Stage I+II", "d"): {"acc_dis": [0.9]}, ("CTRL", "d"): {"acc_dis": [0.1]}}
    (alone,) = judge(CLAIM, content(values, seeds=[0]), paper)
    assert (alone.status, alone.reason) == ("undecided", "one seed has no interval")
    assert alone.difference is not None and alone.difference["mean"] == pytest.approx(0.8)

    half = content({("Stage I+II", "d"): {"acc_dis": [0.9] * 3}})
    assert judge(CLAIM, half, paper)[0].reason == "no row 'CTRL' on d"
    half["not_run"] = [{"method": "CTRL", "dataset": "d", "reason": "needs 8 GPUs"}]
    assert judge(CLAIM, half, paper)[0].reason == "CTRL: needs 8 GPUs"
    bare = content({("Stage I+II", "d"): {"acc_dis": [0.9] * 3}, ("CTRL", "d"): {"acc": [0.5] * 3}})
    assert judge(CLAIM, bare, paper)[0].reason == "no acc_dis of 'CTRL' on d"
    assert judge(CLAIM, None, paper)[0].reason == "no result file"
    for found in (half, bare, None, content({})):
        (outcome,) = judge(CLAIM, found, paper)
        assert outcome.status == "not run" and outcome.difference is None


def test_each_data_set_is_judged_apart_beside_the_papers_number_for_it(paper: Paper) -> None:
    values = {
        (m, d): {"acc_dis": [v] * 3}
        for d, pair in {"gsm8k": (0.8, 0.7), "svamp": (0.6, 0.7)}.items()
        for m, v in zip(("Critique-RL", "CTRL"), pair, strict=True)
    }
    gsm8k, svamp = judge(CLAIM, content(values, base="Qwen/Qwen2.5-7B"), paper)
    assert (gsm8k.dataset, gsm8k.status, gsm8k.paper_of) == ("gsm8k", "holds", "")
    assert gsm8k.paper == pytest.approx(0.9043 - 0.8344)
    assert (svamp.status, svamp.paper, svamp.paper_of) == ("does not show", 0.1351, "Qwen2.5-3B on math")
    (tiny,) = judge(CLAIM, content({k: v for k, v in values.items() if k[1] == "gsm8k"}), paper)
    assert tiny.paper == pytest.approx(0.8744 - 0.7671) and tiny.paper_of == "Qwen2.5-3B"


def test_sides_may_have_another_metric_or_x(paper: Paper) -> None:
    result = content({("CTRL", "d"): {"acc": [0.2] * 2, "acc_dis": [0.3] * 2}}, seeds=[0, 1])
    result["rows"] += [
        {"method": "Stage I", "dataset": "d", "x": x, "metrics": {"acc_dis": t_interval([x / 100] * 2)}}
        for x in (50, 5, 20)
    ]
    stage = Side("Stage I")
    for left, right, difference in (
        (Side("Stage I", x="last"), Side("Stage I", x="first"), 0.45),
        (Side("Stage I", x=20), Side("CTRL", metric="acc"), 0.0),
        (Side("CTRL", x="last"), dataclasses.replace(stage, x=5), 0.25),
    ):
        (outcome,) = judge(dataclasses.replace(CLAIM, left=left, right=right), result, paper)
        assert outcome.difference is not None and outcome.difference["mean"] == pytest.approx(difference)
    (outcome,) = judge(dataclasses.replace(CLAIM, left=Side("Stage I", x=7)), result, paper)
    assert outcome.reason == "no row 'Stage I' at 7 on d"


def test_the_ledger_has_a_line_per_claim_and_result(paper: Paper, ledger: ModuleType, tmp_path: Path) -> None:
    def write(name: str, found: dict[str, Any]) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found), encoding="utf-8")

    both = {("Critique-RL", "chain"): {"acc_dis": [0.9, 0.8]}, ("CTRL", "chain"): {"acc_dis": [0.7, 0.6]}}
    last = {("Critique-RL", "chain"): {"acc_dis": [0.85]}, ("CTRL", "chain"): {"acc_dis": [0.65]}}
    write("tiny/table1_main.json", content(both, seeds=[0, 1]))
    write("tiny/table1_main-2.json", content(last, seeds=[2], dirty=True))
    write("tiny/report.json", {k: v for k, v in content({}).items() if k != "table"})
    text = ledger.ledger([paper], tmp_path, tmp_path.parent)
    at = tmp_path.name
    lines = {line.split(" | ")[0].strip("| "): line.strip("|").split(" | ") for line in text.split("\n")}
    assert [cell.strip() for cell in lines["a-dis"]][2:] == [
        "0.0",
        "`table1_main.py`",
        "3: 2, 0, 1",
        f"[tiny]({at}/tiny/table1_main-2.json), [tiny]({at}/tiny/table1_main.json) at ccccccc-dirty",
        "chain",
        "20.0",
        "13.5 (Qwen2.5-3B on math)",
        "**holds**",
    ]
    assert lines["a-acc"][-1].strip() == "**not run** (no acc_refine of 'Critique-RL' on chain)"
    assert lines["table9-mse"][8].startswith("7.87 (Qwen2.5-7B-Instruct on cnn_dailymail)")
    assert f"1 holds, 0 undecided, 0 does not show, {len(paper.claims) - 1} not run" in text
    assert f"[tiny/report.json]({at}/tiny/report.json)" in text

    write("tiny/table1_main-2.json", content(last, seeds=[2], config={"threads": 4}))
    with pytest.raises(UserError, match=r"config\.threads: 4 -> None"):
        ledger.ledger([paper], tmp_path, tmp_path.parent)


def test_the_ledger_of_results_elsewhere_lies_among_them(ledger: ModuleType, tmp_path: Path) -> None:
    """Not beside their folder: that may be the folder of the project, whose README it would replace."""
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    result = tmp_path / "results" / "tiny" / "table1_main.json"
    result.parent.mkdir(parents=True)
    result.write_text(
        json.dumps(content({("Critique-RL", "chain"): {"acc_dis": [0.9, 0.8]}}, seeds=[0, 1])),
        encoding="utf-8",
    )
    before = (EXPERIMENTS / "README.md").read_bytes()
    ledger.write(tmp_path / "results")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"
    assert (EXPERIMENTS / "README.md").read_bytes() == before
    assert "[tiny](tiny/table1_main.json)" in (tmp_path / "results" / "README.md").read_text(encoding="utf-8")


def test_the_committed_ledger_is_that_of_the_committed_results(ledger: ModuleType) -> None:
    papers = [load_paper(EXPERIMENTS / folder / "paper.yaml") for folder in (".", "llava_critic_r1")]
    text = ledger.ledger(papers, EXPERIMENTS / "results", EXPERIMENTS)
    assert text == (EXPERIMENTS / "README.md").read_text(encoding="utf-8")


def test_the_papers_file_holds_only_what_the_loader_knows(paper: Paper) -> None:
    data = yaml.safe_load((EXPERIMENTS / "paper.yaml").read_text(encoding="utf-8"))
    assert set(data) == {f.name for f in dataclasses.fields(Paper)}
    assert sum(len(t["rows"]) for t in data["tables"].values()) == sum(
        len(t.rows) for t in paper.tables.values()
    )
