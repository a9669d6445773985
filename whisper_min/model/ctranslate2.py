"""Reads CTranslate2's model.bin (faster-whisper's format) into OpenAI's tensor names.

Source of the layout: CTranslate2 4, python/ctranslate2/specs/model_spec.py (`_serialize`), binary version 6:
uint32 version; the spec's name; uint32 revision; uint32 count; for each variable its name, uint8 rank, uint32
dimensions, uint8 type, uint32 bytes, the bytes; then aliases. A string is a uint16 length, counting a final zero, and
its bytes.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

_TYPES = {0: np.float32, 4: np.float16}
_TYPE_NAMES = {1: "int8", 2: "int16", 3: "int32", 5: "bfloat16"}
_MAX_VARIABLES, _MAX_RANK, _MAX_NAME = 20_000, 4, 1_000


class FormatError(Exception):
    """The file is not a CTranslate2 Whisper model that can be read; says why."""


def read_variables(path: Path) -> dict[str, Tensor]:
    """Every variable of a model.bin by CTranslate2's name, as float32; FormatError for anything else."""
    with open(path, "rb") as file:
        size = path.stat().st_size
        try:
            (version,) = struct.unpack("<I", file.read(4))
            if version != 6:
                raise FormatError(f"binary version {version}, but 6 is read (CTranslate2 3 and 4)")
            name = _string(file)
            if name != "WhisperSpec":
                raise FormatError(f"holds a {name!r}, not a WhisperSpec")
            _revision, count = struct.unpack("<II", file.read(8))
            if count > _MAX_VARIABLES:
                raise FormatError(f"claims {count} variables")
            variables = {}
            for _ in range(count):
                name = _string(file)
                (rank,) = struct.unpack("<B", file.read(1))
                if rank > _MAX_RANK:
                    raise FormatError(f"{name}: rank {rank}")
                shape = struct.unpack(f"<{rank}I", file.read(4 * rank))
                kind, length = struct.unpack("<BI", file.read(5))
                if length > size - file.tell():
                    raise FormatError(f"{name} is cut short: the file is not whole")
                data = file.read(length)
                if rank == 0:  # flags such as the number of heads
                    continue
                if kind not in _TYPES:
                    kind_name = _TYPE_NAMES.get(kind, kind)
                    raise FormatError(f"{name} is {kind_name}: training starts from float16 or float32 weights")
                array = np.frombuffer(data, _TYPES[kind])
                if array.size != np.prod(shape, dtype=np.int64):
                    raise FormatError(f"{name}: {array.size} numbers for shape {shape}")
                variables[name] = torch.from_numpy(array.reshape(shape).astype(np.float32))
        except (struct.error, UnicodeDecodeError, ValueError):
            raise FormatError("is cut short or damaged") from None
    return variables


def _string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<H", file.read(2))
    if not 0 < length <= _MAX_NAME:
        raise FormatError("is damaged (a name of impossible length)")
    return file.read(length)[:-1].decode("utf-8")


def to_openai(variables: dict[str, Tensor]) -> dict[str, Tensor]:
    """CTranslate2's variables under OpenAI's names: fused projections are split, the key's zero bias is dropped."""
    state: dict[str, Tensor] = {}
    for name, value in variables.items():
        parts = name.split("/")
        side, rest, last = parts[0], parts[1:-1], parts[-1]
        if rest in (["conv1"], ["conv2"]):
            state[f"encoder.{rest[0]}.{last}"] = value
        elif rest == ["position_encodings"]:
            state[f"{side}.positional_embedding"] = value
        elif rest == ["embeddings"]:
            state["decoder.token_embedding.weight"] = value
        elif rest == ["layer_norm"]:
            state[f"{side}.{'ln_post' if side == 'encoder' else 'ln'}.{_norm(last)}"] = value
        elif rest and rest[0].startswith("layer_"):
            block = f"{side}.blocks.{rest[0].removeprefix('layer_')}"
            _block_tensor(state, block, rest[1], rest[2], last, value)
        # what is left describes decoding (alignment heads, scales) and the projection, which is tied to the embedding
    return state


def _block_tensor(state: dict[str, Tensor], block: str, part: str, layer: str, last: str, value: Tensor) -> None:
    """File one tensor of a block under OpenAI's names."""
    module = {"self_attention": "attn", "attention": "cross_attn", "ffn": "mlp"}[part]
    if layer == "layer_norm":
        state[f"{block}.{module}_ln.{_norm(last)}"] = value
        return
    if module == "mlp":
        state[f"{block}.mlp.{ {'linear_0': 0, 'linear_1': 2}[layer] }.{last}"] = value
        return
    fused = {
        ("attn", "linear_0"): ("query", "key", "value"),
        ("attn", "linear_1"): ("out",),
        ("cross_attn", "linear_0"): ("query",),
        ("cross_attn", "linear_1"): ("key", "value"),
        ("cross_attn", "linear_2"): ("out",),
    }[module, layer]
    for projection, chunk in zip(fused, value.chunk(len(fused)), strict=True):
        if (projection, last) != ("key", "bias"):
            state[f"{block}.{module}.{projection}.{last}"] = chunk.clone()


def _norm(last: str) -> str:
    return {"gamma": "weight", "beta": "bias"}[last]
