"""Keep the finished steps of a run: trained models, texts, logs and figures, without what can be made again.

    python experiments/keep.py runs/qwen2.5-0.5b experiments/results/qwen2.5-0.5b/run

The base, checkpoints and the texts of rollouts stay behind. `critique-rl view` reads the copy, and
`critique-rl eval` its models. To go on with the run on another machine, copy it back. The first step makes the
base anew:

    cp -r experiments/results/qwen2.5-0.5b/run runs/qwen2.5-0.5b
    critique-rl sft experiments/configs/qwen2.5-0.5b.yaml

A step that is there already, and as it was finished, is not copied again. `--unfinished` also keeps the last
checkpoint of a training that shall go on elsewhere. It holds the optimizer: three times the size of the model.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from critique_rl.manifest import damages, in_short, watched, write_atomically
from critique_rl.runs.folder import MARKER, read_marker
from critique_rl.runs.process import guarded
from critique_rl.runs.step import NOT_NEEDED
from critique_rl.training.checkpoints import last_checkpoint
from critique_rl.types import UserError

LEFT_OUT = ("base",)
"""Steps that are made again where they are needed."""
CARD = "README.md"


def main() -> int:
    """Copy what is new of a run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("target", type=Path, help="folder of the copy")
    parser.add_argument("--unfinished", action="store_true", help="keep last checkpoints as well")
    arguments = parser.parse_args()
    return guarded(lambda: keep(arguments.run, arguments.target, checkpoints=arguments.unfinished))


def keep(run: Path, target: Path, *, checkpoints: bool = False) -> int:
    """Copy all finished steps of a run that the target lacks, and the run's own pages.

    With `checkpoints`, also the last checkpoint of each unfinished training.

    Returns:
        The exit code.

    Raises:
        UserError: The folder holds no run, or a finished step is not as it was left.
    """
    steps = sorted(path.parent for path in run.rglob(MARKER))
    if not steps:
        raise UserError(f"{run} holds no step of a run.")
    copied, unfinished = 0, []
    for step in steps:
        name = step.relative_to(run).as_posix()
        marker = read_marker(step)
        if name in LEFT_OUT or marker is None:
            continue
        if not marker["finished"]:
            last = last_checkpoint(step) if checkpoints else None
            if last is None:
                unfinished.append(name)
            else:
                copy_checkpoint(Path(last), target / name)
                print(f"{name}: not finished, {Path(last).name} kept")
            continue
        files, place = marker.get("files", {}), target / name
        if (place / MARKER).is_file() and not damages(place, files, trust_dates=False):
            continue
        if damaged := damages(step, files, trust_dates=False):
            raise UserError(
                f"{step} is not as the step left it: {in_short(damaged)}. Delete it to make it anew."
            )
        copy(step, place)
        copied += 1
    for page in run.glob("*.*"):
        if page.is_file() and page.suffix != ".lock":
            shutil.copy2(page, target / page.name)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{copied} steps copied; {target} now has {size / 1e6:.1f} MB")
    if unfinished:
        print(f"not finished, left out: {', '.join(unfinished)}")
    return 0


def copy(step: Path, place: Path) -> None:
    """Copy one step; its marker comes last, so that a copy that was cut short is no finished step."""
    shutil.rmtree(place, ignore_errors=True)
    for path in [*watched(step, NOT_NEEDED), *step.glob(CARD)]:
        goal = place / path.relative_to(step)
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, goal)
    place.mkdir(parents=True, exist_ok=True)
    write_atomically(place / MARKER, (step / MARKER).read_bytes())


def copy_checkpoint(checkpoint: Path, place: Path) -> None:
    """Copy a checkpoint and the marker of its step in place of an earlier one."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(checkpoint, place / checkpoint.name)
    shutil.copy2(checkpoint.parent / MARKER, place / MARKER)


if __name__ == "__main__":
    sys.exit(main())
