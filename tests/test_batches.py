"""Batches: each example once an epoch, an order that can be resumed, and rows that do not know their neighbours."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import whisper
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper.audio import N_SAMPLES, SAMPLE_RATE
from workbench import TOKENS

from whisper_min import audio
from whisper_min.config import Config
from whisper_min.data.batches import (
    Batch,
    Replay,
    Schedule,
    Window,
    collate,
    default_workers,
    label,
    read_ahead,
    split_evenly,
    steps,
    timed,
)
from whisper_min.data.examples import Example, Segment
from whisper_min.data.sources import read_manifest
from whisper_min.data.tokens import Label
from whisper_min.text import NON_SPEECH

CPU = torch.device("cpu")
CONTEXTS = ["full", "trim", "pack"]


def schedule(
    lengths: list[float], audio_context: str = "trim", batch_size: int = 4, seed: int = 0, words: int = 3
) -> Schedule:
    """The order of clips of these lengths in seconds, each with so many words."""
    examples = [Example(f"{index}", Path(f"{index}.wav"), "", f"line {index}") for index in range(len(lengths))]
    texts = [" ".join([f"n{index}"] * words) for index in range(len(lengths))]
    return Schedule(examples, texts, lengths, audio_context, batch_size, TOKENS, seed)


def ids(batches: list[list[Window]]) -> list[list[list[str]]]:
    return [[[example.id for example in window.examples] for window in batch] for batch in batches]


def seconds_of(order: Schedule, window: Window) -> float:
    return sum(order.clips[int(example.id)].samples for example in window.examples) / SAMPLE_RATE


LENGTHS = st.lists(st.floats(0.1, 30.0), min_size=1, max_size=40)


@pytest.mark.parametrize("audio_context", CONTEXTS)
@settings(deadline=None)
@given(lengths=LENGTHS, batch_size=st.integers(1, 9), epoch=st.integers(0, 2))
def test_each_example_is_in_an_epoch_once_and_fits_its_context(
    audio_context: str, lengths: list[float], batch_size: int, epoch: int
) -> None:
    order = schedule(lengths, audio_context, batch_size)
    batches = order.epoch(epoch)
    windows = [window for batch in batches for window in batch]
    seen = Counter(example.id for window in windows for example in window.examples)
    assert seen == Counter(str(index) for index in range(len(lengths)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    for batch in batches:
        [context] = {window.context for window in batch}
        assert context in [each * SAMPLE_RATE for each in audio.CONTEXT_SECONDS]
        assert context == N_SAMPLES or audio_context == "trim"
    for window in windows:
        assert seconds_of(order, window) * SAMPLE_RATE <= window.context
        assert TOKENS.fits(window.text)
        assert window.texts == tuple(order.clips[int(example.id)].text for example in window.examples)
        if audio_context == "trim":
            assert window.context == audio.context_samples(order.clips[int(window.examples[0].id)].samples)


def test_pack_joins_what_fits() -> None:
    order = schedule([10.0] * 9, "pack")
    windows = [window for batch in order.epoch(0) for window in batch]
    assert [len(window.examples) for window in windows] == [3, 3, 3], "three clips of 10 s fill 30 s"
    assert all(window.text == " ".join(window.texts) for window in windows)
    assert {len(window.examples) for batch in schedule([10.1] * 6, "pack").epoch(0) for window in batch} == {2}
    # 6 clips of a second would fit, but not the 446 tokens of text that a window has room for
    wordy = schedule([1.0] * 6, "pack", words=100)
    assert all(len(window.examples) < 6 and TOKENS.fits(window.text) for batch in wordy.epoch(0) for window in batch)


def test_pack_order_follows_the_shuffle() -> None:
    order = schedule([10.0] * 30, "pack")
    together = [{tuple(sorted(window)) for batch in ids(order.epoch(epoch)) for window in batch} for epoch in (0, 1)]
    assert together[0] != together[1], "other clips meet in another epoch"


@pytest.mark.parametrize("audio_context", CONTEXTS)
def test_the_order_is_the_seed_s_and_the_epoch_s_alone(audio_context: str) -> None:
    lengths = [1.0 + index % 17 for index in range(60)]
    order = schedule(lengths, audio_context)
    first = ids(order.epoch(0))
    order.epoch(5)
    assert ids(order.epoch(0)) == first == ids(schedule(lengths, audio_context).epoch(0))
    assert ids(order.epoch(1)) != first
    assert ids(schedule(lengths, audio_context, seed=1).epoch(0)) != first


def test_short_and_long_batches_are_mixed() -> None:
    contexts = [batch[0].context for batch in schedule([2.0] * 40 + [28.0] * 40).epoch(0)]
    assert contexts != sorted(contexts) and contexts != sorted(contexts, reverse=True)


@pytest.mark.parametrize("audio_context", CONTEXTS)
@pytest.mark.parametrize("taken", [0, 1, 7, 8, 23])
def test_a_position_is_enough_to_go_on(audio_context: str, taken: int) -> None:
    lengths = [1.0 + index % 17 for index in range(30)]
    whole = list(itertools.islice(schedule(lengths, audio_context).from_position(0, 0), 40))
    position = whole[taken - 1][0] if taken else (0, 0)
    resumed = list(itertools.islice(schedule(lengths, audio_context).from_position(*position), 40 - taken))
    assert [(at, ids([batch])) for at, batch in resumed] == [(at, ids([batch])) for at, batch in whole[taken:]]
    assert {epoch for (epoch, _), _ in whole} >= {0, 1}, "the batches went into another epoch"


@pytest.mark.parametrize("accumulate", [1, 2, 3, 100])
def test_steps_per_epoch(accumulate: int) -> None:
    order = schedule([2.0] * 17, batch_size=4)
    assert len(order.epoch(0)) == 5
    assert order.steps_per_epoch(accumulate) == {1: 5, 2: 3, 3: 2, 100: 1}[accumulate]


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(1, 50))
def test_split_evenly(count: int, size: int) -> None:
    items = list(range(count))
    runs = split_evenly(items, size)
    assert list(itertools.chain(*runs)) == items
    lengths = [len(run) for run in runs]
    assert len(runs) == -(-count // size), "no more runs than needed"
    assert not runs or (max(lengths) <= size and max(lengths) - min(lengths) <= 1)


def test_17_by_8() -> None:
    assert sorted(map(len, split_evenly(range(17), 8)), reverse=True) == [6, 6, 5]


# ---- From windows to tensors.

TEXTS = ["One.", "A second text, longer.", "Three words here."]


@pytest.fixture
def examples(make_set: Callable[..., Path]) -> list[Example]:
    """Three recordings of 2, 3.5 and 1 s."""
    return read_manifest(make_set("train", TEXTS, seconds=[2.0, 3.5, 1.0]))


def single(example: Example, seconds: int = 5) -> Window:
    return Window((example,), (example.text,), seconds * SAMPLE_RATE)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_collate_is_whisper_s_log_mel_and_our_tokens(examples: list[Example], n_mels: int) -> None:
    windows = [single(example) for example in examples]
    batch = collate(windows, TOKENS, n_mels, Config())
    assert batch.log_mel(CPU).shape == (3, n_mels, 500) and batch.log_mel(CPU).dtype == torch.float32
    assert batch.windows == tuple(windows) and batch.bad == []
    assert batch.audio_seconds == 6.5 and batch.ids == ["0.wav", "1.wav", "2.wav"]
    expected = TOKENS.teacher_forcing(TEXTS)
    assert torch.equal(batch.targets.inputs, expected.inputs)
    assert torch.equal(batch.targets.targets, expected.targets)
    for row, example in zip(batch.log_mel(CPU), examples, strict=True):
        waveform = whisper.pad_or_trim(example.read(), 5 * SAMPLE_RATE)
        torch.testing.assert_close(row, whisper.log_mel_spectrogram(waveform, n_mels), rtol=0, atol=1e-5)


def test_a_row_does_not_depend_on_its_neighbours(examples: list[Example]) -> None:
    together = collate([single(example) for example in examples], TOKENS, 80, Config()).log_mel(CPU)
    reverse = collate([single(example) for example in reversed(examples)], TOKENS, 80, Config()).log_mel(CPU)
    for index, example in enumerate(examples):
        alone = collate([single(example)], TOKENS, 80, Config()).log_mel(CPU)[0]
        torch.testing.assert_close(together[index], alone, rtol=0, atol=1e-6)
        torch.testing.assert_close(reverse[2 - index], alone, rtol=0, atol=1e-6)


def test_a_packed_window_is_its_clips_one_after_another(examples: list[Example]) -> None:
    window = Window(tuple(examples), tuple(TEXTS), N_SAMPLES)
    batch = collate([window], TOKENS, 80, Config())
    joined = np.concatenate([example.read() for example in examples])
    expected = whisper.log_mel_spectrogram(whisper.pad_or_trim(joined), 80)
    torch.testing.assert_close(batch.log_mel(CPU)[0], expected, rtol=0, atol=1e-5)
    assert batch.targets.inputs.tolist() == [TOKENS.encode("One. A second text, longer. Three words here.")[:-1]]
    assert batch.audio_seconds == 6.5 and batch.ids == ["0.wav", "1.wav", "2.wav"]


def test_no_audio_where_the_encoder_has_been(examples: list[Example]) -> None:
    """Only where every window of the batch is encoded; all else is as ever, that no number depends on it."""
    windows = [single(example) for example in examples]
    plain = collate(windows, TOKENS, 80, Config())
    known = collate(windows, TOKENS, 80, Config(), encoded={window.key for window in windows})
    assert known.waveforms.shape == (len(windows), 0) and known.log_mel(CPU).shape == (len(windows), 80, 0)
    assert torch.equal(known.targets.inputs, plain.targets.inputs)
    assert (known.windows, known.audio_seconds, known.bad) == (plain.windows, plain.audio_seconds, plain.bad)
    partly = collate(windows, TOKENS, 80, Config(), encoded={window.key for window in windows[1:]})
    assert torch.equal(partly.waveforms, plain.waveforms)
    joined = Window((examples[0], examples[1]), ("a", "b"), 160_000)
    parts = {single(example).key for example in examples}
    assert collate([joined], TOKENS, 80, Config(), encoded=parts).waveforms.shape == (1, 160_000)


def test_what_is_augmented_keeps_its_audio_where_the_encoder_has_been(examples: list[Example]) -> None:
    windows = [replace(single(example), role="replay") for example in examples]
    encoded = {window.key for window in windows}
    assert collate(windows, TOKENS, 80, Config(), encoded).waveforms.shape == (3, 0)
    assert collate(windows, TOKENS, 80, Config(replay_augment=("gain",)), encoded).waveforms.shape == (3, 80_000)


def test_normalize_scales_every_clip(examples: list[Example]) -> None:
    plain = collate([single(examples[0])], TOKENS, 80, Config()).log_mel(CPU)
    scaled = collate([single(examples[0])], TOKENS, 80, Config(normalize=True)).log_mel(CPU)
    # a gain of g adds log10(g²) / 4 to the log-mel, but for the samples' floor
    gain = 0.95 / np.abs(examples[0].read()).max()
    torch.testing.assert_close(scaled.max(), plain.max() + float(np.log10(gain)) / 2, rtol=0, atol=1e-4)


def test_a_bad_file_is_named_and_left_out_where_that_is_allowed(examples: list[Example]) -> None:
    examples[1].audio_filepath.write_bytes(b"")
    windows = [single(example) for example in examples]
    with pytest.raises(audio.AudioError, match=r"manifest\.jsonl, line 2: is empty"):
        collate(windows, TOKENS, 80, Config())

    batch = collate(windows, TOKENS, 80, Config(skip_bad=True))
    assert batch.bad == [f"{examples[1].where}: is empty (0 bytes)"]
    assert batch.ids == ["0.wav", "2.wav"] and batch.windows == (windows[0], windows[2])
    rest = collate([windows[0], windows[2]], TOKENS, 80, Config())
    assert torch.equal(batch.waveforms, rest.waveforms) and torch.equal(batch.targets.inputs, rest.targets.inputs)
    assert (batch.audio_seconds, batch.targets.count) == (rest.audio_seconds, rest.targets.count)

    packed = Window(tuple(examples[:2]), tuple(TEXTS[:2]), N_SAMPLES)
    batch = collate([packed, replace(windows[2], context=N_SAMPLES)], TOKENS, 80, Config(skip_bad=True))
    assert batch.bad == [f"{examples[0].where} + {examples[1].where}: is empty (0 bytes)"] and batch.ids == ["2.wav"]

    for example in examples:
        example.audio_filepath.unlink()
    with pytest.raises(audio.AudioError, match=r"line 1: does not exist; .*line 3: does not exist"):
        collate(windows, TOKENS, 80, Config(skip_bad=True))


# ---- Reading ahead.


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_reading_ahead_gives_the_same_in_the_same_order(examples: list[Example], workers: int) -> None:
    order = Schedule(examples, TEXTS, [2.0, 3.5, 1.0], "trim", 2, TOKENS, 0)

    def batches(workers: int) -> list[tuple[tuple[int, int], Batch]]:
        work: Callable[[tuple[tuple[int, int], list[Window]]], Batch]
        work = lambda item: collate(item[1], TOKENS, 80, Config())  # noqa: E731
        return [
            (position, batch)
            for (position, _), batch in itertools.islice(read_ahead(order.from_position(0, 0), work, workers), 7)
        ]

    for (one_at, one), (two_at, two) in zip(batches(0), batches(workers), strict=True):
        assert one_at == two_at and one.ids == two.ids and one.audio_seconds == two.audio_seconds
        assert torch.equal(one.waveforms, two.waveforms) and torch.equal(one.targets.targets, two.targets.targets)


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_ahead_ends_and_hands_errors_on(workers: int) -> None:
    def work(number: int) -> int:
        if number == 5:
            raise audio.AudioError("five is bad")
        return number * number

    got: list[int] = []
    with pytest.raises(audio.AudioError, match="five is bad"):
        for number, square in read_ahead(iter(range(9)), work, workers):  # type: ignore[arg-type, misc]
            assert square == number * number
            got.append(number)
    assert got == [0, 1, 2, 3, 4]
    assert [number for number, _ in read_ahead(iter(range(5)), work, workers)] == got  # type: ignore[arg-type]


def test_reading_ahead_looks_a_few_batches_ahead_and_no_further() -> None:
    drawn: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            drawn.append(number)
            yield number

    before = threading.active_count()
    ahead = read_ahead(endless(), lambda number: number, 2)  # type: ignore[arg-type, return-value]
    assert [next(ahead)[0] for _ in range(3)] == [0, 1, 2]
    assert len(drawn) == 3 + 2 * 2
    ahead.close()  # type: ignore[attr-defined]
    for thread in threading.enumerate():
        if thread.name.startswith("batch"):
            thread.join(timeout=10)
    assert threading.active_count() <= before


def test_a_cpu_keeps_its_cores_for_the_model() -> None:
    assert default_workers("cpu") == 0
    assert 1 <= default_workers("cuda") <= 8


def replay(count: int = 7, share: float = 0.2, seconds: float = 3.0) -> Replay:
    """General clips of one length, a share of all clips beside a domain that has the rest."""
    examples = [Example(f"r{index}", Path(f"r{index}.wav"), "", f"r {index}") for index in range(count)]
    return Replay(examples, ["x"] * count, [seconds] * count, share, 1 - share, "trim", 4, "seed")


@given(share=st.floats(0.01, 0.9), batch_size=st.integers(1, 9), accumulate=st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_replay_keeps_its_share_to_the_clip_after_every_step(share: float, batch_size: int, accumulate: int) -> None:
    order = schedule([2.0, 3.0, 9.0] * 6, batch_size=batch_size)
    domain = general = 0
    for (_, _, clips), micro in itertools.islice(steps(order, [replay(share=share)], accumulate, (0, 0, 0)), 25):
        domain += sum(len(windows) for windows in micro if windows[0].role == "domain")
        general += sum(len(windows) for windows in micro if windows[0].role == "replay")
        assert clips == domain
        assert abs(general - domain * share / (1 - share)) < 1 + 1e-6


def test_replay_leaves_the_domains_batches_as_they_are() -> None:
    order = schedule([2.0, 3.0, 9.0] * 6)
    plain, mixed = (
        list(itertools.islice(steps(order, replays, 2, (0, 0, 0)), 12)) for replays in ([], [replay(), replay(3, 0.3)])
    )
    for (at, micro), (at_mixed, micro_mixed) in zip(plain, mixed, strict=True):
        assert at == at_mixed
        assert micro == micro_mixed[: len(micro)]


@pytest.mark.parametrize("taken", [1, 5, 17])
def test_steps_can_be_resumed_anywhere(taken: int) -> None:
    order, mixed = schedule([2.0, 3.0, 9.0] * 6), [replay(), replay(3, 0.3, seconds=8.0)]
    whole = list(itertools.islice(steps(order, mixed, 2, (0, 0, 0)), 30))
    position = whole[taken - 1][0]
    assert list(itertools.islice(steps(order, mixed, 2, position), 30 - taken)) == whole[taken:]


def test_every_replay_clip_comes_once_before_one_comes_again() -> None:
    general = replay(7, 0.5)
    drawn = [general.window(position).examples[0].id for position in range(21)]
    assert all(len(set(drawn[start : start + 7])) == 7 for start in (0, 7, 14))
    assert drawn[:7] != drawn[7:14]


def test_a_share_of_zero_mixes_nothing_in() -> None:
    drawn = itertools.islice(steps(schedule([2.0] * 9), [replay(share=0.0)], 1, (0, 0, 0)), 10)
    assert all(windows[0].role == "domain" for _, micro in drawn for windows in micro)


def timed_example(index: int, seconds: float, folder: Path, prompt: str | None = None) -> Example:
    """A clip of two segments, said by halves."""
    soundfile.write(folder / f"{index}.wav", np.full(round(seconds * SAMPLE_RATE), 0.1), SAMPLE_RATE)
    segments = (Segment(0.0, seconds / 2, f"ONE {index}"), Segment(seconds / 2, seconds, "AND TWO"))
    return Example(
        f"{index}", folder / f"{index}.wav", f"ONE {index} AND TWO", f"{index}", segments=segments, prompt=prompt
    )


def test_labels_carry_times_and_prompts_as_often_as_asked(tmp_path: Path) -> None:
    """Drawn anew at every visit; the times' texts are in the label's style; a share of 0 or 1 is never or always."""
    window = Window((timed_example(0, 2.0, tmp_path, "Before."),), ("One 0 and two.",), N_SAMPLES)
    timed_segments = (Segment(0.0, 1.0, "One 0"), Segment(1.0, 2.0, "and two."))
    for cfg, segments, prompts in (
        (Config(), 0.5, 0.5),
        (Config(timestamps=0.0, prompts=1.0), 0.0, 1.0),
        (Config(timestamps=1.0, prompts=0.0), 1.0, 0.0),
        (Config(timestamps=0.2), 0.2, 0.5),
    ):
        labels = [label(replace(window, visit=visit), [2.0], 2.0, cfg) for visit in range(2000)]
        assert {each.text for each in labels} == {"One 0 and two."}
        assert {each.segments for each in labels} <= {(), timed_segments}
        assert {each.prompt for each in labels} <= {"", "Before."}
        assert sum(bool(each.segments) for each in labels) / 2000 == pytest.approx(segments, abs=0.04)
        assert sum(bool(each.prompt) for each in labels) / 2000 == pytest.approx(prompts, abs=0.04)


def test_times_of_joined_and_stretched_clips_are_the_window_s(tmp_path: Path) -> None:
    """Each clip's times begin where it begins, and go with its speed; a clip without times leaves the window none."""
    first, second = timed_example(0, 2.0, tmp_path), timed_example(1, 3.0, tmp_path)
    window = Window((first, second), ("One 0 and two.", "One 1 and two."), N_SAMPLES)
    times = [(each.start, each.end, each.text) for each in timed(window, [2.0, 3.0], 1.1)]
    expected = [(0, 1, "One 0"), (1, 2, "and two."), (2, 3.5, "One 1"), (3.5, 5, "and two.")]
    assert times == [(pytest.approx(start * 1.1), pytest.approx(end * 1.1), text) for start, end, text in expected]
    assert timed(replace(window, examples=(first, replace(second, segments=()))), [2.0, 3.0]) == ()
    assert timed(replace(window, texts=("Quite another text of so many words.", "One 1 and two.")), [2.0, 3.0]) == ()


