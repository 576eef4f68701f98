"""Callbacks of a training: progress on the display, an orderly stop, and models kept after chosen RL steps."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Collection
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerState

from critique_rl.display import Display, sparkline
from critique_rl.types import Terminated

CURVES = ("actor/acc_refine", "actor/rating_refine", "critic/acc_dis", "critic/mae_dis")
"""Metrics drawn as a curve, the most telling first."""


class DisplayCallback(TrainerCallback):
    """Shows a training as it runs: judgment, refinement, KL, and the first of `CURVES` that is logged.

    An RL step has `block` optimizer steps.
    """

    def __init__(self, display: Display, block: int) -> None:
        self.display, self.block = display, block

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Called by the trainer at every log."""
        last = state.log_history[-1]
        if "reward" not in last or not state.is_world_process_zero:
            return  # the log at the end of a training is of no RL step
        name = next((name for name in CURVES if name in last), "reward")
        curve = [log[name] for log in state.log_history if "reward" in log and log.get(name) is not None]
        note = f"{_summary(last)}  KL {last.get('kl') or 0:.3f}  {sparkline(curve)}"
        self.display.advance(state.global_step // self.block, state.max_steps // self.block, note)


class StopCallback(TrainerCallback):
    """Ends a training on SIGTERM: after the RL step in progress, with a checkpoint. A second one ends it now.

    An RL step has `block` optimizer steps; from inside one no run resumes exactly. All processes of a launch stop
    after the same step.
    """

    def __init__(self, block: int, accelerator: Accelerator) -> None:
        self.block, self.accelerator = block, accelerator
        self.asked = False
        self._before: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Called by the trainer before the first step."""
        if threading.current_thread() is threading.main_thread():  # no other may set a handler
            self._before = signal.signal(signal.SIGTERM, self._hear)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Called by the trainer after every optimizer step."""
        if state.global_step % self.block:
            return
        asked = torch.tensor(float(self.asked), device=self.accelerator.device)
        self.asked = bool(self.accelerator.reduce(asked, "sum").item())
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Called by the trainer after the last step."""
        self.close()

    def close(self) -> None:
        """Give SIGTERM back to whoever had it."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _hear(self, number: int, frame: Any) -> None:
        if self.asked:
            raise Terminated
        self.asked = True
        sys.stderr.write("terminated: a checkpoint follows after this RL step; once more ends it now.\n")


class KeepCallback(TrainerCallback):
    """Keeps the critic after chosen RL steps, apart from the checkpoints, which are replaced.

    An RL step has `block` optimizer steps. `save` is called with the RL step and writes the model.
    """

    def __init__(self, rl_steps: Collection[int], block: int, save: Callable[[int], None]) -> None:
        self.rl_steps, self.block, self.save = frozenset(rl_steps), block, save

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Called by the trainer after every optimizer step."""
        rl_step, rest = divmod(state.global_step, self.block)
        if rest == 0 and rl_step in self.rl_steps:
            self.save(rl_step)


def _summary(log: dict[str, Any]) -> str:
    def share(key: str) -> str:
        return "-" if log.get(key) is None else f"{100 * log[key]:.0f}"

    if "critic/acc_dis" in log:
        right, wrong = share("critic/acc_dis_on_correct"), share("critic/acc_dis_on_wrong")
        text = f"Acc@Dis {share('critic/acc_dis')} (right {right}, wrong {wrong})"
    elif "critic/mae_dis" in log:  # replies are scored
        text = f"MAE@Dis {log.get('critic/mae_dis') or 0:.2f} (parsed {share('critic/parse_rate')})"
    else:
        text = f"reward {log['reward']:.3f}"
    if "actor/acc_refine" in log:
        text += f"  Acc@Refine {share('actor/acc_refine')}"
    if "actor/rating_refine" in log:
        text += f"  rating of refinements {log['actor/rating_refine']:.2f}"
    return text
