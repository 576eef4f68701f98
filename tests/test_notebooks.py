"""The notebooks run from top to bottom and are committed as they run; what they show results with is right."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from helpers import ROOT, SCRIPT, png
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.summary import summarise
from critique_rl.studies import notebook
from critique_rl.studies.notebook import Html, Picture, Text
from critique_rl.types import UserError
from critique_rl.vision.images import data_url

FOLDER = ROOT / "notebooks"
NAMES = (
    "01_two_stage_walkthrough",
    "02_ablation_stages",
    "03_ablation_rewards_and_kl",
    "04_verdicts_and_grading",
    "05_inference_scaling",
    "06_multimodal_critic",
    "07_bring_your_own_model_and_data",
    "08_real_model",
)


def _execute_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("execute_notebooks", FOLDER / "execute.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["execute_notebooks"] = module
    spec.loader.exec_module(module)
    return module


execute = _execute_module()


def committed(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def sources(of: NotebookNode) -> list[tuple[str, str, str, list[str]]]:
    return [(c.cell_type, c.id, c.source, c.metadata.get("tags", [])) for c in of.cells]


def shown_results(of: NotebookNode) -> list[list[str]]:
    """What the cells that show result files show, but for the pictures."""
    return [
        [output.data[kind] for output in cell.outputs for kind in sorted(output.data) if kind != "image/png"]
        for cell in of.cells
        if "results" in cell.metadata.get("tags", [])
    ]


# -- the notebooks ----------------------------------------------------------------------------------------


def test_all_notebooks_are_there_and_in_the_documentation() -> None:
    assert [path.stem for path in execute.scripts()] == list(NAMES)
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == list(NAMES)
    for page in (FOLDER / "README.md", ROOT / "docs" / "tutorials" / "notebooks.md"):
        assert set(NAMES) <= set(re.findall(r"\b\d\d_\w+", page.read_text(encoding="utf-8"))), page


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_of_a_notebook_agree(name: str) -> None:
    made = committed(name)
    nbformat.validate(made)
    assert sources(made) == sources(execute.read(FOLDER / f"{name}.py")), (
        f"make it anew: python notebooks/execute.py {name}"
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_was_run_in_order_and_has_nothing_of_the_machine(name: str) -> None:
    made, text = committed(name), (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    for mark in (str(ROOT), "/home/", "/root/", "/tmp/", "site-packages", "<progress", "widget", "Warning"):
        assert mark not in text, mark
    assert made.metadata == {"kernelspec": execute.KERNEL, "language_info": {"name": "python"}}
    assert len(text) < 600_000


@pytest.mark.notebooks
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_top_to_bottom(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in FOLDER.iterdir()}
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / ".ipython"))  # put back after `execute` has set its own
    made = committed(name)
    written = shown_results(made)
    fresh = shown_results(execute.execute(made, tmp_path))
    assert fresh == written, f"results have changed since: python notebooks/execute.py {name}"
    assert {path: path.stat().st_mtime_ns for path in FOLDER.iterdir()} == before


@pytest.mark.notebooks
def test_a_cell_that_fails_or_takes_too_long_fails_the_notebook(tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute.execute(new_notebook(cells=[new_code_cell("1 / 0")]), tmp_path)
    with pytest.raises(CellTimeoutError):
        slow = new_notebook(cells=[new_code_cell("import time; time.sleep(600)")])
        execute.execute(slow, tmp_path, cell_seconds=1)


def test_noise_is_left_out_and_the_rest_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    kept = [
        new_output("stream", name="stdout", text="said"),
        new_output("display_data", data={"text/html": "<table></table>", "text/plain": "Html()"}),
    ]
    noise = [
        new_output("stream", name="stderr", text="a warning"),
        new_output("display_data", data={"text/html": "<div><progress value='3'></progress> 00:12</div>"}),
    ]
    cell = new_code_cell("x", outputs=[noise[0], kept[0], noise[1], kept[1]])
    made = execute.without_noise(new_notebook(cells=[cell], metadata={"widgets": {"state": {}}}))
    assert made.cells[0].outputs == kept and "widgets" not in made.metadata
    assert capsys.readouterr().err == "a warning"


# -- results ----------------------------------------------------------------------------------------------


def episode(**fields: Any) -> Episode:
    return Episode(
        **{
            "id": "p",
            "dataset": "toy",
            "question": "1+1?",
            "answer": "2",
            "kind": "number",
            "response": "It is 3",
            "response_correct": False,
            "critique": "No.",
            "verdict": "wrong",
            "refinement": "It is 2",
            "refinement_correct": True,
            "tokens": 9,
            **fields,
        }
    )


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A result file of two of the rows of Table 3, two seeds, with an example and a figure."""
    good, bad = episode(), episode(verdict="correct", refinement_correct=False, critique=SCRIPT)
    rows = [
        {"method": "Critique-RL", "dataset": "toy", "metrics": summarise([[good], [good]])},
        {"method": "w/o Stage II", "dataset": "toy", "metrics": summarise([[bad], [bad]])},
    ]
    shown = {
        "about": "an | error",
        "id": "p",
        "seed": 0,
        "of": 7,
        "episodes": [{"method": "w/o Stage II", **asdict(bad)}, {"method": "Critique-RL", **asdict(good)}],
    }
    content: Mapping[str, Any] = {
        "config": {"base": "toy"},
        "commit": "abc",
        "versions": {"device": "CPU"},
        "seeds": [0, 1],
        "rows": rows,
        "table": "table3_ablation",
        "preset": "toy",
        "examples": [shown],
    }
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "table3_ablation.json").write_text(json.dumps(content), encoding="utf-8")
    Image.effect_noise((1800, 900), 60).save(tmp_path / "toy" / "table3_ablation.png")
    return tmp_path


