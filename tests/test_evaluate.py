"""The evaluation as the command line runs it: an original, what was fine-tuned from it, and every number they leave."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import pytest
import torch
import whisper
from conftest import needs_speech, needs_weights
from quick_model import ending_whisper, one_thread, save_openai, write_set  # noqa: F401
from whisper.audio import log_mel_spectrogram, pad_or_trim
from whisper.normalizers import EnglishTextNormalizer

import evaluate
import train
from whisper_min import audio, runs
from whisper_min.data.tokens import Tokens
from whisper_min.model import weights
from whisper_min.scoring import decode

SUMMARY = {
    "utterances", "words", "audio_seconds", "cer", "substitutions", "deletions", "insertions", "loops", "no_end",
    "decode_seconds", "rtfx",
}  # fmt: skip
WER = {"wer", "wer_ci", "raw_wer", "wer_without_loops"}
DRIFT = {"drift", "drift_ci", "raw_drift", "drift_without_loops"}


@dataclass(frozen=True)
class Scored:
    """What one evaluation wrote."""

    original: str
    run: str
    numbers: dict[str, Any]
    rows: list[dict[str, Any]]
    data: tuple[str, ...]
    options: tuple[str, ...]


@pytest.fixture(scope="module")
def scored(module_folder: Path, one_thread: None) -> Scored:  # noqa: F811
    """A run of one rough step, evaluated alone on three sets, one of them without text."""
    root = module_folder
    model = save_openai(ending_whisper(), root / "original.pt")
    domain = write_set(root / "domain", ["A red fox.", "Leaves fell."], [1.2, 1.7])
    general = write_set(root / "general", ["Birds sing.", "It goes on.", "The end."], [2.1, 1.0, 1.4])
    silent = write_set(root / "silent", ["", ""], [1.3, 1.1])
    training = write_set(root / "training", ["Dogs chase cats."], [1.5])
    run = root / "runs" / "tuned"
    command = [
        *("--model", str(model), "--data", str(training), "--eval_data", str(domain), "--retain", str(general)),
        *("--run", "tuned", "--runs_dir", str(root / "runs"), "--data_dir", str(root / "cache"), "--device", "cpu"),
        *("--precision", "fp32", "--max_steps", "1", "--warmup_steps", "0", "--lr", "0.05"),
    ]
    assert train.main(command) == 0
    data = (f"domain={domain}", f"general={general}", f"silent={silent}")
    options = ("--device", "cpu", "--batch_size", "2", "--data_dir", str(root / "cache"))
    out = ("--json", str(root / "out.json"), "--hypotheses", str(root / "out.jsonl"))
    assert evaluate.main([str(run), "--data", *data, *options, *out]) == 0
    numbers = json.loads((root / "out.json").read_text())
    return Scored(str(model), str(run), numbers, list(runs.read_jsonl(root / "out.jsonl")), data, options)


def test_a_runs_original_comes_first(scored: Scored) -> None:
    """It was not named: the run knows what it started from. Fingerprints tell them apart."""
    systems = scored.numbers["systems"]
    assert [its["name"] for its in systems] == [scored.original, scored.run]
    fingerprints = [its["weights_fingerprint"] for its in systems]
    assert fingerprints == [weights.load(name)[1].fingerprint for name in (scored.original, scored.run)]
    assert fingerprints[0] != fingerprints[1]


def test_the_json_is_as_the_contract_says(scored: Scored) -> None:
    """Every key of every set, for both systems; decoding and normaliser beside them."""
    assert scored.numbers["normalizer"] == f"whisper-english-{whisper.__version__}"
    decoding = scored.numbers["decoding"]
    assert (decoding["beam_size"], decoding["temperature"], decoding["sample_len"]) == (1, 0.0, 224)
    assert decoding["without_timestamps"] is True
    assert scored.numbers["device"] == "cpu"
    for its in scored.numbers["systems"]:
        assert its["sets"].keys() == {"domain", "general", "silent"}
        for name in ("domain", "general"):
            assert its["sets"][name].keys() >= SUMMARY | WER
            assert not DRIFT & its["sets"][name].keys()
            low, high = its["sets"][name]["wer_ci"]
            assert low <= its["sets"][name]["wer"] <= high
        assert its["sets"]["silent"].keys() >= SUMMARY | DRIFT
        assert not WER & its["sets"]["silent"].keys()
        assert its["non_speech"]["seconds"] > 0
        assert its["non_speech"]["words_per_minute"] >= 0
    assert scored.numbers["systems"][0]["sets"]["general"]["utterances"] == 3
    assert scored.numbers["systems"][0]["sets"]["general"]["audio_seconds"] == 4.5
    keys = {"baseline", "system", "set", "delta_wer", "delta_ci", "relative", "relative_upper_95", "p_value"}
    keys |= {"delta_raw_wer", "recognition", "format"}
    comparisons = scored.numbers["comparisons"]
    assert [each["set"] for each in comparisons] == ["domain", "general", "pooled"]
    assert all(each.keys() == keys for each in comparisons)
    assert all((each["baseline"], each["system"]) == (scored.original, scored.run) for each in comparisons)


def test_sets_without_text_measure_drift_from_the_original(scored: Scored) -> None:
    """The original has not drifted from itself; the rough step has."""
    original, tuned = (its["sets"]["silent"] for its in scored.numbers["systems"])
    assert original["drift"] == 0.0
    assert tuned["drift"] > 0.0
    rows = [row for row in scored.rows if row["set"] == "silent"]
    assert [row["reference"] for row in rows[2:]] == [row["hypothesis"] for row in rows[:2]]


def test_hypotheses_and_rates_are_one_truth(scored: Scored) -> None:
    """Every utterance of every system once; jiwer over their normalised texts gives the set's rates."""
    assert len(scored.rows) == 2 * (2 + 3 + 2)
    normalize = EnglishTextNormalizer()
    for its in scored.numbers["systems"]:
        for name, numbers in its["sets"].items():
            rows = [row for row in scored.rows if (row["system"], row["set"]) == (its["name"], name)]
            assert [row["id"] for row in rows] == [f"{index}.wav" for index in range(numbers["utterances"])]
            references, texts = ([row[key] for row in rows] for key in ("reference", "hypothesis"))
            assert [row["reference_normalized"] for row in rows] == [normalize(each) for each in references]
            assert [row["hypothesis_normalized"] for row in rows] == [normalize(each) for each in texts]
            rate = "drift" if name == "silent" else "wer"
            output = jiwer.process_words([normalize(each) for each in references], [normalize(each) for each in texts])
            assert numbers[rate] == output.wer
            assert numbers[f"raw_{rate}"] == jiwer.wer(references, texts)
            # alignments of the same length may differ between utterance and set, their totals may not
            for key in ("substitutions", "deletions", "insertions"):
                assert numbers[key] == sum(row[key] for row in rows) == getattr(output, key)


