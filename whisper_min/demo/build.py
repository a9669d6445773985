"""
Build the speech shipped in this folder from Debian's Asterisk prompts.

Three sets (`train`, `dev`, `test`) are a domain: the prompts as a throat microphone would hear them. The fourth,
`general`, is clean: what a fine-tuned model should not forget. No prompt, and no near-duplicate of one, is in two sets.

    apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-g722 ffmpeg
    python -m whisper_min.demo.build

Every choice is seeded, and ffmpeg is asked for bit-exact files: with the same versions of the packages and of
ffmpeg the result is the same, byte for byte. `LICENSE.md` says whose the recordings are.
"""

import argparse
import gzip
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError, run

import numpy as np
import soundfile

from whisper_min.data.channels import throat_microphone

SAMPLE_RATE = 16000
BIT_RATE = "24k"  # of the Opus files
MIN_SECONDS, MAX_SECONDS = 0.8, 30.0  # what is kept at all; Whisper's window is 30 s long

MIN_LETTERS = 5  # of a word that is a clip of its own: "for" might as well be "four"

# what an evaluation set is drawn from: long enough to be worth scoring, short enough to be scored quickly
EVAL_SECONDS = (1.8, 9.0)
EVAL_MIN_WORDS = 4
EVAL_CLIPS = {"test": 38, "dev": 38, "general": 34}
NEAR_DUPLICATE = 0.25  # prompts that differ in at most this share of their words stay together in one set
CONTAINED_WORDS = 4  # and so do prompts of at least so many words with the longer ones that contain them

# single letters, digits and words of the radio alphabet teach nothing here; "spy-" are names of protocols
SKIPPED = re.compile(
    r"^(letters|phonetic|silence|spy-)|^digits/(?!day-|mon-|to|yesterday|oclock|dollars|million|billion|hundred|thousand)"
)
STAGE_DIRECTION = re.compile(r"[\[<(]")  # "[ascending tones]", "(simple tone sound plays)"

# where the published text is misspelt, is a note to the reader, or is not what was said
CORRECTIONS = {
    "agent-loggedoff": "Agent logged off.",
    "call-fwd-no-ans": "Call forward on no answer.",
    "call-fwd-on-busy": "Call forward on busy.",
    "call-fwd-unconditional": "Call forward unconditional.",
    "conf-adminmenu-menu8": "Press 1 to list users currently in the conference, 2 to kick all non-administrator users, "
    "3 to mute or unmute all non-administrator users, 4 to record this conference, or 8 to exit this menu and return "
    "to the conference.",
    "conf-errormenu": "Invalid choice.",
    "confbridge-mute-extended": "To mute or unmute yourself. When you are muted, you cannot send audio to other "
    "participants. However, you will still hear audio from other unmuted participants.",
    "de-activated": "Deactivated.",
    "dictate/both_help": "Press star to toggle pause. Press pound to enter a new dictation file name.",
    "dictate/enter_filename": "Enter a numeric dictation file name followed by pound, or just pound to exit.",
    "demo-moreinfo": "Asterisk is an open source, full-featured PBX and IVR platform that runs on the Linux operating "
    "system. For more information, visit www.asterisk.org.",
    "dir-intro": "Welcome to the directory. Please enter the first three letters of your party's last name using your "
    "touchtone keypad. Use the 7 key for Q and the 9 key for Z.",
    "dir-intro-fn": "Welcome to the directory. Please enter the first three letters of your party's first name using "
    "your touchtone keypad. Use the 7 key for Q and the 9 key for Z.",
    "pbx-invalid": "I am sorry, but that's not a valid extension. Please try again.",
    "pbx-invalidpark": "I am sorry, but there is no call parked on that extension. Please try again.",
    "queue-periodic-announce": "All of our representatives are currently busy. Please stay on the line and your call "
    "will be answered by the next available representative.",
    "unidentified-no-callback": "Unidentified or withheld and therefore cannot be called back.",
    "vm-forwardoptions": "Press 1 to prepend the message, or 2 to forward the message without prepending.",
    "vm-mailboxfull": "Sorry, but the user's mailbox can't accept more messages.",
    "vm-review": "Press 1 to accept this recording. Press 2 to listen to it. Press 3 to re-record your message.",
    "vm-savefolder": "Which folder should I save this message to?",
    "vm-torerecord": "Press 3 to re-record your message.",
}


@dataclass(frozen=True)
class Prompt:
    """A recording and what is said in it."""

    key: str
    text: str
    waveform: np.ndarray

    @property
    def seconds(self) -> float:
        return len(self.waveform) / SAMPLE_RATE

    @property
    def words(self) -> list[str]:
        return words_of(self.text)


