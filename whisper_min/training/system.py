"""system.jsonl: how busy the machine is along a run, told by a thread that can neither break nor slow it."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import torch

from whisper_min.runs import RunFolder

SAMPLE_SECONDS = 5.0
# How long the end of a run waits for a row that is being written.
JOIN_SECONDS = 2.0


class SystemLog:
    """Appends a row to `system.jsonl` every few seconds while it is entered, and a last one when it is left.

    Keys of a row beside `_step _timestamp _runtime _attempt`; shares are of 1, memory is in bytes:

    cpu/use, cpu/process             share of all cores; the cores that this process keeps busy
    memory/used, /total, /process    of the machine; resident, of this process
    gpu/<n>/use, /memory, /memory_total, /power (W), /temperature (°C)
                                     of every GPU that torch sees, all processes together; what NVML does not tell is
                                     left out, and all of it without nvidia-ml-py
    """

    def __init__(self, run: RunFolder, device: torch.device) -> None:
        self.run, self.device = run, device
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._write_rows, name="system log", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._thread.join(JOIN_SECONDS)

    def _write_rows(self) -> None:
        with suppress(Exception):  # numbers about the machine are not worth a run
            process, (nvml, gpus) = psutil.Process(), open_gpus(self.device)
            machine_numbers(process)  # psutil tells the use since the last call: the first one tells nothing
            left = False
            while not left:
                left = self._left.wait(SAMPLE_SECONDS)
                row = machine_numbers(process) | gpu_numbers(nvml, gpus)
                with suppress(OSError):  # a full disk: the next row may find room
                    self.run.log("system.jsonl", self.run.status["step"], row, wait=False)


def machine_numbers(process: psutil.Process) -> dict[str, float]:
    """Processor and memory; use is since the last call in the same thread."""
    memory = psutil.virtual_memory()
    return {
        "cpu/use": round(psutil.cpu_percent() / 100, 4),
        "cpu/process": round(process.cpu_percent() / 100, 4),
        "memory/used": memory.total - memory.available,
        "memory/total": memory.total,
        "memory/process": process.memory_info().rss,
    }


def open_gpus(device: torch.device) -> tuple[Any, dict[int, Any]]:
    """(NVML, torch's index -> NVML's handle); no handles without CUDA, nvidia-ml-py (the extra `gpu`) or its driver."""
    if device.type != "cuda":
        return None, {}
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        # by UUID: under CUDA_VISIBLE_DEVICES torch counts otherwise than NVML does
        uuids = [torch.cuda.get_device_properties(index).uuid for index in range(torch.cuda.device_count())]
        return nvml, {index: nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}") for index, uuid in enumerate(uuids)}
    except Exception:  # not installed, no driver, a virtual or partitioned GPU: there is nothing to tell then
        return None, {}


def gpu_numbers(nvml: Any, gpus: dict[int, Any]) -> dict[str, float]:
    """What NVML tells of each GPU; a value that a GPU does not have (a fanless card's power) is left out."""
    tell: dict[str, Callable[[Any], float]] = {
        "use": lambda gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
        "memory": lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
        "memory_total": lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
        "power": lambda gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
        "temperature": lambda gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
    }
    numbers: dict[str, float] = {}
    for index, gpu in gpus.items():
        for name, ask in tell.items():
            with suppress(nvml.NVMLError):
                numbers[f"gpu/{index}/{name}"] = ask(gpu)
    return numbers


def gpu_memory(device: torch.device) -> dict[str, float]:
    """`gpu/<n>/memory` of metrics.jsonl: bytes in tensors of this process, known to the host without waiting."""
    if device.type != "cuda":
        return {}
    index = torch.cuda.current_device() if device.index is None else device.index
    return {f"gpu/{index}/memory": torch.cuda.memory_allocated(index)}
