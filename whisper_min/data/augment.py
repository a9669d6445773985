"""Augmentation: a clip as it might have sounded elsewhere, drawn anew every time that it is trained on.

`--augment noise=5..20@0.3 reverb` gives three clips in ten noise at 5 to 20 dB and half of them (no share is given) a
room. What is drawn is a function of the seed, of the clip, and of how often it was read before: never of its batch,
of the threads that read, or of a resume. Evaluation sets are never augmented.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor
from whisper.audio import CHUNK_LENGTH, SAMPLE_RATE

from whisper_min import audio
from whisper_min.audio import Waveform
from whisper_min.config import NO_AUGMENT, Config
from whisper_min.data import channels
from whisper_min.data.examples import AUDIO_SUFFIXES
from whisper_min.text import repeated

# Share of the clips that an effect is drawn for where none is given.
DEFAULT_SHARE = 0.5
# SpecAugment (arXiv:1904.08779), the LibriSpeech policy LD: two masks along each axis, at most so wide (of 80 mel bins,
# and in frames of 10 ms), and together at most so much of a clip's time.
MASKS, MASKED_BINS, MASKED_FRAMES, MASKED_SHARE = 2, 27, 100, 0.2
# Parts of recordings that are drawn for a clip until one is not silent.
NOISE_DRAWS = 20

_WORD = re.compile(r"(?P<name>[a-z]+)(=(?P<low>-?\d+(\.\d+)?)(\.\.(?P<high>-?\d+(\.\d+)?))?)?(@(?P<share>\d*\.?\d+))?")


@dataclass(frozen=True)
class Kind:
    """What an effect's strength means, and the strengths between which it is drawn by default and at all."""

    unit: str
    default: tuple[float, float]
    allowed: tuple[float, float]


# In the order in which sound meets them on its way from the speaker to the log-mel.
KINDS = {
    "speed": Kind("× speed and pitch", (0.9, 1.1), (0.5, 2.0)),
    "throat": Kind("of a throat microphone's channel, the rest clean", (1.0, 1.0), (0.0, 1.0)),
    "reverb": Kind("s until a room's sound has fallen by 60 dB", (0.1, 0.6), (0.01, 5.0)),
    "noise": Kind("dB of speech over noise", (5.0, 25.0), (-20.0, 80.0)),
    "bandlimit": Kind("Hz, a low-pass", (2500.0, 6000.0), (500.0, 8000.0)),
    "telephone": Kind("bits of a telephone line's code", (8.0, 8.0), (4.0, 8.0)),
    "gain": Kind("dB", (-10.0, 10.0), (-60.0, 60.0)),
    "specaugment": Kind("× the masks of SpecAugment's policy LD", (1.0, 1.0), (0.0, 3.0)),
}


class Effect(NamedTuple):
    """One word of `--augment`."""

    name: str
    low: float
    high: float
    share: float


class Drawn(NamedTuple):
    """An effect as it is drawn for one clip."""

    name: str
    strength: float
    seed: int

    def __str__(self) -> str:
        return f"{self.name} {self.strength:.3g}"


class Masks(NamedTuple):
    """SpecAugment's masks for one clip, drawn by the host and put on its log-mel by the device that computes it."""

    frames: int
    """That are the clip's own; silence follows."""
    areas: tuple[tuple[slice, slice], ...]
    """Bins and frames of each."""

    def hide(self, mel: Tensor) -> None:
        """Fill the areas of a log-mel (M, F), in place, with the clip's mean, which is the paper's zero."""
        if self.areas:
            mean = mel[:, : self.frames].mean()
            for bins, frames in self.areas:
                mel[bins, frames] = mean


