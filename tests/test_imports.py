"""Who may import whom, as whisper_min/__init__.py says it, and that importing does nothing."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from conftest import REPOSITORY

import whisper_min

SCRIPTS = ("train", "evaluate", "tui")


def read_map(docstring: str) -> dict[str, int]:
    """Rank of every room, `whisper_min.data` or `whisper_min.audio`, from the lines `1  data/  …` of the map."""
    lines = re.findall(r"^(\d)  (\w+)(?:/|\.py)  ", docstring, re.MULTILINE)
    return {f"whisper_min.{name}": int(rank) for rank, name in lines}


def read_sources() -> dict[str, str]:
    """Module name -> source of everything in the package, and of the scripts."""
    paths = [*(REPOSITORY / "whisper_min").rglob("*.py"), *(REPOSITORY / f"{script}.py" for script in SCRIPTS)]
    names = {path: ".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in paths if path.exists()}
    return {name.removesuffix(".__init__"): path.read_text(encoding="utf-8") for path, name in names.items()}


def imported(source: str) -> Iterator[str]:
    """Dotted names that a source imports anywhere, late imports and imports for types included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that this check can read them"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(sources: Mapping[str, str], ranks: Mapping[str, int]) -> list[str]:
    """Imports that go up, across rooms of one rank, out of or into what the map does not name, or to a script."""

    def room(name: str) -> str:
        return ".".join(name.split(".")[:2])

    found = []
    for name, source in sources.items():
        for target in sorted(set(imported(source))):
            if target.split(".")[0] in SCRIPTS:
                found.append(f"{name} imports the script {target}")
            elif target.startswith("whisper_min.") and name not in SCRIPTS:
                here, there = ranks.get(room(name)), ranks.get(room(target))
                if here is None or there is None:
                    found.append(f"{name} imports {target}, and the map names only one of them, or none")
                elif there > here or (
                    there == here and room(name) != room(target) and folder(name, sources) != folder(target, sources)
                ):
                    found.append(f"{name} ({here}) imports {target} ({there})")
    return found


def folder(name: str, sources: Mapping[str, str]) -> str:
    """The folder that a module, or a name inside a module, lives in."""
    while name not in sources:
        name = name.rpartition(".")[0]
    is_package = any(other.startswith(name + ".") for other in sources)
    return name if is_package else name.rpartition(".")[0]


def test_imports_go_to_the_same_folder_or_down() -> None:
    found = violations(read_sources(), read_map(whisper_min.__doc__ or ""))
    assert found == [], "\n".join(found)


def test_the_map_names_what_is_there() -> None:
    ranks = read_map(whisper_min.__doc__ or "")
    assert {ranks[f"whisper_min.{name}"] for name in ("config", "runs", "text")} == {0}
    for room in ranks:
        path = REPOSITORY / room.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), f"the map names {room}, which is not there"


def test_the_check_sees_every_kind_of_violation() -> None:
    ranks = {"whisper_min.low": 0, "whisper_min.side": 1, "whisper_min.mid": 1, "whisper_min.high": 2}
    fine = {
        "whisper_min": "",
        "whisper_min.low": "",
        "whisper_min.side": "",
        "whisper_min.mid": "",
        "whisper_min.mid.one": "from whisper_min import low\nfrom whisper_min.mid import two",
        "whisper_min.mid.two": "",
        "whisper_min.mid.inner.three": "from whisper_min.mid import two",
        "whisper_min.high": "import whisper_min.mid.one",
        "train": "from whisper_min import high",
    }
    assert violations(fine, ranks) == []
    for wrong in (
        {"whisper_min.low": "def late():\n    from whisper_min.mid.two import x"},
        {"whisper_min.mid.two": "from whisper_min import side"},
        {"whisper_min.high": "import train"},
        {"evaluate": "from train import main"},
        {"whisper_min.unnamed": "from whisper_min import low"},
    ):
        assert len(violations(fine | wrong, ranks)) == 1, wrong


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter whose working folder and home are `folder`."""
    home = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder), "PYTHONPATH": str(REPOSITORY)}
    environment = {**os.environ, **home, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)


def test_rank_0_leaves_torch_out_and_needs_no_library(tmp_path: Path) -> None:
    done = run_python(
        "import sys; before = set(sys.modules)\n"
        "import whisper_min.config, whisper_min.runs, whisper_min.text\n"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))",
        tmp_path,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("['whisper_min']\n", "", 0)


# What an import could change: the processes', Python's, torch's and whisper's settings, threads, and other modules.
STATE = """
def state():
    import whisper.decoding, whisper.model
    classes = [value for module in (whisper.model, whisper.decoding) for value in vars(module).values()]
    return {
        "environment": dict(os.environ), "folder": os.getcwd(), "path": list(sys.path), "hook": sys.excepthook,
        "signals": [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)],
        "threads": threading.active_count(), "logging": list(logging.root.handlers), "warnings": list(warnings.filters),
        "random": (random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()),
        "torch": (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
                  torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
                  torch.backends.cuda.matmul.allow_tf32, torch.backends.mkldnn.enabled),
        "whisper": [dict(vars(each)) for each in classes if isinstance(each, type)],
        "torchaudio": "torchaudio._extension" in sys.modules,
    }
"""


@pytest.mark.slow
def test_importing_every_module_has_no_effects(tmp_path: Path) -> None:
    sources = {name: source for name, source in read_sources().items() if name not in SCRIPTS}
    libraries = {target for source in sources.values() for target in imported(source)}
    libraries = {
        name for name in libraries if name.split(".")[0] not in ("whisper_min", "torchaudio", "torchao", "__future__")
    }
    # those of extras are imported late, and may not be here; torchao tells stderr which of its kernels do not load
    libraries = {name for name in libraries if importlib.util.find_spec(name.split(".")[0]) is not None}
    done = run_python(
        "import importlib, logging, numpy, os, random, signal, sys, threading, torch, warnings\n"
        f"for name in {sorted(libraries)}:\n"
        "    module, _, attribute = name.rpartition('.')\n"
        "    if not (module and hasattr(importlib.import_module(module), attribute)):\n"
        "        importlib.import_module(name)\n"
        f"{STATE}\n"
        "def watch(event, arguments):\n"
        "    wrote = event == 'open' and isinstance(arguments[1], str) and set(arguments[1]) & set('wax+')\n"
        "    if watching and (wrote or event in ('subprocess.Popen', 'socket.connect', 'os.mkdir', 'os.remove')):\n"
        "        print(event, arguments)\n"
        "watching, before = False, state()\n"
        "sys.addaudithook(watch)\n"
        "watching = True\n"
        f"for name in {sorted(sources)}:\n"
        "    importlib.import_module(name)\n"
        "watching = False\n"
        "after = state()\n"
        "print([key for key in before if before[key] != after[key]])",
        tmp_path,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("[]\n", "", 0)
    assert not list(tmp_path.iterdir())
