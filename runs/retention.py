"""The study of the methods: what each gains on a domain and loses elsewhere, over seeds, in one table and one picture.

    python runs/retention.py --quick                    # one seed, the main rows
    python runs/retention.py                            # three seeds, every row; stop and start it as you like
    python runs/retention.py --table                    # no training: the table of the cells that are there

A cell is one row with one seed: a run folder below --cells, outside the repository, so that the study goes on across
days. What the table needs of it, a few kilobytes, is written to --out: the study goes on across machines, too, and the
table can be made again without training. Everything is chosen on dev sets; the test sets are scored once a cell.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from whisper_min import runs  # noqa: E402
from whisper_min.scoring import significance  # noqa: E402

# What each row adds to the common command line; {replay} is the general speech that is trained on.
ROWS = {
    "full": "",
    "full, upper-case labels": "--label_style keep",
    "LoRA": "--method lora",
    "+ KL on the domain": "--kl 1 --kl_on domain",
    "+ EWC": "--replay {replay}@0 --ewc 0.3",
    "+ L2-SP": "--l2sp 0.3",
    "+ replay": "--method full --label_style sentence --replay_augment none --kl 0 --replay {replay}",
    "+ KL on replay": "--method full --label_style sentence --replay_augment none --replay {replay}",
    "recommended": "--replay {replay}",
}
QUICK_ROWS = ("full", "LoRA", "+ replay", "+ KL on replay", "recommended")
SEEDS = (0, 1, 2)
DOMAIN = "accented"
GENERAL_DEV = ("general-dev", "prompts-dev", "general-unlabelled")
GENERAL_TEST = ("general-test", "reader-test", "prompts-test")
DRIFT_KEY = "eval/general-unlabelled/drift"
PHRASES = ("hello", "jfk")
BUDGET = 0.025
# A cell's record, or a system in it; see `record`.
Record = Mapping[str, Any]
# A general loss beyond this is drawn at the picture's edge, with its number: one method must not flatten all others.
HIGHEST_DRAWN = 0.3
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c564b", "#882255", "#bcbd22")


@dataclass(frozen=True)
class Options:
    """Run the study, or what is left of it."""

    quick: bool = False
    """One seed and the main rows; labelled as such."""
    table: bool = False
    """Train nothing: the table and the picture of the cells that are there."""
    rows: tuple[str, ...] = ()
    """Only these rows."""
    seeds: tuple[int, ...] = ()
    """Only these seeds."""
    model: str = "tiny.en"
    """What every cell starts from."""
    steps: int = 190
    """Optimizer steps of a cell."""
    cells: Path = Path("~/.cache/whisper-min/retention")
    """Where the cells' run folders are kept."""
    speech: Path = Path(os.environ.get("WHISPER_MIN_SPEECH", REPOSITORY.parent / "shared" / "data"))
    """The speech sets; tests/bench/make_speech_sets.py builds them."""
    jobs: int = 1
    """Cells at a time; on a CPU each gets its share of the cores."""
    out: Path = REPOSITORY / "tests" / "bench" / "figures"
    """Where retention.json, .md, .svg and cells/ are written; a cell whose record lies there is not trained again."""

    @property
    def name(self) -> str:
        """What names a study: its model and its length."""
        return f"{Path(self.model).name}-{self.steps}"

    @property
    def records(self) -> Path:
        """Where a file for each finished cell lies."""
        return self.out / "cells" / self.name


def main() -> int:
    """Train what is missing, then show all that is there."""
    options = tyro.cli(Options, use_underscores=True, description=__doc__)
    cells = (options.cells.expanduser() / options.name).absolute()
    rows = QUICK_ROWS if options.quick else tuple(ROWS)
    seeds = SEEDS[:1] if options.quick else SEEDS
    if unknown := [row for row in options.rows if row not in ROWS]:
        sys.exit(f"error: unknown rows {unknown}; known are {', '.join(ROWS)}")
    cells.mkdir(parents=True, exist_ok=True)
    options.records.mkdir(parents=True, exist_ok=True)
    if not options.table:
        score_original(options, cells)
        wanted = [(row, seed) for seed in options.seeds or seeds for row in options.rows or rows]
        with ThreadPoolExecutor(options.jobs) as pool:
            codes = list(pool.map(lambda cell: make_cell(options, cells, *cell), wanted))
        if any(codes):
            print(f"{sum(map(bool, codes))} cells failed; their logs are beside them in {cells}", file=sys.stderr)
    collect(options, cells)
    show(options, rows, seeds)
    return 0


