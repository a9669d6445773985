"""One utterance and one set of them, as every source delivers them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
class Member:
    """A file inside a tar, and where its bytes lie there."""

    name: str
    start: int
    """Bytes from the tar's start."""
    size: int
    """Bytes."""
    fetched: object = field(default=None, compare=False, repr=False)
    """What keeps the local copy of a remote tar on the disk for as long as a member of it is known."""


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
    member: Member | None = None
    """Where the audio lies inside `audio_filepath`, if that is a tar."""

    @property
    def audio_name(self) -> str:
        """The audio as messages name it."""
        return str(self.audio_filepath / self.member.name if self.member else self.audio_filepath)

    @contextmanager
    def file(self) -> Iterator[Path]:
        """The audio as a file of its own: for a tar's member a copy, there as long as the context lasts.

        AudioError where the tar cannot be read any more.
        """
        if self.member is None:
            yield self.audio_filepath
            return
        with tempfile.TemporaryDirectory(prefix="whisper-min-") as folder:
            copy = Path(folder, "audio").with_suffix(Path(self.member.name).suffix)
            self.copy_audio(copy)
            yield copy

    def copy_audio(self, to: Path) -> None:
        """Write the whole file that the audio is in, byte for byte; AudioError where a tar cannot be read any more."""
        if self.member is None:
            shutil.copyfile(self.audio_filepath, to)
            return
        try:
            with open(self.audio_filepath, "rb") as tar:
                tar.seek(self.member.start)
                content = tar.read(self.member.size)
        except OSError as error:
            raise audio.AudioError(f"{self.audio_filepath} cannot be read ({error.strerror})") from None
        if len(content) < self.member.size:
            raise audio.AudioError(f"{self.audio_filepath} ends inside it; copy or download the shard again")
        to.write_bytes(content)

    def read(self, normalize: bool = False) -> audio.Waveform:
        """The utterance's 16 kHz waveform (samples,); AudioError where the file cannot be decoded."""
        duration = self.duration if self.offset is not None else None
        with self.file() as path:
            waveform = audio.read(path, self.offset or 0.0, duration)
        return audio.scale_peak(waveform) if normalize else waveform


@dataclass(frozen=True)
class SpeechSet:
    """A named set of utterances."""

    name: str
    source: str
    examples: list[Example]
    skipped: list[str] = field(default_factory=list)
    """Faults of entries that were left out under --skip_bad."""
    faults: tuple[str, ...] = ()
    """Faults met in reading, for the preflight to refuse, or to list under --skip_bad."""
    shards: tuple[str, ...] = ()
    """Tars that are streamed in training; `examples` is then a sample of what is in them."""
    columns: Columns = Columns()
    """Of the `.json` in these."""

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
