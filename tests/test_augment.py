"""Augmentation: drawn by seed, clip and visit alone, at the shares asked for, and never where it is not asked for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from whisper.audio import N_SAMPLES, SAMPLE_RATE
from workbench import TOKENS

from whisper_min import audio, config
from whisper_min.config import Config
from whisper_min.data import augment
from whisper_min.data.augment import KINDS, Augmentation, Drawn, Effect, parse
from whisper_min.data.batches import Schedule, collate
from whisper_min.data.examples import Example

EVERYTHING = tuple(f"{name}@1" for name in KINDS)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Three clips of noise that swells, of different lengths."""
    folder, rng, made = tmp_path_factory.mktemp("clips"), np.random.default_rng(0), []
    for index, seconds in enumerate((1.5, 2.0, 3.3)):
        samples = round(seconds * SAMPLE_RATE)
        waveform = rng.standard_normal(samples) * np.linspace(0.01, 0.2, samples)
        soundfile.write(folder / f"{index}.wav", waveform, SAMPLE_RATE, subtype="FLOAT")
        made.append(Example(f"{index}", folder / f"{index}.wav", f"Clip {index}.", f"line {index}"))
    return made


def schedule(clips: list[Example], batch_size: int = 3, audio_context: str = "full") -> Schedule:
    seconds = [audio.info(each.audio_filepath).seconds for each in clips]
    return Schedule(clips, [each.text for each in clips], seconds, audio_context, batch_size, TOKENS, 0)


def mels(
    clips: list[Example], cfg: Config, epoch: int = 0, batch_size: int = 3, context: str = "full"
) -> dict[str, torch.Tensor]:
    """Log-mel by clip, of one epoch."""
    found = {}
    for windows in schedule(clips, batch_size, context).epoch(epoch):
        batch = collate(windows, TOKENS, 80, cfg)
        found |= {
            window.name: row for window, row in zip(batch.windows, batch.log_mel(torch.device("cpu")), strict=True)
        }
    return found