def words_of(text: str) -> list[str]:
    """The lower-cased words of a text, its punctuation gone: what near-duplicates are compared by"""
    return re.findall(r"[a-z0-9']+", text.lower())


def decode_g722(file: Path) -> np.ndarray:
    """
    Open a G.722 recording and read it as a mono waveform

    Parameters
    ----------
    file: Path
        The .g722 file, a headerless stream at 16 kHz

    Returns
    -------
    A NumPy array containing the audio waveform, in float32 dtype.
    """
    cmd = ["ffmpeg", "-nostdin", "-loglevel", "error", "-threads", "1", "-f", "g722", "-i", str(file)]
    cmd += ["-f", "s16le", "-ac", "1", "-acodec", "pcm_s16le", "-ar", str(SAMPLE_RATE), "-"]
    return np.frombuffer(run_ffmpeg(cmd), np.int16).astype(np.float32) / 32768.0


def encode_opus(waveform: np.ndarray, file: Path) -> None:
    """
    Write a waveform as Ogg/Opus, and make sure that soundfile reads back as many samples at the same rate

    Parameters
    ----------
    waveform: np.ndarray, shape = (*,)
        The audio at 16 kHz

    file: Path
        Where to write
    """
    cmd = ["ffmpeg", "-y", "-nostdin", "-loglevel", "error", "-threads", "1"]
    cmd += ["-f", "f32le", "-ar", str(SAMPLE_RATE), "-ac", "1", "-i", "-"]
    cmd += ["-c:a", "libopus", "-b:a", BIT_RATE, "-fflags", "+bitexact", "-flags:a", "+bitexact", str(file)]
    run_ffmpeg(cmd, waveform.astype("<f4").tobytes())

    decoded, rate = soundfile.read(file, dtype="float32")
    if rate != SAMPLE_RATE or decoded.shape != waveform.shape:
        raise RuntimeError(f"{file}: wrote {waveform.shape} at {SAMPLE_RATE} Hz, read {decoded.shape} at {rate} Hz")
    if np.abs(decoded).max() >= 1.0:
        raise RuntimeError(f"{file}: clips")


def run_ffmpeg(cmd: list[str], stdin: bytes | None = None) -> bytes:
    """Run ffmpeg and return what it wrote to stdout"""
    try:
        return run(cmd, input=stdin, capture_output=True, check=True).stdout
    except CalledProcessError as e:
        raise RuntimeError(f"Failed to run {' '.join(cmd)}: {e.stderr.decode()}") from e


def clean_text(text: str) -> str:
    """
    The text of a prompt as a sentence that Whisper would write

    Prompts that are meant to be continued ("To leave the conference...") lose their dots, keys get their names, and
    every text begins with a capital and ends with a full stop.
    """
    text = text.replace("...", " ").replace("*", "star").replace("#", "pound")
    text = re.sub(r"\bi\b", "I", " ".join(text.split()))
    text = text[:1].upper() + text[1:].rstrip(" :,")
    return text if text.endswith((".", "!", "?")) else text + "."


def read_prompts(sounds: Path, texts: Path) -> list[Prompt]:
    """
    Read the prompts that are speech

    Parameters
    ----------
    sounds: Path
        The folder of .g722 files

    texts: Path
        The list of `name: text` lines, gzipped

    Returns
    -------
    The prompts in the list's order, with clean texts; a single word is read once.
    """
    prompts: list[Prompt] = []
    single: set[str] = set()
    with gzip.open(texts, "rt", encoding="utf-8") as lines:
        for line in lines:
            key, colon, text = line.partition(":")
            if line.startswith(";") or not colon or SKIPPED.search(key) or STAGE_DIRECTION.search(text):
                continue
            text = CORRECTIONS.get(key) or clean_text(text)
            words = words_of(text)
            file = sounds / f"{key}.g722"
            if not file.exists():
                continue  # a name that the list has and the package has not
            if len(words) == 1:
                if words[0] in single or (len(words[0]) < MIN_LETTERS and not key.startswith("digits/")):
                    continue
                single.add(words[0])
            prompt = Prompt(key, text, decode_g722(file))
            if MIN_SECONDS <= prompt.seconds <= MAX_SECONDS:
                prompts.append(prompt)
    return prompts


def word_distance(a: list[str], b: list[str]) -> float:
    """Levenshtein's distance between two lists of words, as a share of the longer one"""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1] / max(len(a), len(b))


def near_duplicates(a: list[str], b: list[str]) -> bool:
    """Whether two lists of words are nearly the same, or one is a part of the other"""
    short, long = sorted((a, b), key=len)
    if len(short) >= CONTAINED_WORDS and f" {' '.join(short)} " in f" {' '.join(long)} ":
        return True
    return word_distance(a, b) <= NEAR_DUPLICATE


