"""How much memory and disk a training needs, told before it starts, with what would fit."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, replace

import psutil
import torch
from whisper import ModelDimensions
from whisper.audio import N_SAMPLES

from whisper_min.audio import SAMPLES_PER_POSITION
from whisper_min.config import Config
from whisper_min.model.forward import PLAIN_ATTENTION_WEIGHTS, POSITIONS_AT_ONCE
from whisper_min.training.flops import Gradients

# (audio and text channels, audio layers, text layers, mel bins, vocabulary) of the official sizes.
_SIZES = {
    "tiny": (384, 4, 4, 80),
    "base": (512, 6, 6, 80),
    "small": (768, 12, 12, 80),
    "medium": (1024, 24, 24, 80),
    "large-v1": (1280, 32, 32, 80),
    "large-v2": (1280, 32, 32, 80),
    "large-v3": (1280, 32, 32, 128),
    "turbo": (1280, 32, 4, 128),
}
_ALIASES = {"large": "large-v3", "large-v3-turbo": "turbo"}
# Tokens of a typical label.
TYPICAL_TOKENS = 64
# `--batch_size auto` fills this share of the free memory: libraries need room to work, and allocators lose some.
FREE_SHARE = 0.8
# Beyond these a larger batch brings no speed, for its products fill the device already: eight clips of 5 s are 2000
# rows for a CPU's two to sixteen, 64 are 16,000 for the 132 multiprocessors of an H200.
LARGEST_BATCH_ON_CUDA, LARGEST_BATCH_ELSEWHERE = 64, 8


def official_dimensions(name: str) -> ModelDimensions | None:
    """Dimensions of an official model without loading it; None for other names."""
    size = _ALIASES.get(name, name).removesuffix(".en")
    if size not in _SIZES:
        return None
    channels, audio_layers, text_layers, mels = _SIZES[size]
    vocabulary = 51864 if name.endswith(".en") else 51866 if mels == 128 else 51865
    heads = channels // 64
    return ModelDimensions(mels, 1500, channels, heads, audio_layers, vocabulary, 448, channels, heads, text_layers)


def parameters(dims: ModelDimensions) -> tuple[int, int]:
    """(encoder, decoder) parameters of a Whisper of these dimensions."""
    c, d = dims.n_audio_state, dims.n_text_state
    encoder = dims.n_mels * c * 3 + c + c * c * 3 + c + dims.n_audio_layer * (12 * c * c + 12 * c) + 2 * c
    decoder = dims.n_vocab * d + dims.n_text_ctx * d + dims.n_text_layer * (16 * d * d + 17 * d) + 2 * d
    return encoder, decoder


def parameters_in_fp32(dims: ModelDimensions) -> tuple[int, int]:
    """(encoder, decoder) parameters that stay fp32 where weights are bf16: LayerNorms, and the decoder's positions."""
    c, d = dims.n_audio_state, dims.n_text_state
    return 2 * c * (2 * dims.n_audio_layer + 1), 2 * d * (3 * dims.n_text_layer + 1) + dims.n_text_ctx * d


def adapter_parameters(dims: ModelDimensions, cfg: Config) -> int:
    """Parameters of the adapters that the options ask for: R (in + out) for every layer that gets one."""
    c, d, targets = dims.n_audio_state, dims.n_text_state, cfg.lora_targets
    projections = {"qv": 2, "mlp": 0}.get(targets, 4)
    mlp = 0 if targets in ("attention", "qv") else 10  # two layers between one width and four
    encoder = 0 if targets == "decoder" else dims.n_audio_layer * c * (2 * projections + mlp)
    decoder = 0 if targets == "encoder" else dims.n_text_layer * d * (2 * 2 * projections + mlp)
    return cfg.lora_rank * (encoder + decoder)


def trained_parameters(dims: ModelDimensions, cfg: Config) -> int:
    """Parameters that have a gradient."""
    if cfg.method == "lora":
        return adapter_parameters(dims, cfg)
    encoder, decoder = parameters(dims)
    return decoder + (0 if cfg.freeze_encoder else encoder)


