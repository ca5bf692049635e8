"""An answer while it arrives: what is shown when, cleaned, and not more often than people look."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sandbox_kernel.generation.chain import Answered, Asked, Failed
from sandbox_kernel.generation.models.base import Text
from sandbox_magics.answer_view import AnswerView, escaped


class Screen:
    """Keeps each picture of a display."""

    def __init__(self) -> None:
        self.pictures: list[dict[str, Any]] = []
        self.updates: list[bool] = []
        self.ids: set[str] = set()
        self.news = asyncio.Event()

    def display(
        self, data: dict[str, Any], metadata: dict[str, Any], *, display_id: str = "", update: bool = False
    ) -> None:
        self.pictures.append(data)
        self.updates.append(update)
        self.ids.add(display_id)
        self.news.set()

    async def shows(self, words: str) -> None:
        """Wait until a picture has these words."""
        while words not in self.text:
            self.news.clear()
            await self.news.wait()

    @property
    def text(self) -> str:
        return str(self.pictures[-1]["text/markdown"])


@pytest.fixture
def screen() -> Screen:
    return Screen()


def view_of(screen: Screen) -> AnswerView:
    return AnswerView(screen)  # type: ignore[arg-type]


async def test_first_words_are_shown_at_once_and_the_others_together(screen: Screen) -> None:
    with view_of(screen) as view:
        view.take(Asked("m", "here"))
        view.take(Text("first "))
        assert "first" in screen.text
        for _ in range(1000):
            view.take(Text("more "))
        assert len(screen.pictures) == 2
        await asyncio.wait_for(screen.shows("more"), 10)
        view.take(Answered("m", 2.0, 0.5, 10, 20))
    assert len(screen.pictures) == 4
    assert screen.text.count("more") == 1000
    assert "m · 2.0 s · first words after 0.50 s · 10 + 20 tokens" in screen.text
    assert screen.updates == [False, True, True, True]
    assert len(screen.ids) == 1


async def test_failure_replaces_what_was_said_and_stays(screen: Screen) -> None:
    with view_of(screen) as view:
        view.take(Asked("a", "here"))
        view.take(Text("spoilt"))
        view.take(Failed("a", "a: unavailable: <b>x</b> *y*", 1.25, 6))
        view.take(Asked("b", "there"))
        view.take(Text("good"))
        view.take(Answered("b", 1.0, 0.5))
    assert "spoilt" not in screen.text
    assert "*a: unavailable: \\<b\\>x\\</b\\> \\*y\\*, after 1.2 s; the 6 characters" in screen.text
    assert view.text == "good"


async def test_text_acts_neither_in_a_page_nor_in_a_terminal(screen: Screen) -> None:
    with view_of(screen) as view:
        view.take(Asked("m", "here"))
        for piece in ("<img src=x one", "rror=alert(1)>\x1b", "[2J", "[a](java", "script:x)"):
            view.take(Text(piece))
        view.take(Answered("m", 1.0, 0.5))
    assert "onerror" not in screen.text
    assert "javascript:" not in screen.text
    assert "\x1b" not in screen.pictures[-1]["text/plain"]


async def test_notes_stand_below_a_fence_that_is_open(screen: Screen) -> None:
    with view_of(screen) as view:
        view.take(Asked("m", "here"))
        view.take(Text("```python\nx = 1"))
        view.add("A note.")
    assert screen.text.endswith("```python\nx = 1\n\n```\n\n---\n\nA note.")


async def test_interrupt_is_shown_below_what_had_come(screen: Screen) -> None:
    async def interrupted() -> None:
        with view_of(screen) as view:
            view.take(Asked("m", "here"))
            view.take(Text("words"))
            view.take(Text(" and more"))
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await interrupted()
    assert "words and more" in screen.text
    assert screen.text.endswith("Interrupted.")


def test_text_of_others_means_nothing_in_markdown() -> None:
    assert escaped("*a* [b](c) `d` <e> | #f\n\ng") == "\\*a\\* \\[b\\]\\(c\\) \\`d\\` \\<e\\> \\| \\#f g"
