"""Pages: what is escaped, and what they load."""

from __future__ import annotations

from pathlib import Path

from helpers import SCRIPT, Tags, harmless

from critique_rl.markdown import escape
from critique_rl.reports.page import html


def test_html_that_was_not_escaped_is_text_all_the_same() -> None:
    page = html(f"{SCRIPT}\n\n<script>alert(2)</script>\n", SCRIPT, {})
    harmless(page)
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in page and "<title>&lt;script&gt;" in page


def test_pictures_are_inside_the_page_and_others_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    text = "![a](curves.png)\n\n![b](secret.png)\n\n![c](https://example.org/x.png)"
    page = html(text, "t", {"curves.png": b"\x89PNG"})
    harmless(page)
    sources = [a["src"] for tag, a in Tags(page).found if tag == "img"]
    assert sources == ["data:image/png;base64,iVBORw==", *["data:image/png;base64,"] * 2]


def test_escaped_text_is_that_text_again() -> None:
    text = f"{SCRIPT} *a* ~~b~~ &lt; \\ _c d_e"
    page = Tags(html(escape(text), "t", {}))
    assert "".join(page.data).strip().endswith(text)