def group_near_duplicates(prompts: list[Prompt]) -> list[list[Prompt]]:
    """Group prompts that say nearly the same: they must not be parted between the sets"""
    group = list(range(len(prompts)))
    for i, a in enumerate(prompts):
        for j, b in enumerate(prompts[:i]):
            if group[i] != group[j] and near_duplicates(a.words, b.words):
                old = group[i]
                group = [group[j] if g == old else g for g in group]
    return [[p for p, g in zip(prompts, group, strict=True) if g == name] for name in dict.fromkeys(group)]


def split(prompts: list[Prompt], seed: int) -> dict[str, list[Prompt]]:
    """
    Deal the prompts out to the sets

    Parameters
    ----------
    prompts: list[Prompt]
        All prompts

    seed: int
        Shuffles them

    Returns
    -------
    A dictionary of the sets. Evaluation sets hold no two near-duplicates; `train` is everything else.
    """

    def fit_for_evaluation(prompt: Prompt) -> bool:
        return EVAL_SECONDS[0] <= prompt.seconds <= EVAL_SECONDS[1] and len(prompt.words) >= EVAL_MIN_WORDS

    groups = group_near_duplicates(prompts)
    candidates = [g[0] for g in groups if len(g) == 1 and fit_for_evaluation(g[0])]
    if len(candidates) < sum(EVAL_CLIPS.values()):
        raise RuntimeError(f"{len(candidates)} prompts are fit for the evaluation sets, {EVAL_CLIPS} are asked for")
    np.random.default_rng(seed).shuffle(candidates)

    sets: dict[str, list[Prompt]] = {}
    for name, count in EVAL_CLIPS.items():
        sets[name], candidates = candidates[:count], candidates[count:]
    taken = {p.key for chosen in sets.values() for p in chosen}
    sets["train"] = [p for p in prompts if p.key not in taken]
    return sets


def write_set(folder: Path, name: str, prompts: list[Prompt], seed: int) -> list[dict[str, object]]:
    """
    Write the recordings of a set, through the throat microphone unless it is the clean one

    Returns
    -------
    The lines of its manifest.
    """
    rows: list[dict[str, object]] = []
    for prompt in sorted(prompts, key=lambda p: p.key):
        waveform = prompt.waveform
        if name != "general":
            waveform = throat_microphone(waveform, seed + zlib.crc32(prompt.key.encode()))
        file = folder / "audio" / (prompt.key.replace("/", "-") + ".opus")
        encode_opus(waveform, file)
        path = file.relative_to(folder).as_posix()
        rows.append(
            {"audio_filepath": path, "text": prompt.text, "duration": round(prompt.seconds, 3), "speaker": "allison"}
        )
    return rows


def write_extra(folder: Path, manifest: Path) -> list[dict[str, object]]:
    """Copy the recordings of another manifest, recoded; returns their lines"""
    rows: list[dict[str, object]] = []
    for row in map(json.loads, manifest.read_text(encoding="utf-8").splitlines()):
        waveform, rate = soundfile.read(manifest.parent / row["audio_filepath"], dtype="float32")
        if rate != SAMPLE_RATE or waveform.ndim != 1:
            raise RuntimeError(f"{row['audio_filepath']}: expected 16 kHz mono")
        file = folder / "audio" / (Path(row["audio_filepath"]).stem + ".opus")
        encode_opus(waveform, file)
        rows.append({**row, "audio_filepath": file.relative_to(folder).as_posix()})
    return rows


def main() -> None:
    """Build the sets"""
    parser = argparse.ArgumentParser(description="Build the demo's speech from Debian's Asterisk prompts.")
    parser.add_argument("--sounds", type=Path, default=Path("/usr/share/asterisk/sounds/en_US_f_Allison"))
    parser.add_argument(
        "--texts", type=Path, default=Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
    )
    parser.add_argument("--extra", type=Path, help="a manifest of further clean speech for the general set")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    (args.output / "audio").mkdir(parents=True, exist_ok=True)
    for old in (args.output / "audio").glob("*.opus"):
        old.unlink()

    sets = split(read_prompts(args.sounds, args.texts), args.seed)
    for name in ("train", "dev", "test", "general"):
        rows = write_set(args.output, name, sets[name], args.seed)
        if name == "general" and args.extra:
            rows += write_extra(args.output, args.extra)
        with (args.output / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as manifest:
            manifest.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        print(f"{name}: {len(rows)} clips, {sum(float(str(row['duration'])) for row in rows):.0f} s")


if __name__ == "__main__":
    main()
