"""One way to score: counts in closed form, and nothing that depends on batches or order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import babble
from quick_model import checked_set, ending_whisper, listening_whisper, one_thread  # noqa: F401
from whisper import Whisper

from whisper_min import audio
from whisper_min.data.checked import CheckedSet
from whisper_min.data.tokens import IGNORED, Tokens
from whisper_min.scoring import decode
from whisper_min.scoring.decode import Hypothesis
from whisper_min.scoring.evaluation import Scorer
from whisper_min.training.steering import Stop

LOOP = "thank you so much " * 40
# References of five clips, of lengths that are not in order; their number is no multiple of a batch of two.
TEXTS = ["A red fox.", "Mr. Wolf likes colours", "It goes on", "And on", "The end."]
SECONDS = [3.0, 1.0, 2.5, 1.5, 2.0]


@pytest.fixture(scope="module")
def model() -> Whisper:
    """Its transcripts differ from clip to clip."""
    return listening_whisper()


@pytest.fixture
def tokens(model: Whisper) -> Tokens:
    """English."""
    return Tokens(model.dims)


@pytest.fixture
def checked(make_set: Callable[..., Path], tmp_path: Path, tokens: Tokens) -> CheckedSet:
    """Five clips with text."""
    return checked_set(make_set("domain", TEXTS, SECONDS), tokens, tmp_path / "cache")


def hypotheses(texts: Sequence[str], ended: bool = True) -> list[Hypothesis]:
    """Transcripts that a model could have written."""
    return [Hypothesis([], text, ended) for text in texts]


# ---- Scoring what was written.


def test_counts_and_rates_in_closed_form(checked: CheckedSet, tokens: Tokens) -> None:
    """Normalised, raw, by character; loops and missing ends; totals over the set."""
    written = ["a red fox", "mister wolf likes colors", LOOP.strip(), "And", "The end."]
    result = Scorer(tokens, "en").score(checked, hypotheses(written), 1.25, 4.0)
    by_words = [(each.words.substitutions, each.words.deletions, each.words.insertions) for each in result.utterances]
    assert by_words[:2] == [(0, 0, 0)] * 2
    assert by_words[2] == (3, 0, 157)
    assert by_words[3:] == [(0, 1, 0), (0, 0, 0)]
    assert [each.flags for each in result.utterances] == [[], [], ["loop"], [], []]
    summary = result.summary()
    assert (summary["utterances"], summary["words"]) == (5, 3 + 4 + 3 + 2 + 2)
    assert summary["audio_seconds"] == sum(SECONDS)
    assert (summary["substitutions"], summary["deletions"], summary["insertions"]) == (3, 1, 157)
    assert summary["wer"] == 161 / 14
    assert summary["wer_without_loops"] == 1 / 11
    assert (summary["loops"], summary["no_end"]) == (1, 0)
    assert summary["loss"] == 1.25
    assert (summary["decode_seconds"], summary["rtfx"]) == (4.0, 2.5)
    raw = result.utterances[0].raw_words
    assert (raw.total, raw.units) == (2, 3)  # "A" and "fox."
    assert result.utterances[3].characters.total == 3  # " on"
    assert summary["raw_wer"] == sum(each.raw_words.total for each in result.utterances) / 14


def test_the_texts_are_kept_as_written_and_normalised(checked: CheckedSet, tokens: Tokens) -> None:
    """A reader can see what was compared."""
    second = Scorer(tokens, "en").score(checked, hypotheses(TEXTS), None, 0.0).utterances[1]
    assert (second.reference, second.hypothesis) == (TEXTS[1], TEXTS[1])
    assert second.reference_normalized == second.hypothesis_normalized == "mister wolf likes colors"


def test_missing_ends_are_flagged(checked: CheckedSet, tokens: Tokens) -> None:
    """A transcript cut at the limit."""
    result = Scorer(tokens, "en").score(checked, hypotheses(TEXTS, ended=False), None, 0.0)
    assert result.summary()["no_end"] == 5
    assert all(each.flags == ["no_end"] for each in result.utterances)
    assert "loss" not in result.summary()
    assert result.summary()["rtfx"] is None


def test_another_language_has_another_normaliser(checked: CheckedSet, tokens: Tokens) -> None:
    """The basic one knows no colours."""
    written = hypotheses([TEXTS[0], "Mr. Wolf likes colors", *TEXTS[2:]])
    assert Scorer(tokens, "en").score(checked, written, None, 0.0).words.total == 0
    assert Scorer(tokens, "de").score(checked, written, None, 0.0).words.total == 1


def test_sets_without_text_measure_drift(make_set: Callable[..., Path], tmp_path: Path, tokens: Tokens) -> None:
    """The references are what the original wrote: nothing has drifted from itself, and a changed word counts."""
    unlabelled = checked_set(make_set("unlabelled", ["", ""]), tokens, tmp_path / "cache")
    scorer = Scorer(tokens, "en")
    first = scorer.score(unlabelled, hypotheses(["so it goes", "and on"]), None, 1.0)
    assert first.is_drift
    assert first.summary()["drift"] == 0.0
    later = scorer.score(unlabelled, hypotheses(["so it went", "and on"]), None, 1.0, original=["so it goes", "and on"])
    summary = later.summary()
    assert summary["drift"] == 1 / 5
    assert {"drift", "raw_drift", "drift_without_loops"} <= summary.keys()
    assert not {"wer", "raw_wer", "wer_without_loops"} & summary.keys()
    assert later.utterances[0].reference == "so it goes"


def test_units_pair_systems_utterance_by_utterance(checked: CheckedSet, tokens: Tokens) -> None:
    """What the bootstrap gets: errors of both systems over the same words."""
    scorer = Scorer(tokens, "en")
    good = scorer.score(checked, hypotheses(TEXTS), None, 0.0)
    bad = scorer.score(checked, hypotheses([""] * 5), None, 0.0)
    made = good.units([bad])
    assert made.kind == "utterance"
    assert made.errors.tolist() == [[0] * 5, [3, 4, 3, 2, 2]]
    assert made.words.tolist() == [3, 4, 3, 2, 2]


# ---- Decoding a set.


def test_transcripts_come_in_the_sets_order_whatever_the_batch(
    model: Whisper, tokens: Tokens, checked: CheckedSet
) -> None:
    """Clips are decoded by length and given back in the set's order; the loss does not depend on batches either."""
    alone = []
    for example in checked.speech.examples:
        mel = audio.log_mel(audio.pad([example.read()]), 80)
        with torch.inference_mode():
            alone += decode.greedy(model, decode.encode_windows(model, mel), tokens)
    assert len({each.text for each in alone}) > 2
    losses = []
    for batch_size in (1, 2, 16):
        ticks: list[int] = []
        scorer = Scorer(tokens, "en", batch_size, tick=ticks.append)
        written, loss, seconds = scorer.decode_set(model, checked)
        assert [each.tokens for each in written] == [each.tokens for each in alone]
        assert sum(ticks) == 5
        assert max(ticks) <= batch_size
        assert seconds > 0
        losses.append(loss)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_the_loss_is_nats_per_token(model: Whisper, tokens: Tokens, checked: CheckedSet) -> None:
    """By the definition: minus the mean log-probability of every label token, the end included."""
    total, count = 0.0, 0
    for example, label in zip(checked.speech.examples, checked.labels, strict=True):
        targets = tokens.teacher_forcing([label])
        mel = audio.log_mel(audio.pad([example.read()]), 80)
        with torch.no_grad():
            scores = model(mel, targets.inputs).log_softmax(-1)[0]
        for position, token in enumerate(targets.targets[0].tolist()):
            if token != IGNORED:
                total -= float(scores[position, token])
                count += 1
    assert count == sum(len(tokens.tokenizer.encode(" " + label)) + 1 for label in checked.labels)
    _, loss, _ = Scorer(tokens, "en", batch_size=2).decode_set(model, checked)
    assert loss == pytest.approx(total / count, rel=1e-4)


