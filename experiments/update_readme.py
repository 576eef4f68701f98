"""Copy a run's result into the repository and its table into README.md.

    critique-rl run experiments/configs/tiny.yaml --seeds 0 1 2 --set output=runs/tiny-seeds
    python experiments/update_readme.py runs/tiny-seeds tiny
    python experiments/update_readme.py runs/tiny-vl tiny-vl
    python experiments/update_readme.py runs/smollm2-135m smollm2-135m
    python experiments/update_readme.py    # the tables anew, from the results that are there

Writes `experiments/results/NAME/{report.json,curves.png}`, and the tables of `SHOWN` between the markers of
README.md, so that no number there is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from critique_rl.reports.markdown import caption, markdown_table
from critique_rl.reports.settings import without_folders

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results"
SHOWN = ("tiny", "tiny-vl")
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def main() -> None:
    """Copy the result, if a run is given, and rewrite README.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", help="folder of a finished run")
    parser.add_argument("name", nargs="?", help="folder under experiments/results")
    arguments = parser.parse_args()
    if (arguments.run is None) != (arguments.name is None):
        parser.error("give a run and its name, or neither to write the tables anew")
    if arguments.run is not None:
        copy(arguments.run, RESULTS / arguments.name)
    sections = [section(RESULTS / name / "report.json") for name in SHOWN]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    text = before + BEGIN + "\n\n" + "\n\n".join(sections) + "\n\n" + END + after
    (ROOT / "README.md").write_text(text, encoding="utf-8")


def copy(run: Path, target: Path) -> None:
    """Copy picture and result of a run, without the folders of this machine."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "curves.png", target / "curves.png")
    content = json.loads((run / "report.json").read_text(encoding="utf-8"))
    content["config"] = without_folders(content["config"])
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (target / "report.json").write_text(text, encoding="utf-8")


def section(path: Path) -> str:
    """Section of one result as Markdown."""
    content = json.loads(path.read_text(encoding="utf-8"))
    folder = path.parent.relative_to(ROOT).as_posix()
    return (
        f"**`{path.parent.name}`**, measured on {content['rows'][0]['dataset']} problems that were held out:\n\n"
        f"{markdown_table(content['rows'])}\n\n{caption(content)} [Result file]({folder}/report.json).\n\n"
        f"![training curves of {path.parent.name}]({folder}/curves.png)"
    )


if __name__ == "__main__":
    main()
