"""OpenAI's whisper: a .pt that `whisper.load_model` opens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import whisper
from whisper import Whisper

from whisper_min.audio import Waveform
from whisper_min.data.tokens import Tokens
from whisper_min.scoring import decode

EXTRA, NEEDS = None, ()
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}


def write(model: Whisper, heads: list[list[int]] | None, out: Path, precision: str) -> None:
    """Write the file, read it back with whisper and compare; RuntimeError where a number differs."""
    state = {name: tensor.to("cpu", PRECISIONS[precision]) for name, tensor in model.state_dict().items()}
    torch.save({"dims": asdict(model.dims), "model_state_dict": state}, out)
    read_back = whisper.load_model(str(out), device="cpu").state_dict()
    wrong = [name for name, tensor in state.items() if not torch.equal(read_back[name], tensor.float())]
    if wrong:
        raise RuntimeError(f"whisper reads back other numbers in {', '.join(wrong[:3])}")


def transcriber(out: Path, tokens: Tokens) -> Callable[[Waveform], str]:
    """whisper.decode on what was written."""
    model = whisper.load_model(str(out), device="cpu")
    options = decode.options(tokens)

    def transcribe(waveform: Waveform) -> str:
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(torch.from_numpy(waveform)), model.dims.n_mels)
        return str(model.decode(mel, options).text).strip()

    return transcribe
