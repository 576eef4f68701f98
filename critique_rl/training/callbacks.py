"""What the trainer calls back: the display of a stage as it trains."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from critique_rl.display import Display, sparkline


class DisplayCallback(TrainerCallback):
    """Shows a stage as it trains: judgment, refinement, KL, and the curve of the stage's own measure.

    Args:
        display: Where to show it.
        block: Optimizer steps of one RL step.
    """

    def __init__(self, display: Display, block: int) -> None:
        self.display, self.block = display, block

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the trainer at every log."""
        last = state.log_history[-1]
        if "reward" not in last or not state.is_world_process_zero:
            return  # the log at the end of a training is of no RL step
        rows = [row for row in state.log_history if "reward" in row]
        measures = ("actor/acc_refine", "actor/rating_refine", "critic/acc_dis", "critic/mae_dis")
        measure = next((name for name in measures if name in last), "reward")
        curve = sparkline([row[measure] for row in rows if row.get(measure) is not None])

        def share(key: str) -> str:
            return "-" if last.get(key) is None else f"{100 * last[key]:.0f}"

        if "critic/acc_dis" in last:
            note = (
                f"Acc@Dis {share('critic/acc_dis')} (right {share('critic/acc_dis_on_correct')}, "
                f"wrong {share('critic/acc_dis_on_wrong')})"
            )
        elif "critic/mae_dis" in last:  # replies are scored
            note = f"MAE@Dis {last.get('critic/mae_dis') or 0:.2f} (parsed {share('critic/parse_rate')})"
        else:
            note = f"reward {last['reward']:.3f}"
        if "actor/acc_refine" in last:
            note += f"  Acc@Refine {share('actor/acc_refine')}"
        if "actor/rating_refine" in last:
            note += f"  rating of refinements {last['actor/rating_refine']:.2f}"
        note += f"  KL {last.get('kl') or 0:.3f}  {curve}"
        self.display.advance(state.global_step // self.block, state.max_steps // self.block, note)


class KeepCallback(TrainerCallback):
    """Keeps the critic as it is after some RL steps, beside the checkpoints, which come and go.

    Args:
        rl_steps: After which.
        block: Optimizer steps of one RL step.
        save: Writes the model; called with the RL step.
    """

    def __init__(self, rl_steps: Collection[int], block: int, save: Callable[[int], None]) -> None:
        self.rl_steps, self.block, self.save = frozenset(rl_steps), block, save

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the trainer after every optimizer step."""
        done, rest = divmod(state.global_step, self.block)
        if rest == 0 and done in self.rl_steps:
            self.save(done)
