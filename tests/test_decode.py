"""Greedy decoding is `whisper.decode`, token for token; neither batch nor cache can be seen in a transcript.

Where whisper's two best logits lie within `TIE` of each other rounding decides, and either token is right; such clips
are counted, and are rare.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from conftest import babble, needs_speech, needs_weights
from quick_model import ending_whisper, lively_whisper, one_thread, random_features  # noqa: F401
from torch import Tensor
from whisper import Whisper
from whisper.audio import N_SAMPLES, log_mel_spectrogram, pad_or_trim
from whisper.decoding import DecodingTask

from whisper_min import audio
from whisper_min.data.tokens import Tokens
from whisper_min.model import weights
from whisper_min.scoring import decode
from whisper_min.scoring.decode import CachedDecoder, FixedStep, Hypothesis, greedy

TIE = 1e-4


def margin(model: Whisper, features: Tensor, tokens: Tokens, written: Sequence[int]) -> float:
    """By teacher forcing: how far whisper's two best logits lie apart after these text tokens, given (A, C)."""
    with torch.no_grad():
        logits = model.decoder(torch.tensor([[*tokens.prefix, *written]]), features[None])[0, -1]
    logits[list(DecodingTask(model, decode.options(tokens))._get_suppress_tokens())] = -torch.inf
    if not written:
        logits[[*tokens.tokenizer.encode(" "), tokens.end]] = -torch.inf
    best, second = logits.topk(2).values.tolist()
    return best - second


def ties(
    model: Whisper, features: Tensor, tokens: Tokens, ours: Sequence[Hypothesis], theirs: Sequence[Sequence[int]]
) -> int:
    """How many clips differ; each must do so first where whisper itself is undecided."""
    differing = 0
    for index, (hypothesis, other) in enumerate(zip(ours, theirs, strict=True)):
        mine, other = [*hypothesis.tokens, tokens.end], [*other, tokens.end]
        first = next((at for at, pair in enumerate(zip(mine, other, strict=False)) if pair[0] != pair[1]), None)
        if first is not None:
            differing += 1
            assert margin(model, features[index], tokens, mine[:first]) < TIE, f"clip {index}, token {first}"
    return differing


@dataclass(frozen=True)
class Case:
    """A random model, the features of six clips, and what greedy decoding writes for them."""

    model: Whisper
    tokens: Tokens
    features: Tensor
    written: list[Hypothesis]


@pytest.fixture(
    scope="module",
    params=[(False, 80, 0), (True, 80, 4), (True, 128, 3)],
    ids=["english", "multilingual", "multilingual-128"],
)
def case(request: pytest.FixtureRequest, one_thread: None) -> Case:  # noqa: F811
    """English-only, multilingual, and the layout of large-v3."""
    multilingual, n_mels, seed = request.param
    model = lively_whisper(multilingual, n_mels, seed)
    tokens, features = Tokens(model.dims, "de" if multilingual else "en"), random_features(model, 6, seed)
    return Case(model, tokens, features, greedy(model, features, tokens))


def test_greedy_is_whispers_decode(case: Case) -> None:
    """A batch of six: tokens, text and end; the clips differ from each other and end at different times."""
    theirs = case.model.decode(case.features, decode.options(case.tokens))
    assert ties(case.model, case.features, case.tokens, case.written, [result.tokens for result in theirs]) <= 1
    for mine, result in zip(case.written, theirs, strict=True):
        if mine.tokens == result.tokens:
            assert mine.text == result.text
            assert mine.ended
    assert len({tuple(each.tokens) for each in case.written}) > 3
    assert len({len(each.tokens) for each in case.written}) > 1


def test_a_transcript_does_not_depend_on_its_batch(case: Case) -> None:
    """Alone, and among others in another order: the same tokens."""
    alone = [greedy(case.model, row[None], case.tokens)[0] for row in case.features[:3]]
    others = greedy(case.model, case.features.flip(0), case.tokens)[::-1]
    assert ties(case.model, case.features, case.tokens, case.written[:3], [each.tokens for each in alone]) <= 1
    assert ties(case.model, case.features, case.tokens, case.written, [each.tokens for each in others]) <= 1