@pytest.mark.parametrize(
    ("word", "effect"),
    [
        ("noise", Effect("noise", 5, 25, 0.5)),
        ("noise=10", Effect("noise", 10, 10, 0.5)),
        ("noise=-5..20@0.25", Effect("noise", -5, 20, 0.25)),
        ("reverb@.3", Effect("reverb", 0.1, 0.6, 0.3)),
        ("speed=0.95..1.05@1", Effect("speed", 0.95, 1.05, 1)),
    ],
)
def test_words_are_read(word: str, effect: Effect) -> None:
    """A name, a strength or a range of them, a share of the clips."""
    assert parse(word) == effect


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("nose", "no augmentation 'nose'.*noise"),
        ("noise=", "write NAME"),
        ("noise=20..5", "lower one first"),
        ("speed=0", "between 0.5 and 2"),
        ("noise@0", "share 0 must be above 0"),
        ("noise@2", "at most 1"),
        ("gain=1e9", "write NAME"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_can(word: str, said: str) -> None:
    """Each message tells what would do."""
    with pytest.raises(ValueError, match=said):
        parse(word)


def test_all_faults_of_the_options_are_said_at_once(tmp_path: Path) -> None:
    """Unknown names, twice the same, a replay that is not there, a folder without noise."""
    cfg = Config(augment=("nose", "gain", "gain=3"), replay_augment=("reverb",), noise=tmp_path)
    faults = "\n".join(augment.check(cfg))
    for said in (
        "nose",
        "gain is there 2 times",
        "--replay_augment: acts on",
        "--noise: is read by",
        "holds no recordings",
    ):
        assert said in faults
    assert augment.check(Config(augment=EVERYTHING)) == []
    assert "no folder" in augment.check(Config(augment=("noise",), noise=tmp_path / "none"))[0]


def test_draws_are_of_the_clip_the_visit_and_the_seed_alone() -> None:
    """The same again for the same; another clip, visit or seed is another draw; an added effect moves no other."""
    many = Augmentation(EVERYTHING, 0)
    assert many.draw("a", 0) == many.draw("a", 0)
    others = [many.draw("b", 0), many.draw("a", 1), Augmentation(EVERYTHING, 1).draw("a", 0)]
    assert all(other != many.draw("a", 0) for other in others)
    assert set(Augmentation(("gain@1", "noise@1"), 0).draw("a", 0)) < set(many.draw("a", 0))
    assert [each.name for each in many.draw("a", 0)] == list(KINDS)
    assert str(Drawn("noise", 12.345, 0)) == "noise 12.3"


def test_shares_and_strengths_are_those_asked_for() -> None:
    """Over 4,000 clips a share of 0.3 is met to two standard errors and more; strengths fill their range."""
    asked = Augmentation(("noise=5..20@0.3",), 0)
    drawn = [each for clip in range(4000) for each in asked.draw(str(clip), 0)]
    assert len(drawn) / 4000 == pytest.approx(0.3, abs=0.02)
    strengths = np.array([each.strength for each in drawn])
    assert 5 <= strengths.min() < 5.5
    assert 19.5 < strengths.max() <= 20
    assert strengths.mean() == pytest.approx(12.5, abs=0.5)


def test_without_the_option_a_batch_is_what_it_was(clips: list[Example]) -> None:
    """No augmentation, one of no strength, or the replay's change no bit of the domain's clips."""
    plain = mels(clips, Config())
    for cfg in (Config(replay_augment=("noise@1",)), Config(augment=("speed=1@1", "gain=0@1"))):
        assert all(torch.equal(row, plain[name]) for name, row in mels(clips, cfg).items())


def test_a_clip_s_augmentation_does_not_depend_on_its_batch_and_changes_by_epoch(clips: list[Example]) -> None:
    """Alone or with others, the same; in the next epoch another."""
    cfg = Config(augment=EVERYTHING)
    together, alone, later = mels(clips, cfg), mels(clips, cfg, batch_size=1), mels(clips, cfg, epoch=1)
    for name in together:
        assert torch.equal(together[name], alone[name])
        assert not torch.equal(together[name], later[name])
        assert torch.isfinite(together[name]).all()


def test_torch_s_generator_is_left_alone(clips: list[Example]) -> None:
    """A run's resume restores it; threads that read ahead must not move it."""
    before = torch.get_rng_state()
    mels(clips, Config(augment=EVERYTHING))
    assert torch.equal(before, torch.get_rng_state())


def test_a_slower_clip_stays_within_its_window(tmp_path: Path) -> None:
    """Slowing down stops where the window ends, and leaves the margin of a trimmed context."""
    slow = Augmentation(("speed=0.5@1",), 0)
    for seconds, room in ((4.0, audio.room_samples(5 * SAMPLE_RATE)), (29.0, audio.room_samples(N_SAMPLES))):
        waveform = np.ones(round(seconds * SAMPLE_RATE), np.float32)
        slower = slow.on_waveform(waveform, slow.draw("a", 0), room)
        assert len(waveform) < len(slower) <= room
    assert audio.context_samples(audio.room_samples(5 * SAMPLE_RATE)) == 5 * SAMPLE_RATE


def test_silence_stays_silent() -> None:
    """There is no ratio to silence."""
    silence = np.zeros(SAMPLE_RATE, np.float32)
    many = Augmentation(EVERYTHING, 0)
    assert not many.on_waveform(silence, many.draw("a", 0), N_SAMPLES).any()


def test_noise_comes_from_the_folder_s_recordings(tmp_path: Path) -> None:
    """A part of a recording, repeated where it is short, at the ratio asked for; a silent one is an error by name."""
    hum = 0.3 * np.sin(2 * np.pi * 50 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    soundfile.write(tmp_path / "hum.wav", hum, SAMPLE_RATE)
    speech = np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE).astype(np.float32)
    asked = Augmentation(("noise=10@1",), 0, tmp_path)
    added = asked.on_waveform(speech, asked.draw("a", 0), N_SAMPLES) - speech
    spectrum = np.abs(np.fft.rfft(added))
    assert np.fft.rfftfreq(len(added), 1 / SAMPLE_RATE)[spectrum.argmax()] == pytest.approx(50, abs=1)
    assert 10 * np.log10(np.mean(speech**2) / np.mean(added**2)) == pytest.approx(10, abs=0.01)
    silent = tmp_path / "silent"
    silent.mkdir()
    soundfile.write(silent / "0.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    soundfile.write(silent / "1.wav", np.zeros(40 * SAMPLE_RATE), SAMPLE_RATE)
    cfg = Config(augment=("noise",), noise=silent)
    assert augment.check(cfg) == [f"--noise {silent}: all its recordings are silent; give a folder of noise"]
    nothing = Augmentation(("noise@1",), 0, silent)
    with pytest.raises(audio.AudioError, match=re.escape(f"{silent}/") + r"[01]\.wav: is silent"):
        nothing.on_waveform(speech, nothing.draw("a", 0), N_SAMPLES)
    late = np.zeros(40 * SAMPLE_RATE)
    late[-1] = 0.1
    soundfile.write(silent / "1.wav", late, SAMPLE_RATE)
    assert augment.check(cfg) == [], "one sound is enough"


def test_silence_in_a_noise_recording_is_passed_over(tmp_path: Path) -> None:
    noise = np.zeros(20 * SAMPLE_RATE, np.float32)
    noise[: 2 * SAMPLE_RATE] = np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE)
    soundfile.write(tmp_path / "0.wav", noise, SAMPLE_RATE, subtype="FLOAT")
    asked, speech = Augmentation(("noise=10@1",), 0, tmp_path), np.full(SAMPLE_RATE, 0.1, np.float32)
    for visit in range(5):
        drawn = asked.draw("a", visit)
        heard = asked.on_waveform(speech, drawn, N_SAMPLES)
        assert (heard != speech).any()
        np.testing.assert_array_equal(heard, asked.on_waveform(speech, drawn, N_SAMPLES))


def test_bad_noise_recordings_are_told_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "._hidden.wav").write_bytes(b"x")
    assert "holds no recordings" in augment.check(Config(augment=("noise",), noise=tmp_path))[0]
    augment.recordings.cache_clear()
    (tmp_path / "text.wav").write_text("this is no audio\n" * 20)
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), SAMPLE_RATE)
    none, text = augment.check(Config(augment=("noise",), noise=tmp_path))
    assert none == f"--noise {tmp_path / 'none.wav'}: holds no samples; remove it"
    assert text.startswith(f"--noise {tmp_path / 'text.wav'}: ") and text.endswith("; convert it, or remove it")


