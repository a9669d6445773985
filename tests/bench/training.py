"""A training step of transformers against ours, on a CPU: tiny.en, real speech, batch 8.

    python tests/bench/training.py [--steps 20] [--rounds 3] [--warmup 3] [--arms NAME ...] [--write]
    python tests/bench/training.py --check-loss

Arms, each in a fresh process, round by round:

    hf-bf16, hf-fp32       WhisperForConditionalGeneration in a Seq2SeqTrainer (a plain loop where `accelerate` is not
                           installed), as https://huggingface.co/blog/fine-tune-whisper does, but without gradient
                           checkpointing, which would slow it down; on a CPU the blog's script would run in fp32
    full-bf16, trim-bf16   ours in 30 s windows, and with the encoder cut to the clips (train.py's default)
    cached-bf16            ours with --freeze_encoder, in its second epoch: the encoder's output is kept
    full-fp32, trim-fp32, cached-fp32    the same in fp32; only by --arms

All start from the same weights and train on the same clips of accented-train with the same labels, trimmed to the
batch; hf and full on the same batches in the same order, trim on the same clips sorted into its buckets. "Step" is
forward, backward, clipping and update; "end to end" also decodes the audio and computes log-mels, in the same process,
as all of them do on a CPU by default. Warm-up steps come first and are not counted.
`--check-loss` runs one batch through both models in fp32 and asserts that the losses agree to 1e-4.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import common
import numpy as np
import torch
from torch import Tensor
from whisper import Whisper
from whisper.audio import SAMPLE_RATE

from whisper_min import audio
from whisper_min.config import Config, InputError
from whisper_min.data import sources
from whisper_min.data.batches import Batch, Schedule, Window, collate
from whisper_min.data.tokens import Tokens
from whisper_min.model import weights
from whisper_min.model.forward import decode, encode, project, sum_cross_entropy
from whisper_min.text import resolve_style, restyle
from whisper_min.training.frozen import FrozenEncoder
from whisper_min.training.optimizer import build_optimizer, choose_trainable, clip_and_step, default_lr, lr_at
from whisper_min.training.precision import autocast, loss_scaler

MODEL, SPEECH_SET, BATCH, SEED = "tiny.en", "accented-train", 8, 0
ARMS = ("hf-bf16", "hf-fp32", "full-bf16", "trim-bf16", "cached-bf16", "full-fp32", "trim-fp32", "cached-fp32")
PACKAGES = ("torch", "transformers", "openai-whisper")
CPU = torch.device("cpu")
Batches = list[list[Window]]


def batches_of(context: str, steps: int, tokens: Tokens) -> Batches:
    """The batches of an epoch over the first `steps` × 8 clips of a seeded order, by train.py's own schedule."""
    examples = sources.read_manifest(common.manifest(SPEECH_SET))
    if steps * BATCH > len(examples):
        raise InputError(f"--steps {steps}: {SPEECH_SET} holds only {len(examples) // BATCH} batches of {BATCH}")
    style = resolve_style("auto", [example.text for example in examples])
    random.Random(SEED).shuffle(examples)
    examples = examples[: steps * BATCH]
    labels = [restyle(example.text, style) for example in examples]
    seconds = [audio.info(example.audio_filepath).seconds for example in examples]
    return Schedule(examples, labels, seconds, context, BATCH, tokens, SEED).epoch(0)


