"""What a multilingual model still knows of other languages: which one it hears, what was said, what that means.

The speech is espeak-ng's, where that is installed, and that of the package pytest-audioeval, where that is. Neither
measures quality: a synthetic voice is hard for a small model. They show a change against the original, which heard the
same clips.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from whisper import Whisper
from whisper.decoding import detect_language

from whisper_min import audio
from whisper_min.data.tokens import Tokens
from whisper_min.scoring import decode, wer

# Plain sentences, for espeak-ng is hard to understand: Whisper's base hears these in the right language.
ENGLISH = ("Good morning. The weather is very nice today.", "Thank you very much. Where is the station, please?")
SENTENCES = {
    "de": ("Guten Morgen. Heute ist das Wetter sehr schön.", "Vielen Dank. Wo ist bitte der Bahnhof?"),
    "es": ("Buenos días. Hoy hace muy buen tiempo.", "Muchas gracias. ¿Dónde está la estación, por favor?"),
    "fr": ("Bonjour. Aujourd'hui il fait très beau.", "Merci beaucoup. Où est la gare, s'il vous plaît ?"),
    "it": ("Buongiorno. Oggi il tempo è molto bello.", "Grazie mille. Dov'è la stazione, per favore?"),
    "pt": ("Bom dia. Hoje o tempo está muito bom.", "Muito obrigado. Onde fica a estação, por favor?"),
    "ru": ("Доброе утро. Сегодня очень хорошая погода.", "Большое спасибо. Скажите, пожалуйста, где вокзал?"),
}
# A woman's voice, slower than espeak-ng's 175 words a minute: of three that were tried, the one that base hears best.
VOICE, WORDS_PER_MINUTE = "+f3", 130
SYNTHESIS_SECONDS = 20

PACKAGE = "pytest_audioeval"
# Of its three clips a language: a greeting, and a sentence. Not the counting: whether a model writes digits or words is
# no question of what it knows.
GREETING = "Hello world."
PACKAGE_CLIPS = {
    "en": ("hello_world", "quick_brown_fox"),
    "es": ("hola_mundo", "pangrama"),
    "fr": ("bonjour_monde", "pangrama"),
    "hi": ("namaste_duniya", "pangrama"),
    "it": ("ciao_mondo", "pangrama"),
    "ja": ("konnichiwa_sekai", "pangrama"),
    "pl": ("witaj_swiecie", "pangrama"),
    "pt": ("ola_mundo", "pangrama"),
    "zh": ("nihao_shijie", "pangrama"),
}


@dataclass(frozen=True)
class Clip:
    """A few seconds of speech whose words and, mostly, whose meaning are known."""

    language: str
    text: str
    english: str | None
    source: str
    waveform: audio.Waveform


@dataclass(frozen=True)
class Language:
    """One language, or all of them: means over its clips, each clip's error rate at most 1.

    A clip that ends in a loop is lost, not lost ten times: Whisper's own translations of hard clips loop.
    """

    clips: int
    identified: float
    """Share of clips that the model takes for this language, of all it knows."""
    cer: float
    """Character error rate of the transcripts, basic normaliser, without spaces."""
    translation_wer: float | None
    """Word error rate of the translations, English normaliser; None where no clip has an English text."""


@dataclass(frozen=True)
class Languages:
    """The languages that a model was not trained on here, together and one by one."""

    sources: tuple[str, ...]
    own_identified: float | None
    """Share of the speech in the model's own language that it takes for that language."""
    own_clips: int
    together: Language
    each: dict[str, Language]


@functools.cache
def foreign_clips() -> tuple[Clip, ...]:
    """All clips that this machine has, the same in every call; none where neither source is installed."""
    return (*_spoken(), *_packaged())


