"""What a training takes, counted before anything runs: `python -m whisper_min.limits --model large-v3 --method lora`.

Parameters, operations a clip, the memory ledger with and without checkpointing, and the clips a second that the device
cannot exceed. Nothing is downloaded for official names: their dimensions are known.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from whisper import ModelDimensions
from whisper.audio import CHUNK_LENGTH, SAMPLE_RATE

from whisper_min import audio, config
from whisper_min.config import Config, InputError
from whisper_min.model import weights
from whisper_min.training import flops, memory
from whisper_min.training.precision import choose_device, choose_precision


@dataclass(frozen=True)
class Options:
    """Count what a training takes: parameters, operations, memory, and the clips a second that the device allows."""

    model: str = Config.model
    """As train.py's: an official name, a run folder, a file of weights."""
    method: Literal["full", "lora"] = "full"
    """All weights, or low-rank adapters."""
    lora_rank: int = Config.lora_rank
    """Rank of the adapters."""
    lora_targets: Literal["all", "attention", "qv", "mlp", "encoder", "decoder"] = "all"
    """Which linear layers get adapters."""
    freeze_encoder: bool = False
    """Train the decoder alone."""
    kl: float = 0.0
    """Above 0: the original's predictions are computed, too, on every clip."""
    kl_storage: Literal["same", "bf16"] = "same"
    """How full fine-tuning keeps the original."""
    ewc: float = 0.0
    """Above 0: the weights' start and their Fisher information are held."""
    l2sp: float = 0.0
    """Above 0: the weights' start is held."""
    batch_size: int | Literal["auto"] = Config.batch_size
    """Clips in a micro-batch; `auto`: as many as the ledger lets into the free memory."""
    seconds: float = CHUNK_LENGTH
    """Length of the clips; their context is the one that `--audio_context trim` gives them, at most 30 s."""
    tokens: int = memory.TYPICAL_TOKENS
    """Tokens of a label."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the forward pass."""
    lean: bool = False
    """Weights in bf16; what trains of them with moments of 8 bits."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: bool = False
    """Print one JSON object instead of tables."""

    @property
    def config(self) -> Config:
        """The training that is meant."""
        shared = {name: value for name, value in asdict(self).items() if name not in ("seconds", "tokens", "json")}
        replayed = ("general",) if self.kl or self.ewc else ()
        return Config(**shared, replay=replayed, kl_on="both", retain=("general",))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the counts on stdout; the exit code, as `config.exit_code` tells it."""
    import tyro  # imported late: only the command line needs it

    options = tyro.cli(Options, args=argv, prog="python -m whisper_min.limits", use_underscores=True)

    def work() -> None:
        counted = count(options)
        if options.json:
            print(json.dumps(counted, indent=2))
        else:
            show(counted, Console())

    return config.exit_code(work)


