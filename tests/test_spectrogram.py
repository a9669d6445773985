"""The picture's numbers are those that the model hears, and every kind of bad audio is a sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import REPOSITORY, babble
from rich.segment import Segment
from whisper.audio import mel_filters as whisper_filters

from whisper_min import audio
from whisper_min.ui import spectrogram
from whisper_min.ui.spectrogram import Clip, ClipError, Source, read_clip
from whisper_min.ui.spectrogram_view import SHADES, draw


@pytest.fixture
def wav(tmp_path: Path) -> Callable[..., str]:
    """Write a recording: `wav(seconds, rate=…, channels=…, name=…)` gives its path."""

    def write(seconds: float = 1.0, rate: int = 16_000, channels: int = 1, name: str = "clip.wav") -> str:
        samples = np.stack([babble(seconds, rate, seed) for seed in range(channels)], axis=1)
        soundfile.write(tmp_path / name, samples, rate)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("n_mels", [80, 128])
def test_filters_and_log_mel_are_those_of_the_model(n_mels: int) -> None:
    assert np.abs(spectrogram.mel_filters(n_mels) - whisper_filters("cpu", n_mels).numpy()).max() < 1e-8
    for waveform in (babble(5), np.zeros(16_000, np.float32), babble(0.5) * 1e-3, babble(12)):
        heard = audio.log_mel(torch.from_numpy(waveform)[None], n_mels)[0].numpy()
        drawn = spectrogram.log_mel(waveform, n_mels)
        assert drawn.shape == heard.shape
        assert np.abs(drawn - heard).max() < 1e-4


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_look_like_what_is_heard(rate: int, wav: Callable[..., str]) -> None:
    path = wav(3.0, rate=rate)
    clip = read_clip(Source(path))
    heard = audio.log_mel(audio.pad([audio.read(path)], 48_000), 80)[0].numpy()
    assert clip.seconds == pytest.approx(3.0, abs=1e-3)
    # the ends apart, where the clip is taken for a circle, and the band that a filter bank rolls off
    difference = np.abs(clip.mel - heard)[: 50 if rate == 8_000 else 70, 5:-5]
    assert difference.mean() < 0.02
    assert f"{rate / 1000:g} kHz, resampled" in clip.notes


def test_decibels_are_below_the_loudest() -> None:
    samples = babble(1)
    clip = Clip(samples, spectrogram.log_mel(samples, 80))
    assert clip.decibels.max() == 0
    assert clip.decibels.min() >= -80
    silence = np.zeros(16_000, np.float32)
    assert (Clip(silence, spectrogram.log_mel(silence, 80)).decibels == -80).all()


def test_a_part_of_a_file(wav: Callable[..., str]) -> None:
    path = wav(5.0)
    whole, part = read_clip(Source(path, None, 2.0)), read_clip(Source(path, 1.0, 2.0))
    assert whole.seconds == 5.0  # a duration without an offset only describes
    assert np.array_equal(part.waveform, whole.waveform[16_000:48_000])
    assert "the file ends 1.0 s before the clip does" in read_clip(Source(path, 4.0, 2.0)).notes
    with pytest.raises(ClipError, match=r"begins at 9\.0 s; clip\.wav ends at 5\.0 s"):
        read_clip(Source(path, 9.0, 1.0))


def test_channels_are_mixed_and_it_is_said(wav: Callable[..., str]) -> None:
    clip = read_clip(Source(wav(channels=2)))
    assert clip.notes == ("stereo, mixed",)
    assert read_clip(Source(wav(channels=6, name="six.wav"))).notes == ("6 channels, mixed",)


def test_of_long_recordings_the_beginning(wav: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrogram, "LONGEST_SECONDS", 2.0)
    clip = read_clip(Source(wav(5.0)))
    assert clip.seconds == 2.0
    assert clip.notes == ("the first 2 s of 5 s",)


def test_samples_that_are_no_numbers(tmp_path: Path) -> None:
    samples = babble(1)
    samples[100], samples[200] = np.nan, np.inf
    soundfile.write(tmp_path / "odd.wav", samples, 16_000, subtype="FLOAT")
    clip = read_clip(Source(str(tmp_path / "odd.wav")))
    assert np.isfinite(clip.mel).all()
    assert clip.notes == ("non-finite samples as zero",)


@pytest.mark.parametrize("samples", [1, 150, 401])
def test_the_shortest_clips(tmp_path: Path, samples: int) -> None:
    soundfile.write(tmp_path / "short.wav", np.full(samples, 0.1), 16_000)
    assert read_clip(Source(str(tmp_path / "short.wav"))).mel.shape[0] == 80


def test_bad_audio_is_said_in_a_sentence(tmp_path: Path, wav: Callable[..., str]) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.flac").write_text("not audio at all " * 100)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "cut.flac", babble(5), 16_000)
    whole = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    for name, said in {
        "absent.wav": r"absent\.wav is not in .* any more\.",
        "moved/away/clip.wav": r"there is no .*moved on this machine\. Was the set moved\?",
        ".": r"is no file\.",
        "empty.wav": r"empty\.wav is empty \(0 bytes\)\.",
        "text.flac": r"text\.flac (is no audio that|cannot be decoded)",
        "none.wav": r"none\.wav holds no samples\.",
        "x" * 300: r"(cannot be looked up|any more)",
        "nul\0l": r"(cannot be looked up|any more)",
    }.items():
        with pytest.raises(ClipError, match=said):
            read_clip(Source(str(tmp_path / name)))
    try:  # libsndfile gives what there is, or refuses
        assert any("cut short" in note for note in read_clip(Source(str(tmp_path / "cut.flac"))).notes)
    except ClipError as error:
        assert "damaged" in str(error)


def test_a_wav_that_ends_early(wav: Callable[..., str]) -> None:
    path = Path(wav(5.0))
    path.write_bytes(path.read_bytes()[:80_000])
    clip = read_clip(Source(str(path)))
    assert clip.seconds == pytest.approx(2.5, abs=0.01)


def test_the_runs_own_copy_is_found_where_the_set_is_gone(tmp_path: Path, wav: Callable[..., str]) -> None:
    path = Path(wav())
    source = Source("/nowhere/at/all/clip.wav", beside=path.parent)
    assert read_clip(source).seconds == 1.0
    with pytest.raises(ClipError, match="Was the set moved"):
        read_clip(replace(source, beside=None))


def test_a_name_is_never_an_option_or_an_escape(tmp_path: Path) -> None:
    with pytest.raises(ClipError) as caught:
        read_clip(Source(str(tmp_path / "\x1b[31m-i.wav")))
    assert "\x1b" not in str(caught.value)


def test_bins_of_a_model() -> None:
    assert [spectrogram.bins_of(model) for model in ("tiny.en", "large-v3", "turbo", None, "my/run")] == [
        80,
        128,
        128,
        80,
        80,
    ]


def test_resizing_keeps_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=(80, 531)).astype(np.float32)
    for rows, columns in ((10, 60), (80, 531), (200, 1000), (1, 1), (7, 530)):
        small = spectrogram.resize(values, rows, columns)
        assert small.shape == (rows, columns)
        assert small.mean() == pytest.approx(values.mean(), abs=1e-4)
    steps = np.array([[0.0, 1.0]], np.float32)
    assert spectrogram.resize(steps, 1, 4).tolist() == [[0, 0, 1, 1]]


def test_the_outline_reaches_the_loudest_sample() -> None:
    ends = spectrogram.outline(np.array([0, 0.1, -0.2, 0.05], np.float32), 2)
    assert ends == pytest.approx(np.array([[0, 0.5], [-1, 0.25]]))
    assert spectrogram.outline(np.ones(3, np.float32), 50).shape == (50, 2)
    assert (spectrogram.outline(np.zeros(100, np.float32), 10) == 0).all()


@pytest.mark.parametrize(("width", "height"), [(78, 7), (118, 16), (198, 28), (40, 4), (12, 2), (300, 60), (1, 1)])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_a_picture_fills_its_room_exactly(width: int, height: int, ascii_only: bool) -> None:
    samples = babble(5.3)[:84_800]
    clip = Clip(samples, spectrogram.log_mel(samples, 80))
    rows = draw(clip, width, height, "magma", ascii_only)
    assert len(rows) == height
    if width >= 40:
        assert {Segment.get_line_length(row) for row in rows} == {width}
    text = "\n".join("".join(segment.text for segment in row) for row in rows)
    if ascii_only:
        assert text.isascii()
    if width >= 60:
        for label in ("8k", "1k", "0 dB", "-80", " s"):
            assert label in text


def test_a_tone_lies_where_the_axis_says() -> None:
    samples = np.sin(2 * np.pi * 2000 * np.arange(32_000) / 16_000).astype(np.float32)
    rows = draw(Clip(samples, spectrogram.log_mel(samples, 80)), 100, 41, "magma", ascii_only=True)
    brightness = [sum(map(SHADES.index, row[1].text)) if len(row) > 3 else 0 for row in rows]
    labelled = next(index for index, row in enumerate(rows) if row[0].text == "  2k+")
    assert abs(int(np.argmax(brightness)) - labelled) <= 1


def test_times_are_round() -> None:
    assert spectrogram.time_ticks(6.9, 10) == [0, 1, 2, 3, 4, 5, 6]
    assert spectrogram.time_ticks(30, 7) == [0, 5, 10, 15, 20, 25, 30]
    assert spectrogram.time_ticks(0.25, 20) == pytest.approx([0, 0.1, 0.2])
    assert len(spectrogram.time_ticks(3600, 5)) == 13


def test_the_screen_needs_no_torch() -> None:
    code = "import sys, whisper_min.ui.transcripts; print({'torch', 'whisper', 'soundfile'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
