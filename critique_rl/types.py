"""What all modules share: problem, conversation, sampling settings, generation, errors of the user, secrets."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict, get_args

GradedKind = Literal["math", "number", "choice", "yes_no", "mixed"]
AnswerKind = GradedKind | Literal["score"]
"""Way to grade replies; those of kind `score` are scored instead, see `critique_rl.grading.scoring`."""
KINDS: tuple[AnswerKind, ...] = (*get_args(GradedKind), "score")


class UserError(Exception):
    """An error that the user can fix: a path, a field, a setting, a server. The command line exits with 2."""


class Terminated(KeyboardInterrupt):
    """An end that the system asked for with SIGTERM. The command line exits with 143."""


class Message(TypedDict):
    """One turn of a chat in the form of chat templates, except for `image`: a path or `data:` URL."""

    role: Literal["system", "user", "assistant"]
    content: str
    name: NotRequired[str]
    image: NotRequired[str]  # stands before the text


Conversation = list[Message]
"""A chat. A last message of the assistant is a prefill, which generation continues."""


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer.

    Attributes:
        id: Identity of the problem, from `problem_id`; key of splits and pools.
        dataset: Name of the data set, for instance `gsm8k`.
        question: Text of the question, with the options of multiple choice.
        solution: The gold reasoning, `""` if the data set has none. The critic never sees it.
        answer: The gold answer alone. The critic never sees it.
        kind: Way to grade the answer, see `critique_rl.grading.grade`.
        image: Image of the question: path of a file, or a `data:` URL; None without one.
    """

    id: str
    dataset: str
    question: str
    solution: str
    answer: str
    kind: AnswerKind
    image: str | None = None


@dataclass(frozen=True)
class Sampling:
    """Settings of generation.

    Attributes:
        max_tokens: Most new tokens.
        temperature: Sampling temperature; 0 is greedy.
        top_p: Probability mass of the nucleus; 1 keeps all tokens.
        seed: Seed of the draw if `temperature > 0`; the caller derives it with `child_seed`.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Generation:
    """Output of a model for one prompt.

    Attributes:
        text: The new text alone, without prompt and prefill; None if a server sent no reply that can be read. Such
            a reply is unknown, never wrong.
        prompt_tokens: Length of the prompt, in tokens; None if a server does not say it.
        completion_tokens: Tokens generated, with the end-of-turn token; None if a server does not say it.
        truncated: True if generation ended at `max_tokens`.
        thought: Reasoning that a server took out of the text; `""` where it stands in the text.
    """

    text: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    truncated: bool
    thought: str = ""

    def after(self, prefill: str) -> str | None:
        """The prefill and the text that continues it; None if there is no reply."""
        return None if self.text is None else prefill + self.text

    @property
    def tokens(self) -> int | None:
        """Prompt and completion tokens; None if one of them is unknown."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens


NO_REPLY = Generation(None, None, None, False)
"""Generation of a prompt to which no reply came that can be read."""


def nearest(name: str, known: Iterable[str]) -> str:
    """End of a message about an unknown name: the most similar known name, and the list if it is short.

    >>> nearest("gms8k", ["math", "gsm8k"])
    "Did you mean 'gsm8k'? There are: math, gsm8k."
    """
    names = list(known)
    hints = [f"Did you mean {similar!r}?" for similar in difflib.get_close_matches(name, names, n=1)]
    if len(names) <= 30:  # trl's configurations have some 150 fields
        hints.append(f"There are: {', '.join(names)}.")
    return " ".join(hints)


def first_line(error: Exception) -> str:
    """First line of an error's text; its class name if the text is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def problem_id(question: str, image: str | None = None) -> str:
    """Identity of a problem: a hash of its question, without regard to white space and case, and of its image."""
    suffix = "" if image is None else f"\n{image}"
    return hashlib.sha256((" ".join(question.lower().split()) + suffix).encode()).hexdigest()[:16]


def child_seed(seed: int, *path: str | int) -> int:
    """Derive an independent 31-bit seed for one purpose, e.g. `child_seed(0, "pool", problem.id)`.

    A hash, not a sum: `seed + i` would give neighbouring seeds almost the same draws.
    """
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


HIDDEN = "***"
"""What stands in the place of a secret."""
_LOGIN = re.compile(r"(?<=://)[^/\s@'\"]+@")
_PARAMETER = re.compile(r"(?i)(?<=[?&])((?:api[_-]?key|access[_-]?token|token|key)=)[^&\s'\"]+")
_SECRET_SETTINGS = ("api_key", "password", "default_headers")


def redacted(value: Any, secrets: Iterable[str] = ()) -> Any:
    """Copy of a setting or message without secrets: logins and keys in URLs, settings such as `api_key`.

    Args:
        value: A text, or mappings and sequences of them; other values are returned as they are.
        secrets: Further texts that are secret.

    >>> redacted({"base_url": "http://me:word@host/v1", "api_key": "sk-1"})
    {'base_url': 'http://***@host/v1', 'api_key': '***'}
    """
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, HIDDEN)
        return _PARAMETER.sub(rf"\1{HIDDEN}", _LOGIN.sub(f"{HIDDEN}@", value))
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if key in _SECRET_SETTINGS and entry is not None else redacted(entry, secrets)
            for key, entry in value.items()
        }
    if type(value) in (list, tuple):
        return type(value)(redacted(entry, secrets) for entry in value)
    return value
