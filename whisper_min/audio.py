"""From a file to a log-mel spectrogram: one door for training and evaluation.

Audio is padded as a waveform, with zeros, as Whisper's README does (its `transcribe` pads the spectrogram instead).
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import subprocess
import sys
import threading
import types
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor
from whisper.audio import CHUNK_LENGTH, HOP_LENGTH, N_FFT, N_SAMPLES, SAMPLE_RATE, mel_filters

from whisper_min import ffmpeg

Waveform = npt.NDArray[np.float32]

# `--normalize` scales a clip's largest sample to this.
NORMALIZED_PEAK = 0.95
# Context lengths in seconds that `--audio_context trim` rounds up to, and the silence that must follow a clip: the last
# context of an utterance must not end in speech, and half a second keeps the STFT's reflection out of it.
CONTEXT_SECONDS = (5, 10, 15, 20, CHUNK_LENGTH)
CONTEXT_MARGIN_SECONDS = 0.5
# Frames of log-mel for one encoder position: the second convolution has stride 2.
FRAMES_PER_POSITION = 2
SAMPLES_PER_POSITION = HOP_LENGTH * FRAMES_PER_POSITION
# Length of a recording without words, of which `silence_and_noise` makes several.
NON_SPEECH_CLIP_SECONDS = 10
# Longest recording that is decoded, in seconds: a compressed file of a few MB can claim days of silence.
MAX_SECONDS = 6 * 3600
# Numbers that torchaudio's filter may hold, its length times its phases; making it takes some 16 bytes for each.
LARGEST_FILTER = 2**23
# Patience with ffmpeg in seconds: the longest recording takes it a minute or two.
FFMPEG_SECONDS = 900.0
# libsndfile says about this many frames where a stream does not tell its length.
UNKNOWN_FRAMES = 2**62
# From here on a WAV's claim means a stream of unknown length: what sox, ffmpeg and others write into pipes.
STREAMED_BYTES = 0x7FFF0000
# The largest page of an Ogg stream: its header, the table of its segments, and these (RFC 3533, section 6).
OGG_HEADER_BYTES = 27
OGG_PAGE_BYTES = OGG_HEADER_BYTES + 255 + 255 * 255
# What is wrong with a recording that decodes and is of no use.
NO_SAMPLES = "holds no samples; remove the entry"
NOT_FINITE = "holds numbers that are not finite (NaN); convert the file again"
# A WAV that ends so many seconds early is whole: some programs claim their header, too.
CUT_SECONDS = 0.05


class AudioError(Exception):
    """A file that cannot be used as audio; the message says why, without the file's name."""


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

    seconds: float
    sample_rate: int
    channels: int


@functools.cache
def torchaudio() -> types.ModuleType:
    """torchaudio, also beside a CPU-only torch.

    PyPI's torchaudio links CUDA libraries, so its extension cannot load there; resampling, masking and the datasets
    are pure Python and need none of it. A stand-in for `torchaudio._extension` lets the import pass.
    """
    if not torch.cuda.is_available() and "torchaudio" not in sys.modules:
        extension = types.ModuleType("torchaudio._extension")
        extension._IS_TORCHAUDIO_EXT_AVAILABLE = False  # type: ignore[attr-defined]
        extension._IS_ALIGN_AVAILABLE = False  # type: ignore[attr-defined]
        extension.fail_if_no_align = lambda function: function  # type: ignore[attr-defined]
        extension._check_cuda_version = lambda: None  # type: ignore[attr-defined]
        sys.modules["torchaudio._extension"] = extension
    import torchaudio

    module: types.ModuleType = torchaudio
    return module


def info(path: str | Path) -> AudioInfo:
    """Length, rate and channels from the header, or, where no header tells the length, from decoding."""
    rate, channels = SAMPLE_RATE, 1
    with suppress(soundfile.LibsndfileError, RuntimeError), _open(path) as file:
        if file.frames < UNKNOWN_FRAMES:
            return AudioInfo(file.frames / file.samplerate, file.samplerate, file.channels)
        rate, channels = file.samplerate, file.channels
    return AudioInfo(len(read(path)) / SAMPLE_RATE, rate, channels)


