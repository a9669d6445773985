"""Audio: equal to whisper's own log-mel, every format through one door, and damage that is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import whisper
from conftest import REPOSITORY, babble
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper.audio import N_SAMPLES, SAMPLE_RATE

from whisper_min import audio
from whisper_min.data import sources

# Shipped clips of several seconds, so of several pages.
SPEECH = sorted(
    sources.read_manifest(sources.DEMO_FOLDER / "general.jsonl"), key=lambda each: each.audio_filepath.stat().st_size
)[-5:]


def needs_ffmpeg() -> None:
    needs("ffmpeg")


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: apt-get install {program}")


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    """A sine at half of full scale, (samples,)."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


# ---- The log-mel.


@pytest.mark.parametrize("n_mels", [80, 128])
def test_log_mel_is_whispers_for_each_clip_of_a_batch(n_mels: int) -> None:
    # levels far apart: whisper's own function on the batch would let the loud clip raise the floor of the quiet one
    clips = [babble(2.0, seed=1), 1e-3 * babble(1.3, seed=2), np.zeros(16_000, np.float32), 5 * babble(4.9, seed=3)]
    batch = audio.pad(clips, 5 * SAMPLE_RATE)
    mel = audio.log_mel(batch, n_mels)
    assert mel.shape == (4, n_mels, 500) and mel.dtype == torch.float32
    for row, waveform in zip(mel, batch, strict=True):
        torch.testing.assert_close(row, whisper.log_mel_spectrogram(waveform, n_mels), rtol=0, atol=1e-5)
    assert not torch.allclose(mel, whisper.log_mel_spectrogram(batch, n_mels), atol=1e-2)


@pytest.mark.parametrize("seconds", [0.3, 4.5, 9.49, 19.5])
def test_a_trimmed_context_is_the_beginning_of_the_whole_one(seconds: float) -> None:
    waveform = babble(seconds, seed=4)
    samples = audio.context_samples(len(waveform))
    trimmed = audio.log_mel(audio.pad([waveform], samples), 80)
    whole = audio.log_mel(audio.pad([waveform]), 80)
    assert samples < N_SAMPLES and trimmed.shape[-1] == samples // 160 and whole.shape[-1] == 3000
    torch.testing.assert_close(trimmed, whole[..., : trimmed.shape[-1]], rtol=0, atol=1e-5)
    reference = whisper.log_mel_spectrogram(whisper.pad_or_trim(waveform), 80)
    torch.testing.assert_close(whole[0], reference, rtol=0, atol=1e-5)


def test_pad_is_whispers_pad_or_trim() -> None:
    short, exact, long = babble(1.0), babble(5.0, seed=1), babble(6.0, seed=2)
    padded = audio.pad([short, exact, long], 80_000)
    for row, waveform in zip(padded, [short, exact, long], strict=True):
        assert torch.equal(row, torch.from_numpy(whisper.pad_or_trim(waveform, 80_000)))


@pytest.mark.parametrize(
    ("samples", "seconds"),
    [
        *[(0, 5), (1, 5), (72_000, 5), (72_001, 10), (152_000, 10), (152_001, 15), (232_000, 15), (232_001, 20)],
        *[(312_000, 20), (312_001, 30), (472_000, 30), (472_001, 30), (480_000, 30), (600_000, 30)],
    ],
)
def test_context_is_the_next_bucket_with_half_a_second_of_silence(samples: int, seconds: int) -> None:
    assert audio.context_samples(samples) == seconds * SAMPLE_RATE


@settings(deadline=None)
@given(st.integers(0, 35 * SAMPLE_RATE))
def test_context_never_cuts_a_clip_that_whisper_can_hear(samples: int) -> None:
    context = audio.context_samples(samples)
    assert context % audio.SAMPLES_PER_POSITION == 0
    assert context >= min(samples, N_SAMPLES) and (context == N_SAMPLES or context - samples >= 8_000)


