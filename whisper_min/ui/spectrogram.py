"""A clip as a picture: read, resampled, its log-mel spectrogram in numpy, and both made as small as a terminal.

`log_mel` is `whisper_min.audio.log_mel` without torch, which would take seconds to start; a test holds them equal.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from whisper_min import ffmpeg
from whisper_min.ui.diff import plain

Floats = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000
N_FFT, HOP_LENGTH = 400, 160
DECIBELS = 80.0  # what log_mel keeps below the loudest value: 8 powers of ten
LONGEST_SECONDS = 300.0  # of a longer recording this much is read and drawn
FFMPEG_SECONDS = 30.0  # patience with ffmpeg
UNKNOWN_FRAMES = 2**62  # about what libsndfile says where a stream does not tell its length
# Models whose encoder hears 128 bins; all others hear 80.
MODELS_OF_128 = ("large-v3", "turbo", "large-v3-turbo", "large")


class ClipError(Exception):
    """A clip that cannot be drawn; the message says why in a sentence."""


@dataclass(frozen=True)
class Source:
    """Where an utterance's audio is, as `samples.jsonl` says it; equal ones have equal pictures."""

    path: str
    offset: float | None = None
    """Seconds into the file; None where the utterance is the whole file."""
    duration: float | None = None
    """Seconds from the offset; without one it only describes the file."""
    n_mels: int = 80
    beside: Path | None = None
    """Where to look for the file by its name, should it not be at its path: a run's own `audio/`."""


@dataclass(frozen=True)
class Clip:
    """What is drawn: waveform (samples,) at 16 kHz and its log-mel (M, F)."""

    waveform: Floats
    mel: Floats
    notes: tuple[str, ...] = ()
    """What is worth knowing about the file: channels mixed, resampled, cut short."""

    @classmethod
    def of(cls, waveform: Floats, n_mels: int = 80, notes: Sequence[str] = ()) -> Clip:
        """The clip of 16 kHz samples, one at least."""
        whole = max(-(-len(waveform) // HOP_LENGTH) * HOP_LENGTH, N_FFT)
        return cls(waveform, log_mel(np.pad(waveform, (0, whole - len(waveform))), n_mels), tuple(notes))

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.waveform) / SAMPLE_RATE

    @property
    def decibels(self) -> Floats:
        """dB below the loudest value, (M, F); silence is as far below as it goes."""
        if not self.waveform.any():
            return np.full_like(self.mel, -DECIBELS)
        # log_mel divides powers of ten by four
        return np.maximum((self.mel - self.mel.max()) * 40.0, -DECIBELS)


def read_clip(source: Source) -> Clip:
    """Read an utterance and compute its spectrogram; ClipError where that cannot be done."""
    path = locate(source)
    samples, rate, notes = _decode(path, source)
    if not len(samples):
        raise ClipError(f"{path.name} holds no samples.")
    if samples.shape[1] > 1:
        notes.append("stereo, mixed" if samples.shape[1] == 2 else f"{samples.shape[1]} channels, mixed")
    waveform = samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(waveform).all():
        waveform = np.nan_to_num(waveform, posinf=0.0, neginf=0.0)
        notes.append("non-finite samples as zero")
    if rate != SAMPLE_RATE:
        notes.append(f"{rate / 1000:g} kHz, resampled")
        waveform = resample(waveform, rate)
    if not waveform.any():
        notes.append("silence")
    return Clip.of(waveform, source.n_mels, notes)


def locate(source: Source) -> Path:
    """The file, at its path or among the run's copies; ClipError where it is at neither."""
    path = Path(source.path)
    try:
        for place in (path, source.beside / path.name if source.beside else path):
            if place.is_file():
                return place
        name = plain(path.name)
        if path.exists():
            raise ClipError(f"{name} is no file.")
        missing = next((parent for parent in reversed(path.parents) if not parent.exists()), None)
        if missing is not None:
            raise ClipError(f"{name} is not here: there is no {plain(missing)} on this machine. Was the set moved?")
        raise ClipError(f"{name} is not in {plain(path.parent)} any more.")
    except (OSError, ValueError) as error:  # no permission, a name too long, a null byte
        raise ClipError(f"The audio cannot be looked up: {plain(error)}.") from None


def _decode(path: Path, source: Source) -> tuple[Floats, int, list[str]]:
    """Samples (samples, channels) at the file's own rate, and what to know about them."""
    import soundfile  # here, for the terminal starts without it

    offset = max(source.offset or 0.0, 0.0)
    wanted = LONGEST_SECONDS if source.offset is None else min(source.duration or LONGEST_SECONDS, LONGEST_SECONDS)
    try:
        file = soundfile.SoundFile(path)
        if file.frames >= UNKNOWN_FRAMES:
            raise RuntimeError("it does not say how long it is")
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        return _decode_with_ffmpeg(path, offset, wanted, plain(error)), SAMPLE_RATE, ["decoded by ffmpeg"]
    try:
        with file:
            rate, frames, notes = file.samplerate, file.frames, []
            first = round(offset * rate)
            if first >= frames > 0:
                raise ClipError(f"The clip begins at {offset:.1f} s; {path.name} ends at {frames / rate:.1f} s.")
            if first:
                file.seek(first)
            left = (frames - first) / rate
            samples = file.read(round(min(wanted, left) * rate), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise ClipError(f"{path.name} is damaged: {plain(error).rstrip('.')}.") from None
    got = len(samples) / rate
    if got < min(wanted, left) - 0.05:
        notes.append(f"cut short: {got:.1f} s of {left:.1f} s are there")
    elif source.offset is not None and source.duration and got < min(source.duration, wanted) - 0.05:
        notes.append(f"the file ends {source.duration - got:.1f} s before the clip does")
    elif left > wanted >= LONGEST_SECONDS:
        notes.append(f"the first {LONGEST_SECONDS:.0f} s of {left:.0f} s")
    return samples, rate, notes


def _decode_with_ffmpeg(path: Path, offset: float, seconds: float, because: str) -> Floats:
    """Samples (samples, 1) at 16 kHz of what soundfile cannot read."""
    executable = shutil.which("ffmpeg")
    if not path.stat().st_size:
        raise ClipError(f"{path.name} is empty (0 bytes).")
    if executable is None:
        raise ClipError(f"{path.name} cannot be decoded ({because.rstrip('.')}), and ffmpeg is not installed.")
    command = [executable, *ffmpeg.arguments(path, offset, seconds, SAMPLE_RATE, "f32le")]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=FFMPEG_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise ClipError(f"ffmpeg gave up on {path.name}: {type(error).__name__}.") from None
    if done.returncode or not done.stdout:
        raise ClipError(f"{path.name} is no audio that soundfile or ffmpeg can decode.")
    whole = len(done.stdout) // 4 * 4
    return np.frombuffer(done.stdout[:whole], np.float32)[:, None]


def resample(waveform: Floats, rate: int) -> Floats:
    """To 16 kHz by cutting the spectrum: exact but for the ends, where it takes the clip for a circle.

    That is seen in a picture's first and last frames at most, so there is no filter bank to get wrong.
    """
    length = max(round(len(waveform) * SAMPLE_RATE / rate), 1)
    made: Floats = np.fft.irfft(np.fft.rfft(waveform), length).astype(np.float32) * np.float32(length / len(waveform))
    return made


def mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Slaney's scale, which Whisper's filters are made of: straight to 1 kHz, logarithmic above."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def hz_to_mel(hz: float) -> float:
    """The inverse of `mel_to_hz`."""
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * float(np.log(hz / 1000) / np.log(6.4))


TOP_MEL = hz_to_mel(SAMPLE_RATE / 2)


@functools.cache
def mel_filters(n_mels: int) -> Floats:
    """Triangles of equal area, (M, N_FFT // 2 + 1): the filters that whisper ships as a file."""
    edges = mel_to_hz(np.linspace(0, TOP_MEL, n_mels + 2))
    slopes = edges[:, None] - np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    widths = np.diff(edges)[:, None]
    triangles = np.maximum(0, np.minimum(-slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]))
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def log_mel(waveform: Floats, n_mels: int) -> Floats:
    """Log-mel spectrogram (M, F) of 16 kHz samples, a multiple of 160 of them; F = samples / 160."""
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)
    padded = np.pad(waveform.astype(np.float32), N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP_LENGTH][:-1]  # (F, N_FFT)
    mel = np.empty((n_mels, len(frames)), np.float32)
    for first in range(0, len(frames), 1000):  # 10 s at a time, so that long clips take no gigabyte
        part = frames[first : first + 1000]
        mel[:, first : first + 1000] = mel_filters(n_mels) @ (np.abs(np.fft.rfft(part * window, axis=1)) ** 2).T
    log = np.log10(np.maximum(mel, 1e-10))
    return (np.maximum(log, log.max() - 8.0) + 4.0) / 4.0


