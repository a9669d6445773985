"""What a word error rate does not show, and what of it got worse: a model that passes WER can fail here.

`examination.examine` fills a `Health`; `flags` compares that of a tuned model with that of the original. Everything is
judged against the original on the same clips, nothing by an absolute bar: tiny.en itself writes "you" on silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from whisper.tokenizer import LANGUAGES
from whisper.utils import compression_ratio

from whisper_min.scoring.languages import Language, Languages
from whisper_min.scoring.timestamps import Timestamps

# whisper/transcribe.py: text that compresses better than this repeats itself.
LOOP_COMPRESSION_RATIO = 2.4

# Nothing that is counted by clips is flagged below so many: one clip can turn on a tie between two tokens.
LEAST_CLIPS = 2
# Words per minute by which a kind of sound may gain: half a minute of each is heard, so that one word is 2.0; and a
# quarter of what the original writes, for base writes 70 on white noise, and other models other 70s.
NON_SPEECH_MARGIN, NON_SPEECH_RELATIVE = 2.0, 0.25
# Share of the transcripts that may loop or find no end beyond the original's: each is an utterance lost.
LOOP_MARGIN = 0.005
# Share of the clips whose timestamps may go wrong beyond the original's.
TIMESTAMP_MARGIN = 0.1
# Share of the transcripts that may lose their capital or their end, or be in one case alone. Labels in capitals or
# without punctuation move these by up to 100 points, a training in the original's own style by a few.
CASING_MARGIN = 0.1
# Share of the words that may win or lose a capital or a mark: about one word in eight has one in English prose.
WORD_MARGIN = 0.04
# Share of the clips that may be taken for another language.
IDENTIFIED_MARGIN = 0.1
# Error rates in other languages, over all of them and in one, which has two to four clips only.
LANGUAGES_MARGIN, LANGUAGE_MARGIN = 0.1, 0.25

# Marks that end a sentence; quotation marks and brackets may follow. A comma, colon, semicolon or dash is no end.
_SENTENCE_ENDS = tuple(".?!…。？！।")
_MARKS = (*_SENTENCE_ENDS, *",;:，、；：")
_CLOSING = "\"'”’»)]」』"


def is_loop(text: str) -> bool:
    """Whether a transcript repeats itself, by Whisper's own threshold."""
    return bool(text) and compression_ratio(text) > LOOP_COMPRESSION_RATIO


@dataclass(frozen=True)
class Loops:
    """Transcripts of general speech that went astray."""

    utterances: int
    loops: int
    no_end: int
    """Cut at the limit of tokens."""


@dataclass(frozen=True)
class Casing:
    """How transcripts are written: shares of those with a letter that has case, then of their words."""

    utterances: int
    starts_with_capital: float
    ends_with_mark: float
    all_upper: float
    all_lower: float
    words: int
    capitalised_words: float
    words_before_mark: float


def casing(texts: Sequence[str]) -> Casing:
    """Casing and punctuation of transcripts; those without cased letters are left out, all 0 where none is left."""
    cased = [text for text in texts if text.lower() != text.upper()]
    words = [word for text in cased for word in text.split()]

    def share(found: Iterator[bool], of: int) -> float:
        return sum(found) / of if of else 0.0

    count = len(cased)
    return Casing(
        utterances=count,
        starts_with_capital=share((_first_letter(text).isupper() for text in cased), count),
        ends_with_mark=share((text.rstrip().rstrip(_CLOSING).endswith(_SENTENCE_ENDS) for text in cased), count),
        all_upper=share((text.isupper() for text in cased), count),
        all_lower=share((text.islower() for text in cased), count),
        words=len(words),
        capitalised_words=share((_first_letter(word).isupper() for word in words), len(words)),
        words_before_mark=share((word.rstrip(_CLOSING).endswith(_MARKS) for word in words), len(words)),
    )


def _first_letter(text: str) -> str:
    return next((character for character in text if character.isalpha()), "")


@dataclass(frozen=True)
class Health:
    """One model, examined."""

    non_speech_seconds: float
    non_speech: dict[str, float]
    """Words per minute by kind of sound, and under "all" the mean of the kinds."""
    loops: Loops
    casing: Casing
    timestamps: Timestamps | None
    languages: Languages | None
    """Of multilingual models only."""
    left_out: tuple[str, ...] = ()
    """What was not examined, and why; a sentence each."""

    def to_json(self) -> dict[str, Any]:
        """The keys that it adds to a system in `evaluate.py --json`."""
        kinds = {kind: value for kind, value in self.non_speech.items() if kind != "all"}
        return {
            "non_speech": {
                "seconds": self.non_speech_seconds,
                "words_per_minute": self.non_speech["all"],
                "by_kind": kinds,
            },
            "loops": asdict(self.loops),
            "casing": asdict(self.casing),
            "timestamps": _without_times(self.timestamps) if self.timestamps else None,
            "languages": asdict(self.languages) if self.languages else None,
            "left_out": list(self.left_out),
        }


def _without_times(timestamps: Timestamps) -> dict[str, Any]:
    """The shares; times are compared between models (`timestamps.drift`)."""
    return {key: value for key, value in asdict(timestamps).items() if key != "times"}


