"""Timestamps: what is valid in closed form, and a decoding in which a model can fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import needs_weights
from quick_model import ending_whisper, one_thread, random_features  # noqa: F401
from torch import Tensor
from whisper import DecodingOptions, Whisper

import whisper_min
from whisper_min import audio
from whisper_min.data.tokens import Tokens
from whisper_min.model import weights
from whisper_min.scoring import decode, timestamps
from whisper_min.scoring.timestamps import END_TOLERANCE, OwnChoice, Timestamps, drift, judge

BEGIN = 50_363
WORD = 100


def at(seconds: float) -> int:
    """The token of a time."""
    return BEGIN + round(seconds / 0.02)


def verdict(row: list[int], seconds: float = 5.0) -> str:
    """Initials of what one clip passes: Written, Starts, Paired, in Range, Monotone, Valid."""
    found = judge([row], [seconds], BEGIN)
    shares = (found.written, found.starts, found.paired, found.in_range, found.monotone, found.valid)
    assert set(shares) <= {0.0, 1.0}
    return "".join(letter for letter, share in zip("wsprmv", shares, strict=True) if share)


@pytest.mark.parametrize(
    ("row", "passed"),
    [
        ([at(0), WORD, WORD, at(4.8)], "wsprmv"),
        ([at(0), WORD, at(2), at(2), WORD, WORD, at(4.8)], "wsprmv"),
        ([at(0.5), WORD, at(0.5), at(0.7), WORD, at(1)], "wsprmv"),  # a segment may have no length
        ([], ""),
        ([WORD, WORD], ""),
        ([WORD, WORD, at(4.8)], "wrm"),  # no start
        ([at(0), WORD, WORD], "wsrm"),  # no end
        ([at(0), at(4.8)], "wsrm"),  # no text
        ([at(0), WORD, at(2), WORD, at(4)], "wsrm"),  # the second segment has no start
        ([at(0), WORD, at(2), at(2)], "wsrm"),  # a start of nothing
        ([at(0), WORD, at(3), at(2), WORD, at(4)], "wspr"),
        ([at(0), WORD, at(30)], "wspm"),  # of a clip of 5 s
    ],
)
def test_one_clip(row: list[int], passed: str) -> None:
    """Each fault fails what it should, and nothing else."""
    assert verdict(row) == passed


def test_the_end_of_the_clip_has_a_tolerance_and_the_window_has_none() -> None:
    """5.5 s in a clip of 5 s pass, 5.52 do not; 30 s are the last that Whisper knows."""
    assert END_TOLERANCE == 0.5
    assert "v" in verdict([at(0), WORD, at(5.5)])
    assert "r" not in verdict([at(0), WORD, at(5.52)])
    assert "v" in verdict([at(0), WORD, at(30)], seconds=30.0)
    assert "r" not in verdict([at(0), WORD, at(30.02)], seconds=30.0)


def test_shares_over_clips() -> None:
    """Four clips, each with another fate; valid is what passes all, not the least share."""
    rows = [[at(0), WORD, at(1)], [WORD], [at(0), WORD], [at(0), WORD, at(9)]]
    times = ((0.0, 1.0), (), (), ())
    assert judge(rows, [5.0] * 4, BEGIN) == Timestamps(4, 0.75, 0.75, 0.5, 0.5, 0.75, 0.25, times)
    with pytest.raises(ValueError, match="no clip"):
        judge([], [], BEGIN)


def test_drift_is_the_mean_distance_where_as_many_times_were_written() -> None:
    """Clip by clip, so that one with many segments weighs no more; others, and those not valid, are not compared."""
    original = judge([[at(0), WORD, at(2)], [at(0), WORD, at(1), at(1), WORD, at(4)], [WORD]], [5.0] * 3, BEGIN)
    own = judge([[at(0.2), WORD, at(2.4)], [at(0), WORD, at(4)], [at(0), WORD, at(1)]], [5.0] * 3, BEGIN)
    assert drift(own, original) == (pytest.approx(0.3), 1)
    assert drift(original, original) == (0.0, 2)
    for wrong in ([WORD], [at(0), WORD, at(30)], [at(2), WORD, at(0)]):
        lost = judge([wrong] * 3, [5.0] * 3, BEGIN)
        assert drift(lost, original) == drift(original, lost) == drift(lost, lost) == (None, 0)


def test_a_timestamp_is_written_where_all_together_beat_every_word() -> None:
    """Its probability is spread over neighbours; and <|notimestamps|> is no answer."""
    tokenizer = Tokens(ending_whisper().dims).tokenizer
    begin = tokenizer.timestamp_begin
    logits = torch.full((3, begin + 1501), -20.0)
    logits[:, tokenizer.no_timestamps] = 9.0
    logits[:, WORD] = 1.0
    logits[0, begin : begin + 4] = 0.0  # together log 4 = 1.39
    logits[1, begin : begin + 2] = 0.0  # together log 2 = 0.69
    logits[2, begin + 7] = 2.0
    kept = logits.clone()
    OwnChoice(tokenizer).apply(logits, torch.zeros(3, 1))
    assert logits.argmax(-1).tolist() == [begin, WORD, begin + 7]
    assert logits[0, :begin].isneginf().all()
    assert torch.equal(logits[:, begin:], kept[:, begin:])
    kept[1, tokenizer.no_timestamps] = -torch.inf
    assert torch.equal(logits[1], kept[1])


@pytest.mark.parametrize("multilingual", [False, True])
def test_writing_gives_tokens_without_prefix_and_end(multilingual: bool) -> None:
    """Of a batch, each clip as alone; half-precision features as an encoder under autocast leaves them."""
    model = ending_whisper(4, multilingual)
    tokens = Tokens(model.dims)
    features = random_features(model, 3)
    rows = timestamps.write(model, features, tokens)
    assert [timestamps.write(model, each[None], tokens)[0] for each in features] == rows
    assert all(tokens.end not in row and tokens.tokenizer.no_timestamps not in row for row in rows)
    assert all(len(row) <= tokens.text_context // 2 for row in rows)
    assert len(timestamps.write(model, features.bfloat16(), tokens)) == 3


@pytest.fixture(scope="module")
def heard() -> tuple[Whisper, Tokens, Tensor, list[float]]:
    """tiny.en, and eight of the package's clips as it hears them, with their lengths."""
    needs_weights()
    model, _ = weights.load("tiny.en")
    model.eval()
    folder = Path(whisper_min.__file__).parent / "demo"
    rows = [json.loads(line) for line in (folder / "general.jsonl").read_text().splitlines()][::4][:8]
    waveforms = [audio.read(folder / row["audio_filepath"]) for row in rows]
    with torch.inference_mode():
        features = decode.encode_windows(model, audio.log_mel(audio.pad(waveforms), 80))
    return model, Tokens(model.dims), features, [len(each) / 16_000 for each in waveforms]