def test_a_table_has_the_rows_that_are_asked_for_and_the_metrics_that_there_are(results: Path) -> None:
    made = notebook.table(
        "table3_ablation",
        ["acc_refine", "pass_at_4"],
        methods=["w/o Stage II"],
        preset="toy",
        results=results,
    )
    head, _, row, *_ = made.markdown.splitlines()
    assert "Acc@Refine" in head and "Pass@4" not in head
    assert row.startswith("| w/o Stage II | 0.0 (0.0 to 79.3) |") and "Critique-RL" not in made.markdown
    with pytest.raises(UserError, match=r"has no row 'w/o Stage 2'. Did you mean 'w/o Stage II'"):
        notebook.table("table3_ablation", methods=["w/o Stage 2"], preset="toy", results=results)
    with pytest.raises(UserError, match="none of the metrics pass_at_4"):
        notebook.table("table3_ablation", ["pass_at_4"], preset="toy", results=results)


def test_what_was_not_run_is_said_and_is_no_error(results: Path) -> None:
    for show in (notebook.table, notebook.figure, notebook.examples):
        said = show("figure8_sft_vs_rl", preset="toy", results=results)
        assert isinstance(said, Text)
        assert said.markdown.endswith("`python experiments/figure8_sft_vs_rl.py --preset toy`")
    said = notebook.table("table7_critic", preset="tiny-vl", results=results)
    assert "experiments/llava_critic_r1/table7_critic.py" in said.markdown
    assert "not run" in notebook.claims("figure8_sft_vs_rl", preset="toy", results=results).markdown
    with pytest.raises(UserError, match=r"table3_ablatoin.py is not there. Did you mean 'table3_ablation'"):
        notebook.table("table3_ablatoin", preset="toy", results=results)


def test_the_table_of_a_run_stands_with_its_origin(results: Path) -> None:
    for show in (notebook.report, partial(notebook.figure, "curves")):
        assert show(preset="toy", results=results).markdown.endswith(
            "`critique-rl run experiments/configs/toy.yaml`"
        )
    (results / "toy" / "table3_ablation.json").rename(results / "toy" / "report.json")
    made = notebook.report(preset="toy", results=results).markdown
    row = next(line for line in made.splitlines() if line.startswith("| w/o Stage II"))
    assert "| 0.0 (0.0 to 79.3) |" in row and "Commit abc" in made


def test_claims_are_judged_as_in_the_ledger(results: Path) -> None:
    lines = notebook.claims("table3_ablation", preset="toy", results=results).markdown.splitlines()
    (found,) = [line for line in lines if "Stage II refines better than Stage I alone" in line]
    assert found.endswith("| toy | 100.0 | 2.7 | holds |")
    (missing,) = [line for line in lines if "r\\_delta" in line or "r_delta" in line]
    assert "not run (no row 'w/ r_delta' on toy)" in missing