def test_noise_that_is_not_finite_spoils_nothing(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "nan.wav", np.full(SAMPLE_RATE, np.nan, np.float32), SAMPLE_RATE, subtype="FLOAT")
    asked = Augmentation(("noise@1",), 0, tmp_path)
    with pytest.raises(audio.AudioError, match="not finite"):
        asked.on_waveform(np.ones(100, np.float32), asked.draw("a", 0), N_SAMPLES)


def test_masks_are_no_larger_than_the_policy_s(clips: list[Example]) -> None:
    """SpecAugment's LD: two masks an axis, at most 27 bins and a fifth of the clip's time, filled with its mean."""
    plain = mels(clips, Config())
    for epoch in range(8):
        for name, row in mels(clips, Config(augment=("specaugment@1",)), epoch=epoch).items():
            changed = (row != plain[name]).any(dim=1), (row != plain[name]).any(dim=0)
            frames = int(3000 - (plain[name] == plain[name].min()).all(dim=0).sum())
            whole_bins = (row[:, :frames] != plain[name][:, :frames]).float().mean(dim=1) > 0.95
            whole_frames = (row != plain[name]).float().mean(dim=0) > 0.95
            assert whole_bins.sum() <= 2 * 27
            assert whole_frames.sum() <= 0.2 * frames + 2
            assert changed[1][frames + 2 :].sum() == 0
            values = row[row != plain[name]]
            assert len(values) == 0 or values.std() < 1e-6


def test_replay_is_augmented_unless_told_otherwise() -> None:
    """`--replay` brings what kept most; `none` leaves it as it is, also after a resume; what is frozen needs none."""
    replay = {"replay": ("general@0.25",), "run": "x"}
    resolved = config.resolve(Config(**replay))
    assert resolved.replay_augment == config.REPLAY_AUGMENT
    assert augment.check(resolved) == []
    assert augment.of_role(resolved, "replay").effects and not augment.of_role(resolved, "domain").effects
    plain = config.resolve(config.resolve(Config(replay_augment=("none",), **replay)))
    assert augment.check(plain) == [] and not augment.of_role(plain, "replay").effects
    assert config.resolve(Config(freeze_encoder=True, **replay)).replay_augment == ()
    assert config.resolve(Config(run="x")).replay_augment == ()
    assert config.resolve(Config(replay=("general@0",), run="x")).replay_augment == ()