@pytest.mark.parametrize("look_every", [1, 3, 1000])
def test_rows_that_leave_the_batch_change_no_other(
    case: Case, monkeypatch: pytest.MonkeyPatch, look_every: int
) -> None:
    """Compacting after a token, after every third, or never."""
    left: list[int] = []
    keep = CachedDecoder.keep

    def count_and_keep(self: CachedDecoder, rows: Tensor) -> None:
        left.append(len(rows))
        keep(self, rows)

    monkeypatch.setattr(CachedDecoder, "keep", count_and_keep)
    monkeypatch.setattr(decode, "LOOK_EVERY", {"cpu": look_every})
    written = greedy(case.model, case.features, case.tokens)
    assert ties(case.model, case.features, case.tokens, case.written, [each.tokens for each in written]) <= 1
    assert bool(left) == (look_every < 1000)


@pytest.mark.parametrize("look_every", [1, 3, 1000])
def test_a_fixed_step_writes_what_a_growing_one_does(
    case: Case, monkeypatch: pytest.MonkeyPatch, look_every: int
) -> None:
    """What a CUDA graph replays, run as it is: the whole cache under a mask, also after rows have left."""
    monkeypatch.setattr(decode, "LOOK_EVERY", {"cpu": look_every})
    monkeypatch.setattr(decode, "FIXED_ON", {"cpu"})
    written = greedy(case.model, case.features, case.tokens)
    assert ties(case.model, case.features, case.tokens, case.written, [each.tokens for each in written]) <= 1


