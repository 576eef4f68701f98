"""Make the cold-start models that the package ships for the embedded default, and record their figures.

    python experiments/make_tiny_assets.py

Trains base, actor and SFT critic as `experiments/configs/tiny.yaml` says, measures them on *validation*
problems, and writes `critique_rl/assets/tiny/{actor,sft}` and `figures.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
import time
from pathlib import Path

from critique_rl.config import EvaluationConfig, TaskConfig, as_dict, load_config
from critique_rl.pipeline import Run
from critique_rl.report import markdown_table, result

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "critique_rl" / "assets" / "tiny"
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def main() -> None:
    """Train, measure, copy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", help="folder for the run; a temporary one if left out")
    arguments = parser.parse_args()
    started = time.time()
    with tempfile.TemporaryDirectory() as temporary:
        tasks = [TaskConfig("modular_chain", split="validation", limit=1000, options={"size": 20000})]
        config = dataclasses.replace(
            load_config(ROOT / "experiments" / "configs" / "tiny.yaml"),
            output=arguments.output or temporary,
            stages={},
            evaluation=EvaluationConfig(tasks=tasks),
        )
        run = Run(config, from_scratch=True)
        run.execute()
        rows, _ = run.results()
        for name in ("actor", "sft"):
            shutil.rmtree(ASSETS / name, ignore_errors=True)
            (ASSETS / name).mkdir(parents=True)
            for file in FILES:
                shutil.copy(config.directory / name / file, ASSETS / name / file)
            template = config.directory / name / "chat_template.jinja"
            if template.exists():
                shutil.copy(template, ASSETS / name)
        figures = result(
            {"cold_start": as_dict(config.cold_start), "tasks": [as_dict(t) for t in tasks]},
            config.seeds,
            rows,
        )
        figures["seconds"] = round(time.time() - started)
        (ASSETS / "figures.json").write_text(
            json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
