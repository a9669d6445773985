"""What rooms, lines and microphones make of a clean recording: 16 kHz waveforms in, waveforms of the same kind out.

Simulations of channels, not of devices. Whatever is random comes from the generator that is handed in.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from whisper.audio import SAMPLE_RATE

from whisper_min import audio
from whisper_min.audio import Waveform

Signal = npt.NDArray[np.float64]

# The throat microphone; each clip draws its own placement, a few per cent around these.
LOW_PASS_HZ, LOW_PASS_ORDER = 1500.0, 4  # the -3 dB point and the slope, 6 dB per octave and order
HIGH_PASS_HZ, HIGH_PASS_ORDER = 70.0, 2  # the transducer is blind to what is slower
RESONANCE_HZ, RESONANCE_WIDTH_HZ, RESONANCE_DB = 260.0, 90.0, 10.0
SATURATION = 2.0  # the level at which the transducer bends, as a multiple of the clip's RMS
BODY_NOISE_DB = -24.0  # pulse and muscle, below the speech
SENSOR_NOISE_DB = -46.0  # hiss over the whole band, below the speech
LEVEL_RMS, LEVEL_PEAK = 0.07, 0.9

# A telephone's band in Hz, and its sampling rate (ITU-T G.712, G.711).
TELEPHONE_BAND, TELEPHONE_RATE = (300.0, 3400.0), 8000
# Slope of `band_limit`, 6 dB per octave and order.
BAND_LIMIT_ORDER = 8
# Direct sound over reverberation in dB, from across a room to close by.
DIRECT_TO_REVERBERANT = (0.0, 10.0)
# The spectrum of noise falls with frequency to the power of this, from white to brown.
NOISE_SLOPE = (0.0, 2.0)


def rms(signal: npt.NDArray[np.floating]) -> float:
    """Root mean square, never quite 0."""
    return float(np.sqrt(np.mean(signal.astype(np.float64) ** 2))) + 1e-12


def frequencies(samples: int) -> tuple[int, Signal]:
    """(length of the transform, its frequencies in Hz): a quarter second of zeros, so that nothing wraps around."""
    n_fft = 1 << (samples + SAMPLE_RATE // 4 - 1).bit_length()
    return n_fft, np.fft.rfftfreq(n_fft, 1 / SAMPLE_RATE)


def shape(signal: npt.NDArray[np.floating], n_fft: int, gain: Signal) -> Signal:
    """Multiply a signal's spectrum by a gain for each of `frequencies`: a filter without delay."""
    return np.fft.irfft(np.fft.rfft(signal, n_fft) * gain, n_fft)[: len(signal)]


def throat_microphone(waveform: Waveform, seed: int) -> Waveform:
    """What a laryngophone, a contact microphone strapped to the throat, would make of a clean recording.

    In the order in which the sound meets it:

    1. skin and tissue swallow the high band: a Butterworth low-pass, -3 dB at about 1500 Hz, 24 dB per octave. Vowels
       keep their first formant and lose most of the others; fricatives nearly vanish
    2. the larynx and the strap resonate: a bell of +10 dB at about 260 Hz; below 70 Hz the transducer hears little
    3. the transducer saturates: a tanh that bends at twice the RMS of the clip
    4. the body is loud: a pulse and low-frequency rumble, 24 dB below the speech, and the sensor's own hiss over the
       whole band, 46 dB below, which buries what the low-pass left of the consonants

    Parameters
    ----------
    waveform : np.ndarray, shape = (samples,)
    seed : int
        draws the placement (cut-off, resonance and their strength, within a tenth or so) and the noise

    Returns
    -------
    np.ndarray, shape = (samples,), float32
        at a common level and never clipping
    """
    rng = np.random.default_rng(seed)
    low_pass = LOW_PASS_HZ * rng.uniform(0.92, 1.08)
    resonance = RESONANCE_HZ * rng.uniform(0.85, 1.15)
    resonance_gain = 10 ** (RESONANCE_DB * rng.uniform(0.85, 1.15) / 20) - 1
    pulse_hz = rng.uniform(1.0, 1.5)
    pulse_phase = rng.uniform(0, 2 * np.pi)

    length = len(waveform)
    n_fft, hertz = frequencies(length)
    tissue = 1 / np.sqrt(1 + (hertz / low_pass) ** (2 * LOW_PASS_ORDER))
    bell = 1 + resonance_gain / (1 + ((hertz - resonance) / RESONANCE_WIDTH_HZ) ** 2)
    transducer = 1 / np.sqrt(1 + (HIGH_PASS_HZ / np.maximum(hertz, 1.0)) ** (2 * HIGH_PASS_ORDER))

    speech = shape(waveform.astype(np.float64), n_fft, tissue * bell * transducer)
    speech /= rms(speech)
    speech = SATURATION * np.tanh(speech / SATURATION)

    # rumble falls with frequency and swells with each heartbeat
    time = np.arange(length) / SAMPLE_RATE
    heartbeat = 0.4 + np.clip(np.sin(2 * np.pi * pulse_hz * time + pulse_phase), 0, None) ** 4
    body = shape(rng.standard_normal(length), n_fft, transducer * 100 / np.maximum(hertz, 50.0)) * heartbeat
    body *= 10 ** (BODY_NOISE_DB / 20) / rms(body)
    hiss = rng.standard_normal(length) * 10 ** (SENSOR_NOISE_DB / 20)

    heard = speech + body + hiss
    heard *= min(LEVEL_RMS / rms(heard), LEVEL_PEAK / (np.abs(heard).max() + 1e-12))
    return heard.astype(np.float32)


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """Play faster or slower, pitch and all (Ko et al., "Audio augmentation for speech recognition", 2015).

    The factor is taken to the nearest hundredth, for which resampling needs short filters only.
    """
    rate = round(factor * 100) * SAMPLE_RATE // 100
    if rate == SAMPLE_RATE:
        return waveform
    resampled = audio.torchaudio().functional.resample(torch.from_numpy(waveform), rate, SAMPLE_RATE)
    return np.ascontiguousarray(resampled.numpy())


