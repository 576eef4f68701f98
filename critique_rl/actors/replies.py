"""A server's reply read field by field: servers leave fields out, fill them oddly, or send something else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from critique_rl.types import Generation

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_SNAPSHOT = re.compile(r"-\d{4}(-?\d{2}-?\d{2})?\Z")  # gpt-4o answers as gpt-4o-2024-08-06


class UnusableReplyError(Exception):
    """The server sent a reply without a text that can be read; the message names the field."""


@dataclass(frozen=True)
class Reply:
    """A reply that can be used.

    Attributes:
        generation: Text, token counts, and whether it was cut.
        model: Name of the model as the reply states it; None if it states none.
    """

    generation: Generation
    model: str | None


def whole_text(text: str) -> str:
    """The text with U+FFFD in the place of lone surrogates, which no file and no terminal takes.

    >>> whole_text("7" + chr(0xD800))
    '7\ufffd'
    """
    return _LONE_SURROGATE.sub("\ufffd", text)


def parse(body: bytes) -> Mapping[str, Any]:
    """Read the body of a reply as a JSON object.

    Raises:
        UnusableReplyError: It is no JSON object, or an error in the place of one.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnusableReplyError(f"the body is no JSON: {_shown(body)}") from error
    if not isinstance(content, dict):
        raise UnusableReplyError(f"the body is no JSON object: {_shown(body)}")
    return content


def read_reply(body: bytes) -> Reply:
    """Read a chat completion.

    An empty content is a reply only if the token limit ended it (a thought may have used up all tokens).

    Raises:
        UnusableReplyError: The body or one of its fields cannot be used.
    """
    content = parse(body)
    choices = content.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise UnusableReplyError(f"'choices' holds no choice: {_shown(body)}")
    message, finish = choices[0].get("message"), choices[0].get("finish_reason")
    if not isinstance(message, dict):
        raise UnusableReplyError(f"'choices[0].message' is {message!r:.80}")
    if finish not in ("stop", "length"):
        raise UnusableReplyError(f"'choices[0].finish_reason' is {finish!r:.80}, neither 'stop' nor 'length'")
    text, thought = _content(message.get("content"))
    thought = thought or _text_or_none(message, "reasoning_content", "reasoning") or ""
    if not text and finish == "stop":
        refusal = _text_or_none(message, "refusal")
        beside = f", with a refusal: {refusal!r:.120}" if refusal else ""
        beside = beside or (", with reasoning alone" if thought else "")
        raise UnusableReplyError(f"'choices[0].message.content' is empty{beside}")
    model = _text_or_none(content, "model")
    generation = Generation(
        whole_text(text), *_usage(content.get("usage")), finish == "length", whole_text(thought)
    )
    return Reply(generation, model)


def names_model(stated: str, asked: str) -> bool:
    """Whether a reply's `model` is the name asked for, with a revision or the date of a snapshot.

    >>> names_model("org/a@main", "org/a"), names_model("gpt-4o-2024-08-06", "gpt-4o"), names_model("b", "a")
    (True, True, False)
    """
    if stated == asked or stated.partition("@")[0] == asked:
        return True
    return stated.startswith(asked) and _SNAPSHOT.fullmatch(stated[len(asked) :]) is not None


def without_echo(text: str, prefill: str) -> str:
    """The reply without the prefill, if it begins with the whole of it.

    >>> without_echo("So, 2 + 3 = 5", "So, "), without_echo("Soon", "So")
    ('2 + 3 = 5', 'Soon')
    """
    if len(prefill.strip()) > 1 and text.startswith(prefill):
        rest = text.removeprefix(prefill)
    elif len(prefill.strip()) > 1 and text.lstrip().startswith(prefill.strip()):
        rest = text.lstrip().removeprefix(prefill.strip())
        rest = rest.lstrip() if prefill[-1].isspace() else rest
    else:
        return text
    inside_a_word = prefill[-1:].isalnum() and rest[:1].isalnum()
    return text if inside_a_word else rest


def _content(content: Any) -> tuple[str, str]:
    """Text and thought of a message's content: a string, or a list of parts."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, list):
        raise UnusableReplyError(f"'choices[0].message.content' is {content!r:.80}")
    texts, thoughts = [], []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("type") == "thinking":
            thoughts.append("".join(_content(part.get("thinking"))))
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(part["text"])
    return "".join(texts), "".join(thoughts)


def _usage(usage: Any) -> tuple[int | None, int | None]:
    """Prompt and completion tokens; None where they are not stated and do not follow from the total."""
    stated = usage if isinstance(usage, dict) else {}

    def count(name: str) -> int | None:
        value = stated.get(name)
        return value if type(value) is int and value >= 0 else None

    prompt, completion, total = map(count, ("prompt_tokens", "completion_tokens", "total_tokens"))
    if total is not None and prompt is not None and completion is None and total >= prompt:
        completion = total - prompt
    if total is not None and completion is not None and prompt is None and total >= completion:
        prompt = total - completion
    return prompt, completion


def _text_or_none(fields: Mapping[str, Any], *names: str) -> str | None:
    return next((fields[name] for name in names if isinstance(fields.get(name), str) and fields[name]), None)


def _shown(body: bytes) -> str:
    return repr(body[:120].decode("utf-8", "replace"))