def read(path: str | Path, offset: float = 0.0, duration: float | None = None) -> Waveform:
    """Decode a file, or `duration` seconds of it from `offset`, to 16 kHz mono.

    soundfile reads WAV, FLAC, Ogg, Opus and MP3; anything else goes through ffmpeg where that is installed.

    Returns
    -------
    np.ndarray, shape = (samples,), float32 in [-1, 1]

    Raises
    ------
    AudioError
        if the file holds no audio that can be decoded, or more than `MAX_SECONDS`
    """
    try:
        file = _open(path)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        samples, rate = _read_with_ffmpeg(path, offset, duration, because=error)
    else:
        with file:
            _check_rate(file.samplerate)
            samples, rate = _read_with_soundfile(file, offset, duration), file.samplerate
        have = offset + len(samples) / rate
        if duration is None and (claimed := have / _share_of_samples(path)) > have + CUT_SECONDS:
            raise AudioError(f"ends after {have:.2f} s of {claimed:.2f} s: the file is cut short")
        if duration is None and _ends_inside_a_page(path):
            raise AudioError(f"ends after {have:.2f} s, inside a page of its Ogg stream: the file is cut short")
    waveform = samples.mean(axis=1, dtype=np.float32)
    if rate != SAMPLE_RATE and len(waveform):
        resampled = torchaudio().functional.resample(torch.from_numpy(waveform), rate, SAMPLE_RATE)
        waveform = resampled.numpy()
    return np.ascontiguousarray(waveform, dtype=np.float32)


def _check_rate(rate: int) -> None:
    """AudioError for rates that share so little with 16 kHz that the filter between them would fill the memory."""
    shared = math.gcd(rate, SAMPLE_RATE)
    if rate // shared * (SAMPLE_RATE // shared) > LARGEST_FILTER:
        raise AudioError(f"has a sample rate of {rate} Hz, from which it cannot be resampled; convert it to 16000 Hz")


def _open(path: str | Path) -> soundfile.SoundFile:
    """A file to read; an MP3 that does not say how long it is comes through a pipe.

    Without the Xing header libsndfile guesses the length of an MP3 from its first frame's bit rate, and with a variable
    one stops reading there, early or late; in a pipe there is nothing to guess from, and it reads to the end.
    """
    if not os.path.isfile(path):  # a pipe or a device would be waited for, or never end
        raise AudioError("is no plain file" if os.path.exists(path) else "does not exist")
    # soundfile encodes names itself, and cannot encode those that are not UTF-8
    file = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else str(path))
    if file.format != "MP3":
        return file
    receiver, sender = os.pipe()

    def send() -> None:
        # the reader may have enough before the end
        with suppress(OSError), os.fdopen(sender, "wb") as pipe, open(path, "rb") as source:
            shutil.copyfileobj(source, pipe)

    threading.Thread(target=send, daemon=True).start()
    with suppress(soundfile.LibsndfileError, RuntimeError):
        piped = soundfile.SoundFile(receiver)
        if piped.frames >= UNKNOWN_FRAMES:
            file.close()
            return piped
        piped.close()
    return file


def _share_of_samples(path: str | Path) -> float:
    """Share of the sample bytes claimed by a WAV's, AIFF's or AU's header that are there: libsndfile says nothing.

    1 for files that claim nothing that could be checked: of other formats, and streams of unknown length.
    """
    with open(path, "rb") as file:

        def share(claimed: int) -> float:
            there = max(os.fstat(file.fileno()).st_size - file.tell(), 0)
            return there / max(claimed, there) if there else 1.0

        form, size, kind = file.read(4), file.read(4), file.read(4)
        order: Literal["little", "big"] = "big" if form in (b"FORM", b".snd") else "little"
        if form in (b".snd", b"dns."):  # AU: where its samples begin, how many bytes they are
            file.seek(int.from_bytes(size, order))
            claimed = int.from_bytes(kind, order)
            return share(claimed) if claimed < STREAMED_BYTES else 1.0
        if (form, kind) not in ((b"RIFF", b"WAVE"), (b"RF64", b"WAVE"), (b"FORM", b"AIFF"), (b"FORM", b"AIFC")):
            return 1.0
        long_claim = 0
        while len(header := file.read(8)) == 8:
            name, claimed = header[:4], int.from_bytes(header[4:], order)
            if name in (b"data", b"SSND"):
                return share(long_claim or claimed) if long_claim or claimed < STREAMED_BYTES else 1.0
            following = file.tell() + claimed + claimed % 2  # chunks begin at even places
            if name == b"ds64":  # sizes in 64 bits, for what exceeds 4 GB
                long_claim = int.from_bytes(file.read(16)[8:], order)
            file.seek(following)
    return 1.0