def test_where_nobody_speaks_a_joined_window_has_no_words(tmp_path: Path) -> None:
    """The token stands for a whole window: among other clips, one in which nobody speaks is a pause."""
    spoken, silent = timed_example(0, 2.0, tmp_path), Example("1", tmp_path / "0.wav", NON_SPEECH, "1")
    window = Window((silent, spoken, silent), (NON_SPEECH, "One 0 and two.", NON_SPEECH), N_SAMPLES)
    assert label(window, [2.0, 2.0, 2.0], 6.0, Config(timestamps=0.0)) == Label("One 0 and two.")
    times = label(window, [2.0, 2.0, 2.0], 12.0, Config(timestamps=1.0)).segments
    assert times == (Segment(4.0, 6.0, "One 0"), Segment(6.0, 8.0, "and two."))
    nobody = Window((silent, silent), (NON_SPEECH, NON_SPEECH), N_SAMPLES)
    assert label(nobody, [2.0, 2.0], 4.0, Config(timestamps=1.0)) == Label(NON_SPEECH)


def test_a_clip_may_have_any_name(tmp_path: Path) -> None:
    """Halves of characters, as file names that are not UTF-8 and JSON can hold, draw like others."""
    soundfile.write(tmp_path / "0.wav", np.full(SAMPLE_RATE, 0.1), SAMPLE_RATE)
    window = Window((Example("\udcff\ud800", tmp_path / "0.wav", "Hello.", "0"),), ("Hello.",), N_SAMPLES)
    assert collate([window], TOKENS, 80, Config(augment=("gain@1",))).windows == (window,)


