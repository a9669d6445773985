"""The widget of one chart. It draws what it is given, when that changed, and says what the mouse does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.style import Style
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from whisper_min.ui.plot import Colours, Curve, Drawing, Setting, draw

# What a chart is made of, beside its curves.
PARTS = ("title", "prefix", "axis", "grid", "base", "cursor", "alarm")


def chart_colours(widget: Widget) -> Colours:
    """The styles that the theme gives to the parts of a chart."""
    parts = {}
    for part in PARTS:
        # blended with the background, whose own colour must not come along
        style = widget.get_component_rich_style(f"chart--{part}")
        parts[part] = Style(color=style.color, bold=style.bold)
    return Colours(**parts, background=widget.background_colors[1])


class Chart(Widget, can_focus=True):
    """One metric of several runs."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"chart--{part}" for part in PARTS}
    DEFAULT_CSS = """
    Chart {
        width: 1fr; height: 1fr;
        & > .chart--title { text-style: bold; }
        & > .chart--prefix, & > .chart--axis { color: $foreground 55%; }
        & > .chart--grid { color: $foreground 12%; }
        & > .chart--base { color: $foreground 45%; }
        & > .chart--cursor { color: $foreground 45%; }
        & > .chart--alarm { color: $error; text-style: bold; }
    }
    """

    class Pointed(Message):
        """The mouse is at this x, or gone (None)."""

        def __init__(self, x: float | None) -> None:
            self.x = x
            super().__init__()

        def can_replace(self, message: Message) -> bool:
            """A mouse moves faster than a grid of charts draws: only where it is last matters."""
            return isinstance(message, Chart.Pointed)

    class Zoomed(Message):
        """The wheel turned at this x: show `factor` of the range; or, with Shift, pan by a share of it."""

        def __init__(self, x: float | None, factor: float = 1.0, pan: float = 0.0) -> None:
            self.x, self.factor, self.pan = x, factor, pan
            super().__init__()

    class Selected(Message):
        """The mouse was dragged from one x to another."""

        def __init__(self, low: float, high: float) -> None:
            self.low, self.high = low, high
            super().__init__()

    class Opened(Message):
        """The chart was clicked twice."""

    def __init__(self) -> None:
        super().__init__()
        self.curves: Sequence[Curve] = ()
        self.setting = Setting()
        self.draws = 0
        """How often it was drawn: a test's witness that idle charts are left alone."""
        self._drawing: Drawing | None = None
        self._strips: list[Strip] = []
        self._drawn_for: Size | None = None
        self._pressed_at: float | None = None
        self._colours: Colours | None = None

    def show(self, curves: Sequence[Curve], setting: Setting) -> None:
        """Draw these, unless they are drawn already."""
        same = len(curves) == len(self.curves) and all(map(lambda a, b: a is b, curves, self.curves))
        if not same or setting != self.setting:
            self.curves, self.setting = list(curves), setting
            self.redraw()

    def redraw(self) -> None:
        """What is drawn no longer holds."""
        self._drawn_for = None
        self.refresh()

    def notify_style_update(self) -> None:
        """The theme changed, or the focus."""
        self._drawn_for = self._colours = None
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        """A row of the drawing, which is made when the first one is asked for."""
        if self._drawn_for != self.size:
            self._colours = self._colours or chart_colours(self)
            self._drawing = draw(*self.size, self.curves, self.setting, self._colours)
            self._strips = self._drawing.canvas.strips(Style(bgcolor=self.rich_style.bgcolor) + self._foreground())
            self._drawn_for = self.size
            self.draws += 1
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width, self.rich_style)

    def x_at(self, column: int) -> float | None:
        """The value of x at a column of the widget."""
        return self._drawing.x_at(column) if self._drawing is not None else None

    def _foreground(self) -> Style:
        return Style(color=self.rich_style.color)

    # ---- The mouse.

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """The crosshair follows."""
        self.post_message(self.Pointed(self.x_at(event.x)))

    def on_leave(self) -> None:
        """The crosshair goes."""
        self.post_message(self.Pointed(None))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Zoom in; with Shift, to the left."""
        event.stop()
        self.post_message(self.Zoomed(None, pan=-0.1) if event.shift else self.Zoomed(self.x_at(event.x), 0.8))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Zoom out; with Shift, to the right."""
        event.stop()
        self.post_message(self.Zoomed(None, pan=0.1) if event.shift else self.Zoomed(self.x_at(event.x), 1.25))

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """A drag may begin."""
        self._pressed_at = self.x_at(event.x)

    def on_mouse_up(self, event: events.MouseUp) -> None:
        """A drag over more than nothing selects."""
        released, pressed = self.x_at(event.x), self._pressed_at
        self._pressed_at = None
        if pressed is not None and released is not None and abs(released - pressed) > 0.02 * self._span():
            self.post_message(self.Selected(min(pressed, released), max(pressed, released)))

    def on_click(self, event: events.Click) -> None:
        """Twice opens."""
        if event.chain == 2:
            self.post_message(self.Opened())

    def _span(self) -> float:
        low, high = self.setting.x_range
        return high - low
