"""Make the cold-start models that the package ships for an embedded configuration, and record their figures.

    python experiments/make_tiny_assets.py tiny

Trains base, actor and SFT critic as `experiments/configs/NAME.yaml` says, measures them on *validation*
problems, and writes `critique_rl/assets/NAME/{actor,sft}` and `figures.json`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from critique_rl.config.evaluation import EvaluationConfig
from critique_rl.config.reading import as_dict
from critique_rl.config.run import load_config
from critique_rl.reports.markdown import markdown_table
from critique_rl.reports.provenance import result
from critique_rl.reports.results import result_rows
from critique_rl.runs.run import Run

ROOT = Path(__file__).resolve().parent.parent
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
OPTIONAL = ("chat_template.jinja", "processor_config.json", "preprocessor_config.json")


def main() -> None:
    """Train, measure, copy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=("tiny", "tiny-summarisation", "tiny-vl"))
    parser.add_argument("--output", help="folder for the run; a temporary one if left out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        config = load_config(ROOT / "experiments" / "configs" / f"{arguments.name}.yaml")
        tasks = [replace(task, split="validation") for task in config.evaluation.tasks]
        config = replace(
            config, output=arguments.output or temporary, stages={}, evaluation=EvaluationConfig(tasks=tasks)
        )
        assets = ROOT / "critique_rl" / "assets" / arguments.name
        run = Run(config, from_scratch=True)
        run.execute()
        rows = result_rows(run.folder)
        for name in ("actor", "sft"):
            shutil.rmtree(assets / name, ignore_errors=True)
            (assets / name).mkdir(parents=True)
            for file in FILES:
                shutil.copy(config.directory / name / file, assets / name / file)
            for file in OPTIONAL:
                if (config.directory / name / file).exists():
                    shutil.copy(config.directory / name / file, assets / name)
        figures = result(
            {"cold_start": as_dict(config.cold_start), "tasks": [as_dict(t) for t in tasks]},
            config.seeds,
            rows,
        )
        (assets / "figures.json").write_text(
            json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