def count(options: Options) -> dict[str, Any]:
    """Everything that is printed, as JSON values: counts, bytes, seconds; InputError for options that do not go."""
    cfg = options.config
    faults = config.check(cfg)
    if not 0 < options.seconds <= CHUNK_LENGTH:
        faults.append(f"--seconds {options.seconds}: must lie above 0 and within Whisper's window of {CHUNK_LENGTH} s")
    if options.tokens < 1:
        faults.append(f"--tokens {options.tokens}: must be at least 1")
    if faults:
        raise InputError(faults)
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    dims = memory.official_dimensions(options.model) or weights.load(options.model)[0].dims
    if options.tokens > dims.n_text_ctx:
        raise InputError(f"--tokens {options.tokens}: {options.model} reads {dims.n_text_ctx} at most")
    context = audio.context_samples(round(options.seconds * SAMPLE_RATE))
    free = memory.available_bytes(device)
    if cfg.batch_size == "auto":
        cfg = replace(cfg, batch_size=memory.largest_batch_size(dims, cfg, precision, device, context))

    ledgers = {
        name: memory.ledger(
            dims, replace(cfg, checkpointing=checkpointing), precision, context, device.type, options.tokens
        )
        for name, checkpointing in (("plain", False), ("checkpointing", True))
    }
    operations = count_operations(dims, cfg, context // audio.SAMPLES_PER_POSITION, options.tokens)
    trained = memory.trained_parameters(dims, cfg)
    encoder, decoder = memory.parameters(dims)
    return {
        "model": options.model,
        "method": cfg.method,
        "precision": precision,
        "batch_size": cfg.clips_per_batch,
        "context_seconds": context / SAMPLE_RATE,
        "tokens": options.tokens,
        "parameters": {"encoder": encoder, "decoder": decoder, "trained": trained},
        "flops_per_sample": operations,
        "memory": {name: {**asdict(each), "total": each.total} for name, each in ledgers.items()},
        "limits": limits(device, precision, operations, ledgers["plain"], cfg) | {"free_bytes": free},
    }


def count_operations(dims: ModelDimensions, cfg: Config, positions: int, tokens: int) -> dict[str, int]:
    """Operations of one clip: forward, a training step's, and what comes on top of these where it is asked for."""
    forward = flops.forward_flops(dims, 1, positions, tokens, tokens)
    gradients = flops.Gradients.of_config(cfg)
    counted = {
        "encoder_forward": forward.encoder,
        "decoder_forward": forward.decoder,
        "step": flops.batch_flops(dims, gradients, 1, positions, tokens, tokens),
    }
    recomputed = gradients.into_encoder * (forward.encoder - forward.first_convolution) + forward.decoder
    counted["checkpointing"] = recomputed - 2 * dims.n_text_state * dims.n_vocab * tokens
    if cfg.kl:  # where the encoder does not train, its output serves both
        counted["kl"] = gradients.into_encoder * forward.encoder + forward.decoder
    return counted


def limits(
    device: torch.device, precision: str, operations: dict[str, int], ledger: memory.Ledger, cfg: Config
) -> dict[str, Any]:
    """Clips a second that arithmetic and memory allow, each alone and never slowed by the other.

    The peak is that of the data sheet where one is known, else a large product is timed. The memory moves at least
    every activation twice (written, read), and once a step what clipping and AdamW touch: the norm reads the gradients,
    clipping reads and writes them, the update reads them, and reads and writes weights (as many bytes) and moments.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    known, bandwidth = flops.peak_flops(name, precision), flops.bandwidth(name)
    peak = known or flops.measured_flops(device, precision)
    step = operations["step"] + operations.get("kl", 0)
    moved = 2 * (ledger.encoder_activations + ledger.decoder_activations + ledger.logits + ledger.moments)
    moved += 6 * ledger.gradients
    return {
        "device": name,
        "peak_flops": peak,
        "peak_source": "data sheet" if known else "measured",
        "samples_per_second": peak / step,
        "samples_per_second_checkpointing": peak / (step + operations["checkpointing"]),
        "bandwidth": bandwidth,
        "samples_per_second_memory": bandwidth / moved * cfg.clips_per_batch if bandwidth else None,
    }


def show(counted: dict[str, Any], out: Console) -> None:
    """The same as tables."""
    parameters, operations, bounds = counted["parameters"], counted["flops_per_sample"], counted["limits"]
    encoder, decoder, trained = (f"{parameters[part] / 1e6:,.1f} M" for part in ("encoder", "decoder", "trained"))
    out.print(
        f"{counted['model']}, {counted['method']}, {counted['precision']}: {encoder} parameters in the encoder, "
        f"{decoder} in the decoder; {trained} train",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    names = {
        "encoder_forward": "encoder, forward",
        "decoder_forward": "decoder, forward",
        "step": "a training step: forward and backward, of what trains",
        "checkpointing": "with --checkpointing also",
        "kl": "with --kl also",
    }
    table = Table(f"operations of a clip of {counted['context_seconds']:g} s and {counted['tokens']} tokens", "GFLOP")
    table.columns[1].justify = "right"
    for key, value in operations.items():
        table.add_row(names[key], f"{value / 1e9:,.1f}")
    out.print(table)

    plain, checkpointed = counted["memory"].values()
    table = Table(f"memory, MB, in batches of {counted['batch_size']}", "", "with --checkpointing")
    table.columns[1].justify = table.columns[2].justify = "right"
    for key, value in plain.items():
        if value or key == "total":
            table.add_row(key.replace("_", " "), f"{value / 1e6:,.0f}", f"{checkpointed[key] / 1e6:,.0f}")
    out.print(table)

    lines = [
        f"{bounds['device']}: {bounds['peak_flops'] / 1e12:,.3g} TFLOP/s ({bounds['peak_source']}), "
        f"{bounds['free_bytes'] / 1e9:,.1f} GB free",
        f"at most {_rate(bounds['samples_per_second'])} by its arithmetic, "
        f"{_rate(bounds['samples_per_second_checkpointing'])} with --checkpointing",
    ]
    if bounds["samples_per_second_memory"]:
        speed = f"{bounds['bandwidth'] / 1e12:.3g} TB/s"
        lines.append(f"at most {_rate(bounds['samples_per_second_memory'])} by its memory of {speed}")
    out.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=True)


def _rate(samples_per_second: float) -> str:
    return f"{samples_per_second:,.3g} clips/s"


if __name__ == "__main__":
    sys.exit(main())
