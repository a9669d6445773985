"""Streams: each entry once an epoch, an order that can be resumed, what the preflight says, and a whole training."""

from __future__ import annotations

import gc
import itertools
import json
import random
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from quick_model import ending_whisper, one_thread, same_weights, save_openai, write_set  # noqa: F401
from tars import LENGTHS, TEXTS, hollow_tar, recording, served, write_shards, write_tar  # noqa: F401
from whisper.audio import N_SAMPLES, SAMPLE_RATE
from workbench import TOKENS

import train
from whisper_min import audio, runs
from whisper_min.config import Config
from whisper_min.data import batches, shards, sources, stream
from whisper_min.data.batches import Window
from whisper_min.data.checked import CheckedSet, StreamTotals
from whisper_min.data.examples import SpeechSet
from whisper_min.data.recordings import Facts
from whisper_min.data.stream import Stream
from whisper_min.model import weights

CONTEXTS = ["full", "trim", "pack"]
ENTRIES, SHARDS = 300, 6


@pytest.fixture(scope="module")
def tars(module_folder: Path) -> list[Path]:
    """Six tars of fifty entries whose audio nobody decodes."""
    folder, size = module_folder, ENTRIES // SHARDS
    return [hollow_tar(folder / f"{index}.tar", size, first=index * size) for index in range(SHARDS)]


def streamed(paths: Sequence[Path], style: str = "keep", entries: int = ENTRIES) -> CheckedSet:
    """A set of tars as the preflight leaves it."""
    speech = SpeechSet("tars", "tars", [], shards=tuple(map(str, paths)))
    totals = StreamTotals(entries, entries, 10.0 * entries, 23.0, 0)
    return CheckedSet("data", speech, [], style, totals=totals)


def stream_of(paths: Sequence[Path], audio_context: str = "trim", **options: object) -> Stream:
    cfg = Config(audio_context=audio_context, batch_size=8, seed=int(options.pop("seed", 0)))
    return Stream([streamed(paths)], cfg, TOKENS, **{"buffer": 40, **options})