def test_a_fixed_step_computes_the_same_logits(case: Case) -> None:
    prefix, following = torch.tensor([case.tokens.prefix] * 6), torch.arange(100, 106)[:, None]
    with torch.inference_mode():
        growing, other = (CachedDecoder(case.model, case.features, 20) for _ in range(2))
        assert torch.equal(growing(prefix), other(prefix))
        fixed = FixedStep(other, following)
        for _ in range(5):
            torch.testing.assert_close(fixed(following), growing(following), rtol=1e-4, atol=1e-4)
            following = following + 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_graphs_write_what_the_eager_decoder_does(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    model, features = copy.deepcopy(case.model).cuda(), case.features.cuda()
    graphed = greedy(model, features, case.tokens)
    monkeypatch.setattr(decode, "FIXED_ON", set())
    eager = greedy(model, features, case.tokens)
    assert ties(case.model, case.features, case.tokens, eager, [each.tokens for each in graphed]) <= 1


@pytest.mark.parametrize("look_every", [1, 5])
def test_the_average_log_probability_is_whispers(case: Case, monkeypatch: pytest.MonkeyPatch, look_every: int) -> None:
    """Of rows that end at different times and leave the batch, and with no word changed by asking."""
    monkeypatch.setattr(decode, "LOOK_EVERY", {"cpu": look_every})
    ours = greedy(case.model, case.features, case.tokens, with_logprob=True)
    theirs = case.model.decode(case.features, decode.options(case.tokens))
    same = [(mine, result) for mine, result in zip(ours, theirs, strict=True) if mine.tokens == result.tokens]
    assert len(same) >= 5
    for mine, result in same:
        assert mine.avg_logprob == pytest.approx(result.avg_logprob, abs=1e-4)
    assert len({round(mine.avg_logprob or 0, 3) for mine in ours}) > 3, "clips differ"
    assert [replace(mine, avg_logprob=None) for mine in ours] == greedy(case.model, case.features, case.tokens)


def test_suppressed_tokens_are_never_written() -> None:
    """Not even when they win by far; nor a blank or the end first."""
    model = ending_whisper(6)
    tokens, features = Tokens(model.dims), random_features(model, 2)
    suppressed = DecodingTask(model, decode.options(tokens))._get_suppress_tokens()
    blank = tokens.tokenizer.encode(" ")[0]
    direction = torch.randn(64, generator=torch.Generator().manual_seed(5))
    direction -= direction.mean()
    with torch.no_grad():
        # wherever the decoder stands before the end, the logits of these are the largest
        model.decoder.positional_embedding[:7] += 5 * direction
        model.decoder.token_embedding.weight[list(suppressed)] = direction
        model.decoder.token_embedding.weight[blank] = 2 * direction
        raw = model.decoder(torch.tensor([tokens.prefix] * 2), features)[:, -1]
    assert raw.argmax(-1).tolist() == [blank] * 2
    assert set(raw[0].topk(1 + len(suppressed)).indices.tolist()) == {blank, *suppressed}
    written = greedy(model, features, tokens)
    assert all(each.tokens[0] not in (blank, tokens.end) for each in written)
    assert written[0].tokens[1] == blank  # later it may stand
    assert not {token for each in written for token in each.tokens} & set(suppressed)
    theirs = model.decode(features, decode.options(tokens))
    assert ties(model, features, tokens, written, [result.tokens for result in theirs]) == 0


def test_a_model_that_never_ends_is_cut_at_224_tokens(tiny_whisper: Whisper) -> None:
    """Whisper's own limit, and the hypothesis says that it did not end."""
    tokens, features = Tokens(tiny_whisper.dims), random_features(tiny_whisper, 2)
    ours = greedy(tiny_whisper, features, tokens, with_logprob=True)
    theirs = tiny_whisper.decode(features, decode.options(tokens))
    for mine, result in zip(ours, theirs, strict=True):
        assert mine.avg_logprob == pytest.approx(result.avg_logprob, abs=1e-4), "divided by 225 without an end, too"
    assert [len(each.tokens) for each in ours] == [len(result.tokens) for result in theirs] == [224, 224]
    assert not any(each.ended for each in ours)
    assert ties(tiny_whisper, features, tokens, ours, [result.tokens for result in theirs]) == 0


@pytest.mark.parametrize("length", [1, 5])
def test_the_end_is_seen_where_it_is_written(length: int) -> None:
    """A model made to end after so many tokens."""
    model = ending_whisper(length)
    written = greedy(model, random_features(model, 2), Tokens(model.dims))
    assert [(len(each.tokens), each.ended) for each in written] == [(length, True)] * 2


def test_cached_logits_are_the_decoders(case: Case) -> None:
    """Token after token, and after rows were dropped, the cache gives what the whole sequence gives at once."""
    model, tokens, features = case.model, case.tokens, case.features
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(tokens.end, (6, 10), generator=generator)
    sequence = torch.cat([torch.tensor([tokens.prefix]).repeat(6, 1), texts], dim=1)
    prefix, rows = len(tokens.prefix), torch.arange(6)
    with torch.inference_mode():
        expected = model.decoder(sequence, features)
        cached = CachedDecoder(model, features, sequence.shape[1])
        logits = cached(sequence[:, :prefix])
        for position in range(prefix, sequence.shape[1]):
            torch.testing.assert_close(logits, expected[rows, position - 1], atol=2e-3, rtol=1e-3)
            if position == prefix + 4:
                rows = torch.tensor([4, 1])
                cached.keep(rows)
            logits = cached(sequence[rows, position : position + 1])
        torch.testing.assert_close(logits, expected[rows, -1], atol=2e-3, rtol=1e-3)


def test_options_are_written_out() -> None:
    """The contract's one way to decode; whisper's defaults differ in timestamps and precision."""
    model = ending_whisper()
    options = decode.options(Tokens(model.dims))
    task = DecodingTask(model, options)
    assert task.sample_len == 224
    assert (options.temperature, options.beam_size, options.without_timestamps) == (0.0, None, True)
    assert (options.suppress_tokens, options.suppress_blank, options.fp16) == ("-1", True, False)
    assert tuple(task.initial_tokens) == tuple(Tokens(model.dims).prefix)
    multilingual = ending_whisper(multilingual=True)
    german = Tokens(multilingual.dims, "german", "translate")
    assert DecodingTask(multilingual, decode.options(german)).initial_tokens == tuple(german.prefix)


def test_features_in_bf16_are_decoded(case: Case) -> None:
    """What an encoder under autocast gives: only keys and values of the audio are rounded, most transcripts stay."""
    rounded = case.features.bfloat16()
    ours = greedy(case.model, rounded, case.tokens)
    exact = greedy(case.model, rounded.float(), case.tokens)
    assert sum(one.tokens[:1] == other.tokens[:1] for one, other in zip(ours, exact, strict=True)) >= 5


def test_encoding_a_few_at_a_time_is_encoding_all(tiny_whisper: Whisper) -> None:
    """Clips one by one through the encoder."""
    mel = audio.log_mel(audio.pad([babble(2, seed=seed) for seed in range(3)]), 80)
    with torch.inference_mode():
        torch.testing.assert_close(
            decode.encode_windows(tiny_whisper, mel), tiny_whisper.encoder(mel), atol=1e-5, rtol=1e-5
        )


def test_beam_search_is_whispers_own() -> None:
    """Through `whisper.decode`, with the same limits, for a batch, too."""
    model = lively_whisper(seed=1)
    tokens, features = Tokens(model.dims), random_features(model, 2, seed=1)
    ours = decode.beam(model, features, tokens, 2)
    for mine, row in zip(ours, features, strict=True):
        result = model.decode(row, replace(decode.options(tokens), beam_size=2))
        assert (mine.tokens, mine.text, mine.ended) == (result.tokens, result.text, True)
    assert ours[0].tokens != ours[1].tokens


@pytest.mark.parametrize(("seconds", "expected"), [(30.0, False), (29.99, False), (30.01, True)])
def test_a_clip_is_long_beyond_thirty_seconds(seconds: float, expected: bool) -> None:
    """Thirty seconds fit."""
    assert decode.is_long(seconds) == expected


def test_long_clips_go_through_transcribe() -> None:
    """Window after window: a text without special tokens."""
    model = lively_whisper()
    tokens = Tokens(model.dims)
    written = decode.transcribe_long(model, torch.from_numpy(babble(31.0)), tokens)
    assert written.ended
    assert written.tokens
    assert all(token < tokens.end for token in written.tokens)
    assert written.text == tokens.decode(written.tokens)


# ---- Real weights and real speech.


def tiny_en_and_clips(name: str, count: int) -> tuple[Whisper, Tokens, list[Tensor]]:
    """The real model, and the first clips of a real set, as waveforms."""
    needs_weights()
    folder = needs_speech(name) / name
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()[:count]]
    model, _ = weights.load("tiny.en")
    return model, Tokens(model.dims), [torch.from_numpy(audio.read(folder / row["audio_filepath"])) for row in rows]


