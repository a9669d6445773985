"""whisper.cpp: one ggml file, by the layout of its models/convert-pt-to-ggml.py (github.com/ggerganov/whisper.cpp).

int32 throughout: magic, eleven sizes; the mel filters; the vocabulary as bytes; then each tensor with its number of
dimensions, the length of its name and its type, its dimensions from the last to the first, its name and its numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from whisper import Whisper
from whisper.audio import mel_filters

from whisper_min.audio import Waveform
from whisper_min.data.tokens import Tokens
from whisper_min.engines.huggingface import bpe_ranks

EXTRA, NEEDS = "ggml", ("pywhispercpp",)
PRECISIONS = ("fp16",)  # its convolutions take no other weights
MAGIC = 0x67676D6C  # "ggml"
# whisper.cpp reads these as fp32 in every file.
CONVOLUTION_BIASES = ("encoder.conv1.bias", "encoder.conv2.bias")
ALWAYS_FP32 = (*CONVOLUTION_BIASES, "encoder.positional_embedding", "decoder.positional_embedding")


def write(model: Whisper, heads: list[list[int]] | None, out: Path, precision: str) -> None:
    """Write the file, in fp16; whisper.cpp knows alignment heads by the model's size and has no place for them."""
    dims = model.dims
    filters = mel_filters("cpu", dims.n_mels).numpy().astype(np.float32)  # (M, 201)
    vocabulary = bpe_ranks(Tokens(dims).tokenizer)
    sizes = [
        *(dims.n_vocab, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, dims.n_audio_layer),
        *(dims.n_text_ctx, dims.n_text_state, dims.n_text_head, dims.n_text_layer, dims.n_mels),
        1,  # matrices in fp16
    ]
    with open(out, "wb") as file:
        file.write(struct.pack(f"<{len(sizes) + 1}i", MAGIC, *sizes))
        file.write(struct.pack("<2i", *filters.shape) + filters.tobytes())
        file.write(struct.pack("<i", len(vocabulary)))
        for token in vocabulary:
            file.write(struct.pack("<i", len(token)) + token)
        for name, tensor in model.state_dict().items():
            values = tensor.detach().cpu().float().numpy().squeeze()
            if name in CONVOLUTION_BIASES:
                values = values[:, None]  # the bias of a convolution is added along time
            small = values.ndim < 2 or name in ALWAYS_FP32
            values = values.astype(np.float32 if small else np.float16)
            encoded = name.encode()
            file.write(struct.pack("<3i", values.ndim, len(encoded), int(values.dtype == np.float16)))
            file.write(struct.pack(f"<{values.ndim}i", *reversed(values.shape)) + encoded + values.tobytes())


def transcriber(out: Path, tokens: Tokens) -> Callable[[Waveform], str]:
    """whisper.cpp, through pywhispercpp, on what was written."""
    from pywhispercpp.model import Model

    model = Model(str(out), redirect_whispercpp_logs_to=None, print_progress=False, print_realtime=False)

    def transcribe(waveform: Waveform) -> str:
        segments = model.transcribe(
            waveform,
            language=tokens.tokenizer.language or "en",
            translate=tokens.tokenizer.task == "translate",
            greedy={"best_of": 1},
            temperature=0.0,
            temperature_inc=0.0,
            no_timestamps=True,
            single_segment=True,
            no_context=True,
            suppress_blank=True,
            suppress_nst=True,
        )
        return "".join(segment.text for segment in segments).strip()

    return transcribe