def test_examples_show_both_episodes_and_no_markup_of_the_models(results: Path) -> None:
    made = notebook.examples("table3_ablation", preset="toy", results=results)
    assert isinstance(made, Html) and SCRIPT not in made.html and "&lt;script&gt;" in made.html
    assert "one of 7" in made.html and made.html.index("w/o Stage II") < made.html.index("Critique-RL")
    assert "verdict: correct ✗" in made.html and "verdict: wrong ✓" in made.html
    control = notebook.episodes({"x": episode(verdict=None, critique="")}).html
    assert "no verdict" in control and "None" not in control


def test_a_figure_is_made_small(results: Path) -> None:
    made = notebook.figure("table3_ablation", preset="toy", results=results)
    assert isinstance(made, Picture)
    with Image.open(io.BytesIO(made.png)) as image:
        assert image.size == (900, 450) and image.mode == "P"
        assert len(image.getcolors() or []) <= notebook.COLOURS


def test_scripts_are_run_where_nothing_of_the_repository_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = tmp_path / "experiments"
    scripts.mkdir()
    body = "import os, pathlib, sys; pathlib.Path('said').write_text(' '.join(sys.argv[1:]))"
    (scripts / "good.py").write_text(body, encoding="utf-8")
    (scripts / "bad.py").write_text("raise SystemExit(2)", encoding="utf-8")
    monkeypatch.setattr(notebook, "EXPERIMENTS", scripts)
    into = tmp_path / "into"
    found = notebook.run_scripts(["good"], preset="toy", seeds=[0, 3], into=into)
    assert found == into / "results"
    assert (into / "said").read_text() == f"--preset toy --results {found} --seeds 0 3"
    with pytest.raises(UserError, match="bad ended with exit code 2"):
        notebook.run_scripts(["good", "bad"], seeds=[0], into=into)
    with pytest.raises(UserError, match="there is no folder"):
        monkeypatch.setattr(notebook, "EXPERIMENTS", tmp_path / "none")
        notebook.run_scripts(["good"], seeds=[0], into=into)


# -- episodes, cases, pictures ----------------------------------------------------------------------------


def test_episodes_stand_side_by_side_and_are_escaped() -> None:
    one = episode(question=SCRIPT, critique="a < b", image=data_url(png(size=(2, 2))))
    made = notebook.episodes({"x": one, "y": replace(one, verdict="unparsed", refinement_correct=None)}).html
    assert SCRIPT not in made and made.count("It is 3") == 1, "one response is shown once"
    assert (
        re.findall(r"<th[^>]*>(\w*)</th>", made) == ["", "x", "y"] and 'src="data:image/png;base64,' in made
    )
    assert "verdict: wrong ✓" in made and "verdict: unparsed ✗" in made and "not graded" in made
    assert notebook.episodes({"x": one, "y": replace(one, response="It is 4")}).html.count("It is ") == 4
    assert "none" in notebook.episodes({"x": replace(one, critique=None, refinement=None)}).html
    with pytest.raises(UserError, match="2 of several"):
        notebook.episodes({"x": one, "y": replace(one, question="2+2?")})
    with pytest.raises(UserError, match="or none"):
        notebook.episodes({})


def test_cases_show_texts_letter_by_letter() -> None:
    rows = [
        {"reply": "a\n$1 < $2", "grade": None, "share": 1 / 3},
        {"reply": "b", "grade": True, "share": 1.0},
    ]
    made = notebook.cases(rows).html
    assert re.findall(r"<th[^>]*>(\w*)</th>", made) == ["reply", "grade", "share"]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", made, re.DOTALL)
    assert re.fullmatch(r"<pre[^>]*>a\n\$1 &lt; \$2</pre>", cells[0])
    assert cells[1:] == ["None", "0.3333", "b", "True", "1"]
    assert notebook.cases([]).html.count("<tr>") == 1


def test_episodes_are_measured_with_intervals() -> None:
    made = notebook.measured({"x": [episode(id=str(i)) for i in range(4)], "y": [episode(critique=None)]})
    assert "| x | 0.0 (0.0 to 49.0) | 100.0 (51.0 to 100.0) |" in made.markdown


def test_pictures_are_png() -> None:
    made = [
        notebook.sheet([(png(size=(8, 6)), "costs $1 or $2")] * 4, columns=3),
        notebook.lines({"a": [(2, 0.5, 0.4, 0.7), (1, 0.3)]}, x_label="K", y_label="share", logarithmic=True),
    ]
    for picture in made:
        with Image.open(io.BytesIO(picture._repr_png_())) as shown:
            assert shown.format == "PNG" and shown.width <= notebook.WIDTH
            assert len(shown.convert("RGB").getcolors(1_000_000) or []) > 2