def parse(word: str) -> Effect:
    """`name[=strength][@share]`, the strength a number or a range `low..high`; ValueError says what is wrong."""
    found = _WORD.fullmatch(word)
    if found is None:
        raise ValueError(
            f"write NAME, NAME=STRENGTH or NAME=LOW..HIGH, and @SHARE behind it, as in noise=5..20@{DEFAULT_SHARE}"
        )
    name, share = found["name"], float(found["share"] or DEFAULT_SHARE)
    if name not in KINDS:
        raise ValueError(f"there is no augmentation {name!r}; known are {', '.join(KINDS)}")
    kind = KINDS[name]
    low = float(found["low"]) if found["low"] else kind.default[0]
    high = float(found["high"]) if found["high"] else low if found["low"] else kind.default[1]
    least, most = kind.allowed
    if not least <= low <= high <= most:
        raise ValueError(
            f"{name}'s strength ({kind.unit}) must lie between {least:g} and {most:g}, the lower one first"
        )
    if not 0 < share <= 1:
        raise ValueError(f"the share {share:g} must be above 0 and at most 1")
    return Effect(name, low, high, share)


def check(cfg: Config) -> list[str]:
    """Faults of `--augment`, `--replay_augment` and `--noise`, each with its fix."""
    faults = []
    for option in ("augment", "replay_augment"):
        words = () if getattr(cfg, option) == NO_AUGMENT else getattr(cfg, option)
        for word in words:
            try:
                parse(word)
            except ValueError as error:
                faults.append(f"--{option} {word}: {error}")
        names = [re.split("[=@]", word)[0] for word in words]
        for name in repeated(names):
            faults.append(f"--{option}: {name} is there {names.count(name)} times; give it once, with a range")
    if cfg.replay_augment and not cfg.replay:
        faults.append("--replay_augment: acts on the --replay sets; give --replay SET")
    if cfg.noise is not None:
        if not any(word.startswith("noise") for word in (*cfg.augment, *cfg.replay_augment)):
            faults.append("--noise: is read by the augmentation of that name; give --augment noise, too")
        if not cfg.noise.is_dir():
            faults.append(f"--noise {cfg.noise}: is no folder; give one of recordings without speech")
        elif not recordings(cfg.noise):
            faults.append(f"--noise {cfg.noise}: holds no recordings ({' '.join(AUDIO_SUFFIXES)})")
        else:
            unusable = [f"--noise {path}: {fault}" for path in recordings(cfg.noise) if (fault := _fault(path))]
            if not unusable and not any(map(_sounds, recordings(cfg.noise))):
                unusable.append(f"--noise {cfg.noise}: all its recordings are silent; give a folder of noise")
            faults += unusable
    return faults


def _fault(path: Path) -> str | None:
    """What a recording's header says is wrong with it."""
    try:
        return None if audio.info(path).seconds > 0 else "holds no samples; remove it"
    except audio.AudioError as error:
        return f"{error}; convert it, or remove it"


def _sounds(path: Path) -> bool:
    """Whether anything can be heard in a recording, decoded a window at a time as far as the first sound."""
    try:
        starts = range(0, math.ceil(audio.info(path).seconds), CHUNK_LENGTH)
        return any(audio.read(path, start, CHUNK_LENGTH).any() for start in starts)
    except audio.AudioError:
        return True  # its damage is said where it is met