def test_peak_normalisation_reaches_the_model(tokens: Tokens, checked: CheckedSet, model: Whisper) -> None:
    """--normalize in training must be --normalize in evaluation: the loss sees another waveform."""
    _, plain, _ = Scorer(tokens, "en").decode_set(model, checked)
    _, scaled, _ = Scorer(tokens, "en", normalize=True).decode_set(model, checked)
    assert plain != scaled


def test_clips_over_thirty_seconds_are_transcribed(
    make_set: Callable[..., Path], tmp_path: Path, model: Whisper, tokens: Tokens
) -> None:
    """They have no teacher-forced loss; the set's is that of the others; the order stays."""
    both = checked_set(make_set("mixed", ["Long.", "Short."], [31.0, 2.0]), tokens, tmp_path / "cache")
    written, loss, _ = Scorer(tokens, "en").decode_set(model, both)
    expected = decode.transcribe_long(model, torch.from_numpy(both.speech.examples[0].read()), tokens)
    assert written[0] == expected
    only = replace(both, speech=replace(both.speech, examples=both.speech.examples[1:]), facts=both.facts[1:])
    short, short_loss, _ = Scorer(tokens, "en").decode_set(model, only)
    assert written[1] == short[0]
    assert loss == pytest.approx(short_loss)


def test_beam_search_goes_through_whisper(model: Whisper, tokens: Tokens, checked: CheckedSet) -> None:
    """Several clips in a batch."""
    written, _, _ = Scorer(tokens, "en", beam_size=2).decode_set(model, checked)
    mel = audio.log_mel(audio.pad([checked.speech.examples[0].read()]), 80)
    result = model.decode(mel[0], decode.options(tokens, 2))
    assert written[0].tokens == result.tokens


def test_a_stop_ends_an_evaluation_between_batches(model: Whisper, tokens: Tokens, checked: CheckedSet) -> None:
    """What the tick raises comes out, and no further batch is decoded."""
    ticks: list[int] = []

    def tick(clips: int) -> None:
        ticks.append(clips)
        if len(ticks) == 2:
            raise Stop

    with pytest.raises(Stop):
        Scorer(tokens, "en", batch_size=1, tick=tick).decode_set(model, checked)
    assert len(ticks) == 2


# ---- Words where nobody speaks.


def test_words_per_minute_on_non_speech() -> None:
    """Recordings of 10 s: n words in each are 6 n words a minute, whatever the kind of sound."""
    quiet = ending_whisper(3)
    tokens = Tokens(quiet.dims)
    scorer = Scorer(tokens, "en")
    words = scorer.words_on_non_speech(quiet, seconds=50)
    assert {"silence", "white noise", "pink noise", "hum", "music", "all"} == words.keys()
    mel = audio.log_mel(audio.pad([babble(10.0) * 0]), 80)
    with torch.inference_mode():
        (written,) = decode.greedy(quiet, decode.encode_windows(quiet, mel), tokens)
    said = len(written.text.split())
    assert said >= 1
    assert words["silence"] == pytest.approx(6 * said)
    assert words["all"] == pytest.approx(sum(value for kind, value in words.items() if kind != "all") / 5)
    assert not math.isnan(words["all"])
