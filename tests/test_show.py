"""`python -m whisper_min.data show`: numbers that can be counted by hand, on the screen, as JSON, in pictures."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
from conftest import babble
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tars import recording, write_tar
from test_picture import read_png

from whisper_min.data import __main__ as commands
from whisper_min.data import show, sources
from whisper_min.ui.picture import BIN_PIXELS


def run(*words: str | Path) -> int:
    return commands.main(["show", *(str(word) for word in words)])


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A manifest with much that is worth knowing."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for index, (seconds, rate) in enumerate([(1.0, 16_000), (2.0, 16_000), (3.0, 8_000), (31.0, 16_000)]):
        soundfile.write(folder / f"{index}.wav", babble(seconds, rate, seed=index), rate)
    (folder / "copy.wav").write_bytes((folder / "1.wav").read_bytes())
    rows: list[dict[str, Any]] = [
        {"audio": "0.wav", "text": "Ten chars.", "speaker": "a", "mine": 1},
        {"audio": "1.wav", "text": "x" * 70, "speaker": "a", "language": "en"},
        {"audio": "2.wav", "text": "It is [bold]not[/bold].", "speaker": "b", "mine": ""},
        {"audio": "3.wav", "text": "Long and slow.", "offset": 0, "duration": 30.5},
        {"audio": "copy.wav", "text": "", "speaker": "b"},
        {"audio": "gone.wav", "text": "Gone.", "speaker": "c"},
    ]
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_everything_is_counted(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(mixed, "--json", "--samples", "2", "--data_dir", tmp_path / "cache") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found = json.loads(captured.out)
    assert (found["name"], found["entries"], found["over_30_s"], found["repeated"]) == ("mixed", 6, 1, 1)
    assert found["hours"] == round((1 + 2 + 3 + 30.5 + 2) / 3600, 4)
    assert found["columns"] == {
        **{"audio": 6, "text": 5, "speaker": 5, "mine": 1, "language": 1, "offset": 1, "duration": 1}
    }
    assert found["speakers"]["known"] == 2 and found["speakers"]["entries_without"] == 1
    assert [(each["speaker"], each["entries"], each["share"]) for each in found["speakers"]["most"]] == [
        *[("b", 2, round(5 / 38.5, 4)), ("a", 2, round(3 / 38.5, 4))]
    ]
    assert not any(isinstance(number, bool) for number in found["columns"].values())
    assert found["languages"] == {"?": 5, "en": 1} and found["sample_rates"] == {"16000": 4, "8000": 1}
    assert found["label_style"] == "cased"
    assert [found["duration"][name] for name in ("least", "median", "greatest")] == [1.0, 2.0, 30.5]
    assert [each["id"] for each in found["longest"]] == ["3.wav@0", "2.wav", "copy.wav"]
    assert [each["id"] for each in found["shortest"]] == ["0.wav", "1.wav", "copy.wav"]
    strange = found["implausible"]
    assert [(each["id"], each["characters_per_second"]) for each in strange["clips"]] == [
        *[("1.wav", 35.0), ("3.wav@0", 0.46)]
    ]
    [bad] = found["unreadable"]
    assert bad["where"].endswith("line 6") and bad["error"].startswith("does not exist")
    assert len(found["samples"]) == 2 and "gone.wav" not in {each["id"] for each in found["samples"]}


def test_the_screen_is_80_columns_of_plain_text(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(mixed, "--data_dir", tmp_path / "cache") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = out.splitlines()
    assert max(len(line) for line in lines if "gone.wav" not in line and str(tmp_path) not in line) <= 80
    for told in (
        "mixed: 6 entries, 0.01 h",
        "2: b 13 %, a 8 %; not known in 1 entries",
        "mine (1)",
        "8000 Hz (1)",
        "seconds: least 1, median 2, mean 7.7, greatest 30.5",
        "It is [bold]not[/bold].",
        "(below 2 or above 30 characters per second): 2, such as",
        "clips over 30 s, to be segmented before training on them: 1",
        "recordings that are there more than once: 1",
        "recordings that cannot be read: 1",
    ):
        assert told in " ".join(out.split()), told
    assert any("█" in line for line in lines)


def test_a_bar_is_as_long_as_its_share() -> None:
    numbers = show.distribution([0.5] * 8 + [1.5] * 4 + [2.5])
    assert numbers is not None
    out = Console(file=io.StringIO(), width=60, color_system=None)
    out.print(show.histogram({**numbers, "histogram": [
        {"from": 0, "to": 1, "entries": 8}, {"from": 1, "to": 2, "entries": 4}, {"from": 2, "to": None, "entries": 0},
    ]}, "seconds"))  # fmt: skip
    bars = [line.count("█") for line in out.file.getvalue().splitlines() if "…" in line or "more" in line]  # type: ignore[attr-defined]
    assert abs(bars[0] - 2 * bars[1]) <= 1
    assert bars[0] > 30 and bars[2] == 0


@given(st.lists(st.floats(0.01, 10_000), min_size=1, max_size=200))
def test_every_value_is_in_a_bin_and_bins_are_few(values: list[float]) -> None:
    numbers = show.distribution(values)
    assert numbers is not None
    bins = numbers["histogram"]
    assert sum(each["entries"] for each in bins) == len(values)
    assert len(bins) <= show.BARS + 2
    assert all(low["to"] == high["from"] for low, high in itertools.pairwise(bins))
    for each in bins:
        top = np.inf if each["to"] is None else each["to"]
        inside = [value for value in values if each["from"] - 1e-5 <= value <= top + 1e-5]
        assert each["entries"] <= len(inside)
    assert bins[0]["entries"], "no empty bins before the first"


def test_one_long_clip_flattens_no_histogram() -> None:
    numbers = show.distribution([1.0, 2.0, 3.0, 4.0] * 50 + [3600.0])
    assert numbers is not None and numbers["greatest"] == 3600.0
    assert [each["entries"] for each in numbers["histogram"] if each["entries"]] == [50, 50, 50, 50, 1]
    assert numbers["histogram"][-1]["to"] is None
    assert show.distribution([]) is None


def test_spectrograms_are_pictures_of_the_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "deep" / "pictures"
    words = ("demo:dev", "--samples", "3", "--data_dir", tmp_path / "cache", "--json", "--spectrograms", folder)
    assert run(*words) == 0
    captured = capsys.readouterr()
    assert captured.err == f"{folder}: 3 spectrograms, a .png and a .svg each\n"
    samples = json.loads(captured.out)["samples"]
    pngs, svgs = (sorted(folder.glob(f"*.{suffix}")) for suffix in ("png", "svg"))
    assert len(pngs) == len(svgs) == len(samples) == 3
    examples = {each.id: each for each in sources.load_set(sources.parse_spec("demo:dev", "data"), tmp_path).examples}
    for png, svg, sample in zip(pngs, svgs, samples, strict=True):
        height, width, _ = read_png(png.read_bytes()).shape
        frames = -(-len(examples[sample["id"]].read()) // 160)
        assert height == 80 * BIN_PIXELS and width % frames == 0 and width >= 800
        texts = ["".join(each.itertext()) for each in ElementTree.fromstring(svg.read_text()).iter()]
        assert sample["id"] in texts and sample["text"][:40] in " ".join(texts)
    before = {path: path.read_bytes() for path in [*pngs, *svgs]}
    assert run(*words) == 0
    assert {path: path.read_bytes() for path in folder.iterdir()} == before, "the same seed, the same pictures"


def test_other_sources_show_what_an_example_holds(
    make_set: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_set("clips", ["One.", "Two."], seconds=0.5).parent
    (folder / "manifest.jsonl").unlink()
    for name, said in (("0", "One."), ("1", "Two.")):
        (folder / f"{name}.txt").write_text(said)
    soundfile.write(folder / "talk.flac", babble(4.0), 16_000)
    (folder / "talk.srt").write_text("00:00:01,000 --> 00:00:02,000\nHello.\n\n00:00:02,000 --> 00:00:03,000\nThere.\n")
    assert run(folder, "--json", "--data_dir", tmp_path / "cache") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["columns"] == {"id": 3, "audio_filepath": 3, "text": 3, "offset": 1, "duration": 1, "segments": 1}
    assert found["duration"]["greatest"] == 2.0


def test_what_is_wrong_with_a_tar_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar = write_tar(tmp_path / "a.tar", [
        ("a.flac", recording(1.0)), ("a.txt", b"Hello."), ("b.txt", b"Nobody speaks."), ("c.txt", b"Cut."),
    ])  # fmt: skip
    tar.write_bytes(tar.read_bytes().rstrip(b"\0"))
    assert run(tar, "--json", "--data_dir", tmp_path / "cache") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["entries"] == 1
    nothing, damaged = found["unreadable"]
    assert nothing["where"] == f"{tar}, key b" and nothing["error"].startswith("has no audio")
    assert damaged["where"] == str(tar) and damaged["error"].startswith("damaged after ")


def test_a_set_that_is_none_is_refused(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("nowhere.jsonl") == 2
    assert "nowhere.jsonl: does not exist" in capsys.readouterr().err
    assert run(mixed, "--samples", "-1", "--spectrograms", mixed) == 2
    err = capsys.readouterr().err
    assert "--samples -1: must be 0 or more" in err and "manifest.jsonl: is a file; give a folder" in err


def test_texts_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "a.wav", babble(1.0), 16_000)
    row = {"audio": "a.wav", "text": "red \x1b[31malert\u202e", "speaker": "x\x07", "id": "\ud800"}
    (tmp_path / "set.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "audio": "\x1b[2Jgone.wav"}))
    for words in ((), ("--json",)):
        assert run(tmp_path / "set.jsonl", "--data_dir", tmp_path / "cache", *words) == 0
        out = capsys.readouterr().out
        assert not set("\x1b\x07\ud800") & set(out) and ("red [31malert" in out or words)