def _ends_inside_a_page(path: str | Path) -> bool:
    """Whether an Ogg file ends before its last page does: libsndfile leaves such a page out without a word.

    A last page without the flag for a stream's end is no sign of damage: Android's own writer never sets it.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"OggS":
            return False
        file.seek(-min(OGG_PAGE_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
        page = b"".join(file.read().rpartition(b"OggS\0")[1:])
    if len(page) < OGG_HEADER_BYTES:
        return bool(page)
    segments = page[OGG_HEADER_BYTES - 1]
    whole = OGG_HEADER_BYTES + segments
    return len(page) < whole + sum(page[OGG_HEADER_BYTES:whole])


def _read_with_soundfile(file: soundfile.SoundFile, offset: float, duration: float | None) -> npt.NDArray[np.float32]:
    """Samples (samples, channels) at the file's rate; a file that opens and cannot be decoded to its end is damaged."""
    rate, known = file.samplerate, file.frames < UNKNOWN_FRAMES
    wanted = duration if duration is not None else file.frames / rate - offset if known else 0.0
    if wanted > MAX_SECONDS:
        raise AudioError(f"{wanted / 3600:.1f} h long; at most {MAX_SECONDS // 3600} h are read: split it")
    try:
        if not known:
            return _read_stream(file, offset, duration)
        if offset:
            file.seek(min(round(offset * rate), file.frames))
        samples = file.read(-1 if duration is None else round(duration * rate), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        # not for ffmpeg, which decodes as far as it gets and calls that a success
        raise AudioError(f"is cut short or damaged ({error}); copy or convert the file again") from None
    if duration is None and known and file.tell() < file.frames:
        raise AudioError(f"ends after {file.tell() / rate:.2f} s of {file.frames / rate:.2f} s: the file is cut short")
    return samples


def _read_stream(file: soundfile.SoundFile, offset: float, duration: float | None) -> npt.NDArray[np.float32]:
    """Samples (samples, channels) of a file that knows neither its length nor how to seek: read from its start."""
    first, limit = round(offset * file.samplerate), MAX_SECONDS * file.samplerate
    last = limit + 1 if duration is None else first + round(duration * file.samplerate)
    blocks, left = [np.zeros((0, file.channels), np.float32)], last
    while left > 0 and len(block := file.read(min(left, 1 << 20), dtype="float32", always_2d=True)):
        blocks.append(block)
        left -= len(block)
    if duration is None and left == 0:
        raise AudioError(f"over {MAX_SECONDS // 3600} h long; at most that much is read: split it")
    samples: npt.NDArray[np.float32] = np.concatenate(blocks)[first:]
    return samples


def _read_with_ffmpeg(
    path: str | Path, offset: float, duration: float | None, because: Exception
) -> tuple[npt.NDArray[np.float32], int]:
    """Samples (samples, 1) at 16 kHz from ffmpeg, without a shell."""
    if Path(path).stat().st_size == 0:
        raise AudioError("is empty (0 bytes)") from None
    executable = shutil.which("ffmpeg")
    if executable is None:
        raise AudioError(f"soundfile cannot decode it ({because}), and ffmpeg is not installed") from None
    seconds = MAX_SECONDS if duration is None else duration
    command = [executable, *ffmpeg.arguments(Path(path), offset, seconds, SAMPLE_RATE, "s16le")]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=FFMPEG_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise AudioError(f"ffmpeg did not decode it within {error.timeout:g} s; convert it to FLAC or WAV") from None
    if done.returncode != 0 or not done.stdout:
        reason = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise AudioError(f"neither soundfile nor ffmpeg can decode it ({reason[-1] if reason else because})") from None
    samples = np.frombuffer(done.stdout, np.int16).astype(np.float32) / 32768.0
    return samples[:, None], SAMPLE_RATE


def scale_peak(waveform: Waveform) -> Waveform:
    """Scale so that the largest sample is `NORMALIZED_PEAK`; silence stays silence."""
    peak = float(np.abs(waveform).max(initial=0.0))
    return waveform if peak == 0 else waveform * np.float32(NORMALIZED_PEAK / peak)


def context_samples(samples: int) -> int:
    """Samples of the context that `trim` gives a clip: its own and a margin, rounded up to `CONTEXT_SECONDS`."""
    needed = samples + round(CONTEXT_MARGIN_SECONDS * SAMPLE_RATE)
    for seconds in CONTEXT_SECONDS:
        if needed <= seconds * SAMPLE_RATE:
            return seconds * SAMPLE_RATE
    return N_SAMPLES


def room_samples(context: int) -> int:
    """The longest clip that `context_samples` gives so long a context."""
    return context if context == N_SAMPLES else context - round(CONTEXT_MARGIN_SECONDS * SAMPLE_RATE)


def pad(waveforms: Sequence[Waveform], samples: int = N_SAMPLES) -> Tensor:
    """Waveforms padded with zeros, or cut, to one length: (B, samples)."""
    padded = torch.zeros(len(waveforms), samples)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = torch.from_numpy(waveform[:samples])
    return padded


@functools.cache
def _window(device: torch.device) -> Tensor:
    return torch.hann_window(N_FFT, device=device)


def log_mel(waveforms: Tensor, n_mels: int) -> Tensor:
    """Log-mel spectrograms of a batch, each equal to `whisper.log_mel_spectrogram` of its own waveform.

    Whisper's function takes the loudest value over everything that it is given, so that in a batch a clip would depend
    on its neighbours (by up to 0.77); here the maximum is each clip's own.

    Parameters
    ----------
    waveforms : Tensor, shape = (B, samples)
        16 kHz; a multiple of 160 samples
    n_mels : int
        80, or 128 for large-v3 and turbo

    Returns
    -------
    Tensor, shape = (B, M, F)
        with F = samples / 160
    """
    stft = torch.stft(waveforms, N_FFT, HOP_LENGTH, window=_window(waveforms.device), return_complex=True)
    magnitudes = stft[..., :-1].abs() ** 2  # (B, N_FFT // 2 + 1, F)
    mel: Tensor = mel_filters(waveforms.device, n_mels) @ magnitudes  # (B, M, F)
    log = torch.clamp(mel, min=1e-10).log10()
    log = torch.maximum(log, log.amax(dim=(-2, -1), keepdim=True) - 8.0)
    return (log + 4.0) / 4.0


def silence_and_noise(seconds: float, seed: int = 0) -> dict[str, Any]:
    """Recordings without words, to count the words that a model invents: name -> list of 10 s waveforms.

    Digital silence, white and pink noise at three levels, mains hum and a chord with vibrato (music-like).
    """
    generator = np.random.default_rng(seed)
    samples = NON_SPEECH_CLIP_SECONDS * SAMPLE_RATE
    clips = max(1, round(seconds / NON_SPEECH_CLIP_SECONDS))
    time = np.arange(samples, dtype=np.float32) / SAMPLE_RATE

    def pink() -> npt.NDArray[np.float64]:
        spectrum = np.fft.rfft(generator.standard_normal(samples))
        spectrum /= np.sqrt(np.maximum(np.fft.rfftfreq(samples, 1 / SAMPLE_RATE), 20.0))
        noise = np.fft.irfft(spectrum, samples)
        return noise / np.abs(noise).max()

    def chord() -> npt.NDArray[np.float64]:
        root = generator.uniform(110, 330)
        vibrato = 0.005 * np.sin(2 * np.pi * 5 * time)
        notes = sum(np.sin(2 * np.pi * root * ratio * (time + vibrato / root)) for ratio in (1, 1.25, 1.5, 2))
        return np.asarray(notes) / 4 * (0.6 + 0.4 * np.sin(2 * np.pi * 0.5 * time))

    kinds = {
        "silence": lambda level: np.zeros(samples),
        "white noise": lambda level: generator.standard_normal(samples) * level / 3,
        "pink noise": lambda level: pink() * level,
        "hum": lambda level: level * (np.sin(2 * np.pi * 50 * time) + 0.3 * np.sin(2 * np.pi * 150 * time)) / 1.3,
        "music": lambda level: chord() * level,
    }
    levels = (0.01, 0.05, 0.3)
    return {
        kind: [make(levels[clip % len(levels)]).astype(np.float32) for clip in range(max(1, clips // len(kinds)))]
        for kind, make in kinds.items()
    }
