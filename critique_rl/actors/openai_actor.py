"""The actor behind a chat-completions server: vLLM, SGLang, llama.cpp and others."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache, partial
from threading import Lock
from typing import Any, Literal, get_args

import openai
from openai.types.chat import ChatCompletion
from tqdm import tqdm

from critique_rl.actors.base import ActorError, GreedyCache, check_request
from critique_rl.types import Conversation, Generation, Sampling, UserError, child_seed
from critique_rl.vision.images import shown_url

Prefill = Literal["continue", "user"]

_CHECK_TIMEOUT_S = 4.0  # for each of two attempts: some servers close the connection after an error
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
    `data:` URLs, which all of these servers take. The server reports a model without vision or a context that is
    too short; both become an `ActorError` with the prompt's index.

    Args:
        base_url: URL of the server, for instance `http://localhost:8000/v1`.
        model: Served name; by default the first of `/v1/models`.
        api_key: Key; by default the environment's `OPENAI_API_KEY`, else "EMPTY", which local servers accept.
        concurrency: Most requests in flight; servers batch them.
        timeout_s: Longest wait for one reply, per attempt.
        max_retries: Further attempts after connection errors, timeouts and status 408, 409, 429 and 5xx, with
            exponential backoff.
        prefill: Treatment of a trailing assistant message. "continue": the model continues it. "user", for
            servers without continuation: "Begin your reply with: ..." is appended to the last user message, and
            that beginning is removed from the reply if it is there. The two prompts differ.
        extra_body: Further fields of every request, for instance `{"chat_template_kwargs": {...}}`.
        cache_size: Greedy generations remembered.
        progress: Label of a progress bar on stderr, shown for calls of more than `4 * concurrency` requests.

    Attributes:
        name: The served model's name.
        sequences_generated: Sequences generated so far; cache hits and duplicates do not count.

    Raises:
        ActorError: An option is invalid, the server is down, or it does not serve the model (see `check`).
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        concurrency: int = 32,
        timeout_s: float = 300.0,
        max_retries: int = 5,
        prefill: Prefill = "continue",
        extra_body: Mapping[str, Any] | None = None,
        cache_size: int = 50_000,
        progress: str | None = None,
    ) -> None:
        if prefill not in get_args(Prefill):
            raise ActorError(f"prefill must be one of {', '.join(get_args(Prefill))}, got {prefill!r}")
        if concurrency < 1 or max_retries < 0 or timeout_s <= 0:
            raise ActorError(
                "concurrency must be at least 1, max_retries at least 0 and timeout_s positive, got "
                f"{concurrency}, {max_retries} and {timeout_s}"
            )
        self._base_url = base_url
        self._concurrency = concurrency
        self._prefill = prefill
        self._extra_body = dict(extra_body or {})
        self._progress = progress
        self._cache = GreedyCache(cache_size)
        key = api_key or os.environ.get("OPENAI_API_KEY") or "EMPTY"
        self._client = openai.OpenAI(
            base_url=base_url, api_key=key, timeout=timeout_s, max_retries=max_retries
        )
        self._lock = Lock()
        self.sequences_generated = 0
        self.name = model or ""
        self.check()

    def check(self) -> None:
        """Ask the server whether it serves the model; takes seconds, also if the server is down.

        The constructor calls this; without a model name it takes the first model listed.

        Raises:
            ActorError: The server is down or refuses the model; the message has the models that it lists.
        """
        client = self._client.with_options(timeout=_CHECK_TIMEOUT_S, max_retries=1)
        listed: list[str] = []
        failure = ""
        try:
            listed = [model.id for model in client.models.list().data]
        except openai.AuthenticationError as error:
            message = f"{self._base_url} refuses the API key; set OPENAI_API_KEY or api_key ({error})"
            raise ActorError(message) from error
        except openai.APIConnectionError as error:
            raise ActorError(
                f"no server answers at {self._base_url} ({_describe(error)}); start it, for instance `vllm serve "
                f"{self.name or 'MODEL'} --generation-config vllm`, or correct base_url"
            ) from error
        except (openai.OpenAIError, AttributeError, TypeError, ValueError) as error:
            failure = f" (asking for the list failed: {error})"  # some servers lack or break this endpoint
        if not self.name:
            if not listed:
                raise ActorError(
                    f"{self._base_url} lists no model{failure}; is the URL right? Most end in /v1. "
                    "If it is, name the model: OpenAIActor(base_url, model=...)"
                )
            self.name = listed[0]
        if self.name in listed:
            return
        # `transformers serve` does not list a model given by path, llama.cpp answers to any name: just try.
        greeting: Conversation = [{"role": "user", "content": "Hi"}]
        try:
            self._complete(client, greeting, {"max_tokens": 1}, "the first request")
        except ActorError as error:
            names = ", ".join(listed) or "none"
            message = f"{self._base_url} does not serve {self.name!r}; it lists: {names}{failure}. {error}"
            raise ActorError(message) from error

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        """Generate one reply per prompt, in order; see `Actor.generate`.

        Raises:
            ActorError: A request was refused, or failed on every attempt; the message has the URL, the number of
                attempts and the last error. A failure never becomes an empty reply.
        """
        check_request(prompts, sampling)
        if not prompts:
            return []
        prompt_keys = _keys(prompts)
        requests = [self._request(prompt, index) for index, prompt in enumerate(prompts)]
        run = partial(self._run, requests, sampling)
        if sampling.temperature > 0:
            return run(list(range(len(prompts))))
        return self._cache.generate([(key, sampling.max_tokens) for key in prompt_keys], run)

    def _request(self, prompt: Conversation, index: int) -> tuple[Conversation, str | None]:
        """The messages to send, and the prefill that the reply begins with or continues; None without one."""
        if prompt[-1]["role"] != "assistant":
            return prompt, None
        prefill = prompt[-1]["content"]
        if self._prefill == "continue" and prefill:
            return prompt, prefill
        *earlier, last = prompt[:-1]
        if last["role"] != "user":
            raise ActorError(f"prompt {index}: the message before the prefill must be the user's")
        if not prefill.strip():
            return [*earlier, last], None
        content = f"{last['content']}\n\nBegin your reply with: {prefill.strip()}"
        return [*earlier, {**last, "content": content}], prefill

    def _run(
        self, requests: Sequence[tuple[Conversation, str | None]], sampling: Sampling, indices: list[int]
    ) -> list[Generation]:
        # For tqdm None means: no bar without a terminal.
        no_bar = None if self._progress is not None and len(indices) > 4 * self._concurrency else True
        workers = min(self._concurrency, len(indices))
        pool = ThreadPoolExecutor(workers, thread_name_prefix="critique_rl-actor")
        try:
            futures = {pool.submit(self._one, requests[i], i, sampling): i for i in indices}
            replies: dict[int, Generation] = {}
            with tqdm(total=len(indices), desc=self._progress, disable=no_bar) as bar:
                for future in as_completed(futures):
                    replies[futures[future]] = future.result()
                    bar.update()
        finally:
            # After a failure do not wait: drop the queued requests, ignore the running ones.
            pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self.sequences_generated += len(indices)
        return [replies[i] for i in indices]

    def _one(self, request: tuple[Conversation, str | None], index: int, sampling: Sampling) -> Generation:
        messages, prefill = request
        options: dict[str, Any] = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
        if sampling.temperature > 0:
            options |= {"top_p": sampling.top_p, "seed": child_seed(sampling.seed, index)}
        continues = prefill is not None and self._prefill == "continue"
        options["extra_body"] = {**(_CONTINUE if continues else {}), **self._extra_body}
        completion = self._complete(self._client, messages, options, f"prompt {index}")
        choice = completion.choices[0]
        if choice.finish_reason not in ("length", "stop"):
            raise ActorError(f"{self._base_url} ended prompt {index} with {choice.finish_reason!r}")
        if completion.usage is None:
            raise ActorError(f"{self._base_url} reports no token usage, so lengths would be unknown")
        text = choice.message.content or ""
        if prefill is not None and not continues:
            text = _without_echo(text, prefill.strip())
        usage, truncated = completion.usage, choice.finish_reason == "length"
        return Generation(text, usage.prompt_tokens, usage.completion_tokens, truncated)

    def _complete(
        self, client: openai.OpenAI, messages: Conversation, options: Mapping[str, Any], label: str
    ) -> ChatCompletion:
        """Send one request, with the client's retries; every failure becomes an `ActorError`."""
        try:
            sent = _with_parts(messages)
            completion: Any = client.chat.completions.create(model=self.name, messages=sent, **options)
        except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
            failure = f"failed on {label} after {client.max_retries + 1} attempts; {_describe(error)}"
            raise ActorError(f"{self._base_url} {failure}") from error
        except openai.APIStatusError as error:
            hint = ""
            if self._prefill == "continue" and messages[-1]["role"] == "assistant":
                hint = ' (a server that cannot continue an assistant message needs prefill="user")'
            raise ActorError(f"{self._base_url} refused {label}: {_describe(error)}{hint}") from error
        except (openai.OpenAIError, ValueError) as error:
            raise ActorError(f"{self._base_url} garbled its reply to {label}: {_describe(error)}") from error
        if not isinstance(completion, ChatCompletion) or not completion.choices:
            raise ActorError(
                f"{self._base_url} sent no chat completion for {label}; is the URL right? Most end in /v1"
            )
        return completion


def _describe(error: Exception) -> str:
    cause = error.__cause__  # "Connection error." alone could be a refusal or an unknown host
    return f"{type(error).__name__}: {error}" + (f" [{type(cause).__name__}: {cause}]" if cause else "")


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


def _without_echo(text: str, prefill: str) -> str:
    """The reply without the prefill, if it begins with it."""
    stripped = text.lstrip()
    return stripped.removeprefix(prefill).lstrip() if stripped.startswith(prefill) else text