def reverberate(waveform: Waveform, seconds: float, rng: np.random.Generator) -> Waveform:
    """A room in which sound falls by 60 dB in so many seconds, at the level of the clip.

    Polack's model of a room's impulse response: the direct sound, then noise that decays exponentially; how much of it
    is drawn from `DIRECT_TO_REVERBERANT`.
    """
    samples = max(1, round(seconds * SAMPLE_RATE))
    tail = rng.standard_normal(samples) * np.exp(-np.log(1e3) * np.arange(samples) / samples)
    tail *= 10 ** (-rng.uniform(*DIRECT_TO_REVERBERANT) / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    n_fft = 1 << (len(waveform) + samples - 1).bit_length()
    heard = np.fft.irfft(np.fft.rfft(waveform, n_fft) * np.fft.rfft(tail, n_fft), n_fft)[: len(waveform)]
    return (heard * (rms(waveform) / rms(heard))).astype(np.float32)


def coloured_noise(samples: int, rng: np.random.Generator) -> Waveform:
    """Noise of RMS 1 whose colour is drawn from `NOISE_SLOPE`."""
    n_fft, hertz = frequencies(samples)
    fall = np.maximum(hertz, 50.0) ** (-rng.uniform(*NOISE_SLOPE) / 2)
    noise = shape(rng.standard_normal(samples), n_fft, fall)
    return (noise / rms(noise)).astype(np.float32)


def add_noise(waveform: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """Add noise so many dB below the clip, both as root mean squares over the whole clip."""
    return waveform + noise * np.float32(rms(waveform) / rms(noise) * 10 ** (-snr_db / 20))


def band_limit(waveform: Waveform, hertz: float) -> Waveform:
    """A Butterworth low-pass, -3 dB at so many Hz."""
    n_fft, its = frequencies(len(waveform))
    return shape(waveform, n_fft, 1 / np.sqrt(1 + (its / hertz) ** (2 * BAND_LIMIT_ORDER))).astype(np.float32)


def telephone(waveform: Waveform, bits: float) -> Waveform:
    """A telephone line: 300 to 3400 Hz, 8 kHz, and companding to so many bits by the μ-law (G.711 has eight)."""
    n_fft, hertz = frequencies(len(waveform))
    in_band = (hertz >= TELEPHONE_BAND[0]) & (hertz <= TELEPHONE_BAND[1])
    functional, levels = audio.torchaudio().functional, 2 ** round(bits)
    line = torch.from_numpy(shape(waveform, n_fft, in_band.astype(np.float64)).astype(np.float32))
    line = functional.resample(line, SAMPLE_RATE, TELEPHONE_RATE).clamp(-1, 1)
    line = functional.mu_law_decoding(functional.mu_law_encoding(line, levels), levels)
    return np.ascontiguousarray(functional.resample(line, TELEPHONE_RATE, SAMPLE_RATE)[: len(waveform)].numpy())


def change_gain(waveform: Waveform, decibels: float) -> Waveform:
    """Louder or softer, but never beyond full scale."""
    factor = 10 ** (decibels / 20)
    peak = float(np.abs(waveform).max(initial=0.0))
    return waveform * np.float32(min(factor, max(1.0, 1 / max(peak, 1e-12))))
