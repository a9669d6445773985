"""One call that examines a model: what it hears, what it leaves out and says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import REPOSITORY, babble, needs_weights
from quick_model import checked_set, ending_whisper, one_thread  # noqa: F401
from whisper import Whisper

from whisper_min import audio
from whisper_min.data.tokens import Tokens
from whisper_min.model import weights
from whisper_min.scoring import decode, examination, health, languages
from whisper_min.scoring.evaluation import NON_SPEECH_SECONDS, Scorer, Utterance
from whisper_min.scoring.examination import TIMESTAMP_CLIPS, choose, examine
from whisper_min.scoring.languages import Clip
from whisper_min.training.steering import Stop

MakeSet = Callable[..., Path]


def scored(model: Whisper, make_set: MakeSet, cache: Path, seconds: list[float], **options: object) -> tuple:
    """(scorer, utterances) of a general set with clips of these lengths."""
    tokens = Tokens(model.dims)
    scorer = Scorer(tokens, "en", **options)
    checked = checked_set(make_set("general", ["Text."] * len(seconds), seconds), tokens, cache)
    return scorer, scorer.evaluate(model, checked).utterances


def test_an_english_model_is_examined_whole(make_set: MakeSet, tmp_path: Path) -> None:
    """Its numbers are those of its parts; nothing is left out; it is no worse than itself."""
    model = ending_whisper(3)
    scorer, speech = scored(model, make_set, tmp_path / "cache", [1.0, 2.0, 1.5])
    speech = [replace(speech[0], loop=True), replace(speech[1], ended=False), speech[2]]
    found = examine(model, scorer, speech)
    assert found.non_speech == scorer.words_on_non_speech(model)
    assert found.non_speech_seconds == NON_SPEECH_SECONDS
    assert found.loops == health.Loops(3, 1, 1)
    assert found.casing == health.casing([each.hypothesis for each in speech])
    assert found.timestamps is not None
    assert found.timestamps.clips == 3
    assert found.languages is None
    assert found.left_out == ()
    assert health.flags(found, examine(model, scorer, speech)) == []


def test_clips_are_chosen_evenly_and_fit_the_window(make_set: MakeSet, tmp_path: Path) -> None:
    """First clip of each stretch, in order; none over 30 s; all where there are few."""
    _, (one, *_) = scored(ending_whisper(1), make_set, tmp_path / "cache", [1.0])
    many = [replace(one, hypothesis=str(index)) for index in range(10 * TIMESTAMP_CLIPS)]
    assert [each.hypothesis for each in choose(many)] == [str(10 * index) for index in range(TIMESTAMP_CLIPS)]
    mixed = [replace(one, seconds=30.5), one, replace(one, seconds=30.0)]
    assert choose(mixed) == mixed[1:]
    assert choose([]) == []


def test_without_short_speech_timestamps_are_left_out_and_said(make_set: MakeSet, tmp_path: Path) -> None:
    """All clips are over 30 s."""
    model = ending_whisper(1)
    scorer, speech = scored(model, make_set, tmp_path / "cache", [1.0])
    found = examine(model, scorer, [replace(each, seconds=31.0) for each in speech])
    assert found.timestamps is None
    assert found.left_out == ("timestamps: no clip of general speech is 30 s long or shorter",)


def test_without_foreign_speech_languages_are_left_out_and_said(
    make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to install."""
    monkeypatch.setattr(languages, "foreign_clips", lambda: ())
    model = ending_whisper(1, multilingual=True)
    found = examine(model, *scored(model, make_set, tmp_path / "cache", [1.0]))
    assert found.languages is None
    (said,) = found.left_out
    assert "espeak-ng" in said
    assert "whisper-min[health]" in said


def test_a_multilingual_model_is_asked_for_other_languages_than_its_own(
    make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for the one it was trained on, whose clips it should only recognise."""
    clips = [Clip(code, "Hola.", None, "test", babble(1.0)) for code in ("en", "es", "es", "pl")]
    monkeypatch.setattr(languages, "foreign_clips", lambda: tuple(clips))
    monkeypatch.setattr(languages, "identify", lambda model, features, tokens: ["en", "es", "pl"][: len(features)])
    model = ending_whisper(1, multilingual=True)
    found = examine(model, *scored(model, make_set, tmp_path / "cache", [1.0, 1.0], batch_size=2)).languages
    assert found is not None
    assert {code: its.clips for code, its in found.each.items()} == {"es": 2, "pl": 1}
    assert found.together.clips == 3
    assert (found.own_clips, found.own_identified) == (2, 0.5)
    assert found.sources == ("test",)


def test_clips_are_heard_as_the_scorer_hears_them() -> None:
    """Peak-normalised where the set was; batches change nothing."""
    model = ending_whisper(1)
    waveforms = [0.1 * babble(1.0, seed=seed) for seed in range(3)]
    scorer = Scorer(Tokens(model.dims), "en", batch_size=2)
    plain = examination.encode(model, scorer, waveforms)
    assert plain.shape == (3, 1500, model.dims.n_audio_state)
    expected = decode.encode_windows(model, audio.log_mel(audio.pad(waveforms), 80))
    assert plain.allclose(expected, atol=1e-5)
    scaled = examination.encode(model, replace(scorer, normalize=True), waveforms)
    assert scaled.allclose(
        decode.encode_windows(model, audio.log_mel(audio.pad([*map(audio.scale_peak, waveforms)]), 80)), atol=1e-5
    )
    assert not scaled.allclose(plain, atol=1e-3)


def test_a_stop_comes_out(make_set: MakeSet, tmp_path: Path) -> None:
    """What the tick raises ends the examination."""
    model = ending_whisper(1)
    scorer, speech = scored(model, make_set, tmp_path / "cache", [1.0])

    def tick(clips: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        examine(model, replace(scorer, tick=tick), speech)


@pytest.mark.slow
def test_tiny_en_is_healthy_on_the_packages_clips(tmp_path: Path) -> None:
    """What it is known to do: cased sentences, valid timestamps, no loop; and lower-case labels would be seen."""
    needs_weights()
    model, _ = weights.load("tiny.en")
    model.eval()
    tokens = Tokens(model.dims)
    checked = checked_set(REPOSITORY / "whisper_min" / "demo" / "general.jsonl", tokens, tmp_path)
    some = replace(
        checked,
        speech=replace(checked.speech, examples=checked.speech.examples[:6]),
        facts=checked.facts[:6],
    )
    scorer = Scorer(tokens, "en")
    speech: list[Utterance] = scorer.evaluate(model, some).utterances
    found = examine(model, scorer, speech)
    assert found.loops == health.Loops(6, 0, 0)
    assert found.casing.starts_with_capital == found.casing.ends_with_mark == 1.0
    assert found.timestamps is not None
    assert found.timestamps.valid >= 5 / 6
    lowered = health.casing([each.hypothesis.lower().rstrip(".?!") for each in speech])
    said = health.flags(found, replace(found, casing=lowered))
    assert [each.split()[0] for each in said[:3]] == ["starts", "ends", "writes"]
