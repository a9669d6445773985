"""What is worth knowing about a set and stops nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from whisper.audio import SAMPLE_RATE

from whisper_min import text
from whisper_min.config import Config, timestamps_share
from whisper_min.data.checked import TRAINED, CheckedSet
from whisper_min.data.tokens import Tokens

# A clip with more than this share of samples at full scale is reported.
CLIPPED_SHARE = 0.001
SILENT_BELOW_DB = -60.0
# Characters per second that speech can plausibly have.
PLAUSIBLE_SPEED = (2.0, 30.0)


def of_set(checked: CheckedSet, cfg: Config, tokens: Tokens) -> Iterator[str]:
    """A set's, sentence by sentence."""
    speech, name = checked.speech, f"{checked.role} {checked.speech.name}"
    count = len(speech.examples)
    yield from (f"{name}: {note}" for note in speech.notes)
    if checked.totals:
        untold = checked.totals.entries - checked.totals.timed
        yield (
            f"{name}: {checked.totals.entries} entries in {len(speech.shards)} tars, streamed; {count} were decoded: "
            "what is said of recordings, and whether one is in an evaluation set, is said of these"
        )
        if untold:
            yield (
                f"{name}: {untold} entries do not tell their duration: the hours are estimated, and every epoch reads "
                "the lengths again; python -m whisper_min.data pack writes them"
            )
        if checked.totals.damaged:
            yield f"{name}: damaged tars, read as far as that goes: {checked.totals.damaged} of {len(speech.shards)}"
    rates = Counter(facts.sample_rate for facts in checked.facts if facts.sample_rate not in (0, SAMPLE_RATE))
    for rate, number in sorted(rates.items()):
        yield f"{name}: {number} of {count} files are at {rate} Hz and are resampled to {SAMPLE_RATE} Hz"
    clipped = [example.id for example, facts in zip(speech.examples, checked.facts, strict=True)
               if facts.clipped > CLIPPED_SHARE]  # fmt: skip
    if clipped:
        yield f"{name}: {len(clipped)} clips are clipped, such as {clipped[0]}"
    silent = [example.id for example, facts in zip(speech.examples, checked.facts, strict=True)
              if facts.decoded and facts.level_db < SILENT_BELOW_DB]  # fmt: skip
    if silent:
        yield f"{name}: {len(silent)} clips are silent (below {SILENT_BELOW_DB:.0f} dB), such as {silent[0]}"
    low, high = PLAUSIBLE_SPEED
    strange = [
        f"{example.id} ({len(example.text) / facts.seconds:.1f})"
        for example, facts in zip(speech.examples, checked.facts, strict=True)
        if facts.seconds
        and example.text not in ("", text.NON_SPEECH)
        and not low <= len(example.text) / facts.seconds <= high
    ]
    if strange:
        yield (
            f"{name}: {len(strange)} texts do not fit their audio (outside {low:.0f} to {high:.0f} characters per "
            f"second), such as {strange[0]}"
        )
    repeated = sum(number - 1 for digest, number in Counter(each.digest for each in checked.facts).items() if digest)
    if repeated:
        yield f"{name}: {repeated} recordings are there more than once"
    if checked.role == "retain" and speech.source == "demo" and not cfg.demo:
        yield (
            f"{name}: {count} clean English clips shipped with the package are few to see what is forgotten; "
            "give general speech of your own with --retain"
        )
    if checked.role in TRAINED:
        yield from of_labels(checked, cfg, tokens)
    if checked.self_label:
        yield f"{name}: the original model writes its labels when the training starts"
    elif checked.role in TRAINED:
        description = text.describe_style([example.text for example in speech.examples])
        if cfg.label_style == "auto" and checked.style != "keep":
            yield (
                f"{name}: references are {description}; they are written in {checked.style} case, because training on "
                "them as they are makes Whisper forget case, punctuation and words (--label_style keep leaves them)"
            )
        elif checked.style == "original":
            yield (
                f"{name}: references are {description}; when the training starts, they get case and punctuation from "
                "what the original model hears"
            )
        elif cfg.label_style == "keep" and description not in ("cased", "no text"):
            yield (
                f"{name}: references are {description}: Whisper will write like that everywhere, and get words wrong "
                "that it knew; --label_style sentence mends it"
            )


def of_labels(checked: CheckedSet, cfg: Config, tokens: Tokens) -> Iterator[str]:
    """What is in the labels of a training set beside text."""
    examples, name = checked.speech.examples, f"{checked.role} {checked.speech.name}"
    if silent := sum(example.text == text.NON_SPEECH for example in examples):
        yield f"{name}: in {silent} of {len(examples)} clips nobody speaks; they teach the token {text.NON_SPEECH}"
    if prompts := [example.prompt for example in examples if example.prompt]:
        yield f"{name}: {len(prompts)} of {len(examples)} clips have a prompt; it is read in {100 * cfg.prompts:g} %"
        if long := sum(len(tokens.words(prompt)) > tokens.longest_prompt for prompt in prompts):
            yield f"{name}: of {long} prompts the last {tokens.longest_prompt} tokens are read, as Whisper does"
    timed = [(example, label) for example, label in zip(examples, checked.labels, strict=True) if example.segments]
    if timed:
        share = 100 * timestamps_share(cfg)
        yield f"{name}: {len(timed)} of {len(examples)} clips have segments; their labels carry times in {share:g} %"
    parts = [(label, [segment.text for segment in example.segments]) for example, label in timed]
    if lost := sum(text.cut_like(label, its) is None for label, its in parts):
        yield f"{name}: {lost} clips train without times: their label has not the words of their segments"
