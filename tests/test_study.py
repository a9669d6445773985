"""The study's arithmetic on cells made by hand: gains kept, losses pooled, what is missing said, its picture."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import REPOSITORY

SETS = ("accented-test", "general-test", "reader-test", "prompts-test", "hello")


@pytest.fixture(scope="module")
def study() -> ModuleType:
    """The recipe as a module."""
    spec = importlib.util.spec_from_file_location("study", REPOSITORY / "runs" / "retention.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["study"] = module
    spec.loader.exec_module(module)
    return module


def write_cell(folder: Path, errors: dict[str, int], systems: int = 1, alpha: float | None = None) -> None:
    """A finished cell: ten utterances of ten words a set, of which the first have an error each."""
    folder.mkdir(parents=True)
    rows = [
        {
            "system": f"system-{system}",
            "set": name,
            "id": f"{index}",
            "speaker": f"speaker {index // 2}" if name == "reader-test" else None,
            "reference_normalized": "a b c d e f g h i j",
            "hypothesis": f"{name} by {folder.name}",
            "substitutions": int(index < errors.get(name, 0) // (system + 1)),
            "deletions": 0,
            "insertions": 0,
        }
        for system in range(systems)
        for name in SETS
        for index in range(10)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    described = [{"non_speech": {"words_per_minute": 4.0 + system}} for system in range(systems)]
    (folder / "test.json").write_text(json.dumps({"systems": described}))
    if alpha is not None:
        sweep = [
            {"_step": 190, "alpha": point, "set": name, "wer": rate * point, "words": 100}
            for point in (0.5, 1.0)
            for name, rate in (("accented-dev", 0.3), ("general-dev", 0.1), ("prompts-dev", 0.05))
        ]
        sweep += [{"chosen": True, "_step": 190, "alpha": alpha}]
        (folder / "sweep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sweep))
        start = {"_step": 0, "eval/general-dev/wer": 0.08, "eval/prompts-dev/wer": 0.04}
        last = {"_step": 190, "eval/general-unlabelled/drift": 0.07}
        (folder / "metrics.jsonl").write_text(json.dumps(start) + "\n" + json.dumps(last) + "\n")


@pytest.fixture
def options(study: ModuleType, cells: Path) -> Any:
    """A study whose cells' records are written."""
    made = study.Options(out=cells / "out")
    made.records.mkdir(parents=True)
    study.collect(made, cells)
    return made


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """The original with 8 errors on the domain, full fine-tuning with 4 and 2, LoRA with 6 in one of two seeds."""
    write_cell(tmp_path / "original", {"accented-test": 8, "general-test": 4, "reader-test": 4, "prompts-test": 2})
    write_cell(tmp_path / "full-0", {"accented-test": 4, "general-test": 6, "reader-test": 4, "prompts-test": 2})
    write_cell(
        tmp_path / "full-1", {"accented-test": 2, "general-test": 8, "reader-test": 4, "prompts-test": 2}, alpha=1.0
    )
    write_cell(
        tmp_path / "lora-0",
        {"accented-test": 6, "general-test": 4, "reader-test": 4, "prompts-test": 2},
        systems=2,
        alpha=0.5,
    )
    return tmp_path


def summary(study: ModuleType, options: Any, seeds: tuple[int, ...] = (0, 1)) -> list[dict[str, Any]]:
    """The records of two rows."""
    made: list[dict[str, Any]] = study.summarise(options, ["full", "LoRA"], seeds, options.out / "retention.json")
    return made


def test_gains_and_losses_are_means_over_the_seeds(study: ModuleType, options: Any) -> None:
    made = {its["row"]: its for its in summary(study, options)}
    assert list(made) == ["original", "full", "full, chosen", "LoRA", "LoRA, chosen"]
    assert made["original"]["domain"]["wer"] == pytest.approx(0.08)
    full, lora = made["full"], made["LoRA"]
    assert full["domain"]["wer"] == pytest.approx(0.03)
    assert full["gain_kept"] == 1
    assert lora["gain_kept"] == pytest.approx(0.4)
    # errors pooled: 10 before, 12 and 14 after
    assert full["general"]["relative"] == pytest.approx(0.3)
    assert full["sets"]["general-test"]["relative"] == full["worst_set"] == pytest.approx(0.75)
    assert full["forgetting_per_gain"] == pytest.approx((0.13 - 0.10) / 3 / 0.05)
    assert lora["general"]["relative"] == 0
    assert lora["forgetting_per_gain"] == 0
    low, high = full["general"]["relative_ci"]
    assert low <= 0.3 <= full["general"]["relative_upper_95"] <= high
    assert made["LoRA, chosen"]["domain"]["wer"] == pytest.approx(0.03), "the second system is the chosen one"
    assert made["LoRA, chosen"]["points"] == [0.5]


def test_seeds_are_told_one_by_one(study: ModuleType, options: Any) -> None:
    """Their losses, pooled and by set, and how far they drifted where that was measured: their mean hides a bad one."""
    made = {its["row"]: its for its in summary(study, options)}
    first, second = made["full"]["by_seed"]
    assert (first["seed"], second["seed"]) == (0, 1)
    assert [each["general"] for each in (first, second)] == pytest.approx([0.2, 0.4])
    assert [each["general-test"] for each in (first, second)] == pytest.approx([0.5, 1.0])
    assert [each["reader-test"] for each in (first, second)] == [0, 0]
    assert [each["drift"] for each in (first, second)] == [None, 0.07]
    assert made["full"]["drift"] is None, "it was not measured in every seed"
    assert made["LoRA"]["drift"] == 0.07
    (chosen,) = made["LoRA, chosen"]["by_seed"]
    assert chosen["drift"] is None, "what was chosen is another model than the last checkpoint"
    assert made["LoRA, chosen"]["drift"] is None


