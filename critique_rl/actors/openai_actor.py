"""The actor behind a chat-completions server: vLLM, SGLang, llama.cpp and others."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from functools import cache, partial
from threading import Event, Lock
from typing import Any, Literal, get_args

import openai
from tqdm import tqdm

from critique_rl.actors.base import ActorError, GreedyCache, check_request, in_daemon_threads
from critique_rl.actors.equal_samples import EqualSamples
from critique_rl.actors.replies import (
    Reply,
    UnusableReplyError,
    names_model,
    parse,
    read_reply,
    without_echo,
)
from critique_rl.actors.server import OutageError, Server
from critique_rl.actors.servers import Servers
from critique_rl.actors.unknown import Unknown
from critique_rl.types import NO_REPLY, Conversation, Generation, Sampling, UserError, child_seed
from critique_rl.vision.images import shown_url

Prefill = Literal["continue", "user"]

logger = logging.getLogger(__name__)

_LOOK_S = 0.5  # between two looks at a server that may be silent
_TOO_LONG = re.compile(r"context (length|size|window)|(too|so) long|longer than the model", re.IGNORECASE)
_CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}


class OpenAIActor:
    """A served model behind the `Actor` protocol. Any thread may call it.

    Known servers, with `prefill="continue"` unless another is named:

    * vLLM: `vllm serve MODEL --generation-config vllm`. Without that option the server mixes the checkpoint's
      own sampling defaults (Qwen2.5: a repetition penalty) into every request, greedy ones too.
    * SGLang: `python -m sglang.launch_server --model-path MODEL --sampling-defaults openai`, for the same reason.
    * llama.cpp: `llama-server -m FILE --jinja`. It continues a trailing assistant message by itself.
    * `transformers serve MODEL`: `prefill="user"` (it rejects the two fields of "continue"), and greedy
      only: it samples at `temperature > 0` only if the checkpoint's generation_config says `do_sample`.

    Servers render prefills with `transformers`, which drops white space at their end if the chat template trims
    messages (Llama 3, Gemma; not Qwen). `TransformersActor` repairs that, a client cannot. Images are sent as
    `data:` URLs, which all of these servers take. The server reports a model without vision, which becomes an
    `ActorError` with the prompt's index.

    A reply without a text (cut or garbled, an error in its place, an empty content that no token limit explains)
    is asked for again. If it stays so, or the server says that the prompt does not fit its context, the generation
    has the text None: unknown, counted in `unknown`, logged, and never an empty answer. Lone surrogates in a text
    become U+FFFD. A reply that names another model than the one asked for is an error; `replies.names_model` and
    `/v1/models` say which other names one model may have.

    Args:
        base_url: URL of the server, for instance `http://localhost:8000/v1`, or of several servers of one model,
            with commas between them; see `Servers`. A login in it (`http://user:password@host/v1`) is sent as a
            header and shown nowhere.
        model: Served name; by default the first of `/v1/models`.
        api_key: Key; by default the environment's `OPENAI_API_KEY`, else "EMPTY", which local servers accept.
        concurrency: Most requests in flight to each server; servers batch them.
        timeout_s: Longest wait for one reply, per attempt. Silence is logged after 20 s.
        max_retries: Further attempts after a reply that cannot be used.
        outage_s: Seconds of further attempts after connection errors, timeouts and status 408, 409, 429 and 5xx,
            longer than a server takes to start again.
        max_unknown: Largest share of replies that may stay unknown, see `actors.unknown`.
        prefill: Treatment of a trailing assistant message. "continue": the model continues it. "user", for
            servers without continuation: "Begin your reply with: ..." is appended to the last user message, and
            the two prompts differ. Either way a beginning that the reply repeats is removed from it.
        seeded: Whether a request for a sample carries a seed, so that the same request gives the same text. False
            for vLLM on CPU, which stops at one ("CPU Generator does not use offset").
        extra_body: Further fields of every request, for instance `{"chat_template_kwargs": {...}}`.
        cache_size: Greedy generations remembered.
        progress: Label of a progress bar on stderr, shown for calls of more than `4 * concurrency` requests.

    Attributes:
        name: The served model's name.
        remote: True; see `Actor`.
        identity: What tells the served model from another: `served`, its name, and `root`, the weights that the
            server says it has loaded. Records remember it.
        sequences_generated: Sequences generated so far; cache hits and duplicates do not count.

    Raises:
        ActorError: An option is invalid, the server is down, or it does not serve the model (see `check`).
    """

    remote = True

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        concurrency: int = 32,
        timeout_s: float = 300.0,
        max_retries: int = 5,
        outage_s: float = 300.0,
        max_unknown: float = 0.05,
        prefill: Prefill = "continue",
        seeded: bool = True,
        extra_body: Mapping[str, Any] | None = None,
        cache_size: int = 50_000,
        progress: str | None = None,
    ) -> None:
        if prefill not in get_args(Prefill):
            raise ActorError(f"prefill must be one of {', '.join(get_args(Prefill))}, got {prefill!r}")
        if concurrency < 1 or max_retries < 0 or timeout_s <= 0 or outage_s < 0:
            raise ActorError(
                "concurrency must be at least 1, max_retries and outage_s at least 0 and timeout_s positive, got "
                f"{concurrency}, {max_retries}, {outage_s} and {timeout_s}"
            )
        self._server = Servers(
            base_url, api_key, timeout_s=timeout_s, max_retries=max_retries, outage_s=outage_s
        )
        self._url = self._server.url
        self._concurrency = concurrency * len(self._server.each)
        self._unknown = Unknown(self._url, max_unknown, "mend the server, then give the same command.")
        self._prefill, self._seeded = prefill, seeded
        self._extra_body = dict(extra_body or {})
        self._progress = progress
        self._cache = GreedyCache(cache_size)
        self._lock = Lock()
        self._unmetered = self.sequences_generated = 0
        self.name = model or ""
        self._listed: dict[str, str | None] = {}  # names that the server lists, with the weights of each
        self._stated: str | None = None  # name in its first reply
        self.check()
        self._samples = EqualSamples(f"{self.name} at {self._url}")

    @property
    def unknown(self) -> int:
        """Replies so far that never came in a form that can be read, or to prompts that do not fit."""
        return self._unknown.unknown

    @property
    def identity(self) -> dict[str, str]:
        """Name of the served model and, if the server says it, the weights that it has loaded."""
        served = self.name if self.name in self._listed else self._stated or self.name
        root = self._listed.get(self.name)
        return {"served": served} | ({"root": root} if root else {})

    def check(self) -> None:
        """Ask each server whether it serves the model; takes seconds, also if one is down.

        The constructor calls this; without a model name it takes the first model listed. Of several servers some
        may be down, which is logged.

        Raises:
            ActorError: No server answers, one refuses the model, or they serve different ones; the message has the
                models that are listed.
        """
        away, listed = list[ActorError](), dict[str, dict[str, str | None]]()
        for server in self._server.each:
            try:
                listed[server.url] = self._check_server(server)
            except OutageError as error:
                away.append(error)
        if not listed:
            raise away[0]
        for absent in away:
            logger.warning("%s", absent)
        self._listed = next(iter(listed.values()))
        roots = {url: names.get(self.name) for url, names in listed.items() if names.get(self.name)}
        if len(set(roots.values())) > 1:
            each = ", ".join(f"{url} has {root}" for url, root in roots.items())
            raise ActorError(f"the servers of {self.name!r} have loaded different weights: {each}")

    def _check_server(self, server: Server) -> dict[str, str | None]:
        """Names that a server lists, with their weights; see `check`."""
        failure, url, listed = "", server.url, dict[str, str | None]()
        try:
            listed = _listed(server.models())
        except openai.AuthenticationError as error:
            message = f"{url} refuses the API key; set OPENAI_API_KEY or api_key"
            raise ActorError(f"{message} ({server.describe(error)})") from None
        except openai.APIConnectionError as error:
            raise OutageError(
                f"no server answers at {url} ({server.describe(error)}); start it, for instance "
                f"`vllm serve {self.name or 'MODEL'} --generation-config vllm`, or correct base_url",
                server.describe(error),
            ) from None
        except (openai.OpenAIError, UnusableReplyError) as error:  # some servers lack or break this endpoint
            failure = f" (asking for the list failed: {server.describe(error)})"
        if not self.name:
            if not listed:
                raise ActorError(
                    f"{url} lists no model{failure}; is the URL right? Most end in /v1. "
                    "If it is, name the model: OpenAIActor(base_url, model=...)"
                )
            self.name = next(iter(listed))
        if self.name in listed:
            return listed
        self._listed = listed  # which names one model may have
        # `transformers serve` does not list a model given by path, llama.cpp answers to any name: just try.
        greeting: Conversation = [{"role": "user", "content": "Hi"}]
        fields = {"model": self.name, "messages": greeting, "max_tokens": 1}
        try:
            self._check_model(server.first_reply(fields, read_reply).model)
        except UnusableReplyError:
            pass  # it answers; what it answers is looked at when it counts
        except openai.OpenAIError as error:
            names = ", ".join(listed) or "none"
            failure += f". {server.describe(error)}"
            raise ActorError(f"{url} does not serve {self.name!r}; it lists: {names}{failure}") from None
        return listed

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        """Generate one reply per prompt, in order; see `Actor.generate`.

        Raises:
            ActorError: A request was refused, the server did not answer for `outage_s`, it names another model,
                or too many replies are unknown. The message has the URL and the last error.
        """
        check_request(prompts, sampling)
        if not prompts:
            return []
        prompt_keys = _keys(prompts)
        requests = [_request(prompt, index, self._prefill) for index, prompt in enumerate(prompts)]
        run = partial(self._run, requests, sampling)
        if sampling.temperature > 0:
            replies = run(list(range(len(prompts))))
            for index, (key, reply) in enumerate(zip(prompt_keys, replies, strict=True)):
                if reply.text is not None:
                    seed = child_seed(sampling.seed, index)
                    self._samples.add(key, seed, reply.text, sampling.temperature)
            return replies
        return self._cache.generate([(key, sampling.max_tokens) for key in prompt_keys], run)

    def _run(
        self, requests: Sequence[tuple[Conversation, str | None]], sampling: Sampling, indices: list[int]
    ) -> list[Generation]:
        # For tqdm None means: no bar without a terminal.
        no_bar = None if self._progress is not None and len(indices) > 4 * self._concurrency else True
        unknown, given_up = self._unknown.call(len(indices)), Event()
        self._server.listen()
        try:
            jobs = [partial(self._one, requests[i], i, sampling, given_up) for i in indices]
            futures = dict(zip(in_daemon_threads(jobs, self._concurrency, given_up), indices, strict=True))
            replies: dict[int, Generation] = {}
            pending: set[Future[Generation]] = set(futures)
            with tqdm(total=len(indices), desc=self._progress, disable=no_bar) as bar:
                while pending:
                    finished, pending = wait(pending, _LOOK_S, FIRST_COMPLETED)
                    self._server.say_if_silent()
                    for future in finished:
                        try:
                            replies[futures[future]] = future.result()
                        except UnusableReplyError as error:
                            replies[futures[future]] = NO_REPLY
                            unknown.add(futures[future], self._server.public(error))
                        bar.update()
        finally:
            given_up.set()  # after a failure: drop the queued requests, ignore the running ones
        unknown.report()
        self._count(list(replies.values()))
        return [replies[i] for i in indices]

    def _count(self, replies: Sequence[Generation]) -> None:
        """Count the replies of one call, and say once if the server reports no token counts."""
        known = [reply for reply in replies if reply.text is not None]
        unmetered = sum(reply.tokens is None for reply in known)
        with self._lock:
            first = unmetered and not self._unmetered
            self._unmetered += unmetered
            self.sequences_generated += len(known)
        if first:
            logger.warning("%s reports no whole token usage: those token counts are unknown", self._url)

    def _one(
        self, request: tuple[Conversation, str | None], index: int, sampling: Sampling, given_up: Event
    ) -> Generation:
        messages, prefill = request
        fields: dict[str, Any] = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
        if sampling.temperature > 0:
            fields |= {"top_p": sampling.top_p}
            fields |= {"seed": child_seed(sampling.seed, index)} if self._seeded else {}
        continues = prefill is not None and self._prefill == "continue"
        fields["extra_body"] = {**(_CONTINUE if continues else {}), **self._extra_body}
        fields |= {"model": self.name, "messages": _with_parts(messages)}
        reply = self._reply(fields, index, given_up)
        self._check_model(reply.model)
        generation = reply.generation
        if prefill is None or generation.text is None:
            return generation
        text = without_echo(generation.text, prefill if continues else prefill.strip())
        # The model was told to begin with the prefill, which ends in no space of its own.
        return replace(generation, text=text if continues or text == generation.text else text.lstrip())

    def _reply(self, fields: Mapping[str, Any], index: int, given_up: Event) -> Reply:
        """Send one request; a refusal becomes an `ActorError`."""
        label = f"prompt {index}"
        try:
            return self._server.reply(fields, read_reply, label, given_up)
        except (openai.OpenAIError, UnicodeEncodeError) as error:
            if isinstance(error, openai.BadRequestError) and _TOO_LONG.search(str(error)):
                raise UnusableReplyError(f"does not fit the context: {error}") from None
            hint = ""
            if self._prefill == "continue" and fields["messages"][-1]["role"] == "assistant":
                hint = ' (a server that cannot continue an assistant message needs prefill="user")'
            if isinstance(error, UnicodeEncodeError):
                hint = " (its text holds half a surrogate pair: clean the data)"
            message = f"{self._url} refused {label}: {self._server.describe(error)}{hint}"
            raise ActorError(message) from None

    def _check_model(self, stated: str | None) -> None:
        """Refuse a reply of another model than the one asked for; a reply may state none."""
        if stated is None:
            return
        with self._lock:
            if self._stated is None and self._is_ours(stated):
                self._stated = stated
            asked, first = self.name, self._stated
        if stated != first:
            before = f", and earlier replies came from {first!r}" if first not in (None, asked) else ""
            raise ActorError(
                f"{self._url} answered as {stated!r}, but {asked!r} was asked{before}: another model runs there. "
                f"Serve {asked!r} again, or ask for the other one by name, in a new folder."
            )

    def _is_ours(self, stated: str) -> bool:
        """Whether a name in a reply means the model asked for.

        It may be a name with the same weights in the server's list. If the server does not list the name asked for
        and answers nevertheless, it may be any that it lists (llama.cpp answers to every name).
        """
        if names_model(stated, self.name):
            return True
        root = self._listed.get(self.name)
        same_weights = root is not None and self._listed.get(stated) == root
        return same_weights or (self.name not in self._listed and stated in self._listed)


def _request(prompt: Conversation, index: int, treatment: Prefill) -> tuple[Conversation, str | None]:
    """The messages to send, and the prefill that the reply begins with or continues; None without one."""
    if prompt[-1]["role"] != "assistant":
        return prompt, None
    prefill = prompt[-1]["content"]
    if treatment == "continue" and prefill:
        return prompt, prefill
    *earlier, last = prompt[:-1]
    if last["role"] != "user":
        raise ActorError(f"prompt {index}: the message before the prefill must be the user's")
    if not prefill.strip():
        return [*earlier, last], None
    content = f"{last['content']}\n\nBegin your reply with: {prefill.strip()}"
    return [*earlier, {**last, "content": content}], prefill


def _listed(body: bytes) -> dict[str, str | None]:
    """Names in the server's list of models, each with the weights that it stands for if the server says so."""
    entries = parse(body).get("data")
    if not isinstance(entries, list):
        raise UnusableReplyError(f"'data' is {entries!r:.80}")
    named = [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    return {e["id"]: e["root"] if isinstance(e.get("root"), str) else None for e in named}


def _with_parts(messages: Conversation) -> Any:
    """Messages in the servers' form: a content is a string, or with an image a list of parts."""
    sent: list[dict[str, Any]] = []
    for message in messages:
        fields: dict[str, Any] = {key: value for key, value in message.items() if key != "image"}
        if "image" in message:
            image = {"type": "image_url", "image_url": {"url": shown_url(message["image"])}}
            fields["content"] = [image, {"type": "text", "text": message["content"]}]
        sent.append(fields)
    return sent


def _keys(prompts: Sequence[Conversation]) -> list[str]:
    """Identity of each prompt for the cache: JSON, with the hash of its content for each image.

    The file of an image may change between calls, and the content itself is too large for a key.
    """
    digest = cache(lambda image: hashlib.sha256(shown_url(image).encode()).hexdigest())
    keys = []
    for index, prompt in enumerate(prompts):
        try:
            hashed = [{**m, "image": digest(m["image"])} if "image" in m else m for m in prompt]
        except UserError as error:
            raise ActorError(f"prompt {index}: {error}") from error
        keys.append(json.dumps(hashed, sort_keys=True))
    return keys
