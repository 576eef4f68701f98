"""What is secret in settings and messages, and how it is kept out of files, pages, logs and errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

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