def test_a_plain_model_named_is_the_baseline_wherever_it_stands(scored: Scored, tmp_path: Path) -> None:
    """The run first on the command line, the original second: the original leads, and nothing changes."""
    out = tmp_path / "out.json"
    argv = [scored.run, scored.original, "--data", *scored.data, *scored.options, "--json", str(out)]
    assert evaluate.main(argv) == 0
    again = json.loads(out.read_text())
    assert [its["name"] for its in again["systems"]] == [scored.original, scored.run]
    assert again["comparisons"] == scored.numbers["comparisons"]


def test_the_table_goes_to_stdout(scored: Scored, capsys: pytest.CaptureFixture[str]) -> None:
    """Data on stdout, progress on stderr; beam search is whisper's own and written down."""
    argv = [scored.original, "--data", scored.data[0], *scored.options, "--beam_size", "2"]
    assert evaluate.main(argv) == 0
    captured = capsys.readouterr()
    assert "domain" in captured.out
    assert "non-speech" in captured.out
    assert "WER in %" not in captured.err


def test_the_beam_is_in_the_json(scored: Scored, tmp_path: Path) -> None:
    """One option changed, one entry changed; more than one clip in a batch."""
    out = tmp_path / "beam.json"
    argv = [scored.original, "--data", scored.data[1], *scored.options, "--beam_size", "2", "--json", str(out)]
    assert evaluate.main(argv) == 0
    numbers = json.loads(out.read_text())
    assert numbers["decoding"]["beam_size"] == 2
    assert numbers["comparisons"] == []
    assert numbers["systems"][0]["sets"]["general"]["utterances"] == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--language", "klingon"], "--language klingon: Whisper does not know it; give a code"),
        (["--json", "nowhere/out.json"], "nowhere/out.json: its folder does not exist; make it first"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl: does not exist"),
    ],
)
def test_wrong_input_is_named(scored: Scored, change: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, the option and what would work."""
    argv = [scored.original, "--data", scored.data[0], *scored.options, *change]
    assert evaluate.main(argv) == 2
    assert says in capsys.readouterr().err


def test_unknown_systems_are_named(scored: Scored, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them at once, before anything is scored."""
    assert evaluate.main([scored.original, "tinny", "runs/nothing", "--data", *scored.data]) == 2
    message = capsys.readouterr().err
    assert "tinny" in message
    assert "runs/nothing" in message


def test_faulty_recordings_are_named_or_left_out(
    scored: Scored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 with the line; under --skip_bad the rest is scored."""
    manifest = write_set(tmp_path / "faulty", ["Here.", "Gone."], [1.0, 1.0])
    (tmp_path / "faulty" / "1.wav").unlink()
    argv = [scored.original, "--data", f"faulty={manifest}", *scored.options]
    assert evaluate.main(argv) == 2
    assert f"{manifest}, line 2" in capsys.readouterr().err
    assert evaluate.main([*argv, "--skip_bad", "--json", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["systems"][0]["sets"]["faulty"]["utterances"] == 1
    assert "line 2" in capsys.readouterr().err


@pytest.mark.slow
def test_tiny_en_scores_as_whisper_itself(tmp_path: Path) -> None:
    """Twelve real clips: whisper's own log-mel, decoder and normaliser, and jiwer, give the same rate to the digit."""
    needs_weights()
    folder = needs_speech("general-test") / "general-test"
    entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()[:12]]
    for entry in entries:
        entry["audio_filepath"] = str(folder / entry["audio_filepath"])
    manifest, out = tmp_path / "twelve.jsonl", tmp_path / "out.json"
    manifest.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    argv = ["tiny.en", "--data", str(manifest), "--json", str(out), "--device", "cpu", "--data_dir", str(tmp_path)]
    assert evaluate.main(argv) == 0
    numbers = json.loads(out.read_text())["systems"][0]["sets"]["twelve"]

    model, _ = weights.load("tiny.en")
    options, normalize = decode.options(Tokens(model.dims)), EnglishTextNormalizer()
    texts = []
    for entry in entries:
        waveform = torch.from_numpy(audio.read(entry["audio_filepath"]))
        texts.append(model.decode(log_mel_spectrogram(pad_or_trim(waveform)), options).text)
    references = [entry["text"] for entry in entries]
    normal = [normalize(each) for each in references], [normalize(each) for each in texts]
    assert numbers["wer"] == jiwer.wer(*normal)
    assert numbers["cer"] == jiwer.cer(*normal)
    assert numbers["raw_wer"] == jiwer.wer(references, texts)
    assert 0 < numbers["wer"] < 0.5