def folder_of(row: str, seed: int) -> str:
    """A cell's name, as --run takes it."""
    words = "".join(letter if letter.isalnum() else " " for letter in row.lower()).split()
    return f"{'-'.join(words)}-{seed}"


def sets(options: Options, names: Sequence[str]) -> list[str]:
    """`name=manifest` of speech sets."""
    return [f"{name}={options.speech / name / 'manifest.jsonl'}" for name in names]


def call(options: Options, log: Path, *command: str | Path) -> int:
    """Run a script of the repository, its output in a log; the exit code."""
    cores = str(max(1, (os.cpu_count() or 1) // options.jobs))
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(map(str, command))}\n")
        file.flush()
        return subprocess.run(
            [sys.executable, *map(str, command)], cwd=REPOSITORY, stdout=file, stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", cores)},
        ).returncode  # fmt: skip


def score(options: Options, folder: Path, systems: Sequence[str | Path], log: Path) -> int:
    """Score systems on all test sets: test.jsonl holds every utterance, test.json all numbers."""
    names = [f"{DOMAIN}-test", *GENERAL_TEST, *PHRASES]
    beside = folder / "test.partial"
    command = ["evaluate.py", *systems, "--data", *sets(options, names), "--precision", "auto"]
    code = call(options, log, *command, "--hypotheses", folder / "test.jsonl", "--json", beside)
    if code == 0:
        beside.rename(folder / "test.json")
    return code


def score_original(options: Options, cells: Path) -> None:
    """The original, once for all cells."""
    folder = cells / "original"
    folder.mkdir(exist_ok=True)
    if (options.records / "original.json").exists() or (folder / "test.json").exists():
        return
    if score(options, folder, [options.model], cells / "original.log"):
        sys.exit(f"error: the original could not be scored; see {cells / 'original.log'}")


def make_cell(options: Options, cells: Path, row: str, seed: int) -> int:
    """Train and score one cell, or what is missing of it."""
    name = folder_of(row, seed)
    folder, log, console = cells / name, cells / f"{name}.log", Console(stderr=True)
    if (options.records / f"{name}.json").exists() or (folder / "test.json").exists():
        return 0
    half = str(options.steps // 2)
    command = [
        *("train.py", "--model", options.model, "--run", name, "--runs_dir", cells, "--seed", str(seed)),
        *("--data", *sets(options, [f"{DOMAIN}-train"]), "--eval_data", *sets(options, [f"{DOMAIN}-dev"])),
        *("--retain", *sets(options, GENERAL_DEV), "--max_steps", str(options.steps), "--eval_every", half),
        *("--keep", "2", "--max_forgetting", str(BUDGET)),
        *shlex.split(ROWS[row].format(replay=sets(options, ["general-replay"])[0])),
    ]
    console.print(f"{name}: training", highlight=False)
    status = json.loads((folder / "status.json").read_text()) if (folder / "status.json").exists() else {}
    code = 0
    if status.get("state") != "finished":
        code = call(options, log, *(["train.py", "--resume", folder] if folder.exists() else command))
    chosen = runs.last_choice(folder) or {}
    systems: list[str | Path] = [folder / "checkpoints" / "last"]
    final = runs.last_checkpoint(folder)
    if chosen.get("chosen") and final and (chosen["_step"], chosen["alpha"]) != (int(final.name), 1):
        systems.append(folder)  # the run itself stands for the point that its training chose
    console.print(f"{name}: scoring {len(systems)} models on the test sets", highlight=False)
    code = code or score(options, folder, systems, log)
    console.print(f"{name}: {'done' if code == 0 else f'failed with exit code {code}'}", highlight=False)
    return code


# ---- What is kept of a cell.


def collect(options: Options, cells: Path) -> None:
    """Write the record of every finished cell that has none yet."""
    names = {"original": ("original", None)}
    names |= {folder_of(row, seed): (row, seed) for row in ROWS for seed in options.seeds or SEEDS}
    for name, (row, seed) in names.items():
        file = options.records / f"{name}.json"
        if (cells / name / "test.json").exists() and not file.exists():
            its = {"row": row, "seed": seed, **record(cells / name, options.steps)}
            file.write_text(json.dumps(its, ensure_ascii=False) + "\n", encoding="utf-8")


def record(folder: Path, steps: int) -> dict[str, Any]:
    """What the table and the picture need of a finished cell.

    `systems` are its last checkpoint and, where that is another model, what its training chose: the errors in every
    utterance of every set, in the set's order; `choice` says whether and what it chose, `sweep` holds (step, alpha,
    domain WER, relative general loss) on the dev sets.
    """
    rows = list(runs.read_jsonl(folder / "test.jsonl"))
    described = json.loads((folder / "test.json").read_text())["systems"]
    names = list(dict.fromkeys(row["system"] for row in rows))
    systems = []
    for name, its in zip(names, described, strict=True):
        own = [row for row in rows if row["system"] == name]
        systems.append(
            {
                "errors": by_set(own, lambda row: row["substitutions"] + row["deletions"] + row["insertions"]),
                "non_speech": its["non_speech"]["words_per_minute"],
                "phrases": [row["hypothesis"] for row in own if row["set"] in PHRASES],
            }
        )
    first = [row for row in rows if row["system"] == names[0]]
    # numbers in place of names, which are long and nobody's business; in their order, which the bootstrap draws in
    known = {row.get("speaker") for row in first} - {None}
    speakers = {name: number for number, name in enumerate(sorted(known))}
    chosen = runs.last_choice(folder) or {}
    evaluated = runs.merge_steps(runs.read_jsonl(folder / "metrics.jsonl"))
    return {
        "words": by_set(first, lambda row: len(row["reference_normalized"].split())),
        "speakers": by_set(first, lambda row: speakers.get(row.get("speaker"))),
        "systems": systems,
        "choice": {key: chosen[key] for key in ("_step", "alpha")} if chosen.get("chosen") else None,
        "drift": evaluated.get(steps, {}).get(DRIFT_KEY),
        "sweep": sweep_of(folder, evaluated.get(0, {})),
    }


def by_set(rows: Sequence[Mapping[str, Any]], what: Callable[[Mapping[str, Any]], Any]) -> dict[str, list[Any]]:
    """Something of every utterance, set by set."""
    return {name: [what(row) for row in rows if row["set"] == name] for name in dict.fromkeys(r["set"] for r in rows)}


def sweep_of(folder: Path, start: Mapping[str, Any]) -> list[list[float]]:
    """(step, alpha, domain WER, relative general loss) of every point of a sweep; `start` has the original's rates."""
    points: dict[tuple[int, float], dict[str, dict[str, Any]]] = {}
    for its in runs.read_jsonl(folder / "sweep.jsonl"):
        if "wer" in its:
            points.setdefault((its["_step"], its["alpha"]), {})[its["set"]] = its
    found = []
    for (step, alpha), sets_ in sorted(points.items()):
        texts = [name for name in GENERAL_DEV if name in sets_]
        words = [sets_[name]["words"] for name in texts]
        after = sum(sets_[name]["wer"] * n for name, n in zip(texts, words, strict=True))
        before = sum(start[f"eval/{name}/wer"] * n for name, n in zip(texts, words, strict=True))
        found.append([step, alpha, sets_[f"{DOMAIN}-dev"]["wer"], after / before - 1])
    return found


# ---- The table.


def units(names: Sequence[str], original: Record, systems: Sequence[Record]) -> list[significance.Units]:
    """What the bootstrap resamples, set by set: the original's errors, and a method's, averaged over its seeds."""
    (before,) = original["systems"]
    return [
        significance.units(
            [before["errors"][name], np.mean([its["errors"][name] for its in systems], axis=0)],
            original["words"][name],
            original["speakers"][name],
        )
        for name in names
    ]


def compare(names: Sequence[str], original: Record, systems: Sequence[Record]) -> dict[str, Any]:
    """WER before and after, pooled over sets, with paired intervals of the method's mean over its seeds."""
    parts = units(names, original, systems)
    before, after = (float(sum(part.errors[i].sum() for part in parts)) for i in (0, 1))
    words = float(sum(part.words.sum() for part in parts))
    rates = significance.resample(parts)
    its = significance.compare(rates[0], rates[1], before / words, after / words)
    difference = rates[1] - rates[0]
    relative = difference[rates[0] > 0] / rates[0][rates[0] > 0]  # a resample without an error has no relative change
    return {
        "original_wer": before / words,
        "wer": after / words,
        "wer_ci": significance.interval(rates[1]),
        "relative": its.relative,
        "relative_ci": significance.interval(relative),
        "relative_upper_95": its.relative_upper_95,
        # the smallest loss whose one-sided 95 % bound would have excluded zero
        "smallest_shown": float(1.645 * difference.std() * words / before) if before else None,
    }


def of_one_seed(original: Record, cell: Record, system: Record) -> dict[str, float | None]:
    """What one seed lost on the test sets, relative, pooled and by set; and its drift on unlabelled speech."""
    # what was chosen may be another model than the last checkpoint, of which the drift was measured
    found: dict[str, float | None] = {"seed": cell["seed"], "drift": cell["drift"] if system is last(cell) else None}
    for name, names in [("general", GENERAL_TEST), *((name, (name,)) for name in GENERAL_TEST)]:
        before, after = (sum(sum(its["errors"][key]) for key in names) for its in (last(original), system))
        found[name] = after / before - 1 if before else None
    return found


def last(cell: Record) -> Record:
    """A cell's last checkpoint."""
    return cell["systems"][0]


def line(name: str, original: Record, cells: Sequence[Record], systems: Sequence[Record]) -> dict[str, Any]:
    """A record of the table: a system of each of a row's cells."""
    by_seed = [of_one_seed(original, *each) for each in zip(cells, systems, strict=True)]
    drifts = [its["drift"] for its in by_seed]
    return {
        "row": name,
        "seeds": [cell["seed"] for cell in cells],
        "domain": compare([f"{DOMAIN}-test"], original, systems),
        "general": compare(GENERAL_TEST, original, systems),
        "sets": {each: compare([each], original, systems) for each in GENERAL_TEST},
        "by_seed": by_seed,
        "drift": None if None in drifts else sum(drifts) / len(drifts),
        "non_speech": [its["non_speech"] for its in systems],
        "phrases": [its["phrases"] for its in systems],
    }


def summarise(options: Options, rows: Sequence[str], seeds: Sequence[int], before: Path) -> list[dict[str, Any]]:
    """A record a method: its last checkpoints, and where a budget chose, what it chose.

    `before` is the file that an earlier call wrote. A row of it that had more seeds than there are records now (they
    were made before records were, or were removed) stays as it was.
    """
    known = {its["row"]: its for its in json.loads(before.read_text())} if before.exists() else {}
    original = json.loads((options.records / "original.json").read_text())
    made = [{**line("original", original, [original], [last(original)]), "seeds": [], "by_seed": [], "drift": 0.0}]
    for row in rows:
        files = [options.records / f"{folder_of(row, seed)}.json" for seed in seeds]
        cells = [json.loads(file.read_text()) for file in files if file.exists()]
        if faulty := [cell["seed"] for cell in cells if cell["words"] != original["words"]]:
            sys.exit(
                f"error: {options.records}: {row}, seeds {faulty}: scored on other sets than the original; remove it"
            )
        if len(cells) < len(known.get(row, {}).get("seeds", [])):
            made += [known[name] for name in (row, f"{row}, chosen") if name in known]
            continue
        if cells:
            made.append({**line(row, original, cells, [last(cell) for cell in cells]), "sweep": mean_sweep(cells)})
        if chose := [cell for cell in cells if cell["choice"]]:
            its = line(f"{row}, chosen", original, chose, [cell["systems"][-1] for cell in chose])
            made.append({**its, "points": [cell["choice"]["alpha"] for cell in chose]})
    full = next((its for its in made if its["row"] == "full"), None)
    for its in made:
        gain = its["domain"]["original_wer"] - its["domain"]["wer"]
        whole = full and full["domain"]["original_wer"] - full["domain"]["wer"]
        its["gain_kept"] = gain / whole if whole else None
        lost = its["general"]["wer"] - its["general"]["original_wer"]
        its["forgetting_per_gain"] = lost / gain if gain > 0 else None
        its["worst_set"] = max(each["relative"] for each in its["sets"].values())
    return made


def mean_sweep(cells: Sequence[Record]) -> list[list[float]]:
    """The points of a row's sweeps, each the mean over the seeds that scored it."""
    found: dict[tuple[float, float], list[list[float]]] = {}
    for cell in cells:
        for step, alpha, *its in cell["sweep"]:
            found.setdefault((step, alpha), []).append(its)
    return [[*point, *np.mean(its, axis=0).tolist()] for point, its in sorted(found.items())]


def percent(value: float | None, sign: str = "") -> str:
    """A fraction in per cent."""
    return "" if value is None else f"{100 * value:{sign}.1f}"


def cells_of(its: Mapping[str, Any]) -> list[str]:
    """One line of the table."""
    domain, general = its["domain"], its["general"]
    seeds = " ".join(map(str, its["seeds"]))
    points = f" at {', '.join(f'{p:g}' for p in its['points'])}" if its.get("points") else ""
    return [
        its["row"] + points,
        seeds,
        f"{percent(domain['wer'])} ({percent(domain['wer_ci'][0])} … {percent(domain['wer_ci'][1])})",
        percent(its["gain_kept"]),
        f"{percent(general['relative'], '+')} ({percent(general['relative_ci'][0], '+')} … "
        f"{percent(general['relative_ci'][1], '+')})",
        percent(general["relative_upper_95"], "+"),
        *(percent(its["sets"][name]["relative"], "+") for name in GENERAL_TEST),
        "" if its["forgetting_per_gain"] is None else f"{its['forgetting_per_gain']:+.3f}",
        percent(its["drift"]),
        f"{np.mean(its['non_speech']):.1f}",
    ]


HEADS = (
    "",
    "seeds",
    "domain WER (95 %)",
    "gain kept",
    "general loss (95 %)",
    "bound",
    *GENERAL_TEST,
    "loss by gain",
    "drift",
    "non-speech",
)


def show(options: Options, rows: Sequence[str], seeds: Sequence[int]) -> None:
    """Write retention.json, .md and .svg, and print the table and what was heard of the phrases."""
    name = "retention-quick" if options.quick else "retention"
    made = summarise(options, rows, seeds, options.out / f"{name}.json")
    (options.out / f"{name}.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    lines = ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
    lines += ["| " + " | ".join(cells_of(its)) + " |" for its in made]
    # a row that changes much varies much: each has a smallest of its own, and the last is the one that is recommended
    smallest = made[-1]["general"]["smallest_shown"]
    there = {its["row"]: its["seeds"] for its in made}
    gone = {row: [seed for seed in seeds if seed not in there.get(row, [])] for row in rows}
    missing = "; ".join(f"{row}, seed {' '.join(map(str, its))}" for row, its in gone.items() if its)
    note = (
        f"{options.model}, {options.steps} steps; in %; loss is relative, of {', '.join(GENERAL_TEST)} pooled, "
        f"mean of the seeds named; bound is one-sided, 95 %; drift is from the original's words on general-unlabelled; "
        f"the smallest loss that these sets could have shown of "
        f"{made[-1]['row']} is {percent(smallest)} %."
        + (" A quick study: one seed, fewer rows." if options.quick else "")
        + (f" Missing cells: {missing}." if missing else "")
    )
    lines += ["", note, "", "| | hello | | jfk |", "|---|---|---|---|"]
    lines += [f"| {its['row']} | " + " | ".join(its["phrases"][0]) + " |" for its in made]
    (options.out / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (options.out / f"{name}.svg").write_text(frontier(made), encoding="utf-8")
    table = Table(*HEADS, title=f"Study of the methods: {options.model}", title_justify="left", box=box.SIMPLE_HEAD)
    for its in made:
        table.add_row(*cells_of(its))
    out = Console()
    out.print(table)
    out.print(note, markup=False, highlight=False, soft_wrap=True)
    out.print(sketch(made), markup=False, highlight=False)
    for its in made:
        for text in its["phrases"][0]:
            out.print(f"{its['row']}: {text}", markup=False, highlight=False)


# ---- The picture.


def points(made: Sequence[Mapping[str, Any]]) -> dict[str, dict[tuple[int, float], tuple[float, float]]]:
    """Of every row with a sweep, (step, alpha) -> (domain WER, relative general loss) on dev sets."""
    return {
        its["row"]: {(step, alpha): (wer, loss) for step, alpha, wer, loss in its["sweep"]}
        for its in made
        if its.get("sweep")
    }


def sketch(made: Sequence[Mapping[str, Any]], width: int = 72, height: int = 18) -> str:
    """The same picture in letters, one a method; the dashes are the budget."""
    lines = points(made)
    every = [point for its in lines.values() for point in its.values()]
    if not every:
        return "no sweep to draw yet"
    xs, ys = [x for x, _ in every], [min(y, HIGHEST_DRAWN) for _, y in every] + [0.0, BUDGET]
    grid = [[" "] * width for _ in range(height)]

    def row_of(y: float) -> int:
        return round((max(ys) - min(y, HIGHEST_DRAWN)) / (max(ys) - min(ys)) * (height - 1))

    grid[row_of(BUDGET)] = ["-"] * width
    letters = dict(zip(lines, "fuLkelrKRabcdghij", strict=False))
    for row, its in lines.items():
        for x, y in its.values():
            span = max(xs) - min(xs) or 1.0
            grid[row_of(y)][round((x - min(xs)) / span * (width - 1))] = letters[row]
    beyond = f", at the top {100 * HIGHEST_DRAWN:g} or more" if any(y > HIGHEST_DRAWN for _, y in every) else ""
    body = [f"  general loss, % (down is better{beyond})"]
    for index, cells_of_row in enumerate(grid):
        level = max(ys) - index / (height - 1) * (max(ys) - min(ys))
        body.append(f"{100 * level:+7.1f} |{''.join(cells_of_row)}")
    left, right = f"{100 * min(xs):.1f}", f"{100 * max(xs):.1f}"
    body.append(f"{'':8} {left}{'domain WER, % (left is better)':^{width - len(left) - len(right)}}{right}")
    return "\n".join([*body, *(f"{letter} {row}" for row, letter in letters.items())])


def frontier(made: Sequence[Mapping[str, Any]]) -> str:
    """Domain WER against general loss on dev sets: a line a method from a quarter of the way to its last checkpoint."""
    width, height, left, top = 760, 420, 60, 30
    lines = points(made)
    every = [point for its in lines.values() for point in its.values()]
    if not every:
        return '<svg xmlns="http://www.w3.org/2000/svg"/>\n'
    xs = [100 * x for x, _ in every]
    ys = [100 * min(y, HIGHEST_DRAWN) for _, y in every] + [0.0, 100 * BUDGET]
    low_x, high_x, low_y, high_y = min(xs) - 1, max(xs) + 1, min(ys) - 2, max(ys) + 2

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (width - left - 220) * (100 * x - low_x) / (high_x - low_x),
            height - 50 - (height - 50 - top) * (100 * min(y, HIGHEST_DRAWN) - low_y) / (high_y - low_y),
        )

    body = []
    for level, said in ((0.0, "the original"), (BUDGET, f"budget {percent(BUDGET)} %")):
        y = at(0, level)[1]
        body.append(f'<line x1="{left}" x2="{width - 220}" y1="{y:.1f}" y2="{y:.1f}" stroke="#8888" '
                    'stroke-dasharray="4 4"/>')  # fmt: skip
        body.append(f'<text x="{width - 224}" y="{y - 5:.1f}" text-anchor="end">{said}</text>')
    for tick in range(int(low_x) + 1, int(high_x) + 1, max(1, int(high_x - low_x) // 8)):
        body.append(f'<text x="{at(tick / 100, 0)[0]:.1f}" y="{height - 32}" text-anchor="middle">{tick}</text>')
    for tick in range(int(low_y // 5) * 5 + 5, int(high_y) + 1, 5):
        body.append(f'<text x="{left - 8}" y="{at(0, tick / 100)[1] + 4:.1f}" text-anchor="end">{tick:+d}</text>')
    for index, (row, its) in enumerate(lines.items()):
        colour = COLOURS[list(ROWS).index(row) % len(COLOURS)]
        end = max(step for step, _ in its)
        way = [at(*point) for (step, _), point in its.items() if step == end]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in way)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (step, alpha), point in its.items():
            x, y = at(*point)
            radius = 4.5 if alpha == 1 else 2.5
            fill = colour if step == end else "none"
            body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}" stroke="{colour}"/>')
            if point[1] > HIGHEST_DRAWN:
                body.append(f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle">{100 * point[1]:+.0f} %</text>')
        y = top + 60 + 20 * index
        body.append(f'<circle cx="{width - 150}" cy="{y - 4}" r="4.5" fill="{colour}"/>'
                    f'<text x="{width - 140}" y="{y}">{escape(row)}</text>')  # fmt: skip
    body.append(f'<text x="{left}" y="{height - 10}">domain WER, % (left is better)</text>')
    body.append(f'<text x="{left - 40}" y="{top - 12}">general loss, relative, % (down is better)</text>')
    style = "text{font:12px system-ui,DejaVu Sans,sans-serif;fill:#57606a}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        f"<style>{style}</style>{''.join(body)}</svg>\n"
    )


if __name__ == "__main__":
    sys.exit(main())
