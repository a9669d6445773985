"""Weights out: what whisper opens, whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import whisper
from quick_model import same_weights, save_openai, small_whisper
from whisper import Whisper

from whisper_min import export
from whisper_min.config import Config, to_record
from whisper_min.engines import openai
from whisper_min.model import weights
from whisper_min.model.interpolate import interpolate
from whisper_min.runs import RunFolder
from whisper_min.training import checkpoint

# These models have no vocabulary to write words with; the file is read back to the bit all the same.
OPENAI = ("--to", "openai", "--no_verify")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a best and a later checkpoint."""
    (tmp_path / "from").mkdir()
    model = save_openai(small_whisper(), tmp_path / "from" / "original.pt")
    fingerprint = weights.fingerprint(small_whisper().state_dict())
    record = {**to_record(Config(model=str(model))), "weights_fingerprint": fingerprint}
    folder = tmp_path / "my-run"
    RunFolder.create(folder).write_config(record)
    origin = weights.Origin(str(model), "x", fingerprint, None)
    for step in (1, 2):
        checkpoint.save(
            folder, step, checkpoint.what_trained(small_whisper(seed=step), origin), {}, to_record(Config()), "card"
        )
    checkpoint.point(folder, "best", 1)
    return folder


def test_a_run_opens_in_whisper(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The best checkpoint, to the bit, with its dimensions; what was written is said."""
    out = tmp_path / "model.pt"
    assert export.main([str(run), *OPENAI, str(out)]) == 0
    model = whisper.load_model(str(out), device="cpu")
    assert same_weights(model, small_whisper(seed=1))
    assert model.dims == small_whisper().dims
    printed = capsys.readouterr().out
    assert str(out) in printed
    assert "checkpoints/1" in printed
    assert not list(tmp_path.glob(".*"))


def between(tuned: Whisper, alpha: float, lines: float | None = None) -> Whisper:
    """What a point should be."""
    model = small_whisper(seed=9)
    interpolate(model, small_whisper().state_dict(), tuned.state_dict(), alpha, lines)
    return model


def exported(run: Path, *options: str) -> Whisper:
    """What whisper opens after an export."""
    out = run.parent / "point.pt"
    assert export.main([str(run), *OPENAI, str(out), *options]) == 0
    model = whisper.load_model(str(out), device="cpu")
    out.unlink()
    return model


@pytest.mark.parametrize(("alpha", "lines"), [(0.7, None), (0.7, 0.5), (0, None), (1, None)])
def test_any_point_of_a_run_can_be_exported(
    run: Path, alpha: float, lines: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of its best checkpoint, whatever was chosen; to the bit what a sweep scores there."""
    RunFolder(run).append("sweep.jsonl", [{"chosen": True, "alpha": 0.5, "checkpoint": "checkpoints/2"}])
    options = ["--interpolate", str(alpha), *([] if lines is None else ["--lines", str(lines)])]
    assert same_weights(exported(run, *options), between(small_whisper(seed=1), alpha, lines))
    printed = capsys.readouterr().out
    assert "checkpoints/1" in printed
    assert (f"interpolated to {alpha:g}" in printed) is (alpha != 1)


def test_the_chosen_point_is_exported_and_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By default, with its own checkpoint and depth."""
    row = {"chosen": True, "alpha": 0.5, "lines": 0.2, "checkpoint": "checkpoints/2"}
    RunFolder(run).append("sweep.jsonl", [row])
    assert same_weights(exported(run), between(small_whisper(seed=2), 0.5, 0.2))
    printed = capsys.readouterr().out
    assert "checkpoints/2" in printed
    assert "interpolated to 0.5" in printed
    assert f"as chosen in {run / 'sweep.jsonl'}" in printed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--interpolate", "1.5"], "--interpolate 1.5: must lie between 0 and 1"),
        (["--interpolate", "0.5", "--lines", "-1"], "--lines -1.0: must lie between 0 and 1"),
        (["--lines", "0.5"], "--lines: scales the point of --interpolate"),
    ],
)
def test_what_is_no_point_is_refused(
    run: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([str(run), *OPENAI, str(run.parent / "m.pt"), *options]) == 2
    assert says in capsys.readouterr().err
    assert not (run.parent / "m.pt").exists()


def test_the_card_is_of_what_was_exported(run: Path) -> None:
    """The chosen point's results, or the named one's; precision and place are said; a plain model has no card."""
    folder = RunFolder(run)
    for step, rate in [(0, 0.5), (1, 0.2), (2, 0.4)]:
        folder.log_metrics(step, {"eval/domain/wer": rate})
    options = export.Options(str(run), run.parent / "out", "ct2", precision="fp32")
    text = export.card_of(options)
    assert text is not None
    assert "| domain | 50.0 % | 20.0 % |" in text
    assert text.endswith("\n\nExported for faster_whisper in fp32.\n")
    chosen = {"checkpoint": "checkpoints/2", "alpha": 0.5, "lines": 0.2}
    folder.append("sweep.jsonl", [{**chosen, "set": "domain", "wer": 0.3}, {"chosen": True, **chosen}])
    text = export.card_of(replace(options, precision="int8"))
    assert text is not None
    assert "fine-tuned for 2 steps" in text
    assert "| domain | 50.0 % | 30.0 % |" in text
    assert (
        "in int8, at the point 0.5 between the original (0) and the checkpoint (1), the first layers to 0.2 of that; "
        "the figures are of the weights before they were rounded." in text
    )
    text = export.card_of(replace(options, interpolate=0.7))
    assert text is not None
    assert "at the point 0.7" in text
    assert " % |" not in text  # nobody has scored it
    assert export.card_of(replace(options, run=str(run.parent / "from" / "original.pt"))) is None


def test_a_folder_holds_its_card(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the weights, written with them; a single file has none beside it."""
    out = run.parent / "folder"

    def write(model: Whisper, heads: list[list[int]] | None, out: Path, precision: str) -> None:
        out.mkdir()
        save_openai(model, out / "model.pt")

    monkeypatch.setattr(openai, "write", write)
    assert export.main([str(run), *OPENAI, str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model.pt"]
    assert "Exported for openai in fp32." in (out / "README.md").read_text()


def test_a_plain_model_has_no_points(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has no original; nor has a checkpoint named without its run."""
    for system in (run.parent / "from" / "original.pt", run / "checkpoints" / "1"):
        command = [str(system), *OPENAI, str(run.parent / "m.pt"), "--interpolate", "0.5"]
        assert export.main(command) == 2
        assert "it takes a run, which knows its original" in capsys.readouterr().err


def test_fp16_is_half_the_size_and_the_same_weights(tmp_path: Path) -> None:
    """Rounded once, as OpenAI's own files are; the fingerprint does not see it."""
    model = small_whisper(layers=2)
    source = save_openai(model, tmp_path / "source.pt")
    sizes = {}
    for precision in ("fp32", "fp16"):
        out = tmp_path / f"{precision}.pt"
        assert export.main([str(source), *OPENAI, str(out), "--precision", precision]) == 0
        _, origin = weights.load(str(out))
        assert origin.fingerprint == weights.fingerprint(model.state_dict())
        sizes[precision] = out.stat().st_size
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    for name, tensor in whisper.load_model(str(tmp_path / "fp16.pt"), device="cpu").state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].half().float()), name


def test_an_existing_file_is_never_written_over(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused with 2; the file keeps its bytes."""
    out = tmp_path / "precious.pt"
    out.write_text("precious")
    assert export.main([str(run), *OPENAI, str(out)]) == 2
    assert f"error: {out}: exists; remove it or name another" in capsys.readouterr().err
    assert out.read_text() == "precious"


def test_a_missing_folder_and_a_missing_run_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each by name, and nothing is made."""
    assert export.main([str(run), *OPENAI, str(tmp_path / "no" / "model.pt")]) == 2
    assert "its folder does not exist; make it first" in capsys.readouterr().err
    assert export.main([str(tmp_path / "nothing"), *OPENAI, str(tmp_path / "m.pt")]) == 2
    assert str(tmp_path / "nothing") in capsys.readouterr().err
    assert not (tmp_path / "m.pt").exists()


def test_a_disk_that_refuses_leaves_nothing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real refusal by the kernel in the middle of the file: exit code 1, no half model."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        code = export.main([str(run), *OPENAI, str(tmp_path / "model.pt")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1
    assert f"nothing is left of {tmp_path / 'model.pt'}\nfailed: " in capsys.readouterr().err
    assert not list(tmp_path.glob("*.pt")) + list(tmp_path.glob(".*"))


def test_what_whisper_reads_back_otherwise_is_no_export(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is read back before it takes its name."""
    monkeypatch.setattr(whisper, "load_model", lambda name, device: small_whisper(seed=7))
    assert export.main([str(run), *OPENAI, str(tmp_path / "model.pt")]) == 1
    assert "whisper reads back other numbers" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.pt")) + list(tmp_path.glob(".*"))
