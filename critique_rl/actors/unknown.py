"""Replies that never came in a form that can be read: they are counted and logged, and too many are an error."""

from __future__ import annotations

import logging
from collections import Counter
from threading import Lock

from critique_rl.actors.base import ActorError

logger = logging.getLogger(__name__)

FEW = 4
"""Unknown replies that are no reason to stop, however few were asked for."""


class Unknown:
    """Count of an actor's unknown replies over all of its calls. Threads may share it.

    Args:
        place: Name of the actor in messages.
        most: Largest share of replies that may stay unknown, of each call and of all; `FEW` always may, except
            with 0.
        remedy: What to do about too many of them; end of the message.

    Attributes:
        asked: Replies asked for so far.
        unknown: Those of them that are unknown.
    """

    def __init__(self, place: str, most: float, remedy: str) -> None:
        if not 0 <= most <= 1:
            raise ActorError(f"max_unknown must be in [0, 1], got {most}")
        self.place, self.most, self.remedy = place, most, remedy
        self.asked = self.unknown = 0
        self.lock = Lock()

    def call(self, size: int) -> UnknownOfCall:
        """Begin to count the unknown replies of a call that asks for `size` replies."""
        with self.lock:
            self.asked += size
        return UnknownOfCall(self, size)


class UnknownOfCall:
    """The unknown replies of one call."""

    def __init__(self, whole: Unknown, size: int) -> None:
        self._whole, self._size = whole, size
        self._reasons: Counter[str] = Counter()
        self._first = ""

    def add(self, index: int, reason: str) -> None:
        """Count the reply to prompt `index`; what stands before a colon in the reason is its kind.

        Raises:
            ActorError: It is one more than the ceiling.
        """
        whole = self._whole
        self._first = self._first or f"prompt {index}: {reason}"
        self._reasons[reason.partition(":")[0]] += 1
        with whole.lock:
            whole.unknown += 1
            counts = ((self._reasons.total(), self._size), (whole.unknown, whole.asked))
        for unknown, asked in counts:
            if unknown > (max(FEW, whole.most * asked) if whole.most else 0):
                raise ActorError(
                    f"{whole.place}: {unknown} of {asked} replies cannot be used, more than max_unknown="
                    f"{whole.most:g} allows; {self._words()}. Nothing of this call was scored; {whole.remedy}"
                )

    def report(self) -> None:
        """Log how many replies of the call are unknown."""
        if self._reasons:
            logger.warning(
                "%s: %d of %d replies cannot be used; they count as unknown, not as wrong (%s)",
                *(self._whole.place, self._reasons.total(), self._size, self._words()),
            )

    def _words(self) -> str:
        return f"{'; '.join(f'{n} x {reason}' for reason, n in self._reasons.items())}; first {self._first}"
