"""Pictures as files: what a PNG holds, an SVG that any reader takes, names that are safe."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ElementTree
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import babble
from rich.text import Text

from whisper_min.ui import colourmaps, diff, picture
from whisper_min.ui.spectrogram import Clip, log_mel

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def clip() -> Clip:
    """Two seconds of something like speech."""
    return Clip(babble(2), log_mel(babble(2), 80))


def read_png(data: bytes) -> np.ndarray:
    """A PNG as we write it, checked chunk by chunk, (height, width, 3)."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, {}
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(name + body)
        chunks[name], at = body, at + 12 + length
    width, height, *kind = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert kind == [8, 2, 0, 0, 0]
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 3)


def test_a_png_holds_the_spectrogram(clip: Clip) -> None:
    pixels = read_png(picture.png(picture.pixels(clip, "grey")))
    assert pixels.shape == (80 * picture.BIN_PIXELS, 200 * 4, 3)
    # the lowest frequency at the bottom, the first frame at the left, white where it is loudest
    drawn = pixels[:: -picture.BIN_PIXELS, ::4, 0].astype(float) / 255
    assert drawn == pytest.approx(clip.decibels / 80 + 1, abs=0.003)


def test_long_clips_make_no_endless_picture() -> None:
    values = np.zeros((80, 30_000), np.float32)
    assert picture.pixels(Clip(babble(1), values), "grey").shape[1] == picture.MOST_WIDTH


def test_an_svg_has_axes_legend_waveform_and_texts(clip: Clip) -> None:
    columns, _ = diff.compare("no i do <not> own it", ["no i do own it them"])
    lines = diff.render(columns, ["reference", "model"], 80, {kind: kind for kind in diff.STYLES})
    root = ElementTree.fromstring(picture.svg(clip, "magma", "set · <id> & \x1b[31mstep\u202e 5", lines))
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert texts[0] == "set · <id> & [31mstep 5"
    assert {"0", "1", "2", "8000", "1000", "0 dB", "−80", "Hz", "s"} <= set(texts)
    assert texts[-2:] == [line.plain for line in lines]
    marks = {"".join(span.itertext()): span.attrib for span in root.iter(f"{SVG}tspan")}
    assert marks["[<not>]"]["text-decoration"] == "line-through"
    assert marks["+them"]["text-decoration"] == "underline"
    assert len(list(root.iter(f"{SVG}image"))) == 2
    assert len(list(root.iter(f"{SVG}polygon"))) == 1


def test_pictures_go_into_the_run_or_where_we_are(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    assert picture.export(clip, "magma", "title", [Text("a")], run, "clip") == run / "exports" / "clip.svg"
    assert sorted(path.name for path in (run / "exports").iterdir()) == ["clip.png", "clip.svg"]
    locked = tmp_path / "locked"
    locked.mkdir()
    (locked / "exports").touch()  # in a folder's place
    assert picture.export(clip, "magma", "title", [], locked, "clip") == tmp_path / "clip.svg"
    (tmp_path / "clip.png").unlink()
    (tmp_path / "clip.png").mkdir()
    with pytest.raises(OSError):
        picture.export(clip, "magma", "title", [], locked, "clip")


def test_names_of_files_are_safe() -> None:
    assert picture.file_name("dev", "audio/../../etc/x.flac", "step-5") == "dev_audio-..-..-etc-x.flac_step-5"
    assert picture.file_name("..", "") == "clip"
    assert picture.file_name("a b", "\x1b[31m語/é") == "a-b_31m語-é"
    assert len(picture.file_name("x" * 500, "y" * 500)) < 130


@pytest.mark.parametrize("name", colourmaps.NAMES)
def test_colour_maps_grow_steadily_brighter(name: str) -> None:
    table = colourmaps.table(name)
    assert table.shape == (256, 3)
    brightness = table @ np.array([0.2126, 0.7152, 0.0722]) * (-1 if name == "ink" else 1)
    assert (np.diff(brightness) > -0.6).all()
    assert brightness[-1] - brightness[0] > 150
