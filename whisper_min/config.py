"""One frozen dataclass is the command line, config.json and the loop's argument."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import re
import reprlib
import sys
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from whisper_min import runs
from whisper_min.text import visible

# Options that take several sets; repeated flags add up.
SET_OPTIONS = ("data", "eval_data", "retain", "replay")
# Options that take several words.
LIST_OPTIONS = (*SET_OPTIONS, "augment", "replay_augment", "report_to")

# What `--report_to` mirrors to; the package, and the extra that brings it, are called the same.
MIRRORS = ("tensorboard", "trackio", "wandb")

# Learning rates to start full fine-tuning from, by the model's width (channels): a fortieth of
# pre-training's (https://github.com/vasistalodagala/whisper-finetune), tiny's lower, as our own runs were.
LEARNING_RATES = {384: 1e-5, 512: 2.5e-5, 768: 1.25e-5, 1024: 6.25e-6, 1280: 4.4e-6}
# LoRA's, nearly the same for every size and rank (Schulman et al., "LoRA Without Regret", 2025).
LORA_LEARNING_RATE = 4e-4
# Where general speech is trained on beside the domain (--replay), what kept most on dev sets (tests/bench/RESULTS.md):
# adapters alone learn, a quarter of a step's clips is replay, there the predictions stay near the original's, and
# references without case or punctuation are written as the original would.
REPLAY_METHOD, REPLAY_SHARE, REPLAY_KL, REPLAY_LABEL_STYLE = "lora", 0.25, 4.0, "original"
# And what is heard of it: general speech is mostly clean, and what holds on clean speech alone is lost on noisy speech.
REPLAY_AUGMENT = ("noise=0..20@0.5", "reverb@0.3", "bandlimit@0.2", "speed@0.3")
NO_AUGMENT = ("none",)

# Whisper learnt from as many clips with timestamps as without, and with the text before them as without (its paper,
# arXiv:2212.04356, section 2.3 and appendix F).
TIMESTAMPS_SHARE, PROMPTS_SHARE = 0.5, 0.5


class InputError(Exception):
    """Wrong usage or input: every fault at once, each with its fix. The scripts print it and exit with 2."""

    def __init__(self, faults: Sequence[str] | str) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))


@dataclass(frozen=True)
class Config:
    """Fine-tune Whisper on your domain, and see at every evaluation what it costs elsewhere."""

    model: str = "tiny.en"
    """What to start from: an official name (tiny … large-v3, turbo), a run folder, a .pt in OpenAI's layout, a folder
    with model.safetensors (OpenAI's or Hugging Face's names) or a CTranslate2 folder."""
    data: tuple[str, ...] = ()
    """Training sets, `[name=]source[:split]`: a manifest (.jsonl .csv .tsv), subtitles (.srt .vtt) beside a recording,
    a folder, WebDataset tars (`shards/{000..127}.tar`, streamed), `hub:USER/NAME:SPLIT` (a Hugging Face dataset),
    `librispeech:SUBSET` or `demo`. Without it: librispeech:train-clean-100."""
    eval_data: tuple[str, ...] = ()
    """Sets of the domain to evaluate on; the best checkpoint has their lowest mean word error rate.
    Without it: a tenth of --data is held out, by speaker where known."""
    retain: tuple[str, ...] = ()
    """Sets of everything else, to see what is forgotten. Without it: the clean clips shipped in the package (few)."""
    replay: tuple[str, ...] = ()
    """General speech to train on beside the domain, `SET@share`: `@0.1` makes it a tenth of every step's clips (without
    a share a quarter; 0 only lends its audio to --ewc). Sets without text are labelled by the original. With it
    --method, --kl, --label_style and --replay_augment default to what keeps most."""
    audio_column: str | None = None
    """The column of --data and --eval_data that holds the audio. Without it: the usual names."""
    text_column: str | None = None
    """The column of --data and --eval_data that holds the text; other sets follow where they have it."""
    data_dir: Path = Path("~/.cache/whisper-min")
    """Where downloaded sets and the preflight's results are kept."""

    label_style: Literal["auto", "keep", "lower", "sentence", "original"] = "auto"
    """How to write the references. `auto`: upper-case or unpunctuated ones become sentence case, announced; with
    --replay (and without tars in --data) `original`: case and punctuation from the original model's transcript where
    its words are the reference's."""
    self_label: bool = False
    """Label all --replay sets by the original model, also those that have text; loops and unsure ones are left out."""
    language: str = "en"
    """Language of the speech, a code or a name that Whisper knows."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """What the references are: the words spoken, or their English translation."""
    timestamps: float | None = None
    """Share of the training clips whose labels carry timestamps: those of their `segments`, else, where the original
    hears the same words, the original's own. Without it: half of the clips that have segments, and no others."""
    prompts: float = PROMPTS_SHARE
    """How often it reads the `prompt` of a clip that has one (what was said before); the loss never counts it."""
    normalize: bool = False
    """Scale every clip to a peak of 0.95, in training and in evaluation alike."""
    augment: tuple[str, ...] = ()
    """Change the training clips, anew every time they are read, NAME[=LOW..HIGH][@SHARE]: speed (factor), throat (a
    throat microphone's channel), reverb (seconds), noise (dB of speech over it), bandlimit (Hz), telephone (bits), gain
    (dB), specaugment; `noise=5..20@0.3` gives three clips in ten noise at 5 to 20 dB. Evaluation sets are never."""
    replay_augment: tuple[str, ...] = ()
    """The same for the --replay clips, to keep what Whisper knows of worse recordings than these. Without it: noise,
    rooms, band limits and speed; `none` leaves them as they are."""
    noise: Path | None = None
    """Folder of recordings that the augmentation `noise` takes its noise from. Without it noise is generated."""
    skip_bad: bool = False
    """Leave out entries with faults (listed and counted) instead of refusing to start."""

    method: Literal["full", "lora"] | None = None
    """Train all weights, or low-rank adapters beside frozen ones. Without it: adapters with --replay, else all."""
    lora_rank: int = 16
    """Rank of the adapters."""
    lora_alpha: float | None = None
    """Adapters are scaled by alpha / rank. Without it: twice the rank."""
    lora_dropout: float = 0.0
    """Dropout on what the adapters read."""
    lora_targets: Literal["all", "attention", "qv", "mlp", "encoder", "decoder"] = "all"
    """Which linear layers get adapters: all, the attention's, its query and value, the MLP's, or one side's."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (rsLoRA)."""
    kl: float | None = None
    """Weight of the KL divergence from the original model's predictions. Without it: 4 with --replay, else 0."""
    kl_temperature: float = 1.0
    """Softens both distributions; the term is multiplied by its square."""
    kl_on: Literal["replay", "domain", "both"] = "replay"
    """Which clips the KL term is taken on."""
    kl_gate: bool = False
    """On domain clips, take it only where the original's first choice is the reference."""
    kl_storage: Literal["same", "bf16"] = "same"
    """How full fine-tuning keeps the original's weights beside the model: as they are, or in half the memory."""
    ewc: float = 0.0
    """Weight of elastic weight consolidation: weights that general speech (--replay) depends on stay where they are."""
    l2sp: float = 0.0
    """Weight of L2-SP: all weights stay near the original's (EWC with equal importance)."""
    fisher: Literal["sampled", "labels"] = "sampled"
    """The Fisher information from texts sampled from the original (the true one), or from labels (empirical)."""
    fisher_samples: int = 200
    """Utterances that the Fisher information is estimated on, at most."""
    max_forgetting: float | None = None
    """Forgetting budget: choose the checkpoint, and at the end the interpolation point, of lowest domain WER whose
    relative loss on the --retain sets, pooled, is at most this (0.05 is 5 %)."""
    max_drift: float | None = None
    """The same for --retain sets without text: WER against the original's own transcripts."""
    confidence: float | None = None
    """Ask that the one-sided bound of this confidence, for instance 0.95, stays within --max_forgetting."""

    audio_context: Literal["full", "trim", "pack"] = "trim"
    """`full`: 30 s windows, as Whisper was trained. `trim`: the encoder runs on the clip's own length, rounded up to
    5, 10, 15, 20 or 30 s. `pack`: short clips are joined into 30 s windows."""
    freeze_encoder: bool = False
    """Train the decoder alone; the encoder then runs once per clip, without gradients."""
    batch_size: int | Literal["auto"] = 8
    """Clips (windows under `pack`) in a micro-batch. `auto`: as many as fit, at most 64 on CUDA and 8 elsewhere."""
    accumulate: int = 1
    """Micro-batches in a step (of each rank under torchrun); the gradient equals that of one big batch."""
    epochs: float = 2.0
    """Passes over the training sets; --max_steps wins where given."""
    max_steps: int | None = None
    """Optimizer steps."""
    lr: float | None = None
    """Peak learning rate. Without it: by the model's size, 1e-5 (tiny) … 4.4e-6 (large); 4e-4 for LoRA."""
    warmup_steps: int | None = None
    """Steps of linear warm-up before the linear decay to zero. Without it: a tenth of all."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay, on matrices only."""
    grad_clip: float = 1.0
    """Largest gradient norm; 0 turns clipping off."""
    seed: int = 0
    """Seeds the order of the data and the held-out split."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the forward pass; weights stay fp32 (see --lean). `auto`: bf16 where the processor has it natively, fp16 on
    older CUDA."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    checkpointing: bool = False
    """Keep only each layer's input for the backward pass and compute the layer again there: a third more work in far
    less memory."""
    compile: bool = False
    """Train through torch.compile, a graph for each kind of layer; needs a C++ compiler, and takes a while to start."""
    lean: bool = False
    """Weights in bf16: rounded stochastically where they train, with AdamW's moments in 8 bits (torchao; needs a C++
    compiler). Adapters, and their moments, stay in fp32."""

    shard: bool = False
    """Split weights, gradients and the optimizer among torchrun's ranks (FSDP2), where they do not fit one device; the
    ranks then exchange weights all along a step."""

    eval_every: int | None = None
    """Steps between evaluations. Without it: five in a run, fewer in a long one (10,000 clips) where they would take
    over a tenth of the training's operations. The original is always evaluated first."""
    eval_batch_size: int = 16
    """Clips decoded together."""
    save_every: int | None = None
    """Steps between checkpoints beside those at evaluations."""
    keep: int = 1
    """Checkpoints kept beside the best one."""
    patience: int = 0
    """Stop after so many evaluations without a better domain WER; 0 never stops early."""
    max_time: float | None = None
    """Hours that the program may run: it stops in time to have saved by then, and can be resumed."""
    max_nonfinite: int = 10
    """Stop after so many steps in a row without a finite gradient. Each of these updates is skipped; the clips are in
    spikes.jsonl. (A loss scaler, under fp16, may skip a few while it looks for its scale.)"""
    room_minutes: float = runs.ROOM_MINUTES
    """How long a full disk is waited for, before the run ends with its last checkpoint whole."""

    report_to: tuple[str, ...] = ()
    """Mirror metrics and samples to tensorboard, trackio or wandb, several separated by commas or spaces; each needs
    the extra of its name. Without it: the run folder alone."""
    run: str | None = None
    """Name of the run folder. Without it: model, time and date."""
    runs_dir: Path = Path("runs")
    """Folder of all runs."""
    resume: Path | None = None
    """Continue this run folder exactly where its last checkpoint stopped; other options come from its config.json."""
    check: bool = False
    """Preflight only: read every entry, report, show one batch token by token, write no run; exit 0 or 2."""
    doctor: bool = False
    """Report versions, devices, disks, caches, weights and programs, and what to do; nothing is trained."""
    demo: bool = False
    """tiny.en on speech shipped with the package: a throat microphone to learn, clean speech to keep."""

    @property
    def clips_per_batch(self) -> int:
        """`batch_size` as the number that `auto` became."""
        assert isinstance(self.batch_size, int), "--batch_size auto was not resolved"
        return self.batch_size


