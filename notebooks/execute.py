"""Make the notebooks: run each text form and write it, with what came out, beside it as .ipynb.

    python notebooks/execute.py [01_two_stage_walkthrough ...]

The text form (`*.py`, jupytext's percent format) is what is edited and reviewed. In the .ipynb everything is left
out that would change without a reason: times, progress bars, warnings, random identities of cells, versions.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
CELL_SECONDS = 150
"""Longest that a cell may take; the cells that train take a tenth of it on two idle cores."""
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def scripts() -> list[Path]:
    """Text forms of all notebooks, in order."""
    return sorted(FOLDER.glob("[0-9]*.py"))


def read(script: Path) -> NotebookNode:
    """The notebook of a text form, without outputs."""
    notebook = jupytext.read(script)
    for number, cell in enumerate(notebook.cells, 1):
        cell["id"] = f"cell-{number:02}"
        cell.metadata = NotebookNode({"tags": cell.metadata.tags} if "tags" in cell.metadata else {})
    notebook.metadata = NotebookNode({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def execute(notebook: NotebookNode, folder: Path, *, cell_seconds: float = CELL_SECONDS) -> NotebookNode:
    """Run a notebook in place, from top to bottom.

    Args:
        notebook: It gets its outputs.
        folder: Where it runs.
        cell_seconds: Longest that a cell may take.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
        nbclient.exceptions.CellTimeoutError: A cell took too long.
    """
    # IPython would write its history into the user's folder, and sqlite's lock makes kernels wait for each other.
    os.environ["IPYTHONDIR"] = str(folder / ".ipython")
    client = NotebookClient(
        notebook,
        timeout=cell_seconds,
        kernel_name=KERNEL["name"],  # that of this environment: ipykernel stands first where it is installed
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    client.execute()
    return notebook


def without_noise(notebook: NotebookNode) -> NotebookNode:
    """Leave out what differs from one run to the next, in place; what libraries wrote to stderr goes to ours."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                sys.stderr.write(output.text)
            elif "<progress" not in output.get("data", {}).get("text/html", ""):
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
                kept.append(output)
        cell.outputs = kept
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main(argv: Sequence[str] | None = None) -> None:
    """Make all notebooks, or those that are named."""
    parser = argparse.ArgumentParser(description="Run the notebooks and write them with their outputs.")
    known = {path.stem: path for path in scripts()}
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(known)}")
    parser.add_argument(
        "--cell-seconds", type=float, default=CELL_SECONDS, help="longest that a cell may take"
    )
    arguments = parser.parse_args(argv)
    names = arguments.names or list(known)
    for name in names:
        if name not in known:
            parser.error(f"no notebook '{name}'; there are {', '.join(known)}")
    for name in names:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            made = execute(read(known[name]), Path(folder), cell_seconds=arguments.cell_seconds)
        nbformat.write(without_noise(made), known[name].with_suffix(".ipynb"))
        sys.stderr.write(f"{name}: {time.monotonic() - started:.0f} s\n")


if __name__ == "__main__":
    main()
