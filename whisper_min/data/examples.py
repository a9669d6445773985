"""One utterance and one set of them, as every source delivers them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from whisper.audio import SAMPLE_RATE

from whisper_min import audio

# Whisper's timestamps count in steps of one audio position.
TIMESTAMP_SECONDS = audio.SAMPLES_PER_POSITION / SAMPLE_RATE
# What a set's columns are usually called; of several in a manifest's line the first that holds something counts.
AUDIO_COLUMNS = ("audio_filepath", "audio", "path", "file")
TEXT_COLUMNS = ("text", "sentence", "transcript")
# Read from a manifest beside audio and text; other columns are left alone.
KNOWN_COLUMNS = ("duration", "offset", "speaker", "language", "id", "segments", "prompt")
AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au"),  # through soundfile
    *(".m4a", ".aac", ".mp4", ".webm", ".mkv", ".wma", ".amr", ".g722", ".3gp"),  # through ffmpeg
)


@dataclass(frozen=True)
class Columns:
    """The columns that `--audio_column` and `--text_column` name."""

    audio: str | None = None
    text: str | None = None
    required: bool = True
    """Whether a set must have them, as the domain's must; others are read by the usual names where they do not."""


@dataclass(frozen=True)
class Segment:
    """What is said between two times of a clip, in seconds from the clip's start."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Example:
    """An utterance: where its audio is, what was said, and where the entry stands (for error messages)."""

    id: str
    audio_filepath: Path
    text: str
    where: str
    """File and line of the entry, or the file itself."""
    offset: float | None = None
    """Seconds into the file where the utterance begins; None where the entry means the whole file."""
    duration: float | None = None
    """Seconds that the entry claims. Beside an offset it bounds what is read; alone it only describes the file."""
    speaker: str | None = None
    language: str | None = None
    segments: tuple[Segment, ...] = ()
    """When each part of the text is said, in order and without overlap; together they are the whole text."""
    prompt: str | None = None
    """What was said before the clip, or how its words are written: Whisper's decoder may read it first."""

    def read(self, normalize: bool = False) -> audio.Waveform:
        """The utterance's 16 kHz waveform (samples,); AudioError where the file cannot be decoded."""
        duration = self.duration if self.offset is not None else None
        waveform = audio.read(self.audio_filepath, self.offset or 0.0, duration)
        return audio.scale_peak(waveform) if normalize else waveform


@dataclass(frozen=True)
class SpeechSet:
    """A named set of utterances."""

    name: str
    source: str
    examples: list[Example]
    skipped: list[str] = field(default_factory=list)
    """Faults of entries that were left out under --skip_bad."""

    notes: tuple[str, ...] = ()
    """What its source has to say about it in the preflight."""
    held_out: bool = False
    """Whether it was split off --data for evaluation."""
    share: float = 0.0
    """Of every step's clips, where it is replayed; 0 lends its audio to --ewc alone."""

    @property
    def has_text(self) -> bool:
        """A set whose every text is empty is a set without transcripts."""
        return any(example.text for example in self.examples)