DEMO = Config(
    demo=True,
    data=("throat=demo:train",),
    eval_data=("throat=demo:dev",),
    retain=("clean=demo:general",),
    max_steps=120,
    eval_every=60,
)


def parse(argv: Sequence[str]) -> Config:
    """The command line as a Config; `--demo` and `--resume RUN` change what the other options default to.

    Prints help or usage errors (with suggestions for unknown flags; a RUN that is none) and exits with 0 or 2 as
    argparse does.
    """
    import tyro  # imported late: only the command line needs it

    default = DEMO if "--demo" in argv else Config()
    resume = _option_value(argv, "--resume")
    if resume is not None:
        try:
            default = dataclasses.replace(load(Path(resume)), check=False)
        except InputError as error:
            sys.exit(print_faults(error))
    return tyro.cli(Config, args=merge_repeated(argv), default=default, prog="train.py", use_underscores=True)


def _option_value(argv: Sequence[str], flag: str) -> str | None:
    for position, word in enumerate(argv):
        if word == flag and position + 1 < len(argv):
            return argv[position + 1]
        if word.startswith(flag + "="):
            return word.split("=", 1)[1]
    return None


def merge_repeated(argv: Sequence[str], options: Sequence[str] = LIST_OPTIONS) -> list[str]:
    """Gather `--data a --data b c` into `--data a b c`: repeated flags of set options add up."""
    flags = {f"--{option}": option for option in options}
    flags |= {f"--{option.replace('_', '-')}": option for option in options}
    gathered: dict[str, list[str]] = {}
    rest: list[str] = []
    taking: str | None = None
    for word in argv:
        flag, equals, value = word.partition("=")
        if flag in flags and word.startswith("--"):
            taking = flags[flag]
            gathered.setdefault(taking, []).extend([value] if equals else [])
        elif word.startswith("--") or taking is None:
            taking = None
            rest.append(word)
        else:
            gathered[taking].append(word)
    if empty := [option for option, values in gathered.items() if not values]:
        raise InputError([f"--{option}: names nothing; give a value or leave the option out" for option in empty])
    for option, values in gathered.items():
        rest += [f"--{option}", *values]
    return rest