@pytest.mark.slow
def test_tiny_en_on_real_speech_is_whispers_decode() -> None:
    """Eight clips in one batch against whisper's own log-mel, encoder and decoder, clip by clip."""
    model, tokens, waveforms = tiny_en_and_clips("general-test", 8)
    mel = audio.log_mel(audio.pad([each.numpy() for each in waveforms], N_SAMPLES), 80)
    with torch.inference_mode():
        features = decode.encode_windows(model, mel)
    ours = greedy(model, features, tokens, with_logprob=True)
    theirs = [model.decode(log_mel_spectrogram(pad_or_trim(each)), decode.options(tokens)) for each in waveforms]
    assert ties(model, features, tokens, ours, [result.tokens for result in theirs]) <= 1
    same = [(mine, result) for mine, result in zip(ours, theirs, strict=True) if mine.text == result.text]
    assert len(same) >= 7
    for mine, result in same:
        assert mine.avg_logprob == pytest.approx(result.avg_logprob, abs=1e-4)
    assert all(mine.ended and mine.text for mine in ours)


@pytest.mark.slow
def test_a_long_recording_is_transcribed_whole() -> None:
    """Clips joined to more than 30 s: the first's words and the last's are both there."""
    model, tokens, waveforms = tiny_en_and_clips("reader-test", 8)
    joined = torch.cat(waveforms)
    assert decode.is_long(len(joined) / 16_000)
    written = decode.transcribe_long(model, joined, tokens)
    mel = audio.log_mel(audio.pad([waveforms[0].numpy(), waveforms[-1].numpy()]), 80)
    with torch.inference_mode():
        first, last = greedy(model, decode.encode_windows(model, mel), tokens)
    words = set(written.text.lower().split())
    for single in (first, last):
        alone = single.text.lower().split()
        assert sum(word in words for word in alone) >= 0.7 * len(alone)
    theirs = model.transcribe(joined, language="en", temperature=0.0, condition_on_previous_text=False, fp16=False)
    assert written.text == theirs["text"].strip()