def _spoken() -> list[Clip]:
    """The sentences in espeak-ng's voice; none without espeak-ng, and without the languages that it cannot speak."""
    executable = shutil.which("espeak-ng")
    clips: list[Clip] = []
    if executable is None:
        return clips
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spoken.wav"
        for language, sentences in SENTENCES.items():
            for text, english in zip(sentences, ENGLISH, strict=True):
                command = [executable, "-v", language + VOICE, "-s", str(WORDS_PER_MINUTE), "-w", str(file), "--", text]
                try:
                    subprocess.run(command, check=True, capture_output=True, timeout=SYNTHESIS_SECONDS)
                    clips.append(Clip(language, text, english, "espeak-ng", audio.read(file)))
                except (subprocess.SubprocessError, OSError, audio.AudioError):
                    continue
                finally:
                    file.unlink(missing_ok=True)
    return clips


def _packaged() -> list[Clip]:
    """The package's clips, found without importing it (it is a plugin of pytest with libraries of its own)."""
    found = importlib.util.find_spec(PACKAGE)
    clips: list[Clip] = []
    for root in (found.submodule_search_locations if found else None) or ():
        for language, names in PACKAGE_CLIPS.items():
            for name, english in zip(names, (GREETING, None), strict=True):
                path = Path(root) / "samples" / "audio" / language / f"{name}.wav"
                if path.is_file():
                    text = path.with_suffix(".txt").read_text(encoding="utf-8").strip()
                    # an English clip needs no translation: it would be scored twice
                    clips.append(Clip(language, text, english if language != "en" else None, PACKAGE, audio.read(path)))
    return clips


def identify(model: Whisper, features: Tensor, tokens: Tokens) -> list[str]:
    """The language that a multilingual model hears in each clip of features (B, A, C)."""
    _, probabilities = detect_language(model, features.float(), tokens.tokenizer)
    return [max(each, key=each.__getitem__) for each in probabilities]


def listen(model: Whisper, features: Tensor, tokens: Tokens, clips: Sequence[Clip]) -> dict[str, Language]:
    """Identify, transcribe and translate clips of features (B, A, C); `together` stands under "all"."""
    heard = identify(model, features, tokens)
    rows: dict[str, list[tuple[bool, float, float | None]]] = {}
    for language in dict.fromkeys(clip.language for clip in clips):
        mine = [index for index, clip in enumerate(clips) if clip.language == language]
        transcripts = decode.greedy(model, features[mine], Tokens(model.dims, language))
        errors = character_errors([clips[index].text for index in mine], [each.text for each in transcripts], language)
        known = [index for index in mine if clips[index].english is not None]
        lost: dict[int, float] = {}
        if known:
            english = decode.greedy(model, features[known], Tokens(model.dims, language, "translate"))
            texts = [clips[index].english or "" for index in known]
            lost = dict(zip(known, translation_errors(texts, [each.text for each in english]), strict=True))
        rows[language] = [
            (heard[index] == language, error, lost.get(index)) for index, error in zip(mine, errors, strict=True)
        ]
    means = {language: _mean(its) for language, its in rows.items()}
    return {"all": _mean([row for its in rows.values() for row in its]), **means}


def character_errors(references: Sequence[str], hypotheses: Sequence[str], language: str) -> list[float]:
    """Character error rate of each pair, at most 1."""
    _, normalize = wer.normalizer(language)
    # without spaces: Chinese and Japanese have none, and the normaliser makes some of their punctuation
    pairs = [[normalize(text).replace(" ", "") for text in texts] for texts in (references, hypotheses)]
    return [min(1.0, each.rate) for each in wer.character_errors(*pairs)]


def translation_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
    """Word error rate of each English pair, at most 1."""
    _, normalize = wer.normalizer("en")
    errors = wer.word_errors([normalize(text) for text in references], [normalize(text) for text in hypotheses])
    return [min(1.0, each.rate) for each in errors]


def _mean(rows: Sequence[tuple[bool, float, float | None]]) -> Language:
    identified, errors, lost = zip(*rows, strict=True)
    known = [each for each in lost if each is not None]
    count = len(rows)
    return Language(count, sum(identified) / count, sum(errors) / count, sum(known) / len(known) if known else None)
