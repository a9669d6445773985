"""Subtitles: SubRip and WebVTT parsed as written, every faulty line told, cues joined into windows of 30 s."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import faults_of
from hypothesis import given
from hypothesis import strategies as st

from whisper_min.data import sources, subtitles
from whisper_min.data.examples import Example, Segment
from whisper_min.data.subtitles import Cue, join, parse

SRT = """1
00:00:01,000 --> 00:00:02,500
Hello, <i>there</i>.

2
00:00:02,500 --> 00:00:04,000 X1:40 X2:600
{\\an8}3 < 5 & so
on.
"""
VTT = """WEBVTT - a talk
Kind: captions
Language: en-GB

STYLE
::cue { color: red }

NOTE made by hand

intro
00:01.000 --> 00:02.500 align:start position:0%
<v.loud Anna Lee>Hello, <c.yellow>there</c>.</v>

100:00:02.500 --> 100:00:04.000
<v Ben>3 &lt; 5 &amp; <00:03.000>so</v>
on.
"""


@pytest.mark.parametrize("line", ["\n", "\r\n", "\r"])
def test_subrip_and_webvtt_are_read_as_players_read_them(line: str) -> None:
    cues, language = parse(Path("a.srt"), SRT.replace("\n", line))
    assert cues == [Cue(1.0, 2.5, "Hello, there.", None, 2), Cue(2.5, 4.0, "3 < 5 & so on.", None, 6)]
    assert language is None
    cues, language = parse(Path("a.VTT"), VTT.replace("\n", line))
    late = 100 * 3600
    assert cues == [
        Cue(1.0, 2.5, "Hello, there.", "Anna Lee", 11),
        Cue(late + 2.5, late + 4.0, "3 < 5 & so on.", "Ben", 14),
    ]
    assert language == "en"


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="{<>"), min_size=1)
TEXTS = st.lists(WORDS, min_size=1, max_size=4).map(" ".join).filter(lambda text: "-->" not in text)
NAMES = st.none() | st.sampled_from(["Anna", "Ben & Co"])


@given(
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 30_000), TEXTS, NAMES), min_size=1, max_size=6),
    st.sampled_from([".srt", ".vtt"]),
    st.booleans(),
)
def test_what_is_written_is_read_back(
    written: Sequence[tuple[int, int, str, str | None]], suffix: str, hours: bool
) -> None:
    def clock(milliseconds: int) -> str:
        minutes, rest = divmod(milliseconds, 60_000)
        said = f"{minutes % 60:02}:{rest // 1000:02}{',' if suffix == '.srt' else '.'}{rest % 1000:03}"
        return f"{minutes // 60:02}:{said}" if hours or suffix == ".srt" else said

    blocks = ["WEBVTT"] if suffix == ".vtt" else []
    expected, now = [], 0
    for number, (pause, length, text, name) in enumerate(written, start=1):
        start, now = now + pause, now + pause + length
        marked = html.escape(text, quote=False) if suffix == ".vtt" else text
        named = f"<v {name}>{marked}" if name and suffix == ".vtt" else marked
        blocks.append(f"{number}\n{clock(start)} --> {clock(now)}\n{named}")
        expected.append((start / 1000, now / 1000, text, name if suffix == ".vtt" else None))
    cues, _ = parse(Path("a" + suffix), "\n\n".join(blocks) + "\n")
    assert [(cue.start, cue.end, cue.text, cue.speaker) for cue in cues] == expected


FAULTY = [
    ("5\n\n", r"line 1: '5' has no times; write them as 00:00:01\.000 --> 00:00:02\.500, and no empty line inside"),
    ("00:01 --> 00:02\nHello.", r"line 1: '00:01 --> 00:02' is not 00:00:01\.000 --> 00:00:02\.500"),
    ("1\n00:61:01,000 --> 00:62:02,000\nHello.", "line 2: '00:61:01,000 --> .*' is not"),
    ("1\n00:00:01,000 --> 00:00:02,000\n<i> </i>", "line 2: the cue has no text; write what is said, or remove it"),
    ("1\n00:00:02,000 --> 00:00:02,000\nHello.", r"line 2: ends at 2\.000 s, not after its start at 2\.000 s; correct"),
    ("1\n00:00:02,000 --> 00:00:32,001\nHello.", r"line 2: 30\.0 s, but Whisper hears 30 s; split the cue into two"),
    (
        "1\n00:00:01,000 --> 00:00:02,000\nHello.\n2\n00:00:02,000 --> 00:00:03,000\nThere.",
        "line 5: times inside a cue; put an empty line before each cue",
    ),
    (
        "00:00:01,000 --> 00:00:02,000\nOne.\n\n00:00:01,900 --> 00:00:03,000\nTwo.",
        r"line 4: begins at 1\.900 s, before the cue of line 1 ends at 2\.000 s; order the cues, and let none overlap",
    ),
    ("", "holds no cues"),
]


@pytest.mark.parametrize(("content", "expected"), FAULTY)
def test_every_faulty_line_is_told(content: str, expected: str) -> None:
    [fault] = faults_of(lambda: parse(Path("my/a.srt"), content))
    assert re.match(r"my/a\.srt(, |: )" + expected, fault), fault


def test_all_faults_are_told_at_once() -> None:
    every = "\n\n".join(content for content, _ in FAULTY[:6])
    assert len(faults_of(lambda: parse(Path("a.srt"), every))) == 6
    no_line_between = "WEBVTT\nKind: captions\n00:01.000 --> 00:02.000\nHello.\n\n00:03.000 --> 00:04.000\nThere."
    assert faults_of(lambda: parse(Path("a.vtt"), no_line_between)) == [
        "a.vtt, line 3: times in the header; put an empty line before each cue"
    ]
    assert faults_of(lambda: parse(Path("a.vtt"), "00:01.000 --> 00:02.000\nHello.")) == [
        "a.vtt, line 1: does not begin with WEBVTT; add that line and an empty one"
    ]


def cue(start: float, end: float, text: str = "x") -> Cue:
    return Cue(start, end, text, None, 1)


def test_cues_fill_a_window_and_a_pause_ends_it() -> None:
    full = [cue(0.1, 10.0), cue(10.0, 20.0), cue(20.0, 30.1)]
    assert list(join(full)) == [full], "exactly 30 s, whatever the sums of floats say"
    over = [*full[:2], cue(20.0, 30.101)]
    assert list(join(over)) == [over[:2], over[2:]]
    rests = [cue(0, 1), cue(1 + subtitles.PAUSE_SECONDS, 5), cue(5.001 + subtitles.PAUSE_SECONDS, 9)]
    assert list(join(rests)) == [rests[:2], rests[2:]]
    assert list(join([])) == []


@given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 30_000)), min_size=1, max_size=40))
def test_no_cue_is_lost_or_cut_and_every_group_fits(lengths: Sequence[tuple[int, int]]) -> None:
    cues, now = [], 0
    for pause, length in lengths:
        cues.append(cue((now + pause) / 1000, (now + pause + length) / 1000))
        now += pause + length
    groups = list(join(cues))
    assert [each for group in groups for each in group] == cues
    for group, following in zip(groups, [*groups[1:], None], strict=True):
        assert round(group[-1].end - group[0].start, 3) <= 30
        if following:
            pause = round(following[0].start - group[-1].end, 3)
            longer = round(following[0].end - group[0].start, 3)
            assert pause > subtitles.PAUSE_SECONDS or longer > 30, "no window is left half empty"


# ---- As sources.


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """A recording of 50 s of silence and its subtitles."""
    soundfile.write(tmp_path / "talk.flac", np.zeros(50 * 16_000, np.float32), 16_000)
    said = [(1.0, 12.0, "<v Anna>One,"), (12.5, 29.0, "<v Anna>two."), (29.0, 40.25, "<v Ben>Three.")]
    said += [(44.0, 46.0, "<v Anna>Four,"), (46.0, 48.0, "<v Ben>five.")]
    blocks = [f"00:{start:06.3f} --> 00:{end:06.3f}\n{text}\n" for start, end, text in said]
    path = tmp_path / "talk.vtt"
    path.write_text("\ufeffWEBVTT\n\n" + "\n".join(blocks), encoding="utf-8")
    return path


def test_subtitles_are_a_source(talk: Path) -> None:
    expected = [
        (1.0, 28.0, "One, two.", "Anna", (Segment(0, 11, "One,"), Segment(11.5, 28, "two.")), None),
        (29.0, 11.25, "Three.", "Ben", (Segment(0, 11.25, "Three."),), "One, two."),
        (44.0, 4.0, "Four, five.", None, (Segment(0, 2, "Four,"), Segment(2, 4, "five.")), "Three."),
    ]
    loaded = sources.load_set(sources.parse_spec(str(talk), "data"), talk.parent)
    assert loaded.name == "talk"
    assert loaded.examples == [
        Example(
            *(f"talk.flac@{start:g}", talk.with_suffix(".flac"), text, f"{talk}, line {line}"),
            *(start, duration, speaker, None, segments, prompt),
        )
        for line, (start, duration, text, speaker, segments, prompt) in zip([3, 9, 12], expected, strict=True)
    ]
    assert len(loaded.examples[1].read()) == 11.25 * 16_000
    assert sources.read_folder(talk.parent) == loaded.examples, "as a folder the same"


def test_a_language_may_stand_in_the_name(talk: Path) -> None:
    for name, language in [("talk.de.vtt", "de"), ("talk.german.vtt", "de")]:
        moved = talk.rename(talk.with_name(name))
        assert {each.language for each in sources.read_subtitles(moved)} == {language}
        assert sources.read_folder(talk.parent) == sources.read_subtitles(moved)
        moved.rename(talk)
    moved = talk.rename(talk.with_name("talk.final.vtt"))
    [fault] = faults_of(lambda: sources.read_subtitles(moved))
    assert fault.endswith("no recording is beside it; put it there as talk.final.wav, .flac, .mp3 or the like")


def test_subtitles_need_one_recording_and_a_recording_one_transcript(talk: Path) -> None:
    folder = talk.parent
    (folder / "talk.srt").write_text(SRT)
    (folder / "other.wav").write_bytes(b"")
    assert faults_of(lambda: sources.read_folder(folder)) == [
        f"{folder / 'other.wav'}: has no transcript; write it to other.txt beside it, or remove the recording",
        f"{folder / 'talk.flac'}: has the subtitles talk.srt and talk.vtt; keep one",
    ]
    (folder / "talk.txt").write_text("All of it.")
    (folder / "other.txt").write_text("Hello.")
    assert [each.text for each in sources.read_folder(folder)] == ["Hello.", "All of it."], "a .txt wins"
    (folder / "talk.wav").write_bytes(b"")
    assert faults_of(lambda: sources.read_subtitles(talk)) == [
        f"{talk}: talk.flac and talk.wav are beside it; keep one"
    ]
    assert faults_of(lambda: sources.read_subtitles(folder / "gone.srt")) == [
        f"{folder / 'gone.srt'}: does not exist; correct the path"
    ]


def test_a_folder_s_faulty_subtitles_are_told_with_its_other_faults(talk: Path) -> None:
    talk.write_text("WEBVTT\n\nHello.\n\n00:01.000 --> 00:02.000\n")
    (talk.parent / "b.wav").write_bytes(b"")
    told = faults_of(lambda: sources.read_folder(talk.parent))
    assert [fault.split(": ")[0] for fault in told] == [
        *[str(talk.parent / "b.wav"), f"{talk}, line 3", f"{talk}, line 5"]
    ]


def test_a_manifest_holds_all_that_subtitles_hold(talk: Path, tmp_path: Path) -> None:
    examples = sources.read_subtitles(talk)
    for folder in (talk.parent, tmp_path / "sub"):
        folder.mkdir(exist_ok=True)
        path = folder / "set.jsonl"
        path.write_text("".join(json.dumps(sources.manifest_row(each, folder)) + "\n" for each in examples))
        again = sources.read_manifest(path)
        assert [(each.audio_filepath.resolve(), each.segments, each.prompt, each.offset, each.duration, each.speaker)
                for each in again] == [(each.audio_filepath.resolve(), each.segments, each.prompt, each.offset,
                each.duration, each.speaker) for each in examples]  # fmt: skip


def test_hours_of_any_length_are_no_time(tmp_path: Path) -> None:
    """Found by tests/bench/fuzz.py: a number of 400 digits fits into no float."""
    content = f"{'9' * 400}:00:01,000 --> 00:00:02,000\nHello.\n"
    [fault] = faults_of(lambda: parse(tmp_path / "a.srt", content))
    assert "line 1: " in fault and fault.endswith("is not 00:00:01.000 --> 00:00:02.500")
