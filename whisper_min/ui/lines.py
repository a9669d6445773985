"""A list of lines that is drawn where it is seen only; what the runs, the log and the alerts are made of."""

from __future__ import annotations

from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip


class LineView(ScrollView, can_focus=True):
    """Shows `line(index)` for `count` lines; with `has_cursor`, one of them is chosen."""

    DEFAULT_CSS = """
    LineView { height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup,ctrl+b", "page(-1)", "Page up", show=False),
        Binding("pagedown,ctrl+f", "page(1)", "Page down", show=False),
        Binding("home,g", "edge(0)", "First", show=False),
        Binding("end,G", "edge(1)", "Last", show=False),
    ]

    class Moved(Message):
        """The cursor moved."""

        def __init__(self, view: LineView, index: int) -> None:
            self.view, self.index = view, index
            super().__init__()

        @property
        def control(self) -> LineView:
            """For `@on(LineView.Moved, "#id")`."""
            return self.view

    class Chosen(Moved):
        """A line was clicked once more, or Enter pressed on it."""

    def __init__(self, *, has_cursor: bool = True, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.has_cursor = has_cursor
        self.count = 0
        self.cursor = 0
        self._colours: dict[tuple[str, str], str] = {}
        self._drawn: list[tuple[object, bool, object]] = []

    def line(self, index: int, width: int) -> Text:
        """One line; overridden."""
        raise TypeError(f"{type(self).__name__} does not say how a line looks")

    def looks(self, index: int) -> object:
        """What a line's text depends on; where it stays equal the line is not drawn again. None: draw it always."""
        return None

    def set_count(self, count: int) -> None:
        """There are this many lines now; those that look different are drawn again."""
        self.count = count
        self.cursor = max(0, min(self.cursor, count - 1))
        if self.virtual_size.height != count:
            self.virtual_size = Size(0, count)
        top, height = round(self.scroll_offset.y), self.size.height
        common = (self.app.theme, self.size, top, self.has_focus)
        drawn: list[tuple[object, bool, object]] = [
            (common, index == self.cursor, self.looks(index) if index < count else "")
            for index in range(top, top + height)
        ]
        before = self._drawn if len(self._drawn) == len(drawn) else [None] * len(drawn)
        changed = [y for y, (old, new) in enumerate(zip(before, drawn, strict=True)) if old != new or new[2] is None]
        self._drawn = drawn
        if len(changed) > height // 2:
            self.refresh()
        elif changed:
            self.refresh(*(Region(0, y, self.size.width, 1) for y in changed))

    def colour(self, name: str) -> str:
        """A colour of the theme, as Rich writes it: primary, success, warning, error, …"""
        key = (self.app.theme, name)
        if key not in self._colours:
            value = self.app.theme_variables.get(name, "")
            # a translucent one is laid over what is below
            made = (self.background_colors[1] + Color.parse(value)).rich_color.name if value else ""
            self._colours[key] = made
        return self._colours[key]

    def render_line(self, y: int) -> Strip:
        """Draw one line of the screen."""
        index, width = y + round(self.scroll_offset.y), self.scrollable_content_region.width
        base = self.rich_style
        if index >= self.count:
            return Strip.blank(width, base)
        text = self.line(index, width)
        text.no_wrap, text.end = True, ""
        if self.has_cursor and index == self.cursor:
            base += Style(bgcolor=self.colour("primary-muted" if self.has_focus else "boost"), bold=self.has_focus)
        strip = Strip(text.render(self.app.console)).adjust_cell_length(width)
        return strip.crop(0, width).apply_style(base)

    def move_to(self, index: int, *, tell: bool = True) -> None:
        """Put the cursor on a line and bring it into view."""
        if not self.count:
            return
        self.cursor = max(0, min(index, self.count - 1))
        self.scroll_to_region(Region(0, self.cursor, 1, 1), animate=False, force=True)
        self.refresh()
        if tell:
            self.post_message(self.Moved(self, self.cursor))

    def action_move(self, by: int) -> None:
        """One line up or down."""
        if self.has_cursor:
            self.move_to(self.cursor + by)
        else:
            self.scroll_relative(y=by, animate=False)

    def action_page(self, by: int) -> None:
        """A screen up or down."""
        rows = max(1, self.scrollable_content_region.height - 1)
        self.action_move(by * rows)

    def action_edge(self, end: int) -> None:
        """To the first or the last line."""
        if self.has_cursor:
            self.move_to(self.count - 1 if end else 0)
        elif end:
            self.scroll_end(animate=False)
        else:
            self.scroll_home(animate=False)

    def on_click(self, event: events.Click) -> None:
        """Choose with the mouse; a second click on the line is Enter."""
        index = event.y + round(self.scroll_offset.y)
        if not self.has_cursor or index >= self.count:
            return
        chosen = index == self.cursor
        self.move_to(index)
        if chosen:
            self.post_message(self.Chosen(self, index))

    def on_focus(self) -> None:
        """The cursor is brighter in the list that has the keys."""
        self.refresh()

    def on_blur(self) -> None:
        """See on_focus."""
        self.refresh()
