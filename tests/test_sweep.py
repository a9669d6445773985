"""Sweeps: which points, which models, what a run's sweep.jsonl says afterwards, and what its weights then are."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from quick_model import (  # noqa: F401
    ending_whisper,
    one_thread,
    same_weights,
    save_openai,
    scale_adapters,
    small_whisper,
    write_set,
)
from rich.console import Console
from whisper import Whisper

import evaluate
from whisper_min import config, runs
from whisper_min.config import Config, InputError
from whisper_min.data import preflight, sources
from whisper_min.data.tokens import Tokens
from whisper_min.model import lora, weights
from whisper_min.model.interpolate import interpolate
from whisper_min.runs import RunFolder
from whisper_min.scoring import sweep
from whisper_min.scoring.evaluation import Scorer
from whisper_min.scoring.originals import KeptResults
from whisper_min.scoring.sweep import Line, choose_for_run, parse_points
from whisper_min.scoring.tracking import Evaluation
from whisper_min.training import checkpoint
from whisper_min.training.reporter import Reporter
from whisper_min.training.steering import Steering, Stop

# ---- Which points.


@pytest.mark.parametrize(
    ("words", "points"),
    [
        ("0:1:0.1", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        ("0.2:0.7:0.2", [0.2, 0.4, 0.6]),
        ("0:1:1", [0, 1]),
        ("0.3:0.3:0.1", [0.3]),
        ("0.7,0,0.3,1,0.3", [0, 0.3, 0.7, 1]),
        ("1", [1]),
        ("0.7", [0.7]),
    ],
)
def test_points(words: str, points: list[float]) -> None:
    """To the bit what is written: ten steps of a tenth end at 1."""
    assert parse_points(words) == points


@pytest.mark.parametrize(
    "words", ["", "a", "0:1", "0:1:0", "1:0:0.1", "0:1:1e-12", "0:2:0.5", "-0.1", "1.01", "nan", "0:nan:1"]
)
def test_what_is_no_point_is_refused(words: str) -> None:
    with pytest.raises(InputError, match=r"--interpolate .*: give points from 0"):
        parse_points(words)


# ---- Which models.


def make_run(folder: Path, original: Whisper, tuned: dict[int, Whisper], **options: Any) -> Path:
    """A run folder as train.py leaves it: the first checkpoint is the best, the last one the last."""
    model = save_openai(original, folder.parent / f"{folder.name}.pt")
    run = RunFolder.create(folder)
    fingerprint = weights.fingerprint(original.state_dict())
    cfg = Config(model=str(model), **options)
    run.write_config({**config.to_record(cfg), "weights_fingerprint": fingerprint})
    run.log_metrics(0, {})
    for step, each in tuned.items():
        origin = weights.Origin(str(model), "x", fingerprint, None)
        checkpoint.save(folder, step, checkpoint.what_trained(each, origin), {}, {}, "card")
    checkpoint.point(folder, "best", next(iter(tuned)))
    return folder


@pytest.fixture
def small_run(tmp_path: Path) -> Path:
    """Two checkpoints of a few hundred kilobytes."""
    return make_run(tmp_path / "x", small_whisper(0), {2: small_whisper(1), 4: small_whisper(2)})


def test_the_models_of_a_line(small_run: Path) -> None:
    """The original, then every point in the same model; its ends are the two models; nothing is written."""
    before = sorted(small_run.rglob("*"))
    line = Line.of([str(small_run)], "0:1:0.5", None)
    assert line is not None
    original = config.load(small_run).model
    assert line.names == [original, f"{small_run}@0", f"{small_run}@0.5", f"{small_run}@1"]
    halfway = small_whisper(3)
    interpolate(halfway, small_whisper(0).state_dict(), small_whisper(1).state_dict(), 0.5)
    expected = [small_whisper(0), small_whisper(0), halfway, small_whisper(1)]
    seen = []
    for (model, origin), wanted in zip(line.models(), expected, strict=True):
        assert same_weights(model, wanted)
        assert origin.fingerprint == weights.fingerprint(wanted.state_dict())
        seen.append(id(model))
    assert len(set(seen)) == 1
    assert sorted(small_run.rglob("*")) == before


def test_lines_go_through(small_run: Path) -> None:
    """Depth scaling is part of the line."""
    line = Line.of([str(small_run)], "0.5", 0.2)
    assert line is not None
    _, (model, _) = line.models()
    wanted = small_whisper(3)
    interpolate(wanted, small_whisper(0).state_dict(), small_whisper(1).state_dict(), 0.5, 0.2)
    assert same_weights(model, wanted)


def test_a_lora_run_is_swept_as_merged_weights(tmp_path: Path) -> None:
    """Adapters alone lie on disk; the line is W + a s B A, with both ends to the bit."""
    adapted = small_whisper(0)
    lora.attach(adapted, lora.Adapters(4, 8.0, "all"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in lora.adapted_layers(adapted).values():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator))
    run = make_run(tmp_path / "x", small_whisper(0), {2: adapted})
    line = Line.of([str(run)], "0:1:0.5", None)
    assert line is not None
    points = [copy.deepcopy(model.state_dict()) for model, _ in line.models()][1:]
    for state, share in zip(points, (0, 0.5, 1), strict=True):
        wanted = copy.deepcopy(adapted)
        scale_adapters(wanted, share)
        lora.merge(wanted)
        assert state.keys() == wanted.state_dict().keys()
        for name, tensor in wanted.state_dict().items():
            assert torch.allclose(state[name], tensor, atol=1e-5), name
            assert share == 0.5 or torch.equal(state[name], tensor), name
    choose(run, alpha=0.5, checkpoint="checkpoints/2")
    assert weights.load(str(run))[1].fingerprint == weights.fingerprint(points[1])


def test_another_original_is_refused(small_run: Path) -> None:
    """The file that the run started from has been replaced."""
    save_openai(small_whisper(7), Path(config.load(small_run).model))
    line = Line.of([str(small_run)], "0.5", None)
    assert line is not None
    with pytest.raises(InputError, match="put the weights back that it started from"):
        next(line.models())


def test_what_is_no_line_is_refused(small_run: Path, tmp_path: Path) -> None:
    """All faults at once, each with its option."""
    model = config.load(small_run).model
    for systems in ([model], [str(small_run), model], [], [str(tmp_path / "nothing")]):
        with pytest.raises(InputError, match="--interpolate: takes one run folder alone"):
            Line.of(systems, "0.5", None)
    with pytest.raises(InputError) as caught:
        Line.of([model], "2", 3.0)
    assert [fault.split(":")[0].split(" ")[0] for fault in caught.value.faults] == [
        "--interpolate",
        "--lines",
        "--interpolate",
    ]
    with pytest.raises(InputError, match="--lines: scales the points of --interpolate"):
        Line.of([str(small_run)], None, 0.5)
    assert Line.of([model], None, None) is None
    shutil.rmtree(small_run / "checkpoints")
    with pytest.raises(InputError, match="has no checkpoint yet"):
        Line.of([str(small_run)], "0.5", None)


# ---- What a run's weights are once a point was chosen.


def choose(run: Path, **row: Any) -> None:
    """Append a choice."""
    RunFolder(run).append("sweep.jsonl", [{"chosen": True, "lines": None, **row}])


def test_the_chosen_point_is_what_a_run_loads(small_run: Path) -> None:
    """The newest choice counts; it is said; a checkpoint named by itself is loaded as it is."""
    before, origin = weights.load(str(small_run))
    assert same_weights(before, small_whisper(1))
    assert "as chosen in" not in origin.found
    choose(small_run, alpha=0.9, checkpoint="checkpoints/2")
    choose(small_run, alpha=0.25, checkpoint="checkpoints/4")
    RunFolder(small_run).append("sweep.jsonl", [{"alpha": 0.75, "set": "a", "wer": 0.1}])
    model, origin = weights.load(str(small_run))
    wanted = small_whisper(3)
    interpolate(wanted, small_whisper(0).state_dict(), small_whisper(2).state_dict(), 0.25)
    assert same_weights(model, wanted)
    assert origin.fingerprint == weights.fingerprint(wanted.state_dict())
    assert "checkpoints/4" in origin.found
    assert "interpolated to 0.25" in origin.found
    assert "as chosen in" in origin.found
    assert same_weights(weights.load(str(small_run / "checkpoints" / "2"))[0], small_whisper(1))


def test_a_chosen_checkpoint_needs_no_original(small_run: Path) -> None:
    """alpha 1 is the checkpoint itself."""
    choose(small_run, alpha=1.0, checkpoint="checkpoints/4")
    Path(config.load(small_run).model).unlink()
    model, origin = weights.load(str(small_run))
    assert same_weights(model, small_whisper(2))
    assert "as chosen in" in origin.found


def test_no_point_chosen_is_said_and_takes_back_an_older_choice(small_run: Path) -> None:
    """The best checkpoint, and that it does not keep the budget."""
    choose(small_run, alpha=0.25, checkpoint="checkpoints/4")
    RunFolder(small_run).append("sweep.jsonl", [{"chosen": False, "alpha": None, "checkpoint": None}])
    model, origin = weights.load(str(small_run))
    assert same_weights(model, small_whisper(1))
    assert "no point kept the budget" in origin.found


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"alpha": 0.5, "checkpoint": "checkpoints/9"}, "is not there any more; choose again"),
        ({"alpha": 0.5, "checkpoint": "../../elsewhere"}, "damaged; choose again"),
        ({"alpha": "half", "checkpoint": "checkpoints/2"}, "damaged; choose again"),
        ({"alpha": 1.5, "checkpoint": "checkpoints/2"}, "cannot be interpolated"),
        ({}, "damaged; choose again"),
    ],
)
def test_a_choice_that_cannot_be_loaded_is_named(small_run: Path, row: dict[str, Any], says: str) -> None:
    """Never another model in silence."""
    choose(small_run, **row)
    with pytest.raises(InputError, match=says):
        weights.load(str(small_run))


# ---- A sweep as evaluate.py runs it, and at the end of a training.


# What the original writes of any clip, and what it writes half way to `tuned_whisper`; at 0.75 and 1 no word is left.
AT_0, HALFWAY = "Codec SectCharles CodecHar", "Codec digestCharles CodecHar"


def tuned_whisper() -> Whisper:
    """What ending_whisper became: it writes other words, and as few."""
    model = ending_whisper()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        positions = model.decoder.positional_embedding
        positions += torch.randn(positions.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> dict[str, Path]:  # noqa: F811
    """A domain that speaks as the model does half way, general speech that it gets half right, and one without text."""
    root = tmp_path_factory.mktemp("sets")
    return {
        "domain": write_set(root / "domain", [HALFWAY] * 2, [1.0, 1.2]),
        "general": write_set(root / "general", ["CodecHar"] * 3, [1.1, 1.3, 1.0]),
        "silent": write_set(root / "silent", ["", ""], [1.0, 1.1]),
    }


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, sets: dict[str, Path]) -> Path:
    """Its one checkpoint makes the domain worse; half way it is right there, with one word of drift.

    The original and the checkpoint were evaluated on the way, at steps 0 and 3.
    """
    root = tmp_path_factory.mktemp("run")
    retain = (f"general={sets['general']}", f"silent={sets['silent']}")
    data = {"eval_data": (f"domain={sets['domain']}",), "retain": retain, "data_dir": root / "cache"}
    run = make_run(root / "run", ending_whisper(), {3: tuned_whisper()}, **data)
    evaluation = evaluation_of(run)
    evaluation(ending_whisper(), 0)
    evaluation(tuned_whisper(), 3)
    return run


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(evaluated, tmp_path / "run", symlinks=True))


def command(run: Path, sets: dict[str, Path], *more: str) -> list[str]:
    """evaluate.py on a run."""
    named = {name: f"{name}={path}" for name, path in sets.items()}
    place = ("--device", "cpu", "--data_dir", str(run.parent / "cache"), "--json", str(run.parent / "out.json"))
    return [str(run), "--data", named["domain"], "--retain", named["general"], named["silent"], *place, *more]


def test_a_sweep_from_the_command_line(run: Path, sets: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Every point a system; its numbers and the choice in sweep.jsonl; the run's weights are the point's."""
    limits = ("--max_forgetting", "0.05", "--max_drift", "0.4", "--confidence", "0.95")
    assert evaluate.main(command(run, sets, "--interpolate", "0:1:0.5", *limits)) == 0
    numbers = json.loads((run.parent / "out.json").read_text())
    original = config.load(run).model
    assert [its["name"] for its in numbers["systems"]] == [original, f"{run}@0", f"{run}@0.5", f"{run}@1"]
    first, start, half, end = numbers["systems"]
    timeless = [
        {name: {**its, "decode_seconds": 0, "rtfx": 0} for name, its in each["sets"].items()} for each in (first, start)
    ]
    assert timeless[0] == timeless[1]
    assert first["weights_fingerprint"] == start["weights_fingerprint"]
    assert [its["sets"]["domain"]["wer"] for its in (start, half)] == [pytest.approx(1 / 3), 0]
    assert half["sets"]["silent"]["drift"] == pytest.approx(1 / 3)
    assert end["sets"]["domain"]["wer"] > 0.9
    judged = numbers["budget"]
    assert (judged["max_forgetting"], judged["max_drift"], judged["confidence"]) == (0.05, 0.4, 0.95)
    assert judged["choice"]["answer"] == "chosen"
    assert judged["choice"]["system"] == f"{run}@0.5"
    chosen = judged["systems"][1]
    assert (chosen["pooled"]["relative"], chosen["pooled"]["upper"], chosen["faults"]) == (0, 0, [])
    assert chosen["gain"] == pytest.approx(1 / 3)
    assert judged["systems"][2]["faults"]

    rows = list(runs.read_jsonl(run / "sweep.jsonl"))
    assert [(row["alpha"], row["set"], row["role"]) for row in rows[:-1]] == [
        (alpha, name, "domain" if name == "domain" else "general")
        for alpha in (0, 0.5, 1)
        for name in ("domain", "general", "silent")
    ]
    assert all((row["_step"], row["checkpoint"], row["lines"]) == (3, "checkpoints/3", None) for row in rows)
    assert rows[3]["wer"] == half["sets"]["domain"]["wer"]
    assert rows[5]["drift"] == half["sets"]["silent"]["drift"]
    assert (rows[-1]["chosen"], rows[-1]["alpha"], rows[-1]["answer"]) == (True, 0.5, "chosen")
    assert "general loss +0.0 %" in rows[-1]["reason"]

    out = capsys.readouterr().out
    assert "Gain and forgetting" in out
    assert "smallest general loss that these sets could have shown" in out
    assert f"Chosen: {run}@0.5" in out
    assert weights.load(str(run))[1].fingerprint == half["weights_fingerprint"]