def epoch_of(order: Stream, epoch: int) -> list[list[Window]]:
    """One epoch's batches."""
    blocks = order.from_position(epoch * order.blocks, 0)
    found = itertools.takewhile(lambda item: item[0][0] // order.blocks == epoch, blocks)
    return [windows for _, windows in found]


def ids(epoch: Sequence[Sequence[Window]]) -> list[str]:
    return [example.id for windows in epoch for window in windows for example in window.examples]


# ---- The order.


@pytest.mark.parametrize("block", [stream.BLOCK, 100])
@pytest.mark.parametrize("audio_context", CONTEXTS)
def test_each_entry_is_in_an_epoch_once_in_batches_of_one_context(
    tars: list[Path], audio_context: str, block: int
) -> None:
    epoch = epoch_of(stream_of(tars, audio_context, block=block), 0)
    assert Counter(ids(epoch)).most_common(1)[0][1] == 1 and len(ids(epoch)) == ENTRIES
    for windows in epoch:
        assert len(windows) <= 8 and len({window.context for window in windows}) == 1
        for window in windows:
            told = sum(example.duration or 0 for example in window.examples)
            assert told * SAMPLE_RATE <= window.context and TOKENS.fits(window.text)
            if audio_context == "trim":
                assert window.context == audio.context_samples(round(told * SAMPLE_RATE))
            else:
                assert window.context == N_SAMPLES
    assert sum(len(windows) < 4 for windows in epoch) == 0, "what is left is split evenly"


def test_epochs_and_seeds_differ_and_equal_ones_do_not(tars: list[Path]) -> None:
    orders = [ids(epoch_of(stream_of(tars, seed=seed), epoch)) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    assert len(set(map(tuple, orders))) == 3 and len({frozenset(order) for order in orders}) == 1
    assert ids(epoch_of(stream_of(tars), 0)) == orders[0]


def test_shards_are_mixed(tars: list[Path]) -> None:
    order = ids(epoch_of(stream_of(tars, "full", buffer=100), 0))
    drawn_from = {identifier.partition("/")[0] for identifier in order[:50]}
    assert len(drawn_from) > 1 and order != sorted(order)


@pytest.mark.parametrize("block", [stream.BLOCK, 100])
@pytest.mark.parametrize("audio_context", CONTEXTS)
def test_from_any_position_on_the_rest_is_what_an_uninterrupted_order_had_left(
    tars: list[Path], audio_context: str, block: int
) -> None:
    uninterrupted = list(itertools.islice(stream_of(tars, audio_context, block=block).from_position(0, 0), 60))
    for place in [0, 1, 7, 20, *random.Random(0).sample(range(20, 59), 4)]:
        position, _ = uninterrupted[place]
        rest = stream_of(tars, audio_context, block=block).from_position(*position)
        assert list(itertools.islice(rest, 59 - place)) == uninterrupted[place + 1 :]


def test_a_resume_reads_its_own_block_alone(tars: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """However far into an epoch: two tars of six."""
    order, read = stream_of(tars, block=100), []
    entries = shards.entries
    monkeypatch.setattr(shards, "entries", lambda shard, *rest: read.append(shard) or entries(shard, *rest))
    assert order.blocks == 3
    list(itertools.takewhile(lambda item: item[0][0] == 5, order.from_position(5, 10)))
    before, of_block = ([shard for _, shard in order.parts_of(block)] for block in (4, 5))
    assert read[:2] == of_block and len(of_block) == 2 and not {*before} & {*of_block}


def test_a_block_of_damaged_tars_is_passed_over(tmp_path: Path) -> None:
    paths = [hollow_tar(tmp_path / f"{index}.tar", 20, first=20 * index) for index in range(3)]
    paths[1].write_bytes(b"no tar")
    cfg = Config(batch_size=8, skip_bad=True)
    order = Stream([streamed(paths, entries=60)], cfg, TOKENS, buffer=40, block=20)
    assert order.blocks == 3 and len(ids(epoch_of(order, 0))) == len(ids(epoch_of(order, 1))) == 40


def test_resuming_decodes_nothing(tars: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*parts: object) -> None:
        raise AssertionError("audio was opened")

    for name in ("read", "info"):
        monkeypatch.setattr(audio, name, refuse)
    next(stream_of(tars).from_position(1, 20))


def test_a_set_that_is_held_is_one_more_shard(tars: list[Path], make_set: Callable[..., Path]) -> None:
    manifest = make_set("mine", [f"Clip {n}." for n in range(7)], 0.5)
    [speech] = sources.load_sets([str(manifest)], "data", Path())
    held = CheckedSet("data", speech, [Facts(seconds=0.5)] * 7, "keep")
    mixed = Stream([streamed(tars), held], Config(batch_size=8), TOKENS, buffer=40)
    found = ids(epoch_of(mixed, 0))
    assert len(found) == len(set(found)) == ENTRIES + 7
    assert mixed.steps_per_epoch(2) == 20


def test_a_length_that_is_not_told_is_read_from_the_recording(tmp_path: Path) -> None:
    lengths = [1.0, 6.0, 11.0, 2.0]
    paths = write_shards(tmp_path / "s", [f"Clip {n}." for n in range(4)], lengths, 2, told=False)
    windows = [window for each in epoch_of(stream_of(paths), 0) for window in each]
    assert sorted(window.context / SAMPLE_RATE for window in windows) == [5, 5, 10, 15]


def test_nothing_is_cut_where_a_duration_is_told_wrongly(tmp_path: Path) -> None:
    """The window was chosen by the .json; the recording is longer."""
    row = json.dumps({"text": "Hello.", "duration": 1.0}).encode()
    path = write_tar(tmp_path / "a.tar", [("a.flac", recording(7.0)), ("a.json", row)])
    [windows] = epoch_of(stream_of([path]), 0)
    with pytest.raises(audio.AudioError, match=r"a\.tar, key a: 7\.00 s, more than the 5 s of its window"):
        batches.collate(windows, TOKENS, 80, Config())


def test_memory_is_that_of_the_buffer(tmp_path: Path) -> None:
    def peak(entries: int) -> int:
        paths = [hollow_tar(tmp_path / f"{entries}-{index}.tar", 250) for index in range(entries // 250)]
        order = stream_of(paths, buffer=200).from_position(0, 0)
        gc.collect()
        tracemalloc.start()
        for (epoch, _), _ in order:
            if epoch == 1:
                break
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(2500) < 1.2 * peak(500)


def test_a_stream_whose_shards_went_away_stops(tmp_path: Path) -> None:
    path = hollow_tar(tmp_path / "a.tar", 20)
    order = stream_of([path]).from_position(0, 0)
    next(order)
    path.unlink()
    with pytest.raises(audio.AudioError, match=r"a\.tar: cannot be read"):
        list(order)


def test_shuffled_gives_each_item_once() -> None:
    for size in (1, 2, 10, 100):
        assert sorted(stream.shuffled(range(50), size, random.Random(0))) == list(range(50))
    assert list(stream.shuffled(range(5), 1, random.Random(0))) == [0, 1, 2, 3, 4]


# ---- A training.


def test_a_training_on_tars_goes_on_exactly_where_it_stopped(
    tmp_path: Path,
    one_thread: None,  # noqa: F811
) -> None:
    model = save_openai(ending_whisper(), tmp_path / "small.pt")
    write_shards(tmp_path / "s", TEXTS[:8], LENGTHS[:8], 3)
    [domain] = write_shards(tmp_path / "dev", ["A grey fox jumps.", "Leaves fell there."], [1.2, 1.7], 2)
    general = write_set(tmp_path / "general", ["Birds sing in here."], [1.1])
    argv = [
        *("--model", str(model), "--data", f"{tmp_path}/s/{{000..002}}.tar", "--eval_data", f"dev={domain}"),
        *("--retain", f"general={general}", "--runs_dir", str(tmp_path), "--data_dir", str(tmp_path / "cache")),
        *("--device", "cpu", "--precision", "fp32", "--batch_size", "2", "--keep", "9", "--lr", "1e-3"),
        *("--max_steps", "4", "--warmup_steps", "1", "--eval_every", "4"),
    ]
    assert train.main([*argv, "--check"]) == 0
    assert train.main([*argv, "--run", "whole", "--save_every", "2"]) == 0
    rows = list(runs.read_jsonl(tmp_path / "whole" / "samples.jsonl"))
    copies = sorted({row["audio_filepath"] for row in rows if row["set"] == "dev"})
    assert [Path(copy).parent for copy in copies] == [tmp_path / "whole" / "audio"] * 2
    assert [len(audio.read(copy)) for copy in copies] == [19_200, 27_200]
    assert all(not Path(copy).name.startswith(".") for copy in (tmp_path / "whole" / "audio").iterdir())

    # the same folder as it was after the second step, in the middle of an epoch, and resumed
    parts = shutil.copytree(tmp_path / "whole", tmp_path / "parts", symlinks=True)
    for name in ("last", "best"):
        (parts / "checkpoints" / name).unlink(missing_ok=True)
    (parts / "checkpoints" / "last").symlink_to("2")
    for name in ("4", "metrics.jsonl"):
        path = parts / "checkpoints" / name if name == "4" else parts / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert train.main(["--resume", str(parts)]) == 0
    finished = [weights.load(str(run / "checkpoints" / "4"))[0] for run in (tmp_path / "whole", parts)]
    assert same_weights(*finished)
    ce = [
        {row["_step"]: row["train/ce"] for row in runs.read_jsonl(run / "metrics.jsonl") if "train/ce" in row}
        for run in (tmp_path / "whole", parts)
    ]
    assert ce[1] == {step: ce[0][step] for step in (3, 4)} and len(ce[0]) == 4


def test_a_clip_that_cannot_be_decoded_is_counted_in_training(tmp_path: Path) -> None:
    """It was not in the sample that the preflight decoded."""
    files = []
    for key in ("a", "b", "c"):
        row = json.dumps({"text": "Hello there.", "duration": 1.0}).encode()
        files += [(f"{key}.flac", b"fLaC" if key == "b" else recording(1.0, key)), (f"{key}.json", row)]
    [windows] = epoch_of(stream_of([write_tar(tmp_path / "a.tar", files)]), 0)
    with pytest.raises(audio.AudioError, match=r"a\.tar, key b: "):
        batches.collate(windows, TOKENS, 80, Config())
    batch = batches.collate(windows, TOKENS, 80, replace(Config(), skip_bad=True))
    assert len(batch.bad) == 1 and sorted(batch.ids) == ["a/a", "a/c"]