def bins_of(model: object) -> int:
    """Mel bins that a model hears, by its official name; 80 where the name says nothing."""
    return 128 if os.path.basename(str(model)) in MODELS_OF_128 else 80


def resize(values: Floats, rows: int, columns: int) -> Floats:
    """Means over areas, (rows, columns): every value counts, however small the picture gets."""
    for axis, size in ((0, rows), (1, columns)):
        there = values.shape[axis]
        if there == size:
            continue
        sums = np.concatenate(
            [np.zeros_like(values.take([0], axis), np.float64), values.cumsum(axis, np.float64)], axis
        )
        edges = np.linspace(0, there, size + 1)
        below = np.minimum(edges.astype(int), there - 1)
        shape = (-1, 1) if axis == 0 else (1, -1)
        share = (edges - below).reshape(shape)
        at_edges = sums.take(below, axis) * (1 - share) + sums.take(below + 1, axis) * share
        values = (np.diff(at_edges, axis=axis) * (size / there)).astype(np.float32)
    return values


def outline(waveform: Floats, columns: int) -> Floats:
    """Lowest and highest sample of each column as shares of the loudest, (columns, 2) in [-1, 1]."""
    if len(waveform) < columns:
        waveform = np.repeat(waveform, -(-columns // max(len(waveform), 1)))
    starts = np.linspace(0, len(waveform), columns, endpoint=False).astype(int)
    peak = max(float(np.abs(waveform).max(initial=0.0)), 1e-9)
    lowest, highest = np.minimum.reduceat(waveform, starts), np.maximum.reduceat(waveform, starts)
    return np.stack([lowest, highest], axis=1) / np.float32(peak)


def time_ticks(seconds: float, most: int) -> list[float]:
    """At most about `most` round times from 0 on."""
    least = seconds / max(most, 1)
    step = next((step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120) if step >= least), 300.0)
    return [step * index for index in range(int(seconds / step) + 1)]
