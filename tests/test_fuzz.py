"""Some hundred damaged inputs for every parser; tests/bench/fuzz.py tries as many as one has time for."""

from __future__ import annotations

import random
import shutil

import fuzz
import pytest

INPUTS = 200


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz.PARSERS)
def test_damaged_inputs_are_refused_or_read(name: str) -> None:
    parser, found = fuzz.PARSERS[name], fuzz.Found()
    if parser.external and shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    fuzz.run(parser, range(10 if parser.external else INPUTS), found)
    assert found.crashes == {}, f"{name}: fuzz.mutate(fuzz.PARSERS[{name!r}].seeds(), INDEX) gives the input of INDEX"


def test_inputs_are_the_same_in_every_run() -> None:
    seeds = [b"abc" * 100, b"x"]
    state = random.getstate()
    assert [fuzz.mutate(seeds, index) for index in range(300)] == [fuzz.mutate(seeds, index) for index in range(300)]
    assert random.getstate() == state and len({fuzz.mutate(seeds, index) for index in range(300)}) > 150


def test_a_crash_is_found_and_shrunk() -> None:
    """A parser that cannot stand one byte, and one that says nothing where it refuses."""

    def parse(path):
        if b"Z" in path.read_bytes():
            raise KeyError("Z")
        if b"Y" in path.read_bytes():
            raise ValueError

    seeds = [b"a" * 50, b"b" * 50]
    parser = fuzz.Parser("any", lambda: seeds, parse, (ValueError,))
    for needle, told in ((b"Z", "KeyError at the test: \"'Z'\""), (b"Y", "ValueError says nothing")):
        inputs = (fuzz.mutate(seeds, index) for index in range(20_000))
        index = next(
            index for index, data in enumerate(inputs) if needle in data and data.count(b"Z") <= (needle == b"Z")
        )
        found = fuzz.Found()
        fuzz.run(parser, [0, index], found)
        assert (found.inputs, found.crashes) == (2, {told: index})
        assert fuzz.shrink(parser, index) == needle
