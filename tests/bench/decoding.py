"""Decoding with whisper, ours, faster-whisper and transformers, on a CPU: tiny.en, real speech, greedy.

    python tests/bench/decoding.py [--set accented-test] [--clips 100] [--rounds 2] [--arms NAME ...] [--write]

Arms, each in a fresh process, round by round:

    whisper-1, whisper-8         `whisper.decode` in fp32, one clip at a time and by eights
    ours-fp32, ours-bf16         ours as evaluate.py runs it: sorted by length, batches of 16; with the encoder in bf16
    faster-float32, faster-int8  faster-whisper on the CTranslate2 folder that our weights come from, one clip at a time
    hf-1, hf-16                  transformers' `generate` in fp32, one clip at a time and by sixteens

All write without timestamps, temperature or conditioning, at most 224 tokens, with Whisper's suppression lists, from
the same recordings in memory, padded with zeros to 30 s. Log-mel, encoder, decoder and text are timed, loading is not;
the encoder is timed apart, too, and `×` is given with it and without.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import common
import numpy as np
import torch
import whisper
from torch import Tensor
from whisper.audio import SAMPLE_RATE

from whisper_min import audio
from whisper_min.data.tokens import Tokens
from whisper_min.engines import huggingface
from whisper_min.model import weights
from whisper_min.scoring import decode, wer
from whisper_min.training.precision import autocast

MODEL = "tiny.en"
BATCHES = {"whisper-1": 1, "whisper-8": 8, "ours-fp32": 16, "ours-bf16": 16, "faster-float32": 1, "faster-int8": 1}
BATCHES |= {"hf-1": 1, "hf-16": 16}
ARMS = tuple(BATCHES)
PACKAGES = ("torch", "openai-whisper", "faster-whisper", "ctranslate2", "transformers", weights.DEMO_PACKAGE)
Transcribe = Callable[[Tensor], list[str]]


def watched(module: torch.nn.Module, watch: common.Stopwatch) -> None:
    """Time every call of a module."""
    module.register_forward_pre_hook(lambda *_: watch.begin())
    module.register_forward_hook(lambda *_: watch.end())


def by_whisper(encoder: common.Stopwatch) -> Transcribe:
    """`whisper.decode`, its log-mel taken clip by clip (over a batch it would take the loudest clip's maximum)."""
    model, _ = weights.load(MODEL)
    watched(model.encoder, encoder)
    options = decode.options(Tokens(model.dims))

    def transcribe(waveforms: Tensor) -> list[str]:
        mel = torch.stack([whisper.log_mel_spectrogram(each, model.dims.n_mels) for each in waveforms])  # (B, M, F)
        return [result.text for result in whisper.decode(model, mel, options)]

    return transcribe


def by_ours(precision: str, encoder: common.Stopwatch) -> Transcribe:
    """What `Scorer.decode_set` does with a batch; `encoder` takes the encoder's share."""
    model, _ = weights.load(MODEL)
    tokens = Tokens(model.dims)

    def transcribe(waveforms: Tensor) -> list[str]:
        mel = audio.log_mel(waveforms, model.dims.n_mels)  # (B, M, F)
        encoder.begin()
        with torch.inference_mode(), autocast(mel.device, precision):
            features = decode.encode_windows(model, mel)  # (B, A, C)
        encoder.end()
        return [written.text for written in decode.greedy(model, features, tokens)]

    return transcribe


def by_huggingface(encoder: common.Stopwatch) -> Transcribe:
    """transformers' `generate` on what `export --to hf` writes."""
    ours, _ = weights.load(MODEL)
    tokens, transformers = Tokens(ours.dims), huggingface.load_transformers()
    with tempfile.TemporaryDirectory() as folder:
        huggingface.write(ours, None, Path(folder), "fp32")
        model = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
        extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    watched(model.model.encoder, encoder)

    def transcribe(waveforms: Tensor) -> list[str]:
        inputs = extractor(list(waveforms.numpy()), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        with torch.inference_mode():
            written = model.generate(inputs, num_beams=1, do_sample=False, max_new_tokens=tokens.sample_limit)
        return [tokens.decode(row) for row in written.tolist()]

    return transcribe


def by_faster(compute_type: str, encoder: common.Stopwatch) -> Transcribe:
    """faster-whisper with every fallback and filter off, so that it writes what the others do."""
    from faster_whisper import WhisperModel

    package = importlib.util.find_spec(weights.DEMO_PACKAGE)
    assert package is not None and package.origin is not None
    folder = Path(package.origin).parent / "model"
    model = WhisperModel(str(folder), "cpu", compute_type=compute_type, cpu_threads=common.THREADS)
    encode = model.encode

    def encode_watched(features: np.ndarray) -> object:
        encoder.begin()
        encoded = encode(features)
        encoder.end()
        return encoded

    model.encode = encode_watched

    def transcribe(waveforms: Tensor) -> list[str]:
        segments, _ = model.transcribe(
            waveforms[0].numpy(),
            language="en",
            beam_size=1,
            temperature=0,
            without_timestamps=True,
            condition_on_previous_text=False,
            vad_filter=False,
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
            max_new_tokens=224,
        )
        return ["".join(segment.text for segment in segments).strip()]

    return transcribe


def run_arm(args: argparse.Namespace) -> common.Result:
    """One arm in this process."""
    kind, variant = args.arm.split("-")
    encoder, watch = common.Stopwatch(), common.Stopwatch()
    waveforms = [each.read() for each in common.examples_of(args.set, args.clips)]
    padded = audio.pad(waveforms)  # (clips, samples)
    makers: dict[str, Callable[[common.Stopwatch], Transcribe]] = {"whisper": by_whisper, "hf": by_huggingface}
    makers |= {"ours": partial(by_ours, variant), "faster": partial(by_faster, variant)}
    transcribe = makers[kind](encoder)
    order = sorted(range(len(waveforms)), key=lambda index: len(waveforms[index]) if kind == "ours" else index)
    size = BATCHES[args.arm]
    batches = [order[first : first + size] for first in range(0, len(order), size)]
    transcribe(padded[batches[0]])  # to warm up
    encoder.steps.clear()

    texts = [""] * len(waveforms)
    watch.begin()
    for batch in batches:
        for index, text in zip(batch, transcribe(padded[batch]), strict=True):
            texts[index] = text
    watch.end()
    wall, cpu = watch.steps[0] / len(texts)
    encoding = float(sum(taken[0] for taken in encoder.steps)) / len(texts)
    found = {"wall": wall, "cpu": cpu, "encoder": encoding, "rest": wall - encoding}
    return {**found, "texts": texts, "peak": common.peak_megabytes()}


def tabulate(args: argparse.Namespace, results: dict[str, list[common.Result]]) -> common.Report:
    """The table; ratios are taken round by round, texts from the first."""

    def of(arm: str, key: str) -> list[float]:
        return [each[key] for each in results[arm]]

    examples = common.examples_of(args.set, args.clips)
    _, normalize = wer.normalizer("en")
    references = [normalize(example.text) for example in examples]
    peers = [arm for arm in ("whisper-1", "faster-float32", "faster-int8", "hf-16") if arm in results]
    columns = ["arm", "s/clip", "CPU s/clip", "encoder, s/clip", "share", *(f"× {peer}: all, rest" for peer in peers)]
    columns += ["WER", "texts as whisper-1", "peak MB"]
    rows, notes = [], ["Medians of the rounds with smallest and largest; × says how many times as fast: all of it, and"]
    notes[0] += " what is left without the encoder."
    for arm, rounds in results.items():
        row = [arm, common.spread(of(arm, "wall"), 3), common.spread(of(arm, "cpu"), 3)]
        share = np.median(np.divide(of(arm, "encoder"), of(arm, "wall")))
        row += [common.spread(of(arm, "encoder"), 3), f"{share:.0%}"]
        row += [", ".join(common.ratio(of(peer, key), of(arm, key)) for key in ("wall", "rest")) for peer in peers]
        texts = rounds[0]["texts"]
        row.append(f"{wer.add_up(wer.word_errors(references, [normalize(text) for text in texts])).rate:.2%}")
        whispers = results["whisper-1"][0]["texts"] if "whisper-1" in results else None
        same = sum(map(str.__eq__, texts, whispers)) if whispers else None
        rows.append([*row, "–" if same is None else f"{same} of {len(texts)}", f"{np.median(of(arm, 'peak')):.0f}"])
        if any(each["texts"] != texts for each in rounds):
            notes.append(f"{arm}: not every round wrote the same texts.")
    seconds = sum(audio.info(each.audio_filepath).seconds for each in examples)
    return f"decoding, {MODEL}, {len(examples)} clips of {args.set} ({seconds:.0f} s)", columns, rows, notes


def main() -> int:
    """Run the arms, or one of them as a child process does."""
    parser = common.options(__doc__, ARMS, default=ARMS, rounds=2)
    parser.add_argument("--set", default="accented-test", help="the speech set")
    parser.add_argument("--clips", type=int, default=100, help="its first clips")
    args = parser.parse_args()
    return common.run(args, run_arm, tabulate, args.set, PACKAGES)


if __name__ == "__main__":
    sys.exit(main())
