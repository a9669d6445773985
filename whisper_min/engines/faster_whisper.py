"""CTranslate2, which faster-whisper runs on: a folder written by CTranslate2's own converter for transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from whisper import Whisper

from whisper_min import audio
from whisper_min.audio import Waveform
from whisper_min.data.tokens import Tokens
from whisper_min.engines import huggingface

EXTRA, NEEDS = "ct2", ("transformers", "ctranslate2", "faster_whisper")
PRECISIONS = {"fp32": "float32", "fp16": "float16", "int8": "int8"}


def write(model: Whisper, heads: list[list[int]] | None, out: Path, precision: str) -> None:
    """Write a folder in transformers' layout aside, and let the converter read that."""
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".") as aside:
        huggingface.write(model, heads, Path(aside), "fp32")
        # faster-whisper would download both where they are not in the folder
        converter = TransformersConverter(aside, copy_files=["tokenizer.json", "preprocessor_config.json"])
        converter.convert(str(out), quantization=PRECISIONS[precision])


def transcriber(out: Path, tokens: Tokens) -> Callable[[Waveform], str]:
    """faster-whisper on what was written, given whisper's log-mel.

    Its own `transcribe` pads a short clip's log-mel with zeros where whisper pads the waveform; where two words are
    nearly as likely that turns one into the other, for OpenAI's models just as for this one.
    """
    from faster_whisper import WhisperModel

    engine = WhisperModel(str(out), device="cpu", compute_type="default", local_files_only=True)

    def transcribe(waveform: Waveform) -> str:
        features = engine.encode(audio.log_mel(audio.pad([waveform]), engine.model.n_mels).numpy())
        (result,) = engine.model.generate(features, [tokens.prefix], beam_size=1, suppress_tokens=[-1])
        return tokens.decode(result.sequences_ids[0])

    return transcribe
