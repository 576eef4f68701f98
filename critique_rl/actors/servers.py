"""Several servers of one model: which of them a request goes to, and what happens when one is away."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Event, Lock
from typing import Any

from critique_rl.actors.base import ActorError
from critique_rl.actors.server import OutageError, Read, Server

logger = logging.getLogger(__name__)

_SWITCH_S = 5.0
"""Seconds that a request tries a server that fails before it goes to the next."""
_REST_S = 20.0
"""Seconds for which a server that failed gets no request while others answer."""


class Servers:
    """One server, or several that serve the same model.

    A request goes to the server that its first message points to: what shares a beginning meets the same prefix
    cache. While that server is away, the others take its requests in turn; it is asked again after some seconds.
    A request fails when no server has answered it for `outage_s`.

    Args:
        base_url: URL of a server, or several with commas between them.
        api_key: Key of all of them.
        timeout_s: As for `Server`.
        max_retries: As for `Server`.
        outage_s: As for `Server`, over all servers.

    Attributes:
        url: The URLs without secrets, for messages.
        each: The servers.
    """

    def __init__(
        self, base_url: str, api_key: str | None, *, timeout_s: float, max_retries: int, outage_s: float
    ) -> None:
        urls = [url.strip() for url in base_url.split(",") if url.strip()]
        if not urls or len(set(urls)) < len(urls):
            raise ActorError(f"base_url names {'a server twice' if urls else 'no server'}.")
        self._outage_s = outage_s
        patience = outage_s if len(urls) == 1 else min(outage_s, _SWITCH_S)
        options: Any = {"timeout_s": timeout_s, "max_retries": max_retries, "outage_s": patience}
        self.each = [Server(url, api_key, **options) for url in urls]
        self.url = ", ".join(server.url for server in self.each)
        self._lock = Lock()
        self._away = dict[Server, float]()  # until when a server gets no request

    def public(self, text: object) -> str:
        """A message without the secrets of any server."""
        for server in self.each:
            text = server.public(text)
        return str(text)

    def describe(self, error: BaseException) -> str:
        """An error in words, with its cause and without secrets."""
        return self.public(self.each[0].describe(error))

    def reply(
        self, fields: Mapping[str, Any], read: Callable[[bytes], Read], label: str, given_up: Event
    ) -> Read:
        """Ask for a completion; arguments and errors as of `Server.reply`."""
        if len(self.each) == 1:
            return self.each[0].reply(fields, read, label, given_up)
        order, began = self._order(fields["messages"]), time.monotonic()
        while True:
            server = self._choose(order)
            try:
                reply = server.reply(fields, read, label, given_up)
            except OutageError as error:
                self._rest(server, error)
                if time.monotonic() - began >= self._outage_s or given_up.is_set():
                    raise
            else:
                self._back(server)
                return reply

    def listen(self) -> None:
        """Measure the silence of each server from now on."""
        for server in self.each:
            server.listen()

    def say_if_silent(self) -> None:
        """Log a line if no server has answered for long."""
        heard = max(self.each, key=lambda server: server.heard)
        heard.say_if_silent()

    def _order(self, messages: Sequence[Mapping[str, Any]]) -> list[Server]:
        """All servers, from the one that the first message points to."""
        digest = hashlib.sha256(json.dumps(messages[0], sort_keys=True).encode()).digest()
        first = int.from_bytes(digest[:4]) % len(self.each)
        return [*self.each[first:], *self.each[:first]]

    def _choose(self, order: Sequence[Server]) -> Server:
        """The first server that is not away; if all are, the one whose time is up first."""
        now = time.monotonic()
        with self._lock:
            return min(order, key=lambda server: max(self._away.get(server, 0.0), now))

    def _rest(self, server: Server, error: OutageError) -> None:
        with self._lock:
            known, self._away[server] = server in self._away, time.monotonic() + _REST_S
            left = len(self.each) - len(self._away)
        if not known:
            logger.warning(
                "%s is away (%s); %d of %d servers answer, and take its requests",
                *(server.url, error.failure, left, len(self.each)),
            )

    def _back(self, server: Server) -> None:
        with self._lock:
            was_away = self._away.pop(server, None) is not None
        if was_away:
            logger.warning("%s answers again", server.url)
