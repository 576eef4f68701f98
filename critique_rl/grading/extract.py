"""The stated answer of a reply: the last `answer is ...`, `\\boxed{...}` or `#### ...` in its text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator

from critique_rl.grading.read import Number, Unreadable, last_number, read_choice, read_number, read_yes_no
from critique_rl.grading.signs import canonical
from critique_rl.prompts import after_thought

REPLY_TAIL = 20_000
"""Number of last characters of a reply that are read; the final answer stands at the end."""
LONGEST_ANSWER = 1_000
"""Most characters of a stated answer; longer ones are not compared."""

_TRIGGER = re.compile(
    r"\b(?:answers?|(?:correct|right|best|final)\s(?:option|choice|result|value|statement))\b"
    r"(?:\s(?:to|of|for|in)\b[^.\n:=]{0,80}?)?[\s*_]{0,4}(?:\(.{1,40}?\))?[\s*_]{0,4}"
    r"(?:\bis\b|\bare\b|\bwould be\b|\bshould be\b|\bwill be\b|\bmust be\b|:|=)"
    r"|^\W{0,6}(?:final\s)?answer\b(?=[\s*]{1,4}[\d($\\A-J-])",
    re.IGNORECASE | re.MULTILINE,
)
_CHECKING = re.compile(
    r"\b(?:check|verify|confirm)\w*\s(?:our|the|my|this|that|your)\s(?:final\s)?$", re.IGNORECASE
)
_HASHES = re.compile(r"####[ \t]*(?![A-Za-z]{3,}\s\S)(?=\S)")
_BOX = re.compile(r"\\f?boxed\s*(\{|\S)")
_SENTENCE_END = re.compile(r"[.!?]\s+(?=[A-Z*#(])|[.?]?\s*$")
_LEADING = re.compile(
    r"(?:[\s:*_>]|\\quad|\b(?:therefore|thus|hence|then|simply|just|equal to|approximately|about|indeed"
    r"|clearly|that|is|given by|exactly|either)\b(?!\s*$))+",
    re.IGNORECASE,
)
_COMMENT = re.compile(
    r"(?:the\s)?(?:correct|right|wrong|incorrect|reasonable|valid|as follows|consistent|above|below|in the"
    r"|found|verified)\b",
    re.IGNORECASE,
)
_JOIN = re.compile(
    r"[\s$\\().:]*(,|;|and|or|,\s?and|,\s?or|\\text\{\s?(?:and|or)\s?\}|)[\s$\\(),]*(?:[A-Za-z]\w{0,3}\s?=\s?)?"
)
_OR_AFTER = re.compile(r"[\s$]*\bor\s+(?=[$\\\-\d(])([^.\n]{1,60})")
_BOX_GOES_ON = re.compile(r"(?:\^(?!\s*\{?\s*\\circ)|[\d!_])[^\s$]{0,40}")
_OR_BEFORE = re.compile(r"(\S*\d\S*)\s+or\s+\$?$")


def clip(reply: str) -> str:
    """Return the last `REPLY_TAIL` characters, with one spelling for signs that look alike."""
    return canonical(reply[-REPLY_TAIL:].replace("\r\n", "\n"))


_NEXT_PROBLEM = re.compile(
    r"^[ \t]*(?:#+[ \t]*)?(?:\*\*)?(?:Question|Problem|Exercise|Q|Human|User|Instruction|Example)\b"
    r"[ \t]*\d*[ \t]*(?:\*\*)?[:.]|^[ \t]*#+[ \t]*(?:Question|Problem|Exercise|Instruction)\b|<\|endoftext\|>",
    re.MULTILINE,
)


def answering_part(reply: str) -> str:
    """The clipped part of a reply that answers: behind its thought, and before a problem of its own.

    A base model often runs on into a next problem. What follows the first line that opens one counts as nothing if
    an answer is stated before it.
    """
    text = clip(after_thought(reply))
    for opening in _NEXT_PROBLEM.finditer(text):
        if next(statements(text[: opening.start()]), None) is not None:
            return text[: opening.start()]
    return text


def _box_end(text: str, start: int) -> int | None:
    """Index just past the brace that closes the one before `start`; `None` if no brace does."""
    depth = 1
    for i in range(start, min(len(text), start + 2 * LONGEST_ANSWER)):
        if text[i] == "\\":
            continue
        escaped = i > 0 and text[i - 1] == "\\" and (i < 2 or text[i - 2] != "\\")
        if text[i] == "{" and not escaped:
            depth += 1
        elif text[i] == "}" and not escaped:
            depth -= 1
            if depth == 0:
                return i + 1
    return None


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """Return `(start, end, content)` of complete, non-empty boxes, in order; the last 50 boxes are read."""
    boxes: list[tuple[int, int, str]] = []
    for match in reversed(list(_BOX.finditer(text))[-50:]):
        end = match.end() if match[1] != "{" else _box_end(text, match.end())
        content = "" if end is None else text[match.start(1) : end]
        content = content[1:-1] if match[1] == "{" else content
        if end is not None and content.strip():
            boxes.append((match.start(), end, content.strip()))
    return boxes[::-1]


def _boxed(text: str) -> tuple[int, str] | None:
    """Return position and text of the last boxed answer; `or`, `and` and `,` join boxes to one answer."""
    boxes = _boxes(text)
    if not boxes:
        return None
    start, end, answer = boxes[-1]
    position = start
    for before in reversed(boxes[:-1]):
        joint = _JOIN.fullmatch(text, before[1], start) if start - before[1] < 40 else None
        if joint is None or before[1] > start:
            break
        answer = f"{before[2]} {'or' if 'or' in joint[1] else ','} {answer}"
        start = before[0]
    if more := _BOX_GOES_ON.match(text, end):
        answer = f"{{{answer}}}{more[0]}"
    if after := _OR_AFTER.match(text, end):
        answer += " or " + after[1]
    if before_or := _OR_BEFORE.search(text[max(0, start - 40) : start]):
        answer = f"{before_or[1]} or {answer}"
    return position, answer


def _sentence(text: str, start: int) -> str:
    """Return the statement that begins at `start`: a display formula, or the rest of the sentence."""
    rest = text[start : start + 2 * LONGEST_ANSWER]
    if leading := _LEADING.match(rest):
        rest = rest[leading.end() :]
    for opening, closing in (("$$", "$$"), ("\\[", "\\]")):
        if rest.startswith(opening) and (end := rest.find(closing, 2)) > 0:
            return rest[2:end].strip()
    end = rest.find("\n")
    while end >= 0 and rest.count("\\begin{", 0, end) > rest.count("\\end{", 0, end):
        end = rest.find("\n", end + 1)
    line = rest if end < 0 else rest[:end]
    stop = _SENTENCE_END.search(line)
    if stop and stop[0].startswith("?"):
        return ""  # a question states nothing, as in "The answer is 7? No, 9"
    return line[: stop.start()].strip() if stop else line.strip()


def statements(reply: str) -> Iterator[str]:
    """Yield the stated answers of a clipped reply from last to first, without remarks such as `correct`."""
    triggers = [
        m for m in _TRIGGER.finditer(reply) if not _CHECKING.search(reply, max(0, m.start() - 30), m.start())
    ]
    hashes = list(_HASHES.finditer(reply))[-50:]
    boxed = _boxed(reply)
    candidates = [boxed] if boxed else []  # first, as of two at the same place the box is the answer
    candidates += [(m.end(), _sentence(reply, m.end())) for m in triggers[-50:]]
    candidates += [(m.end(), reply[m.end() :].split("\n", 1)[0].strip()) for m in hashes]
    for _, text in sorted(candidates, key=lambda candidate: candidate[0], reverse=True):
        if text.strip(" .*$:") and not _COMMENT.match(text):
            yield text


_FORMULA = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")


def tidy(statement: str) -> str:
    """Reduce a statement to its answer: `the value $x = 5$ m` gives `x = 5`, `**3 or 4**.` gives `3 , 4`."""
    text = statement.strip().strip("*_ ").rstrip(".,;: ")
    while text.endswith("}") and text.count("}") > text.count("{"):
        text = text[:-1].rstrip()
    if text.startswith("{") and text.endswith("}") and _box_end(text, 1) == len(text):
        text = text[1:-1]
    body = text.replace("\\$", "")
    if len(re.findall(r"\$\$?", body)) % 2 == 0:
        formulas = list(_FORMULA.finditer(body))
        parts = [next(g for g in m.groups() if g) for m in formulas]
        if parts and not any(re.search(r"\s(?:or|and)\s*$", p) for p in parts):
            answer, end = parts[0], formulas[0].end()
            for match, part in zip(formulas[1:], parts[1:], strict=True):
                if not _JOIN.fullmatch(body, end, match.start()):
                    break
                answer, end = f"{answer} , {part}", match.end()
            return _connectors(answer)
    return _connectors(body.replace("$", ""))


def _connectors(text: str) -> str:
    """Write alternatives as a list: `3 or 4` is compared as two values, never as one of them."""
    text = re.sub(r"</?[a-z]{1,10}>", " ", text).strip()
    text = re.sub(r"\\text\s*\{([A-Za-z ]+)\b(or|and)\s*\}", r"\\text{\1} \2 ", text)
    text = re.sub(r"\\text\s*\{\s*(or|and)\s*\}", r" \1 ", text)
    return (
        re.sub(r"\s*(?:,\s*)?\b(?:or|and)\b\s+(?!(?:a|one)[-\s]\w)(?=\S)", " , ", text)
        .strip()
        .rstrip(".,;: ")
    )


def _bare(reply: str) -> str | None:
    """Return the whole reply if it is an answer without prose (`18`, `(3, 4]`, `Evelyn`, `5 m`), else `None`."""
    text = reply.strip()
    if not text or len(text) > LONGEST_ANSWER or "\n\n" in text or ("\n" in text and "\\begin" not in text):
        return None
    words = re.findall(r"[A-Za-z]{2,}", re.sub(r"\\[a-zA-Z]+(?:\{(?:[a-z ]+|[pbv]matrix)\})?", " ", text))
    return text if len(words) <= 3 and not {"is", "are", "be"} & set(words) else None


def find_math(reply: str) -> str | None:
    """Return the stated answer of a clipped reply as one formula or word, `None` without an answer."""
    for text in statements(reply):
        return tidy(text) or None
    if (bare := _bare(reply)) is not None:
        return tidy(bare) or None
    for pattern in (_BOLD, _FORMULA):
        if matches := list(pattern.finditer(reply)):
            return tidy(next(g for g in matches[-1].groups() if g)) or None
    number = last_number(reply)
    return None if number is None else str(number)


def find_number(reply: str) -> Number | Unreadable | str:
    """Return the number that a clipped reply states; a `str` if its value needs algebra."""
    stated = list(statements(reply))
    bare = None if stated else _bare(reply)
    for text in stated if bare is None else [bare]:
        number = read_number(text)
        if number is Unreadable.EXPRESSION:
            return tidy(text)
        if number is not Unreadable.NOTHING:
            return number
    return Unreadable.NOTHING if stated else last_number(reply) or Unreadable.NOTHING


def _first(read: Callable[[str], str | Unreadable], texts: Iterable[str]) -> str | Unreadable:
    """Return the first outcome of `read` other than `NOTHING`."""
    return next((word for word in map(read, texts) if word is not Unreadable.NOTHING), Unreadable.NOTHING)


def find_choice(reply: str) -> str | Unreadable:
    """Return the option letter that a clipped reply states."""
    letter = _first(read_choice, itertools.chain(statements(reply), reversed(_BOLD.findall(reply))))
    if letter is not Unreadable.NOTHING:
        return letter
    lines = [line for line in reply.strip().split("\n") if line.strip()]
    if not lines:
        return Unreadable.NOTHING
    listed = sum(bool(re.match(r"\W{0,3}[A-Ja-j]\s?[).:]", line)) for line in lines) > 1
    last = lines[-1]
    if listed or (len(lines) > 1 and len(last) > 200):  # a copied list of options is no answer
        return Unreadable.NOTHING
    return read_choice(last)


def find_yes_no(reply: str) -> str | Unreadable:
    """Return `yes` or `no` from a statement of a clipped reply, else from its first or last words."""
    answer = _first(read_yes_no, statements(reply))
    if answer is not Unreadable.NOTHING:
        return answer
    lines = [line for line in reply.strip().split("\n") if line.strip()]
    if not lines:
        return Unreadable.NOTHING
    opening = re.match(r"\W*(yes|no|true|false)\s*(?:[.,:;!*\n]|$)", reply, re.IGNORECASE)
    return read_yes_no(opening[1]) if opening and len(lines) == 1 else read_yes_no(lines[-1])
