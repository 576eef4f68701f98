"""The actor behind a server that speaks the chat-completions protocol: vLLM, SGLang, llama.cpp and others."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Lock
from typing import Any, Literal, get_args

import openai
from openai.types.chat import ChatCompletion
from tqdm import tqdm

from critique_rl.actors.base import ActorError, GreedyCache, check_request
from critique_rl.types import Conversation, Generation, Sampling, UserError, child_seed
from critique_rl.vision.images import as_url

Prefill = Literal["continue", "user"]

_CHECK_TIMEOUT_S = 4.0  # twice, with one retry: an error closes the connection at some servers
_CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}
_LENGTH_OR_STOP = ("length", "stop")


class OpenAIActor:
    """A served model behind the `Actor` protocol. Can be called from any thread.

    Known servers (`prefill="continue"` unless said otherwise):

    * vLLM: `vllm serve MODEL --generation-config vllm`. Without that option the server mixes the checkpoint's
      own sampling defaults (Qwen2.5: a repetition penalty) into every request, greedy ones too.
    * SGLang: `python -m sglang.launch_server --model-path MODEL --sampling-defaults openai`, for that reason.
    * llama.cpp: `llama-server -m FILE --jinja`. It continues a trailing assistant message by itself.
    * `transformers serve MODEL`: `prefill="user"` (it rejects the two fields of "continue"), and greedy
      only: it samples at `temperature > 0` only if the checkpoint's generation_config says `do_sample`.

    Servers render prefills with `transformers`, which drops white space at their end if the chat template
    trims messages (Llama 3, Gemma; not Qwen). `TransformersActor` repairs that, a client cannot.
    Images are sent as `data:` URLs, the form that all of these take; whether the served model can see is the
    server's to report, as is a context that is too short: it becomes an `ActorError` with the prompt's index.

    Args:
        base_url: For instance `http://localhost:8000/v1`.
        model: Served name; by default the first of `/v1/models`.
        api_key: By default the environment's `OPENAI_API_KEY`, else "EMPTY", which local servers accept.
        concurrency: Most requests in flight; servers batch what is in flight.
        timeout_s: Longest wait for one reply, per attempt.
        max_retries: Further attempts after connection errors, timeouts and status 408, 409, 429 and 5xx, with
            exponential backoff.
        prefill: What to do with a trailing assistant message. "continue" lets the model continue it. "user",
            for servers that cannot, appends "Begin your reply with: ..." to the last user message, and takes
            that beginning off the reply if the model obeyed: a different prompt from that of "continue".
        extra_body: Further fields for every request, for instance `{"chat_template_kwargs": {...}}`.
        cache_size: Greedy generations remembered.
        progress: Label of a progress bar on stderr, shown for calls of more than `4 * concurrency` requests.

    Attributes:
        name: The served model's name.
        sequences_generated: Sequences generated so far; cache hits and duplicates do not count.

    Raises:
        ActorError: The server is down, or does not serve the model (see `check`).
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
        self._max_retries = max_retries
        self._prefill = prefill
        self._extra_body = dict(extra_body or {})
        self._progress = progress
        self._cache = GreedyCache(cache_size)
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=api_key or os.environ.get("OPENAI_API_KEY") or "EMPTY",
            timeout=timeout_s,
            max_retries=max_retries,
        )
        self._lock = Lock()
        self.sequences_generated = 0
        self.name = model or ""
        self.check()

    def check(self) -> None:
        """Ask the server whether it is up and serves the model; takes seconds, also if it is down.

        Called by the constructor, which without a model name takes the first one served.

        Raises:
            ActorError: It is not up, or refuses the model; the message says which models it lists.
        """
        client = self._client.with_options(timeout=_CHECK_TIMEOUT_S, max_retries=1)
        listed: list[str] = []
        failure = ""
        try:
            listed = [model.id for model in client.models.list().data]
        except (openai.APIConnectionError, openai.AuthenticationError) as error:
            raise ActorError(self._unreachable(error)) from error
        except (openai.OpenAIError, AttributeError, TypeError, ValueError) as error:
            failure = f" (asking for the list failed: {error})"  # an optional endpoint: some lack or break it
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
        try:
            self._complete(
                client, [{"role": "user", "content": "Hi"}], {"max_tokens": 1}, "the first request"
            )
        except ActorError as error:
            raise ActorError(
                f"{self._base_url} does not serve {self.name!r}; it lists: "
                f"{', '.join(listed) or 'none'}{failure}. {error}"
            ) from error

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        """Generate one reply per prompt, in order; see `Actor.generate`.

        Raises:
            ActorError: A request was refused, or failed on every attempt; the message names the URL, the
                attempts and the last error. An empty text is never made up for a failure.
        """
        check_request(prompts, sampling)
        if not prompts:
            return []
        known: dict[str, str] = {}
        for index, prompt in enumerate(prompts):
            _hash_images(prompt, index, known)
        requests = [self._request(prompt, index) for index, prompt in enumerate(prompts)]

        def run(indices: list[int]) -> list[Generation]:
            return self._run(requests, indices, sampling)

        if sampling.temperature > 0:
            return run(list(range(len(prompts))))
        hashed = [_with_hashes(prompt, known) for prompt in prompts]
        keys = [(json.dumps(prompt, sort_keys=True), sampling.max_tokens) for prompt in hashed]
        return self._cache.generate(keys, run)

    def _request(self, prompt: Conversation, index: int) -> tuple[Conversation, str | None]:
        """The messages to send, and the prefill, if there is one."""
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
        asked = f"{last['content']}\n\nBegin your reply with: {prefill.strip()}"
        return [*earlier, {**last, "content": asked}], prefill

    def _run(
        self, requests: Sequence[tuple[Conversation, str | None]], indices: list[int], sampling: Sampling
    ) -> list[Generation]:
        workers = min(self._concurrency, len(indices))
        shown = self._progress is not None and len(indices) > 4 * self._concurrency
        pool = ThreadPoolExecutor(workers, thread_name_prefix="critique_rl-actor")
        try:
            futures = {pool.submit(self._one, requests[i], i, sampling): i for i in indices}
            done: dict[int, Generation] = {}
            with tqdm(total=len(indices), desc=self._progress, disable=None if shown else True) as bar:
                for future in as_completed(futures):
                    done[futures[future]] = future.result()
                    bar.update()
        finally:
            # After a failure nothing is worth waiting for: queued requests are dropped, running ones ignored.
            pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self.sequences_generated += len(indices)
        return [done[i] for i in indices]

    def _one(self, request: tuple[Conversation, str | None], index: int, sampling: Sampling) -> Generation:
        messages, prefill = request
        options: dict[str, Any] = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
        if sampling.temperature > 0:
            options |= {"top_p": sampling.top_p, "seed": child_seed(sampling.seed, index)}
        continues = prefill is not None and self._prefill == "continue"
        options["extra_body"] = {**(_CONTINUE if continues else {}), **self._extra_body}
        completion = self._complete(self._client, messages, options, f"prompt {index}")
        choice = completion.choices[0]
        if choice.finish_reason not in _LENGTH_OR_STOP:
            raise ActorError(f"{self._base_url} ended prompt {index} with {choice.finish_reason!r}")
        if completion.usage is None:
            raise ActorError(f"{self._base_url} reports no token usage, so lengths would be unknown")
        text = choice.message.content or ""
        if prefill is not None and not continues:
            text = _without_echo(text, prefill)
        return Generation(
            text=text,
            prompt_tokens=completion.usage.prompt_tokens,
            completion_tokens=completion.usage.completion_tokens,
            truncated=choice.finish_reason == "length",
        )

    def _complete(
        self, client: openai.OpenAI, messages: Conversation, options: Mapping[str, Any], what: str
    ) -> ChatCompletion:
        """One request, with the client's retries; every failure becomes an `ActorError`."""
        try:
            completion: Any = client.chat.completions.create(
                model=self.name,
                messages=_as_sent(messages),
                **options,
            )
        except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
            raise ActorError(
                f"{self._base_url} failed on {what} after {client.max_retries + 1} attempts; "
                f"{self._describe(error)}"
            ) from error
        except openai.APIStatusError as error:
            hint = ""
            if self._prefill == "continue" and messages[-1]["role"] == "assistant":
                hint = ' (a server that cannot continue an assistant message needs prefill="user")'
            raise ActorError(f"{self._base_url} refused {what}: {self._describe(error)}{hint}") from error
        except (openai.OpenAIError, ValueError) as error:
            raise ActorError(
                f"{self._base_url} garbled its reply to {what}: {self._describe(error)}"
            ) from error
        if not isinstance(completion, ChatCompletion) or not completion.choices:
            raise ActorError(
                f"{self._base_url} sent no chat completion for {what}; is the URL right? Most end in /v1"
            )
        return completion

    def _unreachable(self, error: openai.OpenAIError) -> str:
        if isinstance(error, openai.AuthenticationError):
            return f"{self._base_url} refuses the API key; set OPENAI_API_KEY or api_key ({error})"
        return (
            f"no server answers at {self._base_url} ({self._describe(error)}); start it, for instance "
            f"`vllm serve {self.name or 'MODEL'} --generation-config vllm`, or correct base_url"
        )

    @staticmethod
    def _describe(error: Exception) -> str:
        cause = error.__cause__  # "Connection error." alone does not tell refused from unknown host
        return f"{type(error).__name__}: {error}" + (f" [{type(cause).__name__}: {cause}]" if cause else "")


