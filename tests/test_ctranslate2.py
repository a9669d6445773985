"""CTranslate2's binary, written here by the documented format, and every way in which it can be damaged."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from quick_model import same_weights, small_whisper
from torch import Tensor
from whisper import Whisper

from whisper_min.config import InputError
from whisper_min.model import ctranslate2, weights

FLOAT32, INT8, INT16, BFLOAT16, FLOAT16 = 0, 1, 2, 5, 4
NUMPY = {FLOAT32: np.float32, INT8: np.int8, INT16: np.int16, FLOAT16: np.float16}


def string(text: str) -> bytes:
    """uint16 length, counting a final zero, and the bytes."""
    data = text.encode() + b"\0"
    return struct.pack("<H", len(data)) + data


ALIASES = struct.pack("<I", 1) + string("decoder/projection/weight") + string("decoder/embeddings/weight")


def variable(name: str, value: Tensor, kind: int = FLOAT32) -> bytes:
    """A variable: name, rank, dimensions, type, bytes."""
    data = value.detach().numpy().astype(NUMPY[kind]).tobytes()
    shape = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
    return string(name) + shape + struct.pack("<BI", kind, len(data)) + data


def serialize(
    variables: Mapping[str, Tensor], kind: int = FLOAT32, version: int = 6, spec: str = "WhisperSpec"
) -> bytes:
    """A whole model.bin, with a scalar flag and an alias as the converter writes them."""
    flags = [variable("encoder/num_heads", torch.tensor(1), INT16)]
    body = [*flags, *(variable(name, value, kind) for name, value in variables.items())]
    return struct.pack("<I", version) + string(spec) + struct.pack("<II", 3, len(body)) + b"".join(body) + ALIASES


def converted(model: Whisper) -> dict[str, Tensor]:
    """A model's tensors under CTranslate2's names: projections fused, LayerNorms as gamma and beta."""
    variables: dict[str, Tensor] = {}

    def norm(name: str, layer: torch.nn.LayerNorm) -> None:
        variables[f"{name}/gamma"], variables[f"{name}/beta"] = layer.weight, layer.bias

    def linear(name: str, *layers: torch.nn.Linear) -> None:
        biases = [torch.zeros(len(each.weight)) if each.bias is None else each.bias for each in layers]
        variables[f"{name}/weight"] = torch.cat([each.weight for each in layers])
        variables[f"{name}/bias"] = torch.cat(biases)

    for side, part in [("encoder", model.encoder), ("decoder", model.decoder)]:
        variables[f"{side}/position_encodings/encodings"] = part.positional_embedding
        norm(f"{side}/layer_norm", part.ln_post if side == "encoder" else part.ln)
        for index, block in enumerate(part.blocks):
            at = f"{side}/layer_{index}"
            norm(f"{at}/self_attention/layer_norm", block.attn_ln)
            linear(f"{at}/self_attention/linear_0", block.attn.query, block.attn.key, block.attn.value)
            linear(f"{at}/self_attention/linear_1", block.attn.out)
            if block.cross_attn is not None:
                norm(f"{at}/attention/layer_norm", block.cross_attn_ln)
                linear(f"{at}/attention/linear_0", block.cross_attn.query)
                linear(f"{at}/attention/linear_1", block.cross_attn.key, block.cross_attn.value)
                linear(f"{at}/attention/linear_2", block.cross_attn.out)
            norm(f"{at}/ffn/layer_norm", block.mlp_ln)
            linear(f"{at}/ffn/linear_0", block.mlp[0])
            linear(f"{at}/ffn/linear_1", block.mlp[2])
    for name in ("conv1", "conv2"):
        layer = getattr(model.encoder, name)
        variables[f"encoder/{name}/weight"], variables[f"encoder/{name}/bias"] = layer.weight, layer.bias
    variables["decoder/embeddings/weight"] = model.decoder.token_embedding.weight
    return variables


def folder_of(data: bytes, tmp_path: Path) -> Path:
    """A CTranslate2 folder with this model.bin."""
    (tmp_path / "model.bin").write_bytes(data)
    return tmp_path


def test_round_trip_in_float32(tmp_path: Path) -> None:
    """Fused projections, norms, convolutions, embeddings: every tensor comes back to the bit."""
    model = small_whisper(layers=2)
    folder = folder_of(serialize(converted(model)), tmp_path)
    (folder / "config.json").write_text('{"alignment_heads": [[1, 0]]}')
    loaded, origin = weights.load(str(folder))
    assert same_weights(loaded, model)
    assert origin.fingerprint == weights.fingerprint(model.state_dict())
    assert origin.alignment_heads == [[1, 0]]


def test_round_trip_in_float16(tmp_path: Path) -> None:
    """fp16, as faster-whisper's models are: rounded once, and the same fingerprint."""
    model = small_whisper(layers=2)
    loaded, origin = weights.load(str(folder_of(serialize(converted(model), FLOAT16), tmp_path)))
    assert origin.fingerprint == weights.fingerprint(model.state_dict())
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].half().float()), name


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    """A model without its last norm is no Whisper."""
    variables = converted(small_whisper())
    del variables["decoder/layer_norm/gamma"]
    with pytest.raises(InputError, match=r"model\.bin: .*decoder\.ln\.weight is missing"):
        weights.load(str(folder_of(serialize(variables), tmp_path)))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (serialize({}, version=5), "binary version 5, but 6 is read"),
        (serialize({}, spec="TransformerSpec"), "'TransformerSpec', not a WhisperSpec"),
        (serialize({"decoder/layer_0/ffn/linear_0/weight": torch.zeros(2, 2)}, INT8), "int8"),
        (b"", "cut short"),
        (b"RIFF....WAVE" * 10, "binary version"),
        (struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, 4_000_000_000), "4000000000 variables"),
        (struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, 1) + string("x") + b"\xff", "rank 255"),
        (struct.pack("<I", 6) + struct.pack("<H", 0), "name of impossible length"),
        (struct.pack("<I", 6) + struct.pack("<H", 60_000), "name of impossible length"),
        (
            struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, 1) + string("x")
            + struct.pack("<B1IBI", 1, 3, FLOAT32, 8) + bytes(8),
            "x: 2 numbers for shape (3,)",
        ),
    ],
    ids=["version", "spec", "int8", "empty", "audio", "count", "rank", "no name", "long name", "shape"],
)  # fmt: skip
def test_other_and_damaged_files_are_refused(tmp_path: Path, data: bytes, says: str) -> None:
    """The file and the reason are named; what int8 would need is said."""
    with pytest.raises(InputError) as caught:
        weights.load(str(folder_of(data, tmp_path)))
    assert str(tmp_path / "model.bin") in str(caught.value)
    assert says in str(caught.value)


