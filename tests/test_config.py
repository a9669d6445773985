"""The command line, config.json and every fault that is told before anything is read."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import types
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from whisper_min import config, runs
from whisper_min.config import Config, InputError

HINTS = typing.get_type_hints(Config)


def other_value(field: dataclasses.Field[Any]) -> Any:
    """A value of the field's type that is not its default."""
    kind = HINTS[field.name]
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    if typing.get_origin(kinds[0]) is Literal:
        return next(value for value in typing.get_args(kinds[0]) if value != field.default)
    if kinds[0] == tuple[str, ...]:
        return ("one.jsonl", "name=two words/three.csv")
    return {bool: not field.default, int: 7, float: 0.125, str: "other", Path: Path("some/other place")}[kinds[0]]


def argv_of(cfg: Config, separator: str) -> list[str]:
    """The command line that says every option of a Config."""
    words: list[str] = []
    for field in dataclasses.fields(Config):
        value, flag = getattr(cfg, field.name), field.name.replace("_", separator)
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no{separator}{flag}")
        elif value not in (None, ()):
            words += [f"--{flag}", *(value if isinstance(value, tuple) else [str(value)])]
    return words


EVERYTHING_ELSE = replace(
    Config(), **{field.name: other_value(field) for field in dataclasses.fields(Config) if field.name != "resume"}
)


@pytest.mark.parametrize("separator", ["_", "-"])
@pytest.mark.parametrize("cfg", [Config(), EVERYTHING_ELSE], ids=["defaults", "everything else"])
def test_command_line_and_config_json_say_the_same(cfg: Config, separator: str) -> None:
    assert config.parse(argv_of(cfg, separator)) == cfg
    record = json.loads(json.dumps(config.to_record(cfg)))
    assert config.from_record({**record, "torch": "2.13", "from_the_future": 1}, "config.json") == cfg


@pytest.mark.parametrize("words", [["--max_steps", "3"], ["--max-steps", "3"], ["--max_steps=3"], ["--max-steps=3"]])
def test_underscore_and_dash_are_alike(words: list[str]) -> None:
    assert config.parse(words) == Config(max_steps=3)


