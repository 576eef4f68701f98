"""One server: its address, its secrets, and how long to try when it does not answer."""

from __future__ import annotations

import base64
import logging
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from threading import Event, Lock
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import openai
import tenacity

from critique_rl.actors.base import ActorError
from critique_rl.actors.replies import UnusableReplyError, whole_text
from critique_rl.types import redacted

logger = logging.getLogger(__name__)
Read = TypeVar("Read")

_CHECK_TIMEOUT_S = 4.0  # for each of two attempts: some servers close the connection after an error
_NOTICE_S = 20.0  # silence that is worth a line; later lines come after twice the time each
_AGAIN_S = 0.5  # before a reply that cannot be used is asked for again
_LONGEST_PAUSE_S = 8.0
_LONGEST_DEMAND_S = 120.0  # of a Retry-After header
_MOST_SECRET = 4  # letters; shorter keys are names such as "x", which are no secret
_pause = tenacity.wait_random_exponential(multiplier=0.5, max=_LONGEST_PAUSE_S)


class OutageError(ActorError):
    """A server does not answer at all; `failure` says how."""

    def __init__(self, message: str, failure: str) -> None:
        super().__init__(message)
        self.failure = failure


class Server:
    """Sends requests, and tries again after failures.

    A reply that cannot be read is asked for again `max_retries` times. A failure of the server (no connection, no
    reply in time, status 408, 409, 429 or 5xx) is tried again for `outage_s` seconds, or as long as the header
    Retry-After demands.

    Args:
        base_url: URL, which may hold a login: `http://user:password@host/v1`.
        api_key: Key; None takes the environment's `OPENAI_API_KEY`, else "EMPTY".
        timeout_s: Longest wait for one reply, per attempt.
        max_retries: Further attempts after a reply that cannot be read.
        outage_s: Seconds for which a request is tried again after the first failure of the server.

    Attributes:
        url: The URL without secrets, for messages.
    """

    def __init__(
        self, base_url: str, api_key: str | None, *, timeout_s: float, max_retries: int, outage_s: float
    ) -> None:
        key = api_key or os.environ.get("OPENAI_API_KEY") or "EMPTY"
        parts = urlsplit(base_url)
        login, at, host = parts.netloc.rpartition("@")
        headers, secrets = {}, [] if key == "EMPTY" else [key]
        if at:  # as a header: libraries log URLs
            user, _, password = login.partition(":")
            encoded = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
            headers["Authorization"] = f"Basic {encoded}"
            secrets += [login, password, unquote(password), encoded]
        self._secrets = sorted((s for s in secrets if len(s) >= _MOST_SECRET), key=len, reverse=True)
        self.url = self.public(base_url)
        self._max_retries, self._outage_s, self._timeout_s = max_retries, outage_s, timeout_s
        self._client = openai.OpenAI(
            base_url=parts._replace(netloc=host).geturl(),
            api_key=key,
            timeout=timeout_s,
            max_retries=0,
            default_headers=headers,
        )
        self._lock = Lock()
        self._heard = self._said = time.monotonic()
        self._failing: tuple[float, str] | None = None  # since when, and the last failure

    def public(self, text: object) -> str:
        """A message without secrets, on one terminal."""
        return whole_text(str(redacted(str(text), self._secrets)))

    def describe(self, error: BaseException) -> str:
        """An error in words, with its cause: "Connection error." alone could be a refusal or an unknown host."""
        cause = error.__cause__
        text = f"{type(error).__name__}: {error}" + (f" [{type(cause).__name__}: {cause}]" if cause else "")
        return self.public(text)

    def models(self) -> bytes:
        """Body of `/models`, asked for within seconds; raises openai's errors."""
        return bytes(self._hasty().models.with_raw_response.list().content)

    def first_reply(self, fields: Mapping[str, Any], read: Callable[[bytes], Read]) -> Read:
        """Ask for one completion within seconds; raises openai's errors and those of `read`."""
        return read(_completion(self._hasty(), fields))

    def reply(
        self, fields: Mapping[str, Any], read: Callable[[bytes], Read], label: str, given_up: Event
    ) -> Read:
        """Ask for a completion, within the budget.

        Args:
            fields: Fields of the request.
            read: Reads the body of the reply, or raises `UnusableReplyError`.
            label: Name of the request in messages.
            given_up: When it is set nothing is tried again.

        Raises:
            UnusableReplyError: No reply to this request could be read, though the server answers others.
            OutageError: The server does not answer within the budget.
            openai.OpenAIError: The server refuses the request.
        """
        budget = _Budget(self._max_retries, self._outage_s, given_up)
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_passes),
            stop=budget.spent,
            wait=budget.pause,
            sleep=tenacity.sleep_using_event(given_up),
            reraise=True,
        )
        try:
            return attempts(self._attempt, fields, read)
        except UnusableReplyError:
            raise
        except openai.OpenAIError as error:
            if not _passes(error):
                raise
            tries = attempts.statistics["attempt_number"]
            failure = f"failed on {label} after {tries} attempts in {budget.failing_s:.0f} s"
            if self._heard > budget.failing_since:
                raise UnusableReplyError(f"the server {failure}: {self.describe(error)}") from None
            raise OutageError(
                f"{self.url} {failure}; {self.describe(error)}. Start the server again, then the same command: "
                "it goes on from its last checkpoint and its finished records. For longer outages raise the "
                "actor's `outage_s`.",
                self.describe(error),
            ) from None

    def _attempt(self, fields: Mapping[str, Any], read: Callable[[bytes], Read]) -> Read:
        try:
            body = _completion(self._client, fields)
        except openai.OpenAIError as error:
            if _passes(error):
                with self._lock:
                    since = self._failing[0] if self._failing else time.monotonic()
                    self._failing = (since, self.describe(error))
            raise
        with self._lock:
            silent_s = time.monotonic() - self._heard
            if self._failing and self._said > self._heard:
                logger.warning("%s answers again, after %.0f s", self.url, silent_s)
            self._heard = self._said = time.monotonic()
            self._failing = None
        return read(body)

    def _hasty(self) -> openai.OpenAI:
        return self._client.with_options(timeout=_CHECK_TIMEOUT_S, max_retries=1)

    @property
    def heard(self) -> float:
        """When the server last answered, on the monotonic clock."""
        return self._heard

    def listen(self) -> None:
        """Measure the silence from now on; called before requests are sent."""
        with self._lock:
            self._heard = self._said = time.monotonic()

    def say_if_silent(self) -> None:
        """Log a line if the server has not answered for long; called again and again while requests wait."""
        with self._lock:
            now = time.monotonic()
            silent_s, said_after_s = now - self._heard, self._said - self._heard
            if silent_s < max(_NOTICE_S, 2 * said_after_s):
                return
            self._said, failing = now, self._failing
        if failing is None:
            logger.warning(
                "%s has not answered for %.0f s; each request waits up to %g s (timeout_s)",
                *(self.url, silent_s, self._timeout_s),
            )
            return
        until = datetime.now() + timedelta(seconds=failing[0] + self._outage_s - now)
        logger.warning(
            "%s has not answered for %.0f s (%s); trying until %s (outage_s)",
            *(self.url, silent_s, failing[1], f"{until:%H:%M:%S}"),
        )


