"""Examines a model beyond its word error rate: the one place that runs it for `health`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from whisper import Whisper
from whisper.audio import N_SAMPLES

from whisper_min import audio
from whisper_min.scoring import decode, languages, timestamps
from whisper_min.scoring.evaluation import NON_SPEECH_SECONDS, Scorer, Utterance
from whisper_min.scoring.health import Health, Loops, casing
from whisper_min.scoring.languages import Languages

# Clips of general speech that are decoded once more with timestamps. With the non-speech it is the whole of what an
# English-only model is asked: half a minute for tiny.en on two cores.
TIMESTAMP_CLIPS = 16


def examine(model: Whisper, scorer: Scorer, speech: Sequence[Utterance]) -> Health:
    """Examine a model.

    Parameters
    ----------
    scorer : Scorer
        as it scored the speech; its `tick` is called between the parts, and may raise to stop
    speech : sequence of Utterance
        what the model wrote for general speech (`SetResult.utterances`), with its recordings; the same clips in the
        same order for every model that is compared

    Returns
    -------
    Health
        with a sentence in `left_out` for each part that could not be examined
    """
    non_speech = scorer.words_on_non_speech(model)
    left_out = []
    features, lengths = None, []
    chosen = choose(speech)
    if chosen:
        features = encode(model, scorer, [utterance.example.read() for utterance in chosen])
        lengths = [utterance.seconds for utterance in chosen]
    else:
        left_out.append("timestamps: no clip of general speech is 30 s long or shorter")
    written = timestamps.write(model, features, scorer.tokens) if features is not None else []
    scorer.tick(0)

    known = None
    if model.is_multilingual:
        known, reason = know_languages(model, scorer, features)
        left_out += [reason] if reason else []
    return Health(
        non_speech_seconds=NON_SPEECH_SECONDS,
        non_speech=non_speech,
        loops=Loops(len(speech), sum(each.loop for each in speech), sum(not each.ended for each in speech)),
        casing=casing([utterance.hypothesis for utterance in speech]),
        timestamps=timestamps.judge(written, lengths, scorer.tokens.tokenizer.timestamp_begin) if written else None,
        languages=known,
        left_out=tuple(left_out),
    )


def choose(speech: Sequence[Utterance]) -> list[Utterance]:
    """At most `TIMESTAMP_CLIPS` clips that fit into Whisper's window, evenly over the sets."""
    short = [utterance for utterance in speech if not decode.is_long(utterance.seconds)]
    count = min(TIMESTAMP_CLIPS, len(short))
    return [short[index * len(short) // count] for index in range(count)]


def encode(model: Whisper, scorer: Scorer, waveforms: Sequence[audio.Waveform]) -> Tensor:
    """Features (B, A, C) of clips, as the scorer hears them."""
    device = next(model.parameters()).device
    heard = [audio.scale_peak(each) for each in waveforms] if scorer.normalize else list(waveforms)
    parts = []
    for first in range(0, len(heard), scorer.batch_size):
        batch = audio.pad(heard[first : first + scorer.batch_size], N_SAMPLES).to(device)
        with torch.inference_mode(), scorer.autocast():
            parts.append(decode.encode_windows(model, audio.log_mel(batch, model.dims.n_mels)))
        scorer.tick(0)
    return torch.cat(parts)


def know_languages(model: Whisper, scorer: Scorer, own_features: Tensor | None) -> tuple[Languages | None, str | None]:
    """(what a multilingual model knows of other languages, None) or (None, why that was left out)."""
    own = scorer.tokens.tokenizer.language
    clips = [clip for clip in languages.foreign_clips() if clip.language != own]
    if not clips:
        return None, (
            "other languages: there is no speech to examine them with; install espeak-ng (from your system's packages) "
            "or pytest-audioeval (pip install 'whisper-min[health]')"
        )
    heard = languages.identify(model, own_features, scorer.tokens) if own_features is not None else []
    features = encode(model, scorer, [clip.waveform for clip in clips])
    found = languages.listen(model, features, scorer.tokens, clips)
    scorer.tick(0)
    return Languages(
        sources=tuple(dict.fromkeys(clip.source for clip in clips)),
        own_identified=sum(language == own for language in heard) / len(heard) if heard else None,
        own_clips=len(heard),
        together=found.pop("all"),
        each=found,
    ), None
