"""Hugging Face's transformers: a folder that `WhisperForConditionalGeneration.from_pretrained` and pipelines open."""

from __future__ import annotations

import base64
from collections.abc import Callable
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from whisper import ModelDimensions, Whisper
from whisper.audio import SAMPLE_RATE
from whisper.tokenizer import LANGUAGES, Tokenizer

from whisper_min import audio
from whisper_min.audio import Waveform
from whisper_min.data.tokens import Tokens
from whisper_min.model.weights import to_huggingface
from whisper_min.scoring.decode import suppressed

EXTRA, NEEDS = "hf", ("transformers",)
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
# What a first timestamp may be at most, in tokens of 20 ms (whisper/decoding.py, max_initial_timestamp: 1 s).
MAX_INITIAL_TIMESTAMP = 50


def load_transformers() -> Any:
    """transformers; it imports torchaudio, which beside a CPU-only torch works after ours only."""
    audio.torchaudio()
    import transformers

    transformers.utils.logging.disable_progress_bar()
    return transformers


def write(model: Whisper, heads: list[list[int]] | None, out: Path, precision: str) -> None:
    """Write weights, configuration, generation config, feature extractor and tokenizer."""
    transformers = load_transformers()
    dims, tokenizer = model.dims, Tokens(model.dims).tokenizer
    made = transformers.WhisperForConditionalGeneration(configuration(dims, tokenizer))
    made.load_state_dict(to_huggingface(model.state_dict()))
    made.generation_config = transformers.GenerationConfig(**generation(model, tokenizer, heads))
    made.to(PRECISIONS[precision]).save_pretrained(out)
    transformers.WhisperFeatureExtractor(feature_size=dims.n_mels).save_pretrained(out)
    hugging_tokenizer(tokenizer).save_pretrained(out)


def configuration(dims: ModelDimensions, tokenizer: Tokenizer) -> Any:
    """The WhisperConfig of these dimensions."""
    start, end = tokenizer.special_tokens["<|startoftranscript|>"], tokenizer.eot
    return load_transformers().WhisperConfig(
        vocab_size=dims.n_vocab,
        num_mel_bins=dims.n_mels,
        d_model=dims.n_audio_state,
        max_source_positions=dims.n_audio_ctx,
        max_target_positions=dims.n_text_ctx,
        encoder_layers=dims.n_audio_layer,
        encoder_attention_heads=dims.n_audio_head,
        encoder_ffn_dim=4 * dims.n_audio_state,
        decoder_layers=dims.n_text_layer,
        decoder_attention_heads=dims.n_text_head,
        decoder_ffn_dim=4 * dims.n_text_state,
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )


def generation(model: Whisper, tokenizer: Tokenizer, heads: list[list[int]] | None) -> dict[str, Any]:
    """The generation config that the official models carry, with whisper's own suppression lists."""
    special, end = tokenizer.special_tokens, tokenizer.eot
    record: dict[str, Any] = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": special["<|startoftranscript|>"],
        "prev_sot_token_id": special["<|startofprev|>"],
        "no_timestamps_token_id": special["<|notimestamps|>"],
        "suppress_tokens": suppressed(model, Tokens(model.dims)),
        "begin_suppress_tokens": [*tokenizer.encode(" "), end],
        "max_initial_timestamp_index": MAX_INITIAL_TIMESTAMP,
        "max_length": model.dims.n_text_ctx,
        "return_timestamps": False,
        "is_multilingual": model.is_multilingual,
    }
    if heads:
        record["alignment_heads"] = heads
    if model.is_multilingual:
        languages = list(LANGUAGES)[: model.num_languages]
        record["lang_to_id"] = {f"<|{code}|>": special[f"<|{code}|>"] for code in languages}
        record["task_to_id"] = {task: special[f"<|{task}|>"] for task in ("transcribe", "translate")}
    return record


def hugging_tokenizer(tokenizer: Tokenizer) -> Any:
    """transformers' tokenizer with whisper's vocabulary: byte pairs, then the special tokens in their order."""
    from transformers import AddedToken, WhisperTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = bytes_to_unicode()

    def written(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    ranks = bpe_ranks(tokenizer)
    vocabulary = {written(token): rank for token, rank in ranks.items()}
    merges = [(written(left), written(right)) for left, right in pairs(ranks)]
    made = WhisperTokenizer(vocab=vocabulary, merges=merges)
    ordered = sorted(tokenizer.special_tokens, key=tokenizer.special_tokens.__getitem__)
    made.add_tokens([AddedToken(name, normalized=False, special=True) for name in ordered], special_tokens=True)
    wrong = [name for name in ordered if made.convert_tokens_to_ids(name) != tokenizer.special_tokens[name]]
    if wrong:
        raise RuntimeError(f"transformers numbers {wrong[0]} otherwise than whisper does")
    return made


def bpe_ranks(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Byte sequence -> rank, from the file that whisper's own tokenizer is made of, in its order."""
    lines = (files("whisper") / "assets" / tokenizer.encoding.name).read_text().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


def pairs(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merges that give these ranks, in their order: what each token was before its last merge.

    A token's last merge joins the two parts that byte-pair encoding stops at where only lower ranks may be joined.
    """
    found = []
    for token, rank in ranks.items():
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            joined = [ranks.get(left + right, rank) for left, right in pairwise(parts)]
            best = min(range(len(joined)), key=joined.__getitem__)
            if joined[best] >= rank:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            found.append((parts[0], parts[1]))
    return found


def transcriber(out: Path, tokens: Tokens) -> Callable[[Waveform], str]:
    """transformers' `generate` on what was written."""
    transformers = load_transformers()
    model = transformers.WhisperForConditionalGeneration.from_pretrained(out, dtype=torch.float32).eval()
    tokenizer = transformers.WhisperTokenizer.from_pretrained(out)
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(out)
    spoken = tokens.tokenizer  # an English-only one has no language and no task, and generate takes none
    told = {"language": spoken.language, "task": spoken.task} if spoken.language else {}

    def transcribe(waveform: Waveform) -> str:
        inputs = extractor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        with torch.inference_mode():
            written = model.generate(inputs, num_beams=1, do_sample=False, return_timestamps=False, **told)
        return str(tokenizer.decode(written[0], skip_special_tokens=True)).strip()

    return transcribe