def test_none_passes_is_an_answer(run: Path, sets: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Less drift than the only gain costs: the run keeps its best checkpoint, and says so."""
    limits = ("--max_forgetting", "0.05", "--max_drift", "0.3")
    assert evaluate.main(command(run, sets, "--interpolate", "0.5,1", *limits)) == 0
    assert f"None passes; the nearest is {run}@0.5: silent drifted 33.3 %, above 30.0 %" in capsys.readouterr().out
    last = list(runs.read_jsonl(run / "sweep.jsonl"))[-1]
    assert (last["chosen"], last["alpha"], last["checkpoint"], last["answer"]) == (False, None, None, "none passes")
    assert "no point kept the budget" in weights.load(str(run))[1].found


def test_a_sweep_without_a_budget_chooses_nothing(run: Path, sets: dict[str, Path]) -> None:
    """Numbers alone; and without --retain no gain is set against anything."""
    assert evaluate.main(command(run, sets, "--interpolate", "0.5")) == 0
    assert runs.last_choice(run) is None
    assert json.loads((run.parent / "out.json").read_text())["budget"]["choice"] is None
    argv = command(run, sets, "--interpolate", "0.5", "--lines", "0.5")
    del argv[argv.index("--retain") : argv.index("--device")]
    assert evaluate.main(argv) == 0
    assert "budget" not in json.loads((run.parent / "out.json").read_text())
    assert [row["lines"] for row in runs.read_jsonl(run / "sweep.jsonl")] == [None] * 3 + [0.5]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--max_forgetting", "-1"], "--max_forgetting -1.0: must be 0 or more"),
        (["--confidence", "0.95"], "--confidence: acts on --max_forgetting"),
        (["--retain", "{silent}", "--max_forgetting", "0.1"], "--max_forgetting: no --retain set has text"),
        (["--retain", "{general}", "--max_drift", "0.1"], "--max_drift: every --retain set has text"),
        (["--data", "{silent}"], "has no text to measure a gain on; give it under --retain"),
        (["--retain", "domain={general}"], "--data and --retain both hold a set called 'domain'"),
        (["--interpolate", "0.5", "tiny.en"], "--interpolate: takes one run folder alone"),
    ],
)
def test_wrong_input_is_named(
    run: Path, sets: dict[str, Path], change: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, before anything is decoded."""
    given = [word.format(**sets) for word in change]
    argv = command(run, sets)
    if given[0] in ("--retain", "--data"):  # in place of what is there: repeated flags add up
        start = argv.index(given[0])
        end = next(index for index in range(start + 1, len(argv)) if argv[index].startswith("--"))
        argv[start:end] = []
    assert evaluate.main([*given[2:], *argv, *given[:2]] if given[-1] == "tiny.en" else [*argv, *given]) == 2
    assert says in capsys.readouterr().err


def evaluation_of(run: Path, **changes: Any) -> Evaluation:
    """The evaluations of a training that has this run folder."""
    cfg = replace(config.load(run), **changes)
    tokens = Tokens(ending_whisper().dims)
    report = preflight.run(
        [(role, each) for role, each in sources.of_training(replace(cfg, data=())) if role != "data"],
        cfg, tokens, Console(stderr=True),
    )  # fmt: skip
    folder = RunFolder(run)
    kept = KeptResults(cfg, tokens, "ending", "fp32")
    return Evaluation(cfg, tokens, report, folder, Steering(folder), Reporter(), nullcontext, kept)


def test_at_the_end_of_a_training(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four points of the one checkpoint; what is decoded already is not decoded again; the choice is the run's."""
    decoded = []
    decode_set = Scorer.decode_set
    monkeypatch.setattr(Scorer, "decode_set", lambda *args: decoded.append(args[2].speech.name) or decode_set(*args))
    console = Console(width=100)
    with console.capture() as captured:
        choice = choose_for_run(evaluation_of(run, max_drift=0.4), torch.device("cpu"), console)
    assert decoded == ["domain", "general", "silent"] * 3
    assert choice is not None
    assert choice.candidate is not None
    assert choice.candidate.name == "step 3@0.5"
    assert "Chosen: step 3@0.5" in captured.get()
    rows = list(runs.read_jsonl(run / "sweep.jsonl"))
    assert [row["alpha"] for row in rows[:-1:3]] == list(sweep.POINTS)
    assert (rows[-1]["chosen"], rows[-1]["alpha"], rows[-1]["checkpoint"]) == (True, 0.5, "checkpoints/3")
    assert "interpolated to 0.5" in weights.load(str(run))[1].found
    # the last point is the checkpoint, whose numbers the training knew
    metrics = runs.merge_steps(runs.read_jsonl(run / "metrics.jsonl"))[3]
    assert rows[-4]["wer"] == metrics["eval/domain/wer"]
    assert rows[-2]["drift"] == metrics["eval/silent/drift"]


def test_best_and_last_are_both_looked_at(run: Path) -> None:
    """Two checkpoints, eight points; the last one, of the original's own weights, gains nothing anywhere."""
    origin = weights.Origin("x", "x", "0", None)
    checkpoint.save(run, 5, checkpoint.what_trained(ending_whisper(), origin), {}, {}, "card")
    choice = choose_for_run(evaluation_of(run, max_forgetting=0.05), torch.device("cpu"), Console(quiet=True))
    assert choice is not None
    assert choice.candidate is not None
    assert choice.candidate.name == "step 3@0.5"
    rows = list(runs.read_jsonl(run / "sweep.jsonl"))[:-1]
    assert {(row["_step"], row["alpha"]) for row in rows} == {
        (step, alpha) for step in (3, 5) for alpha in sweep.POINTS
    }


def test_without_a_budget_nothing_is_swept(run: Path) -> None:
    assert choose_for_run(evaluation_of(run), torch.device("cpu"), Console(quiet=True)) is None
    assert not (run / "sweep.jsonl").exists()


def test_going_on_without_a_budget_takes_the_choice_back(run: Path) -> None:
    """The run's name no longer stands for a point that was chosen before; one line says so, once."""
    choose_for_run(evaluation_of(run, max_drift=0.4), torch.device("cpu"), Console(quiet=True))
    assert "as chosen in" in weights.load(str(run))[1].found
    for _ in range(2):
        assert choose_for_run(evaluation_of(run), torch.device("cpu"), Console(quiet=True)) is None
    rows = list(runs.read_jsonl(run / "sweep.jsonl"))
    assert [row["chosen"] for row in rows if "chosen" in row] == [True, None]
    assert runs.last_choice(run) is None
    assert "chosen" not in weights.load(str(run))[1].found


def test_a_stop_ends_it(run: Path) -> None:
    """Between batches; nothing is chosen."""
    evaluation = evaluation_of(run, max_drift=0.4)
    evaluation.steering.stop_reason = "asked to stop"
    with pytest.raises(Stop):
        choose_for_run(evaluation, torch.device("cpu"), Console(quiet=True))
    assert runs.last_choice(run) is None


# ---- Evaluations along a training.


def test_an_evaluation_says_what_was_lost(run: Path) -> None:
    """The original loses nothing; the pooled loss is that of the general sets with text, drift stands by itself."""
    first, last = runs.merge_steps(runs.read_jsonl(run / "metrics.jsonl")).values()
    assert first["eval/pooled_general/relative_loss"] == first["eval/pooled_general/relative_loss_upper_95"] == 0
    before, after = (row["eval/general/wer"] for row in (first, last))
    assert last["eval/pooled_general/relative_loss"] == pytest.approx((after - before) / before)
    assert last["eval/pooled_general/relative_loss_upper_95"] >= last["eval/pooled_general/relative_loss"]
    assert last["eval/silent/drift"] > 0.9


def test_the_original_keeps_every_budget(run: Path) -> None:
    evaluation = evaluation_of(run, max_forgetting=0.0, max_drift=0.0, confidence=0.99)
    assert evaluation(ending_whisper(), 0) == pytest.approx(1 / 3)
    assert not evaluation.over_budget


@pytest.mark.parametrize(
    ("limits", "passes"),
    [({}, True), ({"max_drift": 0.1}, False), ({"max_drift": 9.0}, True), ({"max_forgetting": 0.05}, False)],
)
def test_each_limit_by_itself(run: Path, limits: dict[str, float], passes: bool) -> None:
    """A run resumed knows the original from samples.jsonl."""
    evaluation = evaluation_of(run, **limits)
    evaluation(tuned_whisper(), 3)
    assert evaluation.over_budget is not passes


def test_without_the_originals_results_no_budget_is_kept(run: Path) -> None:
    """samples.jsonl was lost before a resume: the evaluation goes on, and does not pretend."""
    (run / "samples.jsonl").unlink()
    for limits, passes in ({}, True), ({"max_forgetting": 9.0}, False):
        evaluation = evaluation_of(run, **limits)
        assert evaluation(tuned_whisper(), 3) > 0.9
        assert evaluation.over_budget is not passes