@dataclass(frozen=True)
class Ledger:
    """Bytes that fine-tuning needs at its peak, by what they are for; the framework itself is not among them."""

    weights: int
    """Whole, as evaluations need them; fp32 whatever the forward pass runs in; under --lean bf16, as the gradients."""
    casts: int
    """The weights in the forward's precision, kept for the backward pass."""
    gradients: int
    moments: int
    """AdamW's two, each fp32 or, under --lean, 8 bits."""
    original: int
    """The copy that the KL term asks; with adapters there is none."""
    anchors: int
    """Where EWC and L2-SP hold the weights."""
    fisher: int
    encoder_activations: int
    decoder_activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())


def ledger(
    dims: ModelDimensions,
    cfg: Config,
    precision: str,
    context_samples: int,
    device_type: str = "cuda",
    tokens: int = TYPICAL_TOKENS,
) -> Ledger:
    """What a training holds in memory at its peak, which is the end of the forward pass.

    Parameters
    ----------
    cfg : Config
        what trains, what holds it to the original, `batch_size`, `checkpointing`
    precision : str
        of the forward pass: fp32, bf16 or fp16
    context_samples : int
        length of the audio context
    device_type : str
        on a CPU small attention weights are kept in bf16 (`forward.attend`)
    tokens : int
        of a label
    """
    encoder, decoder = parameters(dims)
    counted = cfg.clips_per_batch * tokens  # positions, of which some have fp32 logits at once
    anchored = decoder + (0 if cfg.freeze_encoder else encoder)
    trained = trained_parameters(dims, cfg)
    encoder_block, decoder_block = 12 * dims.n_audio_state**2, 16 * dims.n_text_state**2
    kept_casts = encoder * Gradients.of_config(cfg).into_encoder + decoder
    if cfg.checkpointing:  # a block's are made again with the block
        kept_casts = min(kept_casts, dims.n_vocab * dims.n_text_state + max(encoder_block, decoder_block))
    copies = cfg.method != "lora"
    in_fp32 = parameters_in_fp32(dims)
    weights = 2 * (encoder + decoder + sum(in_fp32)) if cfg.lean else 4 * (encoder + decoder)
    gradients, moments = 4 * trained // shards(cfg), 8 * trained // shards(cfg)
    if cfg.lean and copies:
        gradients = 2 * (trained + in_fp32[1] + (0 if cfg.freeze_encoder else in_fp32[0]))
        moments = 2 * trained + 2 * 4 * trained // 256  # with a scale for each 256
    positions = context_samples // SAMPLES_PER_POSITION
    in_encoder, in_decoder = activations(dims, cfg, precision, positions, tokens, device_type)
    return Ledger(
        weights=weights,
        casts=_element(precision) * kept_casts * (precision != ("bf16" if cfg.lean else "fp32")),
        gradients=gradients,
        moments=moments,
        original=(2 if cfg.kl_storage == "bf16" or cfg.lean else 4) * (encoder + decoder) * (bool(cfg.kl) and copies),
        anchors=4 * anchored * ((cfg.ewc > 0) + (cfg.l2sp > 0)) * copies,
        fisher=4 * anchored * (cfg.ewc > 0),
        encoder_activations=cfg.clips_per_batch * in_encoder,
        decoder_activations=cfg.clips_per_batch * in_decoder,
        # as computed, and their gradient; in fp32 themselves, log-probabilities and a gradient
        logits=dims.n_vocab * (2 * _element(precision) * counted + 12 * min(counted, POSITIONS_AT_ONCE)),
    )