def _as_sent(messages: Conversation) -> Any:
    """Messages as servers take them: a content is a string, or with an image a list of parts."""
    sent: list[dict[str, Any]] = []
    for message in messages:
        plain: dict[str, Any] = {key: value for key, value in message.items() if key != "image"}
        if "image" in message:
            plain["content"] = [
                {"type": "image_url", "image_url": {"url": as_url(message["image"])}},
                {"type": "text", "text": message["content"]},
            ]
        sent.append(plain)
    return sent


def _hash_images(prompt: Conversation, index: int, known: dict[str, str]) -> None:
    """Add the hashes of a prompt's images to `known`: of their content, the file may change between calls."""
    for message in prompt:
        image = message.get("image")
        if image is not None and image not in known:
            try:
                known[image] = hashlib.sha256(as_url(image).encode()).hexdigest()
            except UserError as error:
                raise ActorError(f"prompt {index}: {error}") from error


def _with_hashes(prompt: Conversation, known: Mapping[str, str]) -> Conversation:
    """A prompt with the hashes of its images for the images, which are too large to be kept in keys."""
    return [{**m, "image": known[m["image"]]} if "image" in m else m for m in prompt]


def _without_echo(text: str, prefill: str) -> str:
    """The reply without the beginning it was asked to have, if it has it."""
    stripped = text.lstrip()
    if not stripped.startswith(prefill.strip()):
        return text
    return stripped.removeprefix(prefill.strip()).lstrip()
