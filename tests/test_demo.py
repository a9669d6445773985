"""The speech that is shipped: whole, small, and no recording in two sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from conftest import needs_weights, random_whisper
from rich.console import Console

from whisper_min import audio, config
from whisper_min.config import DEMO
from whisper_min.data import preflight, sources
from whisper_min.data.checked import Report
from whisper_min.data.sources import DEMO_FOLDER, DEMO_SPLITS
from whisper_min.data.tokens import Tokens
from whisper_min.model import weights
from whisper_min.scoring import decode, wer


def rows(split: str) -> list[dict[str, Any]]:
    """A manifest's entries."""
    return [json.loads(line) for line in (DEMO_FOLDER / f"{split}.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("split", DEMO_SPLITS)
def test_manifests_say_what_the_files_hold(split: str) -> None:
    """Every recording is there, 16 kHz mono, as long as its entry says, with a text written as a sentence."""
    entries = rows(split)
    assert len(entries) >= 30
    for entry in entries:
        header = soundfile.info(DEMO_FOLDER / entry["audio_filepath"])
        assert (header.samplerate, header.channels) == (16_000, 1), entry
        assert header.frames / header.samplerate == pytest.approx(entry["duration"], abs=0.01), entry
        assert 0 < entry["duration"] < 30
        text = entry["text"]
        assert text == text.strip()
        assert text[0].isupper() or text[0].isdigit(), text
        assert text[-1] in ".!?", text
        assert entry["speaker"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What the preflight finds in a training and an evaluation on all that is shipped."""
    cfg = config.resolve(config.parse(["--demo", "--data_dir", str(tmp_path_factory.mktemp("demo"))]))
    assert cfg.data == DEMO.data
    tested = sources.load_sets(["test=demo:test"], "data", cfg.data_dir)
    sets = [*sources.of_training(cfg), *(("test", each) for each in tested)]
    return preflight.run(sets, cfg, Tokens(random_whisper().dims), Console(stderr=True))


def test_no_recording_or_text_is_in_two_sets(report: Report) -> None:
    """By name, by sound and by text: what is evaluated was never trained on."""
    seen: dict[str, str] = {}
    for each in report.sets:
        for example, facts in zip(each.speech.examples, each.facts, strict=True):
            assert facts.digest
            for key in (str(example.audio_filepath), facts.digest, example.text.lower()):
                assert seen.setdefault(key, each.role) == each.role, example
    assert {each.role for each in report.sets} == {"data", "eval_data", "retain", "test"}


def test_every_file_is_used_and_licensed() -> None:
    """Nothing lies there that no manifest names; the licence names the sources."""
    named = {entry["audio_filepath"] for split in DEMO_SPLITS for entry in rows(split)}
    assert {f"audio/{path.name}" for path in (DEMO_FOLDER / "audio").iterdir()} == named
    licence = (DEMO_FOLDER / "LICENSE.md").read_text("utf-8")
    for words in ("CC BY-SA 3.0", "Allison Smith", "public domain"):
        assert words in licence


def test_the_folder_is_small() -> None:
    """Under 5 MB, as the design asks."""
    assert sum(path.stat().st_size for path in DEMO_FOLDER.rglob("*") if path.is_file()) < 5_000_000


def test_the_demo_passes_its_own_preflight(report: Report) -> None:
    """`--demo` as it is on the command line: no faults, and no text that does not fit its audio."""
    assert report.faults == []
    assert {each.role: each.speech.name for each in report.sets} == {
        "data": "throat", "eval_data": "throat", "retain": "clean", "test": "test"
    }  # fmt: skip
    assert all(each.style == "keep" for each in report.sets)
    assert not any("do not fit their audio" in note or "clipped" in note or "silent" in note for note in report.notes)


def test_an_unknown_split_names_the_known_ones() -> None:
    """A typing error."""
    with pytest.raises(config.InputError, match=r"--data demo:tran: .*train, dev, test, general"):
        sources.load_sets(["demo:tran"], "data", Path("."))


@pytest.mark.slow
def test_tiny_en_hears_the_clean_speech() -> None:
    """The texts are what is said: most words of the clean set are heard right by the original."""
    needs_weights()
    model, _ = weights.load("tiny.en")
    tokens = Tokens(model.dims)
    _, normalize = wer.normalizer("en")
    references, texts = [], []
    entries = rows("general")
    for first in range(0, len(entries), 8):
        batch = entries[first : first + 8]
        mel = audio.log_mel(audio.pad([audio.read(DEMO_FOLDER / entry["audio_filepath"]) for entry in batch]), 80)
        with torch.inference_mode():
            written = decode.greedy(model, decode.encode_windows(model, mel), tokens)
        references += [normalize(entry["text"]) for entry in batch]
        texts += [normalize(each.text) for each in written]
    assert wer.add_up(wer.word_errors(references, texts)).rate < 0.1