class _Budget:
    """What one request may still try."""

    def __init__(self, max_retries: int, outage_s: float, given_up: Event) -> None:
        self._unusable, self._outage_s, self._given_up = max_retries, outage_s, given_up
        self.failing_since = float("inf")

    @property
    def failing_s(self) -> float:
        """Seconds since the server first failed."""
        return max(0.0, time.monotonic() - self.failing_since)

    def spent(self, state: tenacity.RetryCallState) -> bool:
        """Whether nothing is left for another attempt; counts the failure of this one."""
        if isinstance(_failure(state), UnusableReplyError):
            self._unusable -= 1
            return self._unusable < 0 or self._given_up.is_set()
        self.failing_since = min(self.failing_since, time.monotonic())
        return self.failing_s >= self._outage_s or self._given_up.is_set()

    def pause(self, state: tenacity.RetryCallState) -> float:
        """Seconds to wait before the next attempt; the last one is made when the time is up."""
        error = _failure(state)
        if isinstance(error, UnusableReplyError):
            return _AGAIN_S
        wanted = max(_pause(state), _demanded_s(error))
        return min(wanted, max(0.0, self._outage_s - self.failing_s) + 0.01)


def _completion(client: openai.OpenAI, fields: Mapping[str, Any]) -> bytes:
    """Body of the reply as it is, whatever its content type: some servers name an odd one."""
    return bytes(client.chat.completions.with_raw_response.create(**fields).content)


def _passes(error: BaseException) -> bool:
    """Whether another attempt may help."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, UnusableReplyError | openai.APIConnectionError)


def _failure(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _demanded_s(error: BaseException | None) -> float:
    """Seconds that a Retry-After header demands; 0 without one, or if it is a date or absurd."""
    if not isinstance(error, openai.APIStatusError):
        return 0.0
    try:
        seconds = float(error.response.headers.get("retry-after", 0))
    except ValueError:
        return 0.0
    return min(seconds, _LONGEST_DEMAND_S) if seconds > 0 else 0.0