def load(run: Path) -> Config:
    """The Config that a run was started with, and `resume` set to it; InputError where the folder holds none."""
    record = recorded(run)
    return dataclasses.replace(
        from_record(record, str(run / "config.json")), resume=run, run=run.name, runs_dir=run.parent
    )


def recorded(run: Path) -> dict[str, Any]:
    """config.json as it stands: the options, and beside them what a run started from, such as its fingerprints.

    InputError where there is none, or it is damaged.
    """
    path = run / "config.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"--resume {run}: {path} does not exist; give a folder that train.py made, such as {Config.runs_dir}/NAME"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); the run cannot be resumed") from None
    environment = record.get("environment", {}) if isinstance(record, dict) else None
    if not (isinstance(environment, dict) and type(environment.get("ranks", 1)) is int):
        raise InputError(f"{path}: not a JSON object as train.py writes it; the file is damaged")
    return dict(record)


def from_record(record: dict[str, Any], where: str) -> Config:
    """A Config from config.json's options; keys that this version does not know are left aside.

    InputError with every option whose value is not of its type: the file is damaged, or of a stranger.
    """
    kinds = get_type_hints(Config)
    given = {field.name: record[field.name] for field in dataclasses.fields(Config) if field.name in record}
    faults = [
        f"{where}: {name!r} cannot be {reprlib.repr(value)}; the file is damaged"
        for name, value in given.items()
        if not _is_of(value, kinds[name])
    ]
    if faults:
        raise InputError(faults)
    values: dict[str, Any] = {
        name: tuple(value)
        if isinstance(value, list)
        else Path(value)
        if isinstance(value, str) and Path in (kinds[name], *get_args(kinds[name]))
        else value
        for name, value in given.items()
    }
    return Config(**values)


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a JSON value can be an option of this type."""
    if get_origin(kind) in (Union, types.UnionType):
        return any(_is_of(value, each) for each in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if kind is float:
        return type(value) is float or (type(value) is int and abs(value) < 2**53)
    return type(value) is (str if kind is Path else kind)


def is_tar(word: str) -> bool:
    """Whether a set's word names tars: its path ends so, before a URL's query and a share."""
    return re.search(r"\.tar(\?[^/]*)?(@[^/@]*)?$", word) is not None


def streams(cfg: Config) -> bool:
    """Whether --data holds tars, which a training goes through without ever holding all their entries."""
    return any(map(is_tar, cfg.data))


def timestamps_share(cfg: Config) -> float:
    """Share of the clips with segments whose labels carry their times."""
    return TIMESTAMPS_SHARE if cfg.timestamps is None else cfg.timestamps


def needs_original(cfg: Config) -> bool:
    """Whether the untouched weights take part in the training, and not its checkpoint alone."""
    terms = bool(cfg.kl) or cfg.ewc > 0 or cfg.l2sp > 0
    labels = cfg.label_style == "original" or bool(cfg.timestamps)
    return cfg.method == "lora" or terms or bool(cfg.replay) or labels


def to_record(cfg: Config) -> dict[str, Any]:
    """Every option as JSON values."""
    return {
        key: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(cfg).items()
    }


def resolve(cfg: Config) -> Config:
    """Fill in what was left open and needs no model: the sets, the run's name, the data folder."""
    changes: dict[str, Any] = {"data_dir": cfg.data_dir.expanduser()}
    changes["report_to"] = tuple(dict.fromkeys(",".join(cfg.report_to).replace(",", " ").split()))
    if not cfg.data:
        changes["data"] = ("librispeech:train-clean-100",)
    # what is shipped is English, and too little to hold a budget on
    if not cfg.retain and cfg.language.lower() in ("en", "english") and cfg.max_forgetting is cfg.max_drift is None:
        changes["retain"] = ("clean=demo:general",)
    replays = any(word.rpartition("@")[2] not in ("0", "0.0") for word in cfg.replay)
    if cfg.method is None:
        changes["method"] = REPLAY_METHOD if replays and not cfg.freeze_encoder else "full"
    if cfg.kl is None:
        changes["kl"] = REPLAY_KL if replays else 0.0
    if not cfg.replay_augment and replays and not cfg.freeze_encoder:  # what is frozen forgets no sounds
        changes["replay_augment"] = REPLAY_AUGMENT
    if cfg.label_style == "auto" and replays and not streams(cfg):
        changes["label_style"] = REPLAY_LABEL_STYLE
    if cfg.run is None:
        stem = "demo" if cfg.demo else re.sub(r"[^\w.-]+", "-", Path(cfg.model).name).strip("-.") or "run"
        changes["run"] = f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    return dataclasses.replace(cfg, **changes)