@functools.cache
def recordings(folder: Path) -> list[Path]:
    """The recordings below a folder, in the order of their names."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


class Augmentation:
    """What `--augment` asks for, to be drawn and done clip by clip.

    Parameters
    ----------
    words : sequence of str
        as on the command line
    seed : int
    noise : Path, optional
        folder of recordings to take noise from; without one it is generated
    """

    def __init__(self, words: Sequence[str], seed: int, noise: Path | None = None) -> None:
        by_name = {effect.name: effect for effect in map(parse, () if tuple(words) == NO_AUGMENT else words)}
        self.effects = [by_name[name] for name in KINDS if name in by_name]
        self.seed, self.noise = seed, noise

    def draw(self, clip: str, visit: int) -> list[Drawn]:
        """What a clip gets when it is read for the `visit`-th time, in the order in which it is done."""
        drawn = []
        for effect in self.effects:
            # an effect's draws are its own: adding another one leaves them as they are
            named = f"{self.seed} {visit} {effect.name} {clip}".encode("utf-8", "surrogatepass")
            digest = hashlib.blake2b(named, digest_size=8)
            rng = np.random.default_rng(int.from_bytes(digest.digest(), "big"))
            if rng.random() < effect.share:
                strength = float(rng.uniform(effect.low, effect.high))
                drawn.append(Drawn(effect.name, strength, int(rng.integers(2**63))))
        return drawn

    def on_waveform(self, waveform: Waveform, drawn: Sequence[Drawn], room: int) -> Waveform:
        """A clip (samples,) after what was drawn for it; a slower one has room for so many samples. Silence stays."""
        for name, strength, seed in drawn if waveform.any() else ():
            rng = np.random.default_rng(seed)
            match name:
                case "speed":
                    slowest = math.ceil(100 * len(waveform) / room) / 100  # that the window allows
                    waveform = channels.change_speed(waveform, max(strength, slowest))
                case "throat":
                    heard = channels.throat_microphone(waveform, seed)
                    clean = waveform * np.float32(channels.rms(heard) / channels.rms(waveform))
                    waveform = np.float32(strength) * heard + np.float32(1 - strength) * clean
                case "reverb":
                    waveform = channels.reverberate(waveform, strength, rng)
                case "noise":
                    waveform = channels.add_noise(waveform, self._noise(len(waveform), rng), strength)
                case "bandlimit":
                    waveform = channels.band_limit(waveform, strength)
                case "telephone":
                    waveform = channels.telephone(waveform, strength)
                case "gain":
                    waveform = channels.change_gain(waveform, strength)
        return waveform

    def masks(self, drawn: Sequence[Drawn], bins: int, frames: int) -> Masks:
        """SpecAugment's masks for a log-mel (M, F) of so many bins, of which `frames` are the clip's own.

        torchaudio's masks draw from torch's global generator, which threads share and whose state a run restores;
        these draw from the clip's.
        """
        areas: list[tuple[slice, slice]] = []
        for _, strength, seed in (each for each in drawn if each.name == "specaugment"):
            rng = np.random.default_rng(seed)
            widest_bins = round(strength * MASKED_BINS * bins / 80)
            widest_frames = round(strength * min(MASKED_FRAMES, MASKED_SHARE * frames / MASKS))
            for _ in range(MASKS):
                areas.append((_mask(rng, widest_bins, bins), slice(0, frames)))
                areas.append((slice(0, bins), _mask(rng, widest_frames, frames)))
        return Masks(frames, tuple(areas))

    def _noise(self, samples: int, rng: np.random.Generator) -> Waveform:
        """Noise for a clip: generated, or a part of a recording drawn from the folder, repeated where it is short."""
        if self.noise is None:
            return channels.coloured_noise(samples, rng)
        files = recordings(self.noise)
        for _ in range(NOISE_DRAWS):
            path = files[rng.integers(len(files))]
            try:
                spare = audio.info(path).seconds - samples / SAMPLE_RATE
                noise = audio.read(path, rng.uniform(0, max(spare, 0)), samples / SAMPLE_RATE)
            except audio.AudioError as error:
                raise audio.AudioError(f"--noise: {path}: {error}") from None
            if not np.isfinite(noise).all():
                raise audio.AudioError(f"--noise: {path}: {audio.NOT_FINITE}, or remove it")
            if noise.any():
                return np.resize(noise, samples)
        raise audio.AudioError(f"--noise: {path}: is silent, as other parts drawn from {self.noise}; remove what is")


def _mask(rng: np.random.Generator, widest: int, length: int) -> slice:
    """What a mask covers: its width and its start are uniform, as the paper draws them."""
    width = int(rng.integers(min(widest, length) + 1))
    first = int(rng.integers(length - width + 1))
    return slice(first, first + width)


@functools.lru_cache
def of_role(cfg: Config, role: str) -> Augmentation:
    """The augmentation of a run's domain clips, or of its replay."""
    return Augmentation(cfg.augment if role == "domain" else cfg.replay_augment, cfg.seed, cfg.noise)
