"""A run: its steps in order, and the loop that makes those that are missing.

A finished step is skipped. An interrupted one goes on: RL from its last checkpoint, evaluation after its last
record. A step whose settings have changed is refused, with the difference; so is one whose files have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from critique_rl.config.extensions import import_extensions
from critique_rl.config.run import RunConfig
from critique_rl.display import Display
from critique_rl.manifest import only_process
from critique_rl.records import is_first_process
from critique_rl.runs import preflight
from critique_rl.runs.context import Context
from critique_rl.runs.folder import Measurement, RunFolder
from critique_rl.runs.kind import Plan
from critique_rl.runs.process import release_memory
from critique_rl.runs.step import Step
from critique_rl.runs.steps import STEP_KINDS, commands
from critique_rl.types import UserError

__all__ = ["Measurement", "Run"]


class Run:
    """A configured run.

    Args:
        config: Configuration of the run.
        display: Where progress is shown.
        from_scratch: Make the cold-start models even if the package ships them.
        measurements: Rows to measure; None takes all rows on all tasks of the configuration.
        judged: Rows that benchmarks measure; None takes all.

    Attributes:
        folder: Its folder, for what reads results.
        context: Problems and models that its steps share.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        display: Display | None = None,
        from_scratch: bool = False,
        measurements: Sequence[Measurement] | None = None,
        judged: Sequence[str] | None = None,
    ) -> None:
        import_extensions(
            config.extensions or ()
        )  # this may be another process than the one that read the file
        config.check()
        self.config, self.display = config, display or Display()
        self.folder = RunFolder(config, from_scratch=from_scratch, measurements=measurements, judged=judged)
        self.context = Context(self.folder, self.display)

    def steps(self) -> list[Step]:
        """All steps in order."""
        return Plan(self.folder, STEP_KINDS).steps

    def execute(
        self,
        kinds: Sequence[str] | None = None,
        *,
        before_steps: Callable[[Sequence[Step]], None] | None = None,
        after_step: Callable[[Step], None] | None = None,
    ) -> None:
        """Make what is missing, all or the steps of some subcommands.

        Args:
            kinds: Subcommands, see `critique_rl.runs.steps.commands`; None takes all.
            before_steps: Called with the steps to make once all is checked, by rank 0 alone; never without steps.
            after_step: Called with each step once its artifact is complete, by rank 0 alone.

        Raises:
            UserError: Settings differ from those that an artifact was made with, its files have changed, another
                process works in the folder, data or a server is missing (all checked before any step works), or an
                input of a selected step is missing.
        """
        kinds = commands() if kinds is None else kinds
        steps = self.steps()
        pending = [step for step in steps if not step.finished()]
        unchecked = sum(step.unchecked() for step in steps)
        if unchecked:
            self.display.note(
                f"{unchecked} steps were finished before files were listed; they are not checked"
            )
        selected = [step for step in pending if step.command in kinds]
        left_out = {step.name for step in pending} - {step.name for step in selected}
        for step in selected:
            missing = left_out.intersection(step.inputs)
            if missing:
                raise UserError(
                    f"step '{step.name}' needs {', '.join(sorted(missing))}: run that first, or "
                    "`critique-rl run`."
                )
        if not selected:
            return
        preflight.check(self.context)
        with self._alone(selected):
            if before_steps is not None and is_first_process():
                before_steps(selected)
            for step in selected:
                if step.finished():  # by the process that held the folder until now
                    continue
                with self.display.step(step.name, steps.index(step) + 1, len(steps)):
                    step.execute(lambda step=step: self._make(step, after_step))  # type: ignore[misc]

    def require_finished(self) -> None:
        """Refuse a run of which a step is missing.

        Raises:
            UserError: The message names the steps.
        """
        unfinished = [step.name for step in self.steps() if not step.finished()]
        if unfinished:
            raise UserError(f"not finished: {', '.join(unfinished)}; run `critique-rl run` first.")

    @contextmanager
    def _alone(self, steps: Sequence[Step]) -> Iterator[None]:
        """Keep other processes from the parts of the folder that some steps write; they may make other seeds."""
        parts = dict.fromkeys("" if step.seed is None else f"seed{step.seed}" for step in steps)
        with ExitStack() as held:
            for part in parts if is_first_process() else ():
                held.enter_context(only_process(self.folder.directory / part))
            yield

    def _make(self, step: Step, after_step: Callable[[Step], None] | None) -> None:
        STEP_KINDS[step.kind].make(step, self.context)
        release_memory()
        if after_step is not None and is_first_process():
            after_step(step)