def flags(original: Health, tuned: Health) -> list[str]:
    """What got worse, a sentence each; none for the original itself.

    Raises
    ------
    ValueError
        if the two were examined on different clips
    """
    if _clips(original) != _clips(tuned):
        raise ValueError("the two models were examined on different clips; examine both on the same")
    found = [*_non_speech_flags(original.non_speech, tuned.non_speech)]
    found += _loop_flags(original.loops, tuned.loops)
    found += _timestamp_flags(original.timestamps, tuned.timestamps)
    found += _casing_flags(original.casing, tuned.casing)
    if original.languages and tuned.languages:
        found += _language_flags(original.languages, tuned.languages)
    return found


def _clips(health: Health) -> tuple[object, ...]:
    """How much was heard of each kind; equal where two models were examined alike."""
    languages = health.languages
    return (
        sorted(health.non_speech),
        health.loops.utterances,
        health.timestamps.clips if health.timestamps else 0,
        {name: its.clips for name, its in languages.each.items()} if languages else None,
    )


def _is_more(before: float, after: float, clips: int, margin: float) -> bool:
    """Whether a share of clips grew by more than the margin, and by enough clips to be no accident."""
    return after - before > margin and round((after - before) * clips) >= LEAST_CLIPS


def _non_speech_flags(before: dict[str, float], after: dict[str, float]) -> Iterator[str]:
    for kind, words in after.items():
        old = before[kind]
        # "all" is the mean of the others
        if kind != "all" and words - old > max(NON_SPEECH_MARGIN, NON_SPEECH_RELATIVE * old):
            yield f"writes {words:.1f} words/min on {kind}, the original {old:.1f}"


def _loop_flags(before: Loops, after: Loops) -> Iterator[str]:
    count = after.utterances
    for verb, old, new in [
        ("repeats itself", before.loops, after.loops),
        ("finds no end", before.no_end, after.no_end),
    ]:
        if _is_more(old / max(count, 1), new / max(count, 1), count, LOOP_MARGIN):
            yield f"{verb} in {new} of {count} clips of speech, the original in {old}"


def _timestamp_flags(before: Timestamps | None, after: Timestamps | None) -> Iterator[str]:
    if before is None or after is None:
        return
    if _is_more(after.valid, before.valid, after.clips, TIMESTAMP_MARGIN):
        faults = [
            f"{name} in {round(share * after.clips)}"
            for name, share in [
                ("written", after.written),
                ("paired", after.paired),
                ("within the clip", after.in_range),
                ("in order", after.monotone),
            ]
        ]
        yield (
            f"writes valid timestamps in {round(after.valid * after.clips)} of {after.clips} clips when asked, "
            f"the original in {round(before.valid * after.clips)} ({', '.join(faults)})"
        )


def _casing_flags(before: Casing, after: Casing) -> Iterator[str]:
    clips = min(before.utterances, after.utterances)
    # only what makes a transcript worse to read: the original itself begins some in small letters
    for text, old, new, sign in [
        ("starts {} of its transcripts with a capital", before.starts_with_capital, after.starts_with_capital, -1),
        ("ends {} of its transcripts with a full stop, ? or !", before.ends_with_mark, after.ends_with_mark, -1),
        ("writes {} of its transcripts in capitals alone", before.all_upper, after.all_upper, 1),
        ("writes {} of its transcripts in small letters alone", before.all_lower, after.all_lower, 1),
    ]:
        if _is_more(sign * old, sign * new, clips, CASING_MARGIN):
            yield f"{text.format(_percent(new))}, the original {_percent(old)}"
    words = min(before.words, after.words)
    # here more is wrong, too: Every Word With A Capital, a comma after each
    for text, old, new in [
        ("capitalises {} of its words", before.capitalised_words, after.capitalised_words),
        ("puts a mark after {} of its words", before.words_before_mark, after.words_before_mark),
    ]:
        if _is_more(min(old, new), max(old, new), words, WORD_MARGIN):
            yield f"{text.format(_percent(new))}, the original {_percent(old)}"


def _language_flags(before: Languages, after: Languages) -> Iterator[str]:
    if before.own_identified is not None and after.own_identified is not None:
        old, new, clips = before.own_identified, after.own_identified, after.own_clips
        if _is_more(new, old, clips, IDENTIFIED_MARGIN):
            yield (
                f"knows the language of {round(new * clips)} of {clips} clips in its own, the original of "
                f"{round(old * clips)}"
            )
    first, last = before.together, after.together
    if _is_more(last.identified, first.identified, last.clips, IDENTIFIED_MARGIN):
        yield (
            f"knows the language of {round(last.identified * last.clips)} of {last.clips} foreign clips, the original "
            f"of {round(first.identified * last.clips)}"
        )
    yield from _error_flags("other languages", first, last, LANGUAGES_MARGIN)
    for code, its in after.each.items():
        yield from _error_flags(LANGUAGES[code].title(), before.each[code], its, LANGUAGE_MARGIN)


def _error_flags(name: str, before: Language, after: Language, margin: float) -> Iterator[str]:
    if after.cer - before.cer > margin:
        yield f"gets {_percent(after.cer)} of the characters of {name} wrong, the original {_percent(before.cer)}"
    old, new = before.translation_wer, after.translation_wer
    if old is not None and new is not None and new - old > margin:
        yield f"translates {name} with {_percent(new)} of the words wrong, the original {_percent(old)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
