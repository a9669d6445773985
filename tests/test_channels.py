"""Channels against what defines them: a filter's gain, a room's decay, a ratio of powers, a line's steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from whisper.audio import SAMPLE_RATE

from whisper_min.audio import Waveform, torchaudio
from whisper_min.data import channels

SECONDS = 2.0


def tone(hertz: float, level: float = 0.1) -> Waveform:
    time = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def gain_db(before: Waveform, after: Waveform) -> float:
    """Gain of a steady tone, its edges left out."""
    middle = slice(SAMPLE_RATE // 2, -SAMPLE_RATE // 2)
    return 20 * float(np.log10(channels.rms(after[middle]) / channels.rms(before[middle])))


def noise(seed: int = 0) -> Waveform:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(SECONDS * SAMPLE_RATE))).astype(np.float32)


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
def test_noise_is_added_at_the_ratio_that_was_asked_for(snr: float) -> None:
    """Speech over noise, in root mean squares, whatever the noise's own level."""
    speech = tone(300)
    added = channels.add_noise(speech, 7 * noise(), snr) - speech
    assert 20 * np.log10(channels.rms(speech) / channels.rms(added)) == pytest.approx(snr, abs=0.01)


def test_generated_noise_falls_with_frequency_as_its_slope_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """White is flat, brown falls by 6 dB an octave; both have the same power."""
    for slope, expected in ((0.0, 0.0), (2.0, -6.02)):
        monkeypatch.setattr(channels, "NOISE_SLOPE", (slope, slope))
        made = channels.coloured_noise(20 * SAMPLE_RATE, np.random.default_rng(0))
        assert channels.rms(made) == pytest.approx(1, abs=1e-3)
        power = np.abs(np.fft.rfft(made)) ** 2
        hertz = np.fft.rfftfreq(len(made), 1 / SAMPLE_RATE)
        octaves = [power[(hertz >= low) & (hertz < 2 * low)].mean() for low in (500, 1000, 2000)]
        falls = 10 * np.diff(np.log10(octaves))
        assert falls == pytest.approx([expected] * 2, abs=0.3)


def test_a_room_keeps_the_clip_s_level_and_decays_as_asked() -> None:
    """A click's energy has fallen by 60 dB after the reverberation time, and by 30 dB after half of it."""
    seconds = 0.5
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[0] = 1.0
    heard = channels.reverberate(click, seconds, np.random.default_rng(3)).astype(np.float64)
    assert len(heard) == len(click)
    assert channels.rms(heard) == pytest.approx(channels.rms(click), rel=1e-3)
    half = round(seconds * SAMPLE_RATE / 2)
    early, late = (channels.rms(heard[first : first + 800]) for first in (400, 400 + half))
    assert 20 * np.log10(early / late) == pytest.approx(30, abs=1.5)
    assert not heard[2 * half + 1 :].any() or np.abs(heard[2 * half + 1 :]).max() < 1e-6


def test_a_low_pass_is_three_decibels_down_at_its_frequency() -> None:
    """Butterworth: flat below, -3 dB at the cut-off, steep above."""
    for hertz, expected in ((500, 0.0), (3000, -3.01)):
        assert gain_db(tone(hertz), channels.band_limit(tone(hertz), 3000.0)) == pytest.approx(expected, abs=0.1)
    assert gain_db(tone(6000), channels.band_limit(tone(6000), 3000.0)) < -40


def test_a_telephone_passes_its_band_in_its_steps() -> None:
    """300 to 3400 Hz pass; what remains is what the μ-law's codes can say."""
    assert gain_db(tone(1000), channels.telephone(tone(1000), 8)) == pytest.approx(0, abs=0.2)
    for outside in (100, 5000):
        assert gain_db(tone(outside), channels.telephone(tone(outside), 8)) < -30
    coarse, fine = (channels.telephone(tone(1000), bits) - tone(1000) for bits in (4, 8))
    assert channels.rms(coarse) > 5 * channels.rms(fine)


def test_a_clip_at_another_speed_is_shorter_and_higher() -> None:
    """Resampling and playing at the old rate: length over the factor, pitch times it."""
    faster = channels.change_speed(tone(400), 1.25)
    assert len(faster) == round(SECONDS * SAMPLE_RATE / 1.25)
    peak = np.fft.rfftfreq(len(faster), 1 / SAMPLE_RATE)[np.abs(np.fft.rfft(faster)).argmax()]
    assert peak == pytest.approx(500, abs=1)
    assert channels.change_speed(tone(400), 1.004) is not None
    assert np.array_equal(channels.change_speed(tone(400), 1.004), tone(400))
    expected = torchaudio().functional.speed(torch.from_numpy(tone(400)), SAMPLE_RATE, 1.25)[0].numpy()
    assert faster == pytest.approx(expected, abs=1e-5)


def test_gain_stops_at_full_scale() -> None:
    """As many decibels as asked for, but no sample beyond 1."""
    assert gain_db(tone(300), channels.change_gain(tone(300), -7)) == pytest.approx(-7, abs=1e-3)
    assert np.abs(channels.change_gain(tone(300), 40)).max() == pytest.approx(1)
    loud = tone(300, 1.5)
    assert np.array_equal(channels.change_gain(loud, 6), loud)


def test_a_throat_microphone_swallows_consonants() -> None:
    """The band above 3 kHz loses 20 dB against the one below 1 kHz; level and length are kept; the seed decides."""
    speech = noise()
    heard = channels.throat_microphone(speech, 0)
    assert len(heard) == len(speech)
    assert np.abs(heard).max() <= channels.LEVEL_PEAK + 1e-6
    hertz = np.fft.rfftfreq(len(speech), 1 / SAMPLE_RATE)
    low, high = (hertz > 100) & (hertz < 1000), hertz > 3000

    def balance(waveform: Waveform) -> float:
        power = np.abs(np.fft.rfft(waveform)) ** 2
        return float(10 * np.log10(power[low].mean() / power[high].mean()))

    assert balance(heard) - balance(speech) > 20
    assert np.array_equal(heard, channels.throat_microphone(speech, 0))
    assert not np.array_equal(heard, channels.throat_microphone(speech, 1))
