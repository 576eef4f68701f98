"""One spelling for signs that look alike: digits, minus signs, fractions, powers and invisible characters."""

from __future__ import annotations

import re
import unicodedata

_MINUS = "‐‑‒–−﹣－⁻₋➖"
_SIGNS = str.maketrans(
    {sign: "-" for sign in _MINUS}
    | {sign: "+" for sign in "＋⁺₊﹢➕"}
    | {sign: "/" for sign in "⁄∕÷／➗"}
    | {sign: "*" for sign in "∗⋅∙·×✕✖＊"}
    | {
        "\x00": " ",
        "＝": "=",
        "％": "%",
        "﹪": "%",
        "’": "'",
        "ⅇ": "e",
        "ⅈ": "i",
        "ℯ": "e",
        "＜": "<",
        "＞": ">",
    }
    | {
        "（": "(",
        "）": ")",
        "，": ", ",
        "：": ": ",
        "∶": ":",
        "．": ".",
        "。": ". ",
        "！": "!",
        "？": "?",
        "＄": "$",
        "￥": "¥",
    }
)
_HIDDEN = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe0e\ufe0f\ufeff\u20e3]"
)
_SPACES = re.compile(r"[^\S\n\r\t ]")
_POWERS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ]+|[⁺⁻][⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ]+")
_INDICES = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_VULGAR = re.compile(r"(?:(?P<whole>\d)\s?)?(?P<fraction>[¼½¾⅐-⅞↉])")
_LONG_DASH = re.compile(r"(?:(?<=\s)|(?<=[:=($\d])|^)[—―](?=[\d.])", re.MULTILINE)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def canonical(text: str) -> str:
    """Write signs that look alike in one way, so that none of them changes a number unseen.

    `7²` becomes `7^{2}`, `7½` becomes `7 1/2`, a figure dash becomes a minus sign, full-width and other decimal
    digits become ASCII digits; invisible characters go.

    >>> canonical("‒７½, 2⁻³, 7⁄2, 1\\u200b0")
    '-7 1/2, 2^{-3}, 7/2, 10'
    """
    if text.isascii():
        return text.replace("\x00", " ")
    text = _SPACES.sub(" ", _HIDDEN.sub("", text))
    text = _POWERS.sub(lambda match: f"^{{{_plain(match[0])}}}", text)
    text = _INDICES.sub(lambda match: f"_{{{_plain(match[0])}}}", text)
    text = _LONG_DASH.sub("-", text.translate(_SIGNS))
    text = _NOT_ASCII.sub(_digit, text)
    return _VULGAR.sub(_fraction, text)


def _plain(raised: str) -> str:
    return unicodedata.normalize("NFKC", raised).translate(_SIGNS)


def _digit(match: re.Match[str]) -> str:
    value = unicodedata.decimal(match[0], None)
    if value is not None:
        return str(value)
    code = ord(match[0])
    return chr(code - 0xFEE0) if 0xFF21 <= code <= 0xFF5A else match[0]  # full-width letters


def _fraction(match: re.Match[str]) -> str:
    parts = unicodedata.normalize("NFKC", match["fraction"]).replace("⁄", "/")
    return f"{match['whole']} {parts}" if match["whole"] else parts