def test_repeated_set_options_add_up_in_order() -> None:
    words = "--data a b --eval-data=x --max_steps 2 --data=c --eval_data y --retain r --data d --normalize"
    assert config.parse(words.split()) == Config(
        data=("a", "b", "c", "d"), eval_data=("x", "y"), retain=("r",), max_steps=2, normalize=True
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--max_stepz", "3"], ["--max_stepz", "Perhaps you meant", "--max_steps"]),
        (["--label-style", "loud"], ["'loud'", "--label_style", "sentence"]),
        (["--batch_size", "many"], ["--batch_size", "many"]),
        (["--normalize", "stray"], ["stray"]),
    ],
)
def test_a_usage_error_exits_with_2_and_names_the_option(
    words: list[str], told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        config.parse(words)
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and printed.out == ""
    assert all(part in printed.err for part in told), printed.err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        config.parse(["--help"])
    assert stopped.value.code == 0
    help_text = capsys.readouterr().out
    assert [field.name for field in dataclasses.fields(Config) if f"--{field.name}" not in help_text] == []


def test_demo_gives_sets_and_steps_which_other_options_change() -> None:
    assert config.parse(["--demo"]) == config.DEMO
    assert config.parse(["--max_steps", "5", "--demo"]) == replace(config.DEMO, max_steps=5)
    assert config.parse(["--demo", "--data", "mine.jsonl"]) == replace(config.DEMO, data=("mine.jsonl",))
    assert {word.partition("=")[2].partition(":")[0] for word in config.DEMO.data + config.DEMO.retain} == {"demo"}


def write_run(folder: Path, cfg: Config, **changes: object) -> Path:
    """A run folder that holds a config.json."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**config.to_record(cfg), "git_commit": "abc", **changes}))
    return folder


def test_resume_takes_the_other_options_from_the_run(tmp_path: Path) -> None:
    saved = replace(EVERYTHING_ELSE, run="elsewhere", runs_dir=Path("old"), demo=False)
    folder = write_run(tmp_path / "runs" / "mine", saved)
    resumed = replace(saved, resume=folder, run="mine", runs_dir=tmp_path / "runs", check=False)
    assert saved.check and config.parse(["--resume", str(folder)]) == resumed
    assert config.parse([f"--resume={folder}", "--max-steps", "9"]) == replace(resumed, max_steps=9)
    sound = replace(
        resumed, device="cpu", lr=1e-5, language="en", task="transcribe", confidence=0.9, report_to=(), shard=False
    )
    assert len(config.check(sound)) == 2  # --lean goes with neither --ewc nor --l2sp
    sound = replace(sound, lean=False)
    assert config.check(sound) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "does not exist; give a folder that train.py made, such as runs/NAME"),
        ("", "cannot be read"),
        ('{"model": "tiny', "cannot be read"),
        ("[1, 2]", "not a JSON object"),
        ('{"data": 5}', "'data'"),
    ],
)
def test_a_run_that_cannot_be_resumed_is_named(
    content: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError) as refused:
        config.load(tmp_path)
    [fault] = refused.value.faults
    assert str(tmp_path / "config.json") in fault and told in fault
    with pytest.raises(SystemExit) as stopped:
        config.parse(["--resume", str(tmp_path)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {fault}\n"


FAULTS: list[tuple[dict[str, Any], str]] = [
    *(({name: 0}, rf"--{name} 0: must be at least 1") for name in ("batch_size", "accumulate", "eval_batch_size")),
    ({"keep": 0}, r"--keep 0: must be at least 1"),
    ({"max_nonfinite": 0}, r"--max_nonfinite 0: must be at least 1"),
    *(({"max_time": value}, rf"--max_time {value}: must be above 0, in hours") for value in (0.0, -1.0, float("nan"))),
    ({"room_minutes": -1.0}, r"--room_minutes -1.0: must be 0 or more, and finite"),
    ({"patience": -1}, r"--patience -1: must be at least 0"),
    *(
        ({name: 0}, rf"--{name} 0: must be at least 1; leave it out for the default")
        for name in ("max_steps", "eval_every", "save_every")
    ),
    *(
        ({"epochs": value}, rf"--epochs {value}: must be above 0, and finite")
        for value in (0.0, -1.0, float("nan"), float("inf"))
    ),
    *(
        ({"lr": value}, rf"--lr {value}: must lie between 0 and 1, for instance 1e-5")
        for value in (0.0, -1e-5, 1.0, float("nan"), float("inf"))
    ),
    ({"warmup_steps": -1}, r"--warmup_steps -1: must be 0 or more"),
    *(
        ({name: value}, rf"--{name} {value}: must be 0 or more, and finite")
        for name in ("weight_decay", "grad_clip")
        for value in (-0.1, float("nan"), float("inf"))
    ),
    *(
        ({"device": device}, rf"--device {device}: must be auto, cpu, cuda, cuda:N or mps")
        for device in ("gpu", "cuda:", "cuda:x", "tpu")
    ),
    ({"language": "de"}, r"--language de: tiny\.en knows English only; use the multilingual --model tiny$"),
    ({"task": "translate"}, r"--task translate: tiny\.en only transcribes; use the multilingual --model tiny$"),
    ({"run": "a/b"}, r"--run 'a/b': use letters, digits, '\.', '_' and '-' only, starting with a letter or digit"),
    ({"run": "../up"}, r"--run '\.\./up': use letters"),
    ({"run": ".hidden"}, r"--run '\.hidden': use letters"),
    ({"run": ""}, r"--run '': use letters"),
    ({"run": "a" * 101}, r"--run 'a+': use letters"),
]


@pytest.mark.parametrize(("changes", "told"), FAULTS, ids=[str(changes) for changes, _ in FAULTS])
def test_each_fault_names_the_option_and_the_fix(changes: dict[str, Any], told: str) -> None:
    [fault] = config.check(replace(Config(), **changes))
    assert re.match(told, fault), fault


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"language": "English"},
        {"language": "de", "model": "tiny"},
        {"task": "translate", "model": "tiny"},
        {"device": "cuda:1"},
        {"lr": 1e-5, "warmup_steps": 0, "patience": 0, "grad_clip": 0.0, "max_steps": 1, "epochs": 0.1},
        {"run": "My-run_1.2"},
    ],
)
def test_what_is_right_is_not_faulted(changes: dict[str, Any]) -> None:
    assert config.check(replace(Config(), **changes)) == []


def test_all_faults_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {"batch_size": 0, "max_steps": 0, "lr": 2.0, "device": "gpu", "language": "de", "task": "translate"}
    faults = config.check(replace(Config(), run="a b", **wrong))  # type: ignore[arg-type]
    named = [fault.split()[0] for fault in faults]
    assert sorted(named) == sorted(f"--{name}" for name in [*wrong, "run"])
    assert config.print_faults(InputError(faults)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [*(f"error: {fault}" for fault in faults), "7 faults; nothing was written"]


def test_a_fault_is_one_line_that_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert config.print_faults(InputError("a\x1b[2J\nb\udcff é: wrong")) == 2
    assert capsys.readouterr().err == "error: a\\x1b[2J\\nb\\udcff é: wrong\n"


@pytest.mark.parametrize(
    ("stop", "code", "said"),
    [
        (None, 0, ""),
        (OSError(28, "No space left on device"), 1, "failed: [Errno 28] No space left on device\n"),
        (ArithmeticError("asked for"), 1, "failed: asked for\n"),
        (InputError("--x: wrong"), 2, "error: --x: wrong\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_what_stops_a_script_is_its_exit_code(
    stop: BaseException | None, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        if stop is not None:
            raise stop

    assert config.exit_code(work, ArithmeticError) == code
    assert capsys.readouterr().err == said
    with pytest.raises(ZeroDivisionError):
        config.exit_code(lambda: 1 // 0, ValueError)


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "mine", Config())
    cfg = Config(run="mine", runs_dir=tmp_path)
    [fault] = config.check(cfg)
    assert f"--run mine: {folder} exists" in fault and f"--resume {folder}" in fault and "another --run" in fault
    assert config.check(replace(cfg, check=True)) == [], "--check writes nothing"
    assert config.check(replace(cfg, resume=folder)) == []
    assert config.check(replace(cfg, run="new")) == []

    (folder / "config.json").rename(folder / "notes.json")
    [fault] = config.check(cfg)
    assert f"{folder} exists and is no run; choose another --run" in fault
    [fault] = config.check(replace(cfg, resume=folder))
    assert fault == f"--resume {folder}: holds no run"
    (folder / runs.LOCK_FILE).touch()
    assert config.check(cfg) == [], "a run that was killed before it had written its config.json"


def test_a_run_that_another_process_writes_is_left_to_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "mine", Config())
    run = runs.RunFolder.create(folder)
    cfg = Config(run="mine", runs_dir=tmp_path, resume=folder)
    [fault] = config.check(cfg)
    assert f"--run mine: {folder}: process {os.getpid()} on " in fault and f"echo stop > {folder / 'control'}" in fault
    assert config.check(replace(cfg, check=True)) == []
    run.release()
    assert config.check(cfg) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the nearest folder that is there; the answer is made up, for root may write anywhere."""
    monkeypatch.setattr(os, "access", lambda path, how: path != tmp_path)
    cfg = Config(run="mine", runs_dir=tmp_path / "not" / "yet")
    assert config.check(cfg) == [
        f"--runs_dir {cfg.runs_dir}: {tmp_path} cannot be written; make it writable, or give another folder"
    ]
    assert config.check(replace(cfg, check=True)) == []


def test_a_file_is_no_runs_dir(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    assert config.check(Config(run="mine", runs_dir=tmp_path / "runs")) == [
        f"--runs_dir {tmp_path / 'runs'}: is a file; give a folder"
    ]


def test_resolve_fills_in_what_was_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    resolved = config.resolve(Config(model="some folder/my model.pt"))
    assert resolved.data == ("librispeech:train-clean-100",)
    assert resolved.retain == ("clean=demo:general",)
    assert resolved.data_dir == Path("/home/somebody/.cache/whisper-min")
    assert re.fullmatch(r"my-model\.pt-\d{8}-\d{6}", resolved.run or "")
    assert config.check(replace(resolved, runs_dir=Path("/nowhere"))) == []
    assert re.fullmatch(r"demo-\d{8}-\d{6}", config.resolve(config.DEMO).run or "")


def test_resolve_leaves_what_was_said() -> None:
    said = Config(data=("a",), retain=("b",), run="mine", data_dir=Path("/data"), method="lora", kl=0.5)
    assert config.resolve(said) == said