def check(cfg: Config) -> list[str]:
    """Every fault of the options that can be told without reading the data or loading the model, each with its fix."""
    faults = []
    for name, least in [("batch_size", 1), ("accumulate", 1), ("eval_batch_size", 1), ("keep", 1), ("patience", 0),
                        ("max_nonfinite", 1)]:  # fmt: skip
        if getattr(cfg, name) != "auto" and getattr(cfg, name) < least:
            faults.append(f"--{name} {getattr(cfg, name)}: must be at least {least}")
    for name in ("max_steps", "eval_every", "save_every"):
        value = getattr(cfg, name)
        if value is not None and value < 1:
            faults.append(f"--{name} {value}: must be at least 1; leave it out for the default")
    if not 0 < cfg.epochs < math.inf:
        faults.append(f"--epochs {cfg.epochs}: must be above 0, and finite")
    if cfg.lr is not None and not 0 < cfg.lr < 1:
        faults.append(f"--lr {cfg.lr}: must lie between 0 and 1, for instance 1e-5")
    for name in ("timestamps", "prompts"):
        if not 0 <= (getattr(cfg, name) or 0.0) <= 1:
            faults.append(f"--{name} {getattr(cfg, name)}: is a share of the clips, from 0 to 1")
    if cfg.warmup_steps is not None and cfg.warmup_steps < 0:
        faults.append(f"--warmup_steps {cfg.warmup_steps}: must be 0 or more")
    if cfg.max_time is not None and not 0 < cfg.max_time < math.inf:
        faults.append(f"--max_time {cfg.max_time}: must be above 0, in hours: 0.5 is half an hour")
    for name in ("weight_decay", "grad_clip", "room_minutes"):
        if not 0 <= getattr(cfg, name) < math.inf:
            faults.append(f"--{name} {getattr(cfg, name)}: must be 0 or more, and finite")
    faults += check_retention(cfg)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", cfg.device):
        faults.append(f"--device {cfg.device}: must be auto, cpu, cuda, cuda:N or mps")
    if cfg.model.endswith(".en") and cfg.language.lower() not in ("en", "english"):
        faults.append(
            f"--language {cfg.language}: {cfg.model} knows English only; "
            f"use the multilingual --model {cfg.model.removesuffix('.en')}"
        )
    if cfg.model.endswith(".en") and cfg.task == "translate":
        faults.append(
            f"--task translate: {cfg.model} only transcribes; use the multilingual --model "
            f"{cfg.model.removesuffix('.en')}"
        )
    if cfg.shard and (cfg.ewc or cfg.l2sp):
        faults.append("--shard: has no --ewc and --l2sp; give --kl, or --method lora without --shard")
    if cfg.shard and cfg.method == "lora":
        faults.append("--shard: adapters have next to nothing to split; leave it out, or give --method full")
    for name in ("compile", "lean"):
        if cfg.shard and getattr(cfg, name):
            faults.append(f"--{name}: does not go with --shard yet; leave one of them out")
    if cfg.shard and cfg.batch_size == "auto":
        faults.append("--shard: --batch_size auto tries a whole model; give a number")
    faults += check_mirrors(cfg)
    if streams(cfg) and not cfg.eval_data:
        faults.append("--data: tars are streamed, so that no tenth of them can be held out; give --eval_data SET")
    if streams(cfg) and cfg.label_style == "original":
        faults.append(
            "--label_style original: the original would have to hear a whole stream of tars first; give sentence"
        )
    faults += check_run_folder(cfg)
    return faults


