"""Notice servers that decode greedily although samples were asked for."""

from __future__ import annotations

import logging
from threading import Lock

logger = logging.getLogger(__name__)

_ENOUGH = 10  # prompts with several samples; fewer may be equal by chance
_MOST = 4096  # prompts that are remembered


class EqualSamples:
    """Compares the samples of each prompt, and warns once if those of many prompts are all equal.

    Args:
        name: Name of model and server in the warning.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._first: dict[str, tuple[int, int]] = {}  # by prompt: seed and hash of its first sample
        self._equal: set[str] = set()
        self._done = False
        self._lock = Lock()

    def add(self, prompt: str, seed: int, text: str, temperature: float) -> None:
        """Take note of one sample; `seed` is its own."""
        with self._lock:
            if self._done:
                return
            if prompt not in self._first:
                if len(self._first) < _MOST:
                    self._first[prompt] = (seed, hash(text))
                return
            first_seed, first_text = self._first[prompt]
            if seed == first_seed:  # the same draw again
                return
            if hash(text) != first_text:
                self._done = True
                return
            self._equal.add(prompt)
            self._done = len(self._equal) >= _ENOUGH
        if self._done:
            logger.warning(
                "%s gave equal texts in all samples of %d prompts at temperature %g: it seems to decode greedily. "
                "`transformers serve` does so unless the model's generation_config says do_sample: true; use "
                "another server, or temperature 0.",
                *(self._name, len(self._equal), temperature),
            )