# ---- From a file to a waveform.


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("clip.wav", {}, 1e-4),
        ("float.wav", {"subtype": "FLOAT"}, 1e-7),
        ("clip.flac", {}, 1e-4),
        ("clip.aiff", {}, 1e-4),
        ("clip.ogg", {}, 0.05),
        ("clip.opus", {"format": "OGG", "subtype": "OPUS"}, 0.05),
        ("clip.mp3", {}, 0.05),
    ],
)
def test_soundfile_reads(
    name: str, options: dict[str, Any], tolerance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no ffmpeg
    waveform = babble(3.3, seed=5)
    soundfile.write(tmp_path / name, waveform, SAMPLE_RATE, **options)
    assert audio.info(tmp_path / name) == audio.AudioInfo(3.3, SAMPLE_RATE, 1)
    decoded = audio.read(tmp_path / name)
    assert decoded.dtype == np.float32 and decoded.shape == waveform.shape and decoded.flags["C_CONTIGUOUS"]
    # lossy formats change phases, not what is heard: compare as the model would hear it
    if tolerance < 0.01:
        np.testing.assert_allclose(decoded, waveform, atol=tolerance)
    else:
        heard, meant = (audio.log_mel(audio.pad([each], 80_000), 80) for each in (decoded, waveform))
        assert (heard - meant).abs().mean() < tolerance


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (8_000, 1), (48_000, 6), (22_050, 1)])
def test_other_rates_and_channels_become_16_khz_mono(rate: int, channels: int, tmp_path: Path) -> None:
    # channels that cancel but for the first: the mean is a tone of half scale over the number of channels
    signs = [1.0, *([0.5, -0.5] * 3)[: channels - 1]] if channels % 2 else [1.0, *[0.0] * (channels - 1)]
    samples = np.outer(tone(1.5, rate), signs)
    soundfile.write(tmp_path / "clip.wav", samples, rate, subtype="FLOAT")
    assert audio.info(tmp_path / "clip.wav") == audio.AudioInfo(1.5, rate, channels)
    decoded = audio.read(tmp_path / "clip.wav")
    assert decoded.shape == (24_000,) and decoded.dtype == np.float32
    # away from the edges, where the resampling filter has all of its input
    np.testing.assert_allclose(decoded[800:-800], (tone(1.5, SAMPLE_RATE) / channels)[800:-800], atol=2e-3)


def test_an_offset_and_a_duration_read_a_part(tmp_path: Path) -> None:
    waveform = babble(3.0, seed=6)
    soundfile.write(tmp_path / "clip.wav", waveform, SAMPLE_RATE, subtype="FLOAT")
    for offset, duration, part in [
        (0.5, 1.0, slice(8_000, 24_000)),
        (0.0, 1.0, slice(0, 16_000)),
        (2.5, None, slice(40_000, None)),
        (2.5, 9.0, slice(40_000, None)),
        (3.0, None, slice(0, 0)),
        (9.0, 1.0, slice(0, 0)),
    ]:
        np.testing.assert_array_equal(audio.read(tmp_path / "clip.wav", offset, duration), waveform[part])


@pytest.mark.parametrize("name", ["clip.m4a", "clip.g722"])
def test_ffmpeg_reads_what_soundfile_cannot(name: str, tmp_path: Path) -> None:
    needs_ffmpeg()
    # a hostile name: no option, no protocol, no shell
    folder = tmp_path / "-i concat:a|b; $(touch owned)"
    folder.mkdir()
    waveform = babble(3.0, seed=7)
    soundfile.write(tmp_path / "clip.wav", waveform, SAMPLE_RATE)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "clip.wav", tmp_path / name]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"this ffmpeg cannot write {name}")
    (tmp_path / name).rename(folder / name)
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(folder / name)
    decoded = audio.read(folder / name)
    assert abs(len(decoded) - len(waveform)) <= 0.1 * SAMPLE_RATE
    heard, meant = (audio.log_mel(audio.pad([each], 80_000), 80) for each in (decoded, waveform))
    assert (heard - meant).abs().mean() < 0.15
    assert audio.info(folder / name) == audio.AudioInfo(len(decoded) / SAMPLE_RATE, SAMPLE_RATE, 1)
    assert len(audio.read(folder / name, 1.0, 0.5)) == 8_000


# ---- What is no audio.


def write_damaged(folder: Path, kind: str) -> Path:
    """A file that is not what it says."""
    path = folder / {"cut": "cut.flac", "missing": "missing.wav"}.get(kind, "bad.wav")
    if kind == "cut":
        soundfile.write(path, babble(5.0, seed=8), SAMPLE_RATE)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind != "missing":
        path.write_bytes({"empty": b"", "text": b"this is no audio\n" * 20, "noise": bytes(range(256)) * 9}[kind])
    return path


