"""system.jsonl: what its rows hold, that it stops with the run, and that nothing in it can break one."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from whisper_min import runs
from whisper_min.runs import RunFolder
from whisper_min.training import system
from whisper_min.training.system import SystemLog

CPU = torch.device("cpu")
KEYS = {"cpu/use", "cpu/process", "memory/used", "memory/total", "memory/process"}


def rows_of(run: RunFolder) -> list[dict[str, Any]]:
    return list(runs.read_jsonl(run.path / "system.jsonl"))


def test_rows_come_along_the_run_and_stop_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each names the step that the run was at; one more at the end; then there is no thread any more."""
    monkeypatch.setattr(system, "SAMPLE_SECONDS", 0.05)
    run = RunFolder.create(tmp_path, runtime_before=100.0)
    with SystemLog(run, CPU):
        for step in (1, 2, 3):
            run.beat(step=step)
            before, deadline = len(rows_of(run)), time.monotonic() + 30
            while len(rows_of(run)) < before + 2 and time.monotonic() < deadline:
                time.sleep(0.01)
    assert "system log" not in {thread.name for thread in threading.enumerate()}
    rows = rows_of(run)
    time.sleep(0.2)
    assert rows_of(run) == rows
    assert {row["_step"] for row in rows} >= {1, 2, 3}
    assert rows[-1]["_step"] == 3
    assert all(row.keys() == KEYS | {"_step", "_timestamp", "_runtime", "_attempt"} for row in rows)
    times = [row["_runtime"] for row in rows]
    assert times == sorted(times) and 100 <= times[0] <= times[-1] < 200
    assert abs(rows[-1]["_timestamp"] - time.time()) < 60


def test_a_run_of_an_instant_has_a_row(tmp_path: Path) -> None:
    """And is not kept waiting for the next sample."""
    run = RunFolder.create(tmp_path)
    started = time.monotonic()
    with pytest.raises(ValueError, match="of the run"), SystemLog(run, CPU):
        raise ValueError("of the run")
    assert time.monotonic() - started < system.SAMPLE_SECONDS / 2
    assert len(rows_of(run)) == 1


def test_numbers_are_those_of_machine_and_process() -> None:
    """Shares of 1, bytes; a process that works through the interval keeps about one core busy."""
    process = psutil.Process()
    system.machine_numbers(process)
    ended, spent = time.monotonic() + 0.5, time.process_time()
    while time.monotonic() < ended:
        pass
    spent = time.process_time() - spent
    numbers = system.machine_numbers(process)
    assert numbers.keys() == KEYS
    assert numbers["cpu/process"] == pytest.approx(spent / 0.5, abs=0.15)
    assert 0 < numbers["cpu/use"] <= 1
    assert numbers["memory/total"] == psutil.virtual_memory().total
    assert 10e6 < numbers["memory/process"] < numbers["memory/used"] < numbers["memory/total"]


@pytest.mark.parametrize("where", ["append", "machine_numbers"])
def test_what_fails_in_it_does_not_reach_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], where: str
) -> None:
    """A full disk is tried again; anything else ends the rows, in silence."""
    monkeypatch.setattr(system, "SAMPLE_SECONDS", 0.02)
    calls: list[int] = []

    def fail(*args: object) -> None:
        calls.append(1)
        raise OSError(28, "No space left on device") if where == "append" else RuntimeError("no /proc here")

    monkeypatch.setattr(*((RunFolder, where) if where == "append" else (system, where)), fail)
    with SystemLog(RunFolder.create(tmp_path), CPU):
        time.sleep(0.3)
    assert len(calls) > 2 if where == "append" else len(calls) == 1
    assert capfd.readouterr().err == ""
    assert not (tmp_path / "system.jsonl").exists()


# ---- GPUs, as NVML tells of them.


class NVMLError(Exception):
    """What NVML raises."""


def fake_nvml() -> SimpleNamespace:
    """Two GPUs by UUID; the second has no power meter."""

    def power(gpu: str) -> int:
        if gpu == "GPU-b":
            raise NVMLError("not supported")
        return 301_500

    return SimpleNamespace(
        NVMLError=NVMLError,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu={"GPU-a": 87, "GPU-b": 5}[gpu]),
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=3_000_000_000, total=80_000_000_000),
        nvmlDeviceGetPowerUsage=power,
        nvmlDeviceGetTemperature=lambda gpu, sensor: 64 + sensor,
    )


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch sees the GPUs with the UUIDs b and a, in this order."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="ba"[index]))
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())


def test_gpus_are_numbered_as_torch_numbers_them(two_gpus: None) -> None:
    """Watt, degrees, bytes and a share; what a GPU does not tell is left out, and the rest is there."""
    numbers = system.gpu_numbers(*system.open_gpus(torch.device("cuda")))
    memory = {"memory": 3_000_000_000, "memory_total": 80_000_000_000, "temperature": 64}
    first, second = {"use": 0.05, **memory}, {"use": 0.87, "power": 301.5, **memory}
    assert numbers == {f"gpu/0/{key}": value for key, value in first.items()} | {
        f"gpu/1/{key}": value for key, value in second.items()
    }


def test_without_cuda_or_nvml_there_are_no_gpus(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU NVML is not asked; where it is not installed or finds no driver, rows do without."""
    assert system.open_gpus(CPU) == (None, {})

    def no_driver() -> None:
        raise NVMLError("driver not loaded")

    monkeypatch.setattr(sys.modules["pynvml"], "nvmlInit", no_driver)
    assert system.open_gpus(torch.device("cuda")) == (None, {})
    monkeypatch.setitem(sys.modules, "pynvml", None)  # how Python marks what cannot be imported
    assert system.open_gpus(torch.device("cuda")) == (None, {})
    assert system.gpu_numbers(None, {}) == {}


def test_memory_of_the_metrics_is_this_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device of the run, by torch's number; nothing on a CPU."""
    assert system.gpu_memory(CPU) == {}
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda index: 1000 + index)
    assert system.gpu_memory(torch.device("cuda")) == {"gpu/1/memory": 1001}
    assert system.gpu_memory(torch.device("cuda:3")) == {"gpu/3/memory": 1003}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_real_gpu_tells_of_itself() -> None:
    """Its memory is what CUDA says, as far as both move."""
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install -e '.[gpu]'")
    numbers = system.gpu_numbers(*system.open_gpus(torch.device("cuda")))
    assert numbers["gpu/0/memory_total"] == pytest.approx(torch.cuda.mem_get_info(0)[1], rel=0.05)
    assert 0 <= numbers["gpu/0/use"] <= 1
    kept = torch.ones(1_000_000, device="cuda")
    assert system.gpu_memory(torch.device("cuda"))["gpu/0/memory"] >= kept.nbytes