def check_mirrors(cfg: Config) -> list[str]:
    """Faults of `--report_to`: names that are none, packages that are not installed."""
    faults = []
    for name in cfg.report_to:
        if name not in MIRRORS:
            faults.append(f"--report_to {name}: unknown; known are {', '.join(MIRRORS)}")
        elif importlib.util.find_spec(name) is None:
            faults.append(f"--report_to {name}: is not installed; pip install 'whisper-min[{name}]'")
    return faults


def check_retention(cfg: Config) -> list[str]:
    """Faults of the options that keep the old knowledge."""
    faults = []
    if cfg.lora_rank < 1:
        faults.append(f"--lora_rank {cfg.lora_rank}: must be at least 1")
    if cfg.lora_alpha is not None and not 0 < cfg.lora_alpha < math.inf:
        faults.append(f"--lora_alpha {cfg.lora_alpha}: must be above 0, and finite")
    if not 0 <= cfg.lora_dropout < 1:
        faults.append(f"--lora_dropout {cfg.lora_dropout}: must lie between 0 and 1")
    if cfg.method == "lora" and cfg.freeze_encoder and cfg.lora_targets != "decoder":
        faults.append("--freeze_encoder: with --method lora, say --lora_targets decoder instead")
    for name in ("kl", "ewc", "l2sp"):
        if not 0 <= (getattr(cfg, name) or 0.0) < math.inf:
            faults.append(f"--{name} {getattr(cfg, name)}: must be 0 or more, and finite")
    if not 0 < cfg.kl_temperature < math.inf:
        faults.append(f"--kl_temperature {cfg.kl_temperature}: must be above 0, and finite")
    if cfg.kl and cfg.kl_on != "domain" and not cfg.replay:
        faults.append("--kl: needs general speech to be taken on; give --replay SET, or --kl_on domain")
    if cfg.kl_gate and (not cfg.kl or cfg.kl_on == "replay"):
        faults.append("--kl_gate: acts on domain clips; give --kl and --kl_on domain or both")
    for name in ("ewc", "l2sp"):
        if cfg.lean and getattr(cfg, name):
            faults.append(f"--{name}: asks how far weights moved, finer than --lean stores them; leave one of them out")
    if cfg.ewc and not cfg.replay:
        faults.append("--ewc: needs general speech to measure on; give --replay SET (SET@0 to train on none of it)")
    if cfg.self_label and not cfg.replay:
        faults.append("--self_label: labels the --replay sets; give --replay SET")
    if cfg.fisher_samples < 1:
        faults.append(f"--fisher_samples {cfg.fisher_samples}: must be at least 1")
    for name in ("max_forgetting", "max_drift"):
        value = getattr(cfg, name)
        if value is not None and not 0 <= value < math.inf:
            faults.append(f"--{name} {value}: must be 0 or more, as a fraction: 0.05 is 5 %")
        if value is not None and not cfg.retain:
            faults.append(f"--{name}: needs --retain sets of general speech, enough of it to measure on")
    if cfg.confidence is not None and cfg.max_forgetting is None:
        faults.append("--confidence: acts on --max_forgetting; give that too")
    if cfg.confidence is not None and not 0.5 <= cfg.confidence < 1:
        faults.append(f"--confidence {cfg.confidence}: must lie between 0.5 and 1, for instance 0.95")
    return faults