@pytest.mark.parametrize("with_ffmpeg", [True, False])
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("cut", "is cut short or damaged .*; copy or convert the file again"),
        ("empty", "is empty"),
        ("text", ""),
        ("noise", ""),
        ("missing", "does not exist"),
    ],
)
def test_damage_is_said(
    kind: str, told: str, with_ffmpeg: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if with_ffmpeg:
        needs_ffmpeg()
        told = told or "neither soundfile nor ffmpeg can decode it"
    else:
        monkeypatch.setenv("PATH", "")
        told = told or "soundfile cannot decode it .*, and ffmpeg is not installed"
    path = write_damaged(tmp_path, kind)
    with pytest.raises(audio.AudioError, match=told):
        audio.read(path)
    if kind != "cut":  # its header is whole
        with pytest.raises(audio.AudioError, match=told):
            audio.info(path)


def test_ffmpeg_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of its name that only sleeps: the error comes, and nothing of it is left running."""
    program = tmp_path / "ffmpeg"
    program.write_text(f'#!/bin/sh\necho $$ > "{tmp_path}/number"\nexec sleep 60\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(audio, "FFMPEG_SECONDS", 0.5)
    with pytest.raises(audio.AudioError, match=r"ffmpeg did not decode it within 0\.5 s; convert it to FLAC or WAV"):
        audio.read(write_damaged(tmp_path, "noise"))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "number").read_text()), 0)


def test_the_end_of_a_cut_file_that_is_not_wanted_is_no_damage(tmp_path: Path) -> None:
    path = write_damaged(tmp_path, "cut")
    np.testing.assert_allclose(audio.read(path, 0.5, 0.5), babble(5.0, seed=8)[8_000:16_000], atol=1e-4)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".wav", {}),
        (".wav", {"subtype": "FLOAT"}),
        (".wav", {"subtype": "MS_ADPCM"}),
        (".wav", {"format": "WAVEX"}),
        (".wav", {"format": "RF64"}),
        (".aiff", {}),
        (".au", {}),
        (".au", {"endian": "LITTLE"}),
        (".au", {"subtype": "ULAW"}),
        (".flac", {}),
        (".mp3", {}),
        (".ogg", {}),
        (".ogg", {"subtype": "OPUS"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("kept", [0.25, 0.7, 0.98])
def test_a_file_cut_short_is_said_whatever_its_format(
    suffix: str, options: dict[str, Any], kept: float, tmp_path: Path
) -> None:
    """A copy that was interrupted: libsndfile shortens a WAV in silence, and the text would say more than the clip."""
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    waveform = babble(5.0, seed=10)
    soundfile.write(whole, waveform, SAMPLE_RATE, **options)
    assert len(audio.read(whole)) == pytest.approx(len(waveform), abs=1012)  # ADPCM's block
    cut.write_bytes(whole.read_bytes()[: round(kept * whole.stat().st_size)])
    with pytest.raises(audio.AudioError, match="cut short"):
        audio.read(cut)
    if (suffix, options) == (".wav", {}):
        with pytest.raises(audio.AudioError, match=rf"ends after {5 * kept:.2f} s of 5\.00 s: the file is cut short"):
            audio.read(cut)
        assert len(audio.read(cut, 0.5, 0.5)) == 8_000, "the part that is there can be read"
        with pytest.raises(audio.AudioError, match=rf"ends after {5 * kept:.2f} s of 5\.00 s"):
            audio.read(cut, 0.5)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_shipped_speech_cut_short_is_said(kept: float, tmp_path: Path) -> None:
    """Opus as a recorder wrote it: libsndfile leaves a half page out, up to a second of speech, without a word."""
    for example in SPEECH:
        content = example.audio_filepath.read_bytes()
        cut = tmp_path / example.audio_filepath.name
        cut.write_bytes(content[: round(kept * len(content))])
        with pytest.raises(audio.AudioError, match=r"cut short|damaged|can(not)? decode"):
            audio.read(cut)


def test_an_ogg_without_the_flag_for_its_end_is_whole(tmp_path: Path) -> None:
    """Android's writer never sets it; what follows a whole page is no damage either."""
    for example in SPEECH:
        content = example.audio_filepath.read_bytes()
        pages = content.split(b"OggS\0")
        (tmp_path / "open.opus").write_bytes(b"OggS\0".join(pages[:-1]))
        (tmp_path / "more.opus").write_bytes(content + bytes(70_000))
        whole, most = example.read(), audio.read(tmp_path / "open.opus")
        assert 0 < len(whole) - len(most) <= 1.1 * SAMPLE_RATE, "all but the last page, of a second"
        np.testing.assert_array_equal(audio.read(tmp_path / "more.opus"), whole)


@pytest.mark.parametrize("tail", [b"", b"LIST\x04\0\0\0abcd", b"\0"])
@pytest.mark.parametrize("claim", [None, 0, 32_044, 0x7FFFF000, 0xFFFFFFFF])
def test_what_a_wav_says_beside_its_length_is_no_damage(claim: int | None, tail: bytes, tmp_path: Path) -> None:
    """Streams claim 2 GB or more, a recorder that was switched off nothing, some programs their header, too."""
    path, waveform = tmp_path / "clip.wav", babble(1.0, seed=11)
    soundfile.write(path, waveform, SAMPLE_RATE)
    content = path.read_bytes()
    at = content.index(b"data")
    size = content[at + 4 : at + 8] if claim is None else claim.to_bytes(4, "little")
    path.write_bytes(content[:at] + b"note\x03\0\0\0odd\0" + b"data" + size + content[at + 8 :] + tail)
    decoded = audio.read(path)
    if claim != 0:
        np.testing.assert_allclose(decoded[:16_000], waveform, atol=1e-4)
        assert len(decoded) - 16_000 <= len(tail)


@pytest.mark.parametrize(
    "command", ["ffmpeg -v error -i clip.wav -f wav -", "sox clip.wav -t wav -", "sox clip.wav -t au -"]
)
def test_a_wav_written_into_a_pipe_is_whole(command: str, tmp_path: Path) -> None:
    needs(command.split()[0])
    soundfile.write(tmp_path / "clip.wav", babble(2.0, seed=12), SAMPLE_RATE)
    with open(tmp_path / "piped.wav", "wb") as file:
        into_pipe = subprocess.Popen(command.split(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert into_pipe.stdout is not None
        file.write(into_pipe.stdout.read())
        assert into_pipe.wait() == 0
    np.testing.assert_array_equal(audio.read(tmp_path / "piped.wav"), audio.read(tmp_path / "clip.wav"))


@pytest.mark.parametrize("options", ["-b:a 64k", "-q:a 5"], ids=["constant rate", "variable rate"])
@pytest.mark.parametrize("header", ["-write_xing 1", "-write_xing 0"], ids=["with length", "without length"])
@pytest.mark.parametrize("quiet_first", [True, False])
def test_an_mp3_is_read_to_its_end(options: str, header: str, quiet_first: bool, tmp_path: Path) -> None:
    """Where no header tells the length, the first frame's rate would: 5 s or 37 s of these 12 s."""
    needs_ffmpeg()
    loud = babble(6.0, seed=13) + 0.2 * np.random.default_rng(0).standard_normal(96_000).astype(np.float32)
    parts = [np.float32(1e-4) * loud, loud]
    waveform = np.concatenate(parts if quiet_first else parts[::-1])
    soundfile.write(tmp_path / "clip.wav", waveform, SAMPLE_RATE)
    command = f"ffmpeg -v error -i clip.wav -c:a libmp3lame {options} {header} clip.mp3"
    if subprocess.run(command.split(), cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("this ffmpeg cannot write MP3")
    path = tmp_path / "clip.mp3"
    decoded = audio.read(path)
    # without the header nobody knows how much of the first and the last frame is padding: a tenth of a second
    tolerance = 0 if header.endswith("1") else 1_600
    assert 0 <= len(decoded) - len(waveform) <= tolerance
    assert audio.info(path) == audio.AudioInfo(len(decoded) / SAMPLE_RATE, SAMPLE_RATE, 1)
    level = [float(np.abs(half).mean()) for half in (decoded[:90_000], decoded[-90_000:])]
    assert (level[0] < 0.01 * level[1]) if quiet_first else (level[1] < 0.01 * level[0])
    part = audio.read(path, 7.0, 2.0)
    if tolerance:
        np.testing.assert_array_equal(part, decoded[112_000:144_000])
        np.testing.assert_array_equal(audio.read(path, 11.0), decoded[176_000:])
        assert len(audio.read(path, 20.0, 1.0)) == 0
    assert len(part) == 32_000


def test_an_mp3_of_days_is_refused_though_it_does_not_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_ffmpeg()
    soundfile.write(tmp_path / "clip.wav", babble(5.0, seed=14), SAMPLE_RATE)
    command = "ffmpeg -v error -i clip.wav -c:a libmp3lame -write_xing 0 clip.mp3"
    if subprocess.run(command.split(), cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("this ffmpeg cannot write MP3")
    monkeypatch.setattr(audio, "MAX_SECONDS", 3)
    with pytest.raises(audio.AudioError, match="at most that much is read: split it"):
        audio.read(tmp_path / "clip.mp3")
    assert len(audio.read(tmp_path / "clip.mp3", 1.0, 1.0)) == 16_000


def test_no_samples_are_no_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), SAMPLE_RATE)
    assert audio.info(tmp_path / "none.wav").seconds == 0
    assert audio.read(tmp_path / "none.wav").shape == (0,)


def test_numbers_that_are_not_finite_are_handed_on(tmp_path: Path) -> None:
    waveform = np.array([0.1, np.nan, np.inf, -0.1], np.float32)
    soundfile.write(tmp_path / "nan.wav", waveform, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_array_equal(audio.read(tmp_path / "nan.wav"), waveform)  # the preflight refuses them


def test_a_recording_of_days_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(10, np.int16), 8)  # 8 Hz
    header = bytearray(path.read_bytes()[:-20])
    length = 8 * 2 * (audio.MAX_SECONDS + 3_600)
    header[-4:] = length.to_bytes(4, "little")
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + length)
    with pytest.raises(audio.AudioError, match=r"7\.0 h long; at most 6 h are read: split it"):
        audio.read(path)
    assert audio.read(path, 0.0, 10.0).shape == (160_000,)


# ---- The rest.


@pytest.mark.parametrize("gain", [1e-6, 0.3, 1.0, 40.0, -2.0])
def test_scale_peak_makes_every_level_the_same(gain: float) -> None:
    waveform = babble(1.0, seed=9)
    scaled = audio.scale_peak(np.float32(gain) * waveform)
    assert scaled.dtype == np.float32 and np.abs(scaled).max() == pytest.approx(audio.NORMALIZED_PEAK, rel=1e-6)
    np.testing.assert_allclose(scaled, np.sign(gain) * audio.scale_peak(waveform), atol=1e-6)
    np.testing.assert_allclose(audio.scale_peak(scaled), scaled, rtol=1e-6)


@pytest.mark.parametrize("samples", [0, 100])
def test_scale_peak_leaves_silence(samples: int) -> None:
    np.testing.assert_array_equal(audio.scale_peak(np.zeros(samples, np.float32)), np.zeros(samples))


def test_non_speech_is_what_it_says() -> None:
    clips = audio.silence_and_noise(150, seed=1)
    assert list(clips) == ["silence", "white noise", "pink noise", "hum", "music"]
    assert all(len(clip) == 160_000 and clip.dtype == np.float32 for kind in clips.values() for clip in kind)
    assert {len(kind) for kind in clips.values()} == {3}, "three levels of each"
    assert not any(clip.any() for clip in clips["silence"])
    for kind in ("white noise", "pink noise", "hum", "music"):
        levels = [float(np.sqrt(np.mean(clip**2))) for clip in clips[kind]]
        assert levels == sorted(levels) and levels[0] > 0 and max(np.abs(clip).max() for clip in clips[kind]) < 1
    # pink noise falls by 3 dB an octave: equal power in octaves; white noise doubles
    spectrum = np.abs(np.fft.rfft(clips["pink noise"][2])) ** 2
    low, high = spectrum[10 * 500 : 10 * 1000].sum(), spectrum[10 * 2000 : 10 * 4000].sum()
    assert low / high == pytest.approx(1, rel=0.1)
    repeated = audio.silence_and_noise(150, seed=1)
    assert all(np.array_equal(one, two) for kind in clips for one, two in zip(clips[kind], repeated[kind], strict=True))
    assert not np.array_equal(audio.silence_and_noise(150, seed=2)["white noise"][0], clips["white noise"][0])


@pytest.mark.slow
def test_torchaudio_comes_beside_any_torch() -> None:
    code = (
        "import torch; from whisper_min.audio import torchaudio\n"
        "t = torchaudio(); assert t is torchaudio()\n"
        "t.transforms.TimeMasking(5)(torch.ones(1, 80, 100)); t.datasets.LIBRISPEECH\n"
        "print(tuple(t.functional.resample(torch.ones(441), 44100, 16000).shape))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("(160,)\n", 0), done.stderr


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_a_name_need_not_be_utf_8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.wav")
    try:
        with open(path, "wb") as file:
            soundfile.write(file, babble(0.5), SAMPLE_RATE, format="WAV")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert audio.info(path).seconds == 0.5 and len(audio.read(path)) == SAMPLE_RATE // 2


@pytest.mark.parametrize(
    ("rate", "seconds"), [(8_000, 1.0), (11_025, 1.0), (44_100, 1.0), (192_000, 1.0), (22_050, 0.0)]
)
def test_usual_rates_are_resampled_also_without_samples(rate: int, seconds: float, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", babble(seconds, rate), rate)
    assert len(audio.read(tmp_path / "a.wav")) == round(seconds * 16_000)


@pytest.mark.parametrize("rate", [11_127, 16_004, 48_001, 2**31 - 1])
def test_a_rate_whose_resampling_would_fill_the_memory_is_refused(rate: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16_000)
    header = bytearray((tmp_path / "a.wav").read_bytes())
    header[24:28] = rate.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(header)
    with pytest.raises(audio.AudioError, match=f"has a sample rate of {rate} Hz"):
        audio.read(tmp_path / "a.wav")
