"""The canvas: dots land where they should, lines are whole, text and colours are kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.style import Style

from whisper_min.ui.canvas import BITS, BRAILLE, DOTS_X, DOTS_Y, Canvas, trace

RED, BLUE = Style(color="red"), Style(color="blue")
SIZE = st.integers(1, 20)
ANY_NUMBER = st.floats(width=64)


def array(*values: float) -> np.ndarray:
    return np.array(values, float)


def dots_of(canvas: Canvas) -> set[tuple[int, int]]:
    """The dots that are set, by column and row of dots, read from the characters."""
    found = set()
    for row, text in enumerate(canvas.rows()):
        for column, char in enumerate(text):
            bits = ord(char) - BRAILLE if char != " " else 0
            for down in range(DOTS_Y):
                found |= {
                    (column * DOTS_X + across, row * DOTS_Y + down)
                    for across in range(DOTS_X)
                    if bits & BITS[down, across]
                }
    return found


def test_a_line_and_a_gap_as_text() -> None:
    canvas = Canvas(10, 3)
    canvas.lines(array(0, 6, 10, 14, 19), array(11, 0, math.nan, 0, 11), RED)
    assert canvas.rows() == ["  ⡰⠁   ⢣  ", " ⡰⠁     ⢣ ", "⡰⠁       ⢣"]
    assert "⠀" not in "".join(canvas.rows()), "an empty cell is a blank, not a braille pattern without dots"


@given(SIZE, SIZE, st.lists(st.tuples(ANY_NUMBER, ANY_NUMBER), max_size=20))
def test_every_point_lands_in_its_dot(width: int, height: int, points: list[tuple[float, float]]) -> None:
    canvas = Canvas(width, height)
    canvas.points(array(*(x for x, _ in points)), array(*(y for _, y in points)), RED)
    across, down = canvas.size_in_dots
    near = [(float(np.rint(x)), float(np.rint(y))) for x, y in points]
    assert dots_of(canvas) == {(x, y) for x, y in near if 0 <= x < across and 0 <= y < down}


@given(SIZE, SIZE, st.lists(st.tuples(ANY_NUMBER, ANY_NUMBER), max_size=12))
def test_lines_stay_on_the_canvas_and_pass_through_their_points(
    width: int, height: int, points: list[tuple[float, float]]
) -> None:
    canvas = Canvas(width, height)
    x, y = array(*(x for x, _ in points)), array(*(y for _, y in points))
    canvas.lines(x, y, RED)
    lone = Canvas(width, height)
    lone.points(x, y, RED)
    assert dots_of(lone) <= dots_of(canvas)
    assert all(len(row) == width for row in canvas.rows())


inside = st.tuples(st.integers(0, 39), st.integers(0, 39))


@given(inside, inside)
def test_a_line_has_no_holes(start: tuple[int, int], end: tuple[int, int]) -> None:
    x, y = trace(array(start[0], end[0]), array(start[1], end[1]), 40, 40)
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    path = np.unique(np.column_stack([x, y]), axis=0)
    assert len(path) == steps + 1
    along = path[np.argsort(path[:, 0 if abs(end[0] - start[0]) >= abs(end[1] - start[1]) else 1], kind="stable")]
    assert (np.abs(np.diff(along, axis=0)).max(axis=1) <= 1).all()


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_clipping_leaves_the_visible_part_as_it_is(x0: float, y0: float, x1: float, y1: float) -> None:
    """Every dot drawn lies on the line, and a line through the middle is drawn."""
    x, y = trace(array(x0, x1), array(y0, y1), 40, 40)
    length = math.hypot(x1 - x0, y1 - y0)
    for dot_x, dot_y in zip(x, y, strict=True):
        if 0 <= dot_x < 40 and 0 <= dot_y < 40 and length:
            away = abs((x1 - x0) * (y0 - dot_y) - (x0 - dot_x) * (y1 - y0)) / length
            assert away <= 0.72
    through_x, _ = trace(array(20 - (x1 - 20), x1), array(20 - (y1 - 20), y1), 40, 40)
    assert len(through_x)


def test_far_points_cost_nothing() -> None:
    x, _ = trace(array(-1e300, 1e300), array(5, 5), 40, 40)
    assert len(x) < 100


def test_what_is_drawn_last_has_the_cell() -> None:
    canvas = Canvas(4, 1)
    canvas.lines(array(0, 7), array(0, 0), RED)
    canvas.points(array(2), array(3), BLUE)
    assert canvas.rows() == ["⠉⡀⠉⠉"]
    strip = canvas.strips()[0]
    assert [(segment.text, segment.style) for segment in strip] == [("⠉", RED), ("⡀", BLUE), ("⠉⠉", RED)]
    canvas.points(array(3), array(0), RED, over=False)
    assert canvas.rows() == ["⠉⡈⠉⠉"]


def test_blanks_continue_a_run_unless_its_background_would_show() -> None:
    canvas = Canvas(8, 1)
    canvas.text(0, 0, "a", RED)
    canvas.text(4, 0, "b", RED)
    assert [segment.text for segment in canvas.strips()[0]] == ["a   b   "]
    canvas.text(4, 0, "b", RED + Style(reverse=True))
    assert [segment.text for segment in canvas.strips()[0]] == ["a   ", "b", "   "]


def test_text_is_clipped_and_wide_characters_take_two_cells() -> None:
    canvas = Canvas(6, 1)
    canvas.text(-1, 0, "xyz", RED)
    canvas.text(3, 0, "語語", BLUE)
    canvas.text(0, 7, "below", BLUE)
    assert canvas.rows() == ["yz 語 "]
    assert canvas.strips()[0].text == "yz 語 "
    assert canvas.strips()[0].cell_length == 6
    canvas.text(0, 0, "a\x1b[b", RED)
    assert canvas.rows() == ["a?[b  "], "no control character reaches the terminal"


def test_fill_and_is_free_leave_what_is_drawn() -> None:
    canvas = Canvas(5, 2)
    canvas.text(1, 0, "ab", RED)
    canvas.fill(0, 0, 99, 1, "·", BLUE)
    assert canvas.rows() == ["·ab··", "     "]
    assert canvas.is_free(0, 1, 5) and not canvas.is_free(0, 1, 6) and not canvas.is_free(0, 0, 1)
    canvas.points(array(0), array(4), RED)
    assert not canvas.is_free(0, 1, 2) and canvas.is_free(0, 1, 2, dots=False)


def test_dashes_leave_out_as_much_as_they_draw() -> None:
    canvas = Canvas(20, 1)
    canvas.lines(array(0, 39), array(0, 0), RED, dash=2)
    assert len(dots_of(canvas)) == 20


def test_a_window_clips() -> None:
    canvas = Canvas(10, 4)
    canvas.lines(array(0, 19), array(0, 15), RED, window=(2, 1, 4, 2))
    assert all(4 <= x < 12 and 4 <= y < 12 for x, y in dots_of(canvas))


@pytest.mark.parametrize(
    ("x", "y", "picture"), [((0, 7), (0, 0), "''''"), ((0, 7), (3, 3), "____"), ((0, 0), (0, 3), "|")]
)
def test_ascii(x: tuple[float, float], y: tuple[float, float], picture: str) -> None:
    canvas = Canvas(4, 1, ascii_only=True)
    canvas.lines(array(*x), array(*y), RED)
    assert canvas.rows()[0].rstrip() == picture


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 40), st.floats(0, 40)), min_size=1, max_size=8))
def test_ascii_draws_in_the_same_cells(points: list[tuple[float, float]]) -> None:
    pictures = []
    for ascii_only in (False, True):
        canvas = Canvas(20, 10, ascii_only=ascii_only)
        canvas.lines(array(*(x for x, _ in points)), array(*(y for _, y in points)), RED)
        pictures.append(["".join(" " if char == " " else "#" for char in row) for row in canvas.rows()])
        assert not ascii_only or all(row.isascii() for row in canvas.rows())
    assert pictures[0] == pictures[1]


def test_no_size_at_all() -> None:
    for width, height in ((0, 0), (0, 3), (3, 0)):
        canvas = Canvas(width, height)
        canvas.lines(array(0, 1), array(0, 1), RED)
        canvas.text(0, 0, "text", RED)
        assert len(canvas.strips()) == height
