"""The protocol of an actor, and the parts that all backends share: checks, the greedy cache, daemon threads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from threading import Event, Lock, Thread
from typing import Protocol, TypeVar

from critique_rl.types import Conversation, Generation, Sampling, UserError

Result = TypeVar("Result")


class ActorError(UserError):
    """The actor cannot be loaded or reached, or cannot generate from a prompt; no reply is invented."""


class Actor(Protocol):
    """A frozen model that answers questions, and refines an answer after a critique.

    In an evaluation critics have this interface too.

    Attributes:
        name: Name in results and logs: a path, a hub id, or the served model's name.

    An optional `identity`, a mapping of texts, says which model it is, whatever its path, see `identity`.

    An optional `remote`, False where it is missing, says that the texts are written outside of this process.
    Training then calls `generate` in another thread while this process computes.
    """

    name: str

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        """Generate one reply per prompt, in the order of the prompts.

        The `image` of a message stands before its text; a model without vision refuses it.

        A final assistant message is a prefill: the model continues that text, and `Generation.text` does not
        repeat it. Greedy calls (`temperature=0`) answer equal prompts with one generation; sampled calls draw
        prompt `i` from its own stream, `child_seed(sampling.seed, i)`.

        Raises:
            ActorError: A prompt is malformed, an image cannot be read, the model takes no images, or the backend
                fails. A prompt that does not fit the context, and a reply of a server that cannot be read, are no
                errors: the text is None. Many of them are, see `actors.unknown`.
        """
        ...


def check_request(prompts: Sequence[Conversation], sampling: Sampling) -> None:
    """Refuse malformed conversations and sampling settings before any work is done.

    Raises:
        ActorError: A prompt or setting is refused; the message names the prompt's index or the field.
    """
    if sampling.max_tokens < 1:
        raise ActorError(f"sampling.max_tokens must be at least 1, got {sampling.max_tokens}")
    if sampling.temperature < 0:
        raise ActorError(f"sampling.temperature must not be negative, got {sampling.temperature}")
    if not 0 < sampling.top_p <= 1:
        raise ActorError(f"sampling.top_p must be in (0, 1], got {sampling.top_p}")
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise ActorError(f"prompt {index} is an empty conversation")
        if len(prompt) == 1 and prompt[0]["role"] == "assistant":
            raise ActorError(f"prompt {index} is a prefill alone; a user message must come before it")
        if any("image" in message and message["role"] != "user" for message in prompt):
            raise ActorError(f"prompt {index} has an image outside of a user message")


class GreedyCache:
    """Remembers greedy generations and drops the least recently used first. Threads may share it.

    Training sends a frozen actor the same prompt many times: equal critiques of one response, the same pool at
    each evaluation. Greedy decoding would give the same reply again.

    Args:
        size: Most generations remembered. With 0 equal keys of one call are still generated once.
    """

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ActorError(f"cache_size must not be negative, got {size}")
        self._size = size
        self._entries: OrderedDict[Hashable, Generation] = OrderedDict()
        self._lock = Lock()

    def generate(
        self, keys: Sequence[Hashable], run: Callable[[list[int]], list[Generation]]
    ) -> list[Generation]:
        """Return one generation per key, in order.

        Args:
            keys: Identity of each prompt; equal keys have equal greedy output.
            run: Generates for positions in `keys`. It is called at most once, with first occurrences only.
        """
        with self._lock:
            known = {key: self._entries[key] for key in dict.fromkeys(keys) if key in self._entries}
        missing: dict[Hashable, int] = {}
        for index, key in enumerate(keys):
            if key not in known:
                missing.setdefault(key, index)
        if missing:
            known.update(zip(missing, run(list(missing.values())), strict=True))
        with self._lock:
            for key, generation in known.items():
                if generation.text is not None:  # else it may come the next time
                    self._entries[key] = generation
                    self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)
        return [known[key] for key in keys]


def in_daemon_threads(
    jobs: Sequence[Callable[[], Result]], most: int, given_up: Event
) -> list[Future[Result]]:
    """Run jobs in at most so many threads, until they are done or given up; return their results to come.

    The threads of an executor would keep the process from its end for as long as a server hangs.
    """
    futures: list[Future[Result]] = [Future() for _ in jobs]
    queue, lock = iter(zip(futures, jobs, strict=True)), Lock()

    def work() -> None:
        while not given_up.is_set():
            with lock:
                future, job = next(queue, (None, None))
            if future is None or job is None:
                return
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
                future.set_exception(error)

    for number in range(min(most, len(jobs))):
        Thread(target=work, name=f"critique_rl-actor-{number}", daemon=True).start()
    return futures
