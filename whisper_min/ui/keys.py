"""The last line of the screen: the keys that work now, as many as fit, help and the way out always among them."""

from __future__ import annotations

from rich.style import Style
from rich.text import Text
from textual.binding import Binding
from textual.events import Resize
from textual.screen import Screen
from textual.widgets import Static


class KeyLine(Static):
    """Textual's footer lets what does not fit run over the edge; here the last ones of the tab give way."""

    DEFAULT_CSS = """
    KeyLine { dock: bottom; height: 1; background: $panel; }
    """

    def on_mount(self) -> None:
        """Draw whenever other keys work, for instance in another tab."""
        self.auto_links = False  # keys can be clicked, but are not underlined
        self.screen.bindings_updated_signal.subscribe(self, self._changed)
        self.app.theme_changed_signal.subscribe(self, lambda _: self._changed(self.screen))

    def _changed(self, screen: Screen[object]) -> None:
        if self.is_attached and screen is self.screen:
            self.call_after_refresh(self._draw)

    def on_resize(self, event: Resize) -> None:
        """There is more room, or less."""
        self._draw()

    def _draw(self) -> None:
        own: list[Binding] = []
        general: list[Binding] = []
        for node, binding, enabled, _ in self.screen.active_bindings.values():
            if binding.show and enabled:
                (general if node is self.app else own).append(binding)
        last = [self._label(binding) for binding in general]
        room = self.size.width - sum(label.cell_len for label in last)
        text = Text(no_wrap=True)
        for label in map(self._label, own):
            if text.cell_len + label.cell_len <= room:
                text.append_text(label)
        for label in last:
            text.append_text(label)
        self.update(text)

    def _label(self, binding: Binding) -> Text:
        colours = self.app.theme_variables
        click = Style(meta={"@click": f"app.simulate_key({binding.key!r})"})
        text = Text(" ").append(self.app.get_key_display(binding), f"bold {colours['primary']}")
        text.append(f" {binding.description} ")
        text.stylize(click)
        return text