def test_a_batch_holds_the_times_of_the_audio_that_is_heard(tmp_path: Path) -> None:
    """Played at half the speed, a clip's segments last twice as long."""
    example = timed_example(0, 2.0, tmp_path)
    window = Window((example,), (example.text,), N_SAMPLES)
    for words, end in (((), "<|2.00|>"), (("speed=0.5@1",), "<|4.00|>")):
        batch = collate([window], TOKENS, 80, Config(timestamps=1.0, augment=words))
        row = [token for token in batch.targets.targets[0].tolist() if token >= 0]
        assert TOKENS.tokenizer.decode_with_timestamps(row[:-1]).endswith(end)


def test_packed_windows_leave_room_for_times() -> None:
    """Two tokens a segment count, so that no window is too long for the decoder."""
    segments = tuple(Segment(index * 0.02, index * 0.02 + 0.01, "a") for index in range(60))
    text = " ".join(["a"] * 60)
    examples = [Example(f"{index}", Path("x.wav"), text, f"{index}", segments=segments) for index in range(8)]
    order = Schedule(examples, [text] * 8, [1.5] * 8, "pack", 4, TOKENS, 0)
    windows = [window for batch in order.epoch(0) for window in batch]
    assert max(len(window.examples) for window in windows) == 2
    for window in windows:
        assert TOKENS.fits(window.text, timed(window, [1.5] * len(window.examples)))
