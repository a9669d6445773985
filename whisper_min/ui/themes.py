"""Three looks, and the colours that tell runs apart in each."""

from __future__ import annotations

from textual.theme import Theme

DARK = Theme(
    name="whisper-dark",
    primary="#7aa2f7",
    secondary="#8c93b3",
    accent="#bb9af7",
    success="#9ece6a",
    warning="#e0af68",
    error="#f7768e",
    foreground="#c8d0ee",
    background="#16171f",
    surface="#1b1d28",
    panel="#252837",
    boost="#2c3044",
    dark=True,
    variables={"block-cursor-text-style": "none", "footer-key-foreground": "#7aa2f7", "border-blurred": "#252837"},
)
LIGHT = Theme(
    name="whisper-light",
    primary="#2456b8",
    secondary="#666c7c",
    accent="#7438a8",
    success="#2c7330",
    warning="#93590a",
    error="#b3232f",
    foreground="#22252e",
    background="#fafaf7",
    surface="#f3f3ee",
    panel="#e6e6df",
    boost="#dadad2",
    dark=False,
    variables={"block-cursor-text-style": "none", "footer-key-foreground": "#2456b8", "border-blurred": "#e6e6df"},
)
# Okabe and Ito's colours: good is blue and bad is orange, which people with any of the colour blindnesses tell apart.
COLOUR_BLIND = Theme(
    name="colour-blind",
    primary="#56b4e9",
    secondary="#9a9a9a",
    accent="#cc79a7",
    success="#56b4e9",
    warning="#f0e442",
    error="#ff8c1a",
    foreground="#e4e4e4",
    background="#141414",
    surface="#1b1b1b",
    panel="#292929",
    boost="#333333",
    dark=True,
    variables={"block-cursor-text-style": "none", "footer-key-foreground": "#56b4e9", "border-blurred": "#292929"},
)
THEMES = (DARK, LIGHT, COLOUR_BLIND)

_RUNS = {
    "whisper-dark": "#7aa2f7 #ff9e64 #9ece6a #f7768e #7dcfff #bb9af7 #e0af68 #73daca #ff7ac6 #c0caf5",
    "whisper-light": "#2456b8 #c2540a #2c7330 #b3232f #0e7490 #7438a8 #93590a #0f766e #b0217f #4b5263",
    "colour-blind": "#56b4e9 #e69f00 #009e73 #cc79a7 #f0e442 #0072b2 #d55e00 #e4e4e4",
}


def run_colour(number: int, theme: str, dark: bool = True) -> str:
    """The colour of a run, by its number, in a theme (`app.theme`; for a theme of somebody else's, `dark` chooses)."""
    colours = (_RUNS.get(theme) or _RUNS["whisper-dark" if dark else "whisper-light"]).split()
    return colours[number % len(colours)]
