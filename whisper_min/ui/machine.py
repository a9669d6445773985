"""How busy this machine is now: processor, memory, disk, and NVIDIA's GPUs where they can be asked."""

from __future__ import annotations

import contextlib
import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Machine:
    """Asked at each tick while somebody looks; the first answer about use is 0, as it is since the last call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._nvml: Any = None
        self._gpus: list[Any] = []
        with contextlib.suppress(Exception):  # not installed, or no driver: there are no GPUs to tell of then
            nvml = importlib.import_module("pynvml")
            nvml.nvmlInit()
            self._gpus = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            self._nvml = nvml

    def numbers(self) -> dict[str, float]:
        """The same names and units as in system.jsonl, and `disk/used`, `disk/total`."""
        found: dict[str, float] = {}
        with contextlib.suppress(Exception):
            psutil = importlib.import_module("psutil")
            memory = psutil.virtual_memory()
            found["cpu/use"] = psutil.cpu_percent() / 100
            found |= {"memory/used": memory.total - memory.available, "memory/total": memory.total}
        with contextlib.suppress(OSError):
            disk = shutil.disk_usage(self.folder)
            found |= {"disk/used": disk.total - disk.free, "disk/total": disk.total}
        for index, gpu in enumerate(self._gpus):
            found |= {f"gpu/{index}/{name}": value for name, value in self._gpu(gpu).items()}
        return found

    def _gpu(self, gpu: Any) -> dict[str, float]:
        nvml = self._nvml
        tell: dict[str, Callable[[], float]] = {
            "use": lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
            "memory": lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
            "memory_total": lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
            "power": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
            "temperature": lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
        }
        numbers = {}
        for name, ask in tell.items():
            with contextlib.suppress(nvml.NVMLError):
                numbers[name] = float(ask())
        return numbers