def test_quantised_weights_say_what_would_work(tmp_path: Path) -> None:
    """int8 and bfloat16: the variable, the type, and the types that training starts from."""
    (tmp_path / "int8").write_bytes(serialize({"encoder/conv1/weight": torch.ones(2, 2)}, INT8))
    with pytest.raises(ctranslate2.FormatError, match=r"encoder/conv1/weight is int8: .*float16 or float32"):
        ctranslate2.read_variables(tmp_path / "int8")
    data = serialize({"encoder/conv1/weight": torch.ones(2, 2)}, FLOAT16)
    head = data.index(struct.pack("<BI", FLOAT16, 8))
    (tmp_path / "bf16").write_bytes(data[:head] + struct.pack("<B", BFLOAT16) + data[head + 1 :])
    with pytest.raises(ctranslate2.FormatError, match="is bfloat16"):
        ctranslate2.read_variables(tmp_path / "bf16")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """Every length short of the last variable's end raises FormatError and nothing else."""
    variables = {"encoder/conv1/weight": torch.ones(2, 3), "decoder/layer_norm/gamma": torch.ones(4)}
    data = serialize(variables)
    end = len(data) - len(ALIASES)
    path = tmp_path / "model.bin"
    for length in range(end):
        path.write_bytes(data[:length])
        with pytest.raises(ctranslate2.FormatError):
            ctranslate2.read_variables(path)
    path.write_bytes(data[:end])  # the aliases only repeat what is known
    assert ctranslate2.read_variables(path).keys() == variables.keys()


def test_no_damaged_byte_gives_a_traceback(tmp_path: Path) -> None:
    """Whatever one byte of a small file becomes: read, or refused with the file's name."""
    data = serialize({"encoder/layer_0/self_attention/linear_0/weight": torch.ones(3, 1)})
    generator = np.random.default_rng(0)
    refused = 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] = generator.integers(256)
        with pytest.raises(InputError, match=r"model\.bin"):  # even whole it is not a whole Whisper
            weights.load(str(folder_of(bytes(damaged), tmp_path)))
        refused += 1
    assert refused == len(data)


def test_fused_projections_that_cannot_be_split_are_refused(tmp_path: Path) -> None:
    """Fewer rows than projections."""
    data = serialize({"encoder/layer_0/self_attention/linear_0/weight": torch.ones(1, 4)})
    with pytest.raises(InputError, match=r"model\.bin: not a CTranslate2 Whisper model"):
        weights.load(str(folder_of(data, tmp_path)))
