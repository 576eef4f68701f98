"""Keep what a training logged that was given up: settings that were tried before those of a preset were chosen.

    python experiments/tried.py runs/qwen2.5-0.5b/seed0/stage1 experiments/results/qwen2.5-0.5b/tried/NAME.json \\
        --commit d61fbbe --why "verdicts flipped from always Correct to always Wrong"

Writes its settings, the metrics of each RL step up to its last checkpoint, its commit, and the versions here.
Such a file is no result: nothing was measured on held-out problems.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from critique_rl.reports.provenance import origin
from critique_rl.runs.folder import read_marker, training_state
from critique_rl.runs.process import guarded
from critique_rl.training.checkpoints import last_checkpoint
from critique_rl.training.metrics import logged_curves
from critique_rl.types import UserError


def main() -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", type=Path, help="folder of the training")
    parser.add_argument("target", type=Path, help="file to write")
    parser.add_argument("--commit", required=True, help="commit that it ran at")
    parser.add_argument("--why", required=True, help="why it was given up")
    arguments = parser.parse_args()
    return guarded(lambda: keep(arguments.step, arguments.target, why=arguments.why, commit=arguments.commit))


def keep(step: Path, target: Path, *, why: str, commit: str) -> int:
    """Write what a training logged.

    Returns:
        The exit code.

    Raises:
        UserError: The folder holds no training with a checkpoint.
    """
    marker, checkpoint = read_marker(step), last_checkpoint(step)
    if marker is None or checkpoint is None:
        raise UserError(f"{step} is no folder of a training with a checkpoint.")
    log = [entry for entry in training_state(Path(checkpoint))["log_history"] if "reward" in entry]
    content: dict[str, Any] = {"why": why, "settings": marker["settings"], **origin(), "commit": commit}
    content["rl_steps"] = len(log)
    curves = logged_curves(log)
    content["curves"] = {name: values for name, values in curves.items() if values != [None] * len(log)}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{target}: {len(log)} RL steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
