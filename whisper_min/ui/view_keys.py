"""The keys that change how curves are looked at."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical

from whisper_min.ui.view import View


class ViewKeys(Vertical):
    """A widget that has a view of curves, and the keys for it; it draws in `sync`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "smooth(1)", "Smoother"),
        Binding("S", "smooth(-1)", "Less smooth", show=False),
        Binding("x", "axis", "X axis"),
        Binding("X", "log_x", "Log x", show=False),
        Binding("y", "log_y", "Log y"),
        Binding("o", "clip", "Leave outliers out", show=False),
        Binding("plus,equals_sign", "zoom(0.5)", "Zoom in", show=False),
        Binding("minus", "zoom(2)", "Zoom out", show=False),
        Binding("shift+left,H", "pan(-0.25)", "Pan left", show=False),
        Binding("shift+right,L", "pan(0.25)", "Pan right", show=False),
        Binding("comma", "cursor(-0.01)", "Crosshair left", show=False),
        Binding("full_stop", "cursor(0.01)", "Crosshair right", show=False),
        Binding("less_than_sign", "cursor(-0.1)", "Crosshair far left", show=False),
        Binding("greater_than_sign", "cursor(0.1)", "Crosshair far right", show=False),
        Binding("0", "reset", "Reset zoom and crosshair", show=False),
    ]

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id, classes=classes)
        self.view = View()
        self.data = (0.0, 1.0)
        """From where to where along x there are values."""
        self.by_mouse = False
        """Whether the crosshair came with the mouse, and goes with it."""

    @property
    def active_key(self) -> str:
        """The metric that keys act on."""
        raise TypeError(f"{type(self).__name__} does not say which metric its keys act on")

    def sync(self) -> None:
        """Draw what the view says."""
        raise TypeError(f"{type(self).__name__} does not say how its view is drawn")

    def action_smooth(self, steps: int) -> None:
        """More smoothing, or less."""
        self.view.smooth(steps)
        self.sync()

    def action_axis(self) -> None:
        """The next kind of x."""
        self.view.next_axis()
        self.sync()

    def action_log_x(self) -> None:
        """A logarithmic x, or a linear one again."""
        self.view.log_x = not self.view.log_x
        self.sync()

    def action_log_y(self) -> None:
        """A logarithmic y for the active chart, or a linear one again."""
        self.view.log_y ^= {self.active_key}
        self.sync()

    def action_clip(self) -> None:
        """Leave the most extreme values out of the ranges of y, or take them in again."""
        self.view.clip = not self.view.clip
        self.sync()

    def action_zoom(self, factor: float) -> None:
        """Show less of x, or more."""
        self.view.zoom(factor, None, self.data)
        self.sync()

    def action_pan(self, share: float) -> None:
        """Move along x."""
        self.view.pan(share, self.data)
        self.sync()

    def action_cursor(self, share: float) -> None:
        """Move the crosshair of all charts."""
        self.by_mouse = False
        self.view.move_cursor(share, self.data)
        self.sync()

    def action_reset(self) -> None:
        """Everything in sight again."""
        self.view.reset()
        self.sync()