def activations(
    dims: ModelDimensions, cfg: Config, precision: str, positions: int, tokens: int, device_type: str
) -> tuple[int, int]:
    """(encoder, decoder) bytes that a clip's forward pass keeps for the backward pass, read off `model/forward.py`.

    Per position and channel, with e bytes an element: a LayerNorm keeps its input in fp32; attention query, key, value
    and what it attended, 4 e; GELU its input, 4 e. What trains, or has an adapter, keeps what it reads: e for query,
    key and value together, e and 4 e for the two layers of the MLP. Attention keeps no weights (FlashAttention,
    arXiv:2205.14135), but for those that `forward.attend` computes plainly.
    """
    c, d, a, t, e = dims.n_audio_state, dims.n_text_state, positions, tokens, _element(precision)
    into_encoder, encoder_trains, decoder_trains = Gradients.of_config(cfg)
    attention, mlp, reads_audio, reads_text = True, True, encoder_trains, decoder_trains
    if cfg.method == "lora":
        attention, mlp = cfg.lora_targets != "mlp", cfg.lora_targets not in ("attention", "qv")
        reads_audio, reads_text = cfg.lora_targets != "decoder", cfg.lora_targets != "encoder"

    def plain(heads: int, queries: int) -> int:
        """Attention weights against the audio, where they are kept."""
        weights = heads * queries * a
        small = cfg.clips_per_batch * weights <= PLAIN_ATTENTION_WEIGHTS and not cfg.compile
        return e * weights * (device_type == "cpu" and precision == "bf16" and small)

    audio_layer = c * a * (8 + 8 * e + reads_audio * (e * attention + 5 * e * mlp)) + plain(dims.n_audio_head, a)
    text_layer = (
        d * t * (12 + 10 * e + reads_text * (2 * e * attention + 5 * e * mlp))
        + 2 * e * d * a  # keys and values of the audio
        + plain(dims.n_text_head, t)
    )
    # the log-mel, what the convolutions and their GELUs read, and the last LayerNorm of each side
    around_encoder = encoder_trains * e * a * (2 * dims.n_mels + 5 * c) + 4 * a * c
    around_decoder = reads_text * attention * e * a * c + (4 + decoder_trains * e) * t * d

    def of(layers: int, layer: int, its_input: int) -> int:
        """Every layer's activations; under checkpointing every layer's input and the one that is computed again."""
        return layers * its_input + layer if cfg.checkpointing else layers * layer

    encoder = of(dims.n_audio_layer, audio_layer, e * a * c) + around_encoder
    return into_encoder * encoder, of(dims.n_text_layer, text_layer, e * t * d) + around_decoder


def _element(precision: str) -> int:
    return 4 if precision == "fp32" else 2


def training_bytes(
    dims: ModelDimensions, cfg: Config, precision: str, context_samples: int, device_type: str = "cuda"
) -> int:
    """Bytes that fine-tuning needs at its peak, without the framework itself."""
    return ledger(dims, cfg, precision, context_samples, device_type).total


def largest_batch_size(
    dims: ModelDimensions, cfg: Config, precision: str, device: torch.device, context_samples: int
) -> int:
    """The largest power of two that fits into a share of the free memory by this ledger, and is of use; at least 1."""
    room = FREE_SHARE * available_bytes(device)

    def fits(size: int) -> bool:
        return training_bytes(dims, replace(cfg, batch_size=size), precision, context_samples, device.type) <= room

    largest = LARGEST_BATCH_ON_CUDA if device.type == "cuda" else LARGEST_BATCH_ELSEWHERE
    return max((size for size in (2**power for power in range(largest.bit_length())) if fits(size)), default=1)


def available_bytes(device: torch.device) -> int:
    """Free memory of the device; where ranks share a host's, an equal share of it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available) // ranks_on_host()


def shards(cfg: Config) -> int:
    """Ranks that gradients and the optimizer are split among."""
    return int(os.environ.get("WORLD_SIZE", "1")) if cfg.shard else 1


def ranks_on_host() -> int:
    """Processes that torchrun started here; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def checkpoint_bytes(dims: ModelDimensions, cfg: Config) -> int:
    """Bytes of a checkpoint: weights, of adapters theirs alone, and AdamW's moments of what trains."""
    held = ledger(dims, replace(cfg, shard=False), "fp32", N_SAMPLES)
    return (4 * trained_parameters(dims, cfg) if cfg.method == "lora" else held.weights) + held.moments