@pytest.mark.slow
def test_tiny_en_knows_timestamps_without_the_rules(heard: tuple[Whisper, Tokens, Tensor, list[float]]) -> None:
    """What it writes by choice is what whisper's rules would have it write."""
    model, tokens, features, seconds = heard
    rows = timestamps.write(model, features, tokens)
    ruled = model.decode(features, DecodingOptions(language="en", temperature=0.0, fp16=False))
    assert rows == [result.tokens for result in ruled]
    assert judge(rows, seconds, tokens.tokenizer.timestamp_begin).valid >= 7 / 8


@pytest.mark.slow
def test_a_model_that_lost_time_is_seen(heard: tuple[Whisper, Tokens, Tensor, list[float]]) -> None:
    """Its timestamps run backwards from 30 s: whisper's rules bring them into order, its own choice shows it."""
    model, tokens, features, seconds = heard
    features, seconds = features[:2], seconds[:2]
    begin = tokens.tokenizer.timestamp_begin
    embedding = model.decoder.token_embedding.weight
    before = embedding.detach().clone()
    try:
        with torch.no_grad():
            embedding[begin:] = before[begin:].flip(0)
        rows = timestamps.write(model, features, tokens)
        ruled = model.decode(features, DecodingOptions(language="en", temperature=0.0, fp16=False, sample_len=40))
    finally:
        with torch.no_grad():
            embedding.copy_(before)
    own, forced = [judge(each, seconds, begin) for each in (rows, [result.tokens for result in ruled])]
    assert (own.written, own.valid, own.monotone, own.in_range) == (1.0, 0.0, 0.0, 0.0)
    assert (forced.starts, forced.monotone) == (1.0, 1.0)
