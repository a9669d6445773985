"""What makes an entry unusable, or a whole set, each with its fix."""

from __future__ import annotations

from collections.abc import Iterator

from whisper.audio import CHUNK_LENGTH

from whisper_min import audio, text
from whisper_min.config import Config
from whisper_min.data.checked import TRAINED, CheckedSet
from whisper_min.data.examples import Example, SpeechSet
from whisper_min.data.normalizer import normalizer
from whisper_min.data.recordings import DURATION_TOLERANCE, Facts
from whisper_min.data.tokens import Label, Tokens, language_code, written_language


def of_recording(example: Example, facts: Facts) -> Iterator[str]:
    """What makes a recording unusable for anything."""
    if facts.error is not None:
        yield f"{example.audio_name}: {facts.error}"
    elif facts.seconds <= 0:
        yield f"{example.audio_name}: {audio.NO_SAMPLES}"
    if not facts.finite:
        yield f"{example.audio_name}: {audio.NOT_FINITE}"


def of_entry(example: Example, facts: Facts, role: str, cfg: Config) -> Iterator[str]:
    """What makes one entry unusable whatever its text is, each with its fix."""
    yield from of_recording(example, facts)
    if facts.error is not None:
        return
    if role in TRAINED and facts.seconds > CHUNK_LENGTH:
        yield (
            f"{example.audio_name}: {facts.seconds:.1f} s, but Whisper hears {CHUNK_LENGTH} s; split it into "
            "segments (offset and duration in the manifest)"
        )
    last = example.segments[-1] if example.segments else None
    if last and (last.end > facts.seconds + DURATION_TOLERANCE or last.start >= facts.seconds):
        yield (
            f"{example.audio_name}: the last segment goes from {last.start:.2f} to {last.end:.2f} s, the clip ends at "
            f"{facts.seconds:.2f} s; correct the segments' times"
        )
    if example.language and language_code(example.language) not in (None, language_code(cfg.language)):
        yield (
            f"{example.audio_name}: is in {example.language!r}, but --language is {cfg.language!r}; "
            "train one language at a time"
        )
    if example.offset is None and example.duration and abs(example.duration - facts.seconds) > DURATION_TOLERANCE:
        yield (
            f"{example.audio_name}: is {facts.seconds:.2f} s long, the manifest says {example.duration:.2f} s; "
            "correct the duration, or add an offset (0 for the start) if a part of the file is meant"
        )


def of_text(example: Example, speech: SpeechSet, style: str, tokens: Tokens) -> Iterator[str]:
    """What is wrong with an entry's text, each with its fix."""
    if not example.text and (speech.has_text or speech.held_out):
        yield f"{example.audio_name}: has an empty text; write what is said, or remove the entry"
    if text.NON_SPEECH in example.text and example.text != text.NON_SPEECH:
        yield (
            f"{example.audio_name}: has {text.NON_SPEECH} beside words; it is for clips in which nobody speaks at all: "
            "remove it"
        )
    # much like what the original's transcript will make of it
    label = text.restyle(example.text, "sentence" if style == "original" else style)
    for segments, of in (((), "its text has"), (example.segments, "with its timestamps, its text has")):
        if not tokens.fits(label, segments):
            yield (
                f"{example.audio_name}: {of} {len(tokens.sequence(Label(label, segments))[0]) - 1} tokens, but the "
                f"decoder reads {tokens.text_context}; split the clip"
            )
            break


def without_words(checked: CheckedSet, cfg: Config) -> tuple[list[str], list[str]]:
    """(faults, notes) about references of which the normaliser leaves nothing: a set of such has no word error rate."""
    name, normalize = normalizer(written_language(cfg.language, cfg.task))
    examples = [example for example in checked.speech.examples if example.text]
    empty = [example for example in examples if not normalize(example.text).split()]
    if not empty:
        return [], []
    if len(empty) < len(examples):
        return [], [
            f"{checked.role} {checked.speech.name}: {len(empty)} of {len(examples)} references hold no word after "
            f"{name}, such as {empty[0].text!r} of {empty[0].id}: whatever is heard there counts as insertions"
        ]
    fix = "leave the set out" if checked.role == "eval_data" else "remove the texts, to score drift"
    return [
        f"{empty[0].where}: {empty[0].text!r} holds no word after {name}, nor does another reference of "
        f"{checked.speech.name}: the set has no word error rate; write what is said, or {fix}"
    ], []