def check_disk(dims: ModelDimensions, cfg: Config) -> list[str]:
    """A fault where the disk of the runs has no room: the old checkpoint goes only after the new one is whole."""
    folder = next(each for each in (cfg.runs_dir, *cfg.runs_dir.absolute().parents) if each.exists())
    free, needed = shutil.disk_usage(folder).free, checkpoint_bytes(dims, cfg) * (1 if cfg.resume else 2)
    if needed <= free:
        return []
    return [
        f"--runs_dir {cfg.runs_dir}: checkpoints need {needed / 1e9:.2g} GB, and {free / 1e9:.2g} GB are free; make "
        "room, or give another folder" + ("" if cfg.method == "lora" else "; --method lora needs a few MB")
    ]


def check_memory(
    dims: ModelDimensions, cfg: Config, precision: str, device: torch.device, context_samples: int
) -> list[str]:
    """A fault where the training would not fit into free memory, with what would."""
    loaded, host = 8 * sum(parameters(dims)), available_bytes(torch.device("cpu"))
    if device.type != "cpu" and loaded > host:  # on their way weights are there twice: the file's, and the model's
        return [
            f"--model {cfg.model}: reading its weights takes {loaded / 1e9:.1f} GB, and the host's memory has "
            f"{host / 1e9:.1f} GB free; free some, or take a smaller --model"
        ]
    free = available_bytes(device)
    needed = training_bytes(dims, cfg, precision, context_samples, device.type)
    if needed <= free:
        return []
    where = f"{device}" if device.type == "cuda" else "this machine"
    each = f" for each of {ranks_on_host()} ranks" if device.type != "cuda" and ranks_on_host() > 1 else ""
    return [
        f"--model {cfg.model}: training it with --batch_size {cfg.clips_per_batch} in {precision} needs about "
        f"{needed / 1e9:.0f} GB, and {where} has {free / 1e9:.0f} GB free{each}; "
        + what_would_fit(dims, cfg, precision, device, free)
    ]


def what_would_fit(dims: ModelDimensions, cfg: Config, precision: str, device: torch.device, free: int) -> str:
    """Options that need no more than the free memory, for clips of any length."""

    def fits(dims: ModelDimensions, **changes: object) -> bool:
        changed = replace(cfg, **changes)  # type: ignore[arg-type]
        return training_bytes(dims, changed, precision, N_SAMPLES, device.type) <= free

    fixes = []
    smaller = next((size for size in (4, 2, 1) if size < cfg.clips_per_batch and fits(dims, batch_size=size)), None)
    if smaller is not None:
        fixes.append(f"--batch_size {smaller} --accumulate {cfg.clips_per_batch * cfg.accumulate // smaller}")
    if not cfg.checkpointing and fits(dims, checkpointing=True):
        fixes.append("--checkpointing")
    if (
        not (cfg.shard or cfg.ewc or cfg.l2sp or cfg.lean or cfg.compile or cfg.method == "lora")
        and shards(replace(cfg, shard=True)) > 1
        and fits(dims, shard=True)
    ):
        fixes.append("--shard")
    if cfg.method != "lora" and not cfg.freeze_encoder and fits(dims, freeze_encoder=True):
        fixes.append("--freeze_encoder")
    if not (cfg.lean or cfg.shard or cfg.ewc or cfg.l2sp) and fits(dims, lean=True):
        fixes.append("--lean")
    if cfg.method != "lora" and fits(dims, method="lora", freeze_encoder=False):
        fixes.append("--method lora")
    official = {size: official_dimensions(size) for size in ("large-v3", "turbo", "medium", "small", "base", "tiny")}
    weights = sum(parameters(dims))
    lighter = [size for size, its in official.items() if its is not None and sum(parameters(its)) < weights]
    fitting = [size for size in lighter if fits(official[size])]
    if fitting:
        fixes.append(f"--model {fitting[0]}")
    return f"what would fit: {' or '.join(fixes)}" if fixes else "no Whisper would fit: free some memory"