def huggingface(ours: Whisper) -> Any:
    """A WhisperForConditionalGeneration with our weights: the inverse of `weights.from_huggingface`."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    # WhisperConfig's other defaults are tiny's; the blog turns the cache off
    model = WhisperForConditionalGeneration(WhisperConfig(vocab_size=ours.dims.n_vocab, use_cache=False))
    state = ours.state_dict()
    names = {key: next(iter(weights.from_huggingface({key: value})), "") for key, value in model.state_dict().items()}
    assert sorted(filter(None, names.values())) == sorted(state), "the layouts do not match"
    model.load_state_dict({key: state[name] for key, name in names.items() if name}, strict=False)
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight, "the output projection is not tied"
    return model.train()


def collate_huggingface(tokens: Tokens) -> Callable[[Sequence[Window]], Any]:
    """Batches as transformers' feature extractor makes them, with our labels (both leave out -100)."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor()

    def batch(windows: Sequence[Window]) -> dict[str, Tensor]:
        waveforms = [window.examples[0].read() for window in windows]
        mel = extractor(waveforms, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features  # (B, M, 3000)
        targets = tokens.teacher_forcing([window.text for window in windows])
        return {"input_features": mel, "decoder_input_ids": targets.inputs, "labels": targets.targets}

    return batch


def run_trainer(model: Any, batches: Batches, collator: Any, bf16: bool, lr: float, watch: common.Stopwatch) -> float:
    """Seq2SeqTrainer with its defaults over the batches; the mean loss."""
    from torch.utils.data import DataLoader
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

    class InOrder(Seq2SeqTrainer):
        def get_train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(batches, batch_size=None, collate_fn=collator)  # type: ignore[arg-type]

    class Timing(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            watch.ended = common.now()

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            watch.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            watch.end()

    quiet: dict[str, Any] = {"save_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True}
    with tempfile.TemporaryDirectory() as folder:
        quiet |= {"output_dir": folder, "max_steps": len(batches), "per_device_train_batch_size": BATCH}
        settings = Seq2SeqTrainingArguments(learning_rate=lr, bf16=bf16, use_cpu=True, **quiet)
        loss = InOrder(model, settings, train_dataset=batches, callbacks=[Timing()]).train().training_loss
    assert len(watch.steps) == len(batches), f"the trainer took {len(watch.steps)} steps"
    return float(loss)


def run_loop(
    batches: Batches, collator: Any, loss_of: Any, update: Callable[[int], Any], watch: common.Stopwatch
) -> float:
    """A plain loop over the batches; the mean loss."""
    losses, watch.ended = [], common.now()
    for step, windows in enumerate(batches, start=1):
        batch = collator(windows)
        watch.begin()
        loss = loss_of(batch)
        loss.backward()
        update(step)
        losses.append(float(loss.detach()))
        watch.end()
    return float(np.mean(losses))


def run_arm(args: argparse.Namespace) -> common.Result:
    """One arm in this process."""
    kind, precision = args.arm.split("-")
    model, _ = weights.load(MODEL)
    tokens, lr, watch = Tokens(model.dims), default_lr(model, Config()), common.Stopwatch()
    timed = batches_of({"hf": "full", "cached": "trim"}.get(kind, kind), args.steps, tokens)
    # warm up on one batch of every context; shapes seen first cost more
    contexts = list({windows[0].context: windows for windows in timed}.values())
    warm = [contexts[index % len(contexts)] for index in range(max(args.warmup, len(contexts)))]
    batches = warm + timed

    if kind == "hf":
        model, collator, loop = huggingface(model), collate_huggingface(tokens), "transformers in a plain loop"
        at_start = common.resident_megabytes()
        if common.version("accelerate") and not args.plain:
            loss, loop = run_trainer(model, batches, collator, precision == "bf16", lr, watch), "Seq2SeqTrainer"
        else:
            optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.0, fused=True)  # as the Trainer

            def loss_of(batch: Any) -> Tensor:
                with autocast(CPU, precision):
                    return model(**batch).loss

            def update(step: int) -> None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.param_groups[0]["lr"] = lr_at(step, lr, 0, len(batches))
                optimizer.step()
                optimizer.zero_grad()

            loss = run_loop(batches, collator, loss_of, update, watch)
    else:
        cfg = Config(batch_size=BATCH, lr=lr, method="full", freeze_encoder=kind == "cached")
        loop, parameters = "train.py's pieces in a plain loop", choose_trainable(model, cfg)
        read = partial(collate, tokens=tokens, n_mels=model.dims.n_mels, cfg=cfg)
        frozen = FrozenEncoder(model, cfg) if cfg.freeze_encoder else None
        if frozen:
            for batch in map(read, batches):
                with autocast(CPU, precision):
                    frozen(batch, batch.log_mel(CPU))
            read = partial(read, encoded=frozen.kept)
        optimizer, scaler = build_optimizer(model, cfg), loss_scaler(CPU, precision)
        at_start = common.resident_megabytes()

        def collator(windows: Sequence[Window]) -> tuple[Batch, Tensor]:
            batch = read(windows)
            return batch, batch.log_mel(CPU)

        def loss_of(made: tuple[Batch, Tensor]) -> Tensor:
            batch, mel = made
            with autocast(CPU, precision):
                features = frozen(batch, mel) if frozen else encode(model, mel)  # (B, A, C)
                hidden = decode(model, batch.targets.inputs, features)  # (B, T, C)
                logits = project(model, hidden, batch.targets.positions)  # (N, V)
            targets = batch.targets.targets.flatten()[batch.targets.positions]  # (N,)
            return scaler.scale(sum_cross_entropy(logits, targets) / len(targets))

        def update(step: int) -> None:
            for group in optimizer.param_groups:
                group["lr"] = lr_at(step, lr, 0, len(batches))
            clip_and_step(optimizer, scaler, parameters, cfg.grad_clip)

        loss = run_loop(batches, collator, loss_of, update, watch)
    (step_wall, step_cpu), (wall, cpu) = (sum(taken[len(warm) :], np.zeros(2)) for taken in (watch.steps, watch.laps))
    clips = args.steps * BATCH
    rates = {"step": clips / step_wall, "rate": clips / wall, "step_cpu": step_cpu / clips, "cpu": cpu / clips}
    rates |= {"peak": common.peak_megabytes(), "at_start": at_start}
    return {**rates, "loss": loss, "loop": loop, "batches": len(timed)}


def check_loss(args: argparse.Namespace) -> common.Result:
    """One batch through both models in fp32, on our log-mel and on transformers'."""
    ours, _ = weights.load(MODEL)
    tokens, model, found = Tokens(ours.dims), huggingface(ours), {}
    windows = batches_of("full", 1, tokens)[0]
    batch, theirs = collate(windows, tokens, ours.dims.n_mels, Config()), collate_huggingface(tokens)(windows)
    targets = batch.targets
    for name, mel in [("our log-mel", batch.log_mel(CPU)), ("transformers' log-mel", theirs["input_features"])]:
        total = sum_cross_entropy(ours.decoder(targets.inputs, encode(ours, mel)), targets.targets)
        loss = float(total.detach()) / targets.count
        peer = float(model(**{**theirs, "input_features": mel}).loss.detach())
        assert abs(loss - peer) <= 1e-4, f"{name}: the losses differ, {loss} in ours, {peer} in transformers"
        found[name] = {"ours": loss, "transformers": peer}
    return found


def tabulate(args: argparse.Namespace, results: dict[str, list[common.Result]]) -> common.Report:
    """The table; ratios are taken round by round."""

    def of(arm: str, key: str) -> list[float]:
        return [each[key] for each in results[arm]]

    peers = [arm for arm in ARMS[:2] if arm in results]
    columns = ["arm", "step, clips/s", "end to end, clips/s", "CPU s/clip: step", "end to end", "peak MB (at start)"]
    columns += [f"× {peer}: step, end to end" for peer in peers] + ["batches", "mean loss"]
    rows = []
    for arm, rounds in results.items():
        row = [arm, *(common.spread(of(arm, key), 2) for key in ("step", "rate", "step_cpu", "cpu"))]
        row.append(f"{np.median(of(arm, 'peak')):.0f} ({np.median(of(arm, 'at_start')):.0f})")
        row += [", ".join(common.ratio(of(arm, key), of(peer, key)) for key in ("step", "rate")) for peer in peers]
        rows.append([*row, str(rounds[0]["batches"]), f"{rounds[0]['loss']:.3f}"])
    notes = ["Medians of the rounds with smallest and largest; mean losses include the warm-up steps."]
    notes += sorted({f"{arm}: {results[arm][0]['loop']}." for arm in results})
    title = f"training steps, {MODEL}, batch {BATCH}, {args.steps * BATCH} clips of {SPEECH_SET}"
    return title, columns, rows, notes


def main() -> int:
    """Run the arms, or one of them as a child process does."""
    parser = common.options(__doc__, ARMS, default=ARMS[:5], rounds=3)
    parser.add_argument("--steps", type=int, default=20, help="batches of 8 whose clips are timed")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them, at least one of every context")
    parser.add_argument("--plain", action="store_true", help="transformers in a plain loop, even with accelerate")
    parser.add_argument("--check-loss", action="store_true", help="compare the losses of one batch instead")
    args = parser.parse_args()
    audio.torchaudio()  # transformers imports it, which beside a CPU-only torch works after this only
    args.arm = "check-loss" if args.check_loss else args.arm
    return common.run(args, check_loss if args.check_loss else run_arm, tabulate, SPEECH_SET, PACKAGES, ("accelerate",))


if __name__ == "__main__":
    sys.exit(main())