def check_run_folder(cfg: Config) -> list[str]:
    """Faults of the run's name and place."""
    if cfg.run is None:
        return []
    if not re.fullmatch(r"[\w][\w.-]{0,99}", cfg.run):
        return [f"--run {cfg.run!r}: use letters, digits, '.', '_' and '-' only, starting with a letter or digit"]
    folder = cfg.runs_dir / cfg.run
    if cfg.runs_dir.exists() and not cfg.runs_dir.is_dir():
        return [f"--runs_dir {cfg.runs_dir}: is a file; give a folder"]
    if not cfg.check and (holder := runs.holder(folder)):
        return [f"--run {cfg.run}: {folder}: {holder}"]
    if cfg.resume is None and not cfg.check and folder.exists():
        if (folder / "config.json").exists():
            return [f"--run {cfg.run}: {folder} exists; continue it with --resume {folder}, or choose another --run"]
        if not (folder / runs.LOCK_FILE).exists() and any(folder.iterdir()):  # else killed before it had begun
            return [f"--run {cfg.run}: {folder} exists and is no run; choose another --run"]
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not cfg.check and not os.access(nearest, os.W_OK | os.X_OK):
        return [f"--runs_dir {cfg.runs_dir}: {nearest} cannot be written; make it writable, or give another folder"]
    if cfg.resume is not None and runs.last_checkpoint(folder) is None and not (folder / "config.json").exists():
        return [f"--resume {cfg.resume}: holds no run"]
    return []


def exit_code(work: Callable[[], object], *failures: type[Exception]) -> int:
    """Do a script's work, and say on stderr what stops it.

    Returns 0 when done, 1 where the system or one of `failures` stops it, 2 for wrong usage or input, 130 after Ctrl-C.
    """
    expected: tuple[type[Exception], ...] = (OSError, *failures)
    try:
        work()
    except InputError as error:
        return print_faults(error)
    except expected as error:
        print(f"failed: {visible(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def print_faults(error: InputError) -> int:
    """Print the faults on stderr, one a line; the exit code of wrong usage or input."""
    for fault in error.faults:
        print(f"error: {visible(fault)}", file=sys.stderr)
    if len(error.faults) > 1:
        print(f"{len(error.faults)} faults; nothing was written", file=sys.stderr)
    return 2