def test_missing_cells_and_what_was_heard_are_shown(
    study: ModuleType, options: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study.show(replace(options, quick=True), ["full", "LoRA", "+ EWC"], [0, 1])
    text = (tmp_path / "out" / "retention-quick.md").read_text()
    assert "| LoRA | 0 |" in text
    assert "Missing cells: LoRA, seed 1; + EWC, seed 0 1." in text
    assert "A quick study: one seed, fewer rows" in text
    assert "hello by full-0" in text
    shown = capsys.readouterr().out
    assert "could have shown" in shown
    assert "f full" in shown, "the legend of the picture in the terminal"
    picture = (tmp_path / "out" / "retention-quick.svg").read_text()
    ElementTree.fromstring(picture)
    assert "LoRA" in picture
    assert len(json.loads((tmp_path / "out" / "retention-quick.json").read_text())) == 5


def test_a_method_that_forgets_all_does_not_flatten_the_picture(study: ModuleType, options: Any) -> None:
    """It is drawn at the edge, with its number; the other method lies where it would if that were the largest loss."""

    def circles(picture: str, row: str) -> list[str]:
        colour = study.COLOURS[list(study.ROWS).index(row)]
        return [line for line in picture.split("<") if line.startswith("circle") and f'stroke="{colour}"' in line]

    made = summary(study, options)
    lora = next(its for its in made if its["row"] == "LoRA")
    sweep, pictures = lora["sweep"], []
    assert [point[3] for point in sweep] == pytest.approx([-0.375, 0.25])
    for factor, told in ((1.248, ["+56 %"]), (4, ["+400 %", "+150 %"])):
        lora["sweep"] = [[step, alpha, wer, factor * (loss + 1) - 1] for step, alpha, wer, loss in sweep]
        pictures.append(study.frontier(made))
        assert all(f">{each}</text>" in pictures[-1] for each in told)
    assert circles(pictures[0], "full") == circles(pictures[1], "full") != []
    assert "at the top 30 or more" in study.sketch(made)


def test_the_table_needs_no_run_folders(study: ModuleType, options: Any, cells: Path) -> None:
    """What was written of the cells is enough to make it again, on another machine; who spoke is no part of it."""
    made = summary(study, options)
    study.show(options, ["full", "LoRA"], [0, 1])
    pictures = [(options.out / "retention.svg").read_text()]
    for folder in (cells / "original", *cells.glob("full-*"), cells / "lora-0"):
        shutil.rmtree(folder)
    study.collect(options, cells)
    study.show(options, ["full", "LoRA"], [0, 1])
    assert json.loads((options.out / "retention.json").read_text()) == json.loads(json.dumps(made))
    assert (options.out / "retention.svg").read_text() == pictures[0]
    text = (options.records / "original.json").read_text()
    assert "speaker 1" not in text
    assert json.loads(text)["speakers"]["reader-test"] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    codes = [study.make_cell(options, cells, row, seed) for row, seed in (("full", 0), ("full", 1), ("LoRA", 0))]
    assert codes == [0, 0, 0], "no cell with a record is trained again"
    assert not (cells / "full-0").exists()


def test_a_row_of_more_seeds_stays_as_it_was(study: ModuleType, options: Any) -> None:
    """An earlier table's row whose cells are gone is not lost to one of fewer; with as many it is made anew."""
    study.show(options, ["full", "LoRA"], [0, 1])
    (options.records / "full-0.json").unlink()
    file = options.out / "retention.json"
    rows = json.loads(file.read_text())
    for its in rows:
        its["drift"] = 0.5
    file.write_text(json.dumps(rows))
    made = {its["row"]: its for its in summary(study, options)}
    assert made["full"]["seeds"] == [0, 1]
    assert made["full"]["drift"] == made["full, chosen"]["drift"] == 0.5
    assert made["LoRA"]["seeds"] == [0]
    assert made["LoRA"]["drift"] == 0.07
    assert made["LoRA"]["gain_kept"] == pytest.approx(0.4)


def test_cells_of_other_speech_are_refused(study: ModuleType, options: Any) -> None:
    """Sets that were made anew have other utterances: nothing can be paired."""
    file = options.records / "full-1.json"
    cell = json.loads(file.read_text())
    cell["words"]["general-test"][0] += 1
    file.write_text(json.dumps(cell))
    with pytest.raises(SystemExit, match=r"full, seeds \[1\]: scored on other sets than the original; remove it"):
        summary(study, options)


def test_every_row_is_a_command_line(study: ModuleType, tmp_path: Path) -> None:
    """The options of each row are options of train.py, and need nothing more."""
    from whisper_min import config

    for row, words in study.ROWS.items():
        argv = ["--retain", "x.jsonl", *words.format(replay="general=r.jsonl").split()]
        assert config.check(config.parse(argv)) == [], row
    assert set(study.QUICK_ROWS) <= set(study.ROWS)
    names = [study.folder_of(row, 0) for row in study.ROWS]
    assert len(set(names)) == len(names)
    assert all(config.check(config.Config(run=name, runs_dir=tmp_path, retain=("x",))) == [] for name in names)


def test_unknown_rows_are_refused(study: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["retention.py", "--rows", "fool", "--table"])
    with pytest.raises(SystemExit, match="unknown rows"):
        study.main()


def test_the_readme_shows_what_the_study_wrote() -> None:
    """Its table line by line, its note, and its picture."""
    figures = REPOSITORY / "tests" / "bench" / "figures"
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    lines = [line for line in (figures / "retention.md").read_text(encoding="utf-8").splitlines() if line]
    assert len(lines) > 8
    assert [line for line in lines if line not in readme] == []
    assert "tests/bench/figures/retention.svg" in readme
    ElementTree.parse(figures / "retention.svg")
