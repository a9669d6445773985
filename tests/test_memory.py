"""What a training needs is told before it starts; parameters are counted exactly."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import whisper
from conftest import random_whisper
from quick_model import small_whisper
from whisper import ModelDimensions, Whisper
from whisper.audio import N_SAMPLES

from whisper_min import audio
from whisper_min.audio import context_samples
from whisper_min.config import Config
from whisper_min.model import forward, lora, weights
from whisper_min.model.forward import decode, encode
from whisper_min.training import checkpoint, memory
from whisper_min.training.optimizer import build_optimizer, choose_trainable

CPU = torch.device("cpu")
GB = 10**9


def counted(model: Whisper) -> tuple[int, int]:
    """Real parameters of encoder and decoder."""
    return tuple(sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.decoder))  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["tiny", "tiny.en", "base"])
def test_parameters_are_the_real_counts(name: str) -> None:
    """The formula against the modules themselves."""
    dims = memory.official_dimensions(name)
    assert dims is not None
    assert memory.parameters(dims) == counted(Whisper(dims))


def test_parameters_of_unlike_sides() -> None:
    """Encoder and decoder of different depth, width alike: no term stands in for another."""
    model = Whisper(ModelDimensions(128, 30, 128, 2, 3, 77, 9, 128, 2, 2))
    assert memory.parameters(model.dims) == counted(model)
    assert memory.parameters(small_whisper(layers=2).dims) == counted(small_whisper(layers=2))


# https://github.com/openai/whisper, README.md and the release notes of turbo
@pytest.mark.parametrize(
    ("name", "millions"),
    [("tiny", 39), ("base", 74), ("small", 244), ("medium", 769), ("large-v3", 1550), ("turbo", 809)],
)
def test_parameters_are_those_published(name: str, millions: int) -> None:
    """As OpenAI rounds them."""
    dims = memory.official_dimensions(name)
    assert dims is not None
    assert sum(memory.parameters(dims)) / 1e6 == pytest.approx(millions, rel=0.05)


def test_every_official_name_has_dimensions() -> None:
    """Vocabulary by language, 128 bins for the newest; other names have none."""
    for name in whisper.available_models():
        dims = memory.official_dimensions(name)
        assert dims is not None
        assert (dims.n_vocab == 51864) == name.endswith(".en")
        assert (dims.n_mels == 128) == (name in ("large", "large-v3", "large-v3-turbo", "turbo"))
        assert (dims.n_vocab == 51866) == (dims.n_mels == 128)
    assert memory.official_dimensions("large") == memory.official_dimensions("large-v3")
    assert memory.official_dimensions("turbo") == memory.official_dimensions("large-v3-turbo")
    assert memory.official_dimensions("runs/mine") is None


def needed(name: str, context: int = N_SAMPLES, precision: str = "fp32", **options: object) -> int:
    """Bytes of a training."""
    dims = memory.official_dimensions(name)
    assert dims is not None
    return memory.training_bytes(dims, replace(Config(), **options), precision, context)  # type: ignore[arg-type]


def test_memory_grows_with_what_costs_memory() -> None:
    """Batch, size, context and fp32 cost more; a frozen encoder less; never below weights and moments."""
    assert needed("tiny") < needed("base") < needed("small") < needed("medium") < needed("large-v3")
    assert needed("tiny", batch_size=4) < needed("tiny", batch_size=8)
    assert needed("tiny", context_samples(4 * 16_000)) < needed("tiny")
    assert needed("tiny", precision="bf16", batch_size=32) < needed("tiny", precision="fp32", batch_size=32)
    assert needed("tiny", freeze_encoder=True) < needed("tiny")
    dims = memory.official_dimensions("tiny")
    assert dims is not None
    assert needed("tiny") > 16 * sum(memory.parameters(dims))


def refusal(monkeypatch: pytest.MonkeyPatch, name: str, free: int, cfg: Config) -> str:
    """The fault on a machine with so much free memory, '' where it fits."""
    monkeypatch.setattr(memory, "available_bytes", lambda device: free)
    dims = memory.official_dimensions(name)
    assert dims is not None
    faults = memory.check_memory(dims, replace(cfg, model=name), "fp32", CPU, N_SAMPLES)
    assert len(faults) <= 1
    return faults[0] if faults else ""


def test_large_is_refused_with_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GB: the option, what it needs, what is free, and a model whose training really fits."""
    free = 16 * GB
    fault = refusal(monkeypatch, "large-v3", free, Config(batch_size=8))
    assert fault.startswith("--model large-v3:")
    assert "--batch_size 8 in fp32" in fault
    assert f"{needed('large-v3') / 1e9:.0f} GB, and this machine has 16 GB free" in fault
    proposed = re.findall(r"--model (\S+)", fault)[-1]
    assert needed(proposed) <= free
    larger = {"tiny": "base", "base": "small", "small": "medium", "medium": "turbo"}[proposed]
    assert needed(larger) > free


def test_a_smaller_batch_is_proposed_with_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """--batch_size and --accumulate keep the number of clips in a step; the proposal fits, twice of it does not."""
    free = needed("base", batch_size=4) + 1
    fault = refusal(monkeypatch, "base", free, Config(batch_size=16, accumulate=2))
    size, accumulate = map(int, re.findall(r"--batch_size (\d+) --accumulate (\d+)", fault)[0])
    assert size * accumulate == 32
    assert needed("base", batch_size=size) <= free < needed("base", batch_size=2 * size)


def test_a_frozen_encoder_is_proposed_where_it_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where batch size alone does not."""
    free = needed("small", batch_size=1, freeze_encoder=True) + 1
    fault = refusal(monkeypatch, "small", free, Config(batch_size=1))
    assert "--freeze_encoder" in fault
    assert "--batch_size 1 --accumulate" not in fault


def test_bf16_weights_are_proposed_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what goes with them alone."""
    free = needed("small", batch_size=1, lean=True) + 1
    assert " or --lean or " in refusal(monkeypatch, "small", free, Config(batch_size=1))
    assert "--lean" not in refusal(monkeypatch, "small", free, Config(batch_size=1, l2sp=1.0))


def test_what_fits_is_not_refused_and_nothing_fits_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The boundary itself, and a machine without memory."""
    assert refusal(monkeypatch, "tiny", needed("tiny"), Config()) == ""
    assert refusal(monkeypatch, "tiny", needed("tiny") - 1, Config()) != ""
    assert "no Whisper would fit: free some memory" in refusal(monkeypatch, "tiny", GB // 100, Config())


def test_free_memory_is_this_machines() -> None:
    """Between nothing and all of it."""
    assert 0 < memory.available_bytes(CPU) < memory.psutil.virtual_memory().total


def test_sharding_splits_gradients_and_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among the ranks; it is proposed where there are several, and fits."""
    whole = needed("base", batch_size=1)
    assert needed("base", batch_size=1, shard=True) == whole
    assert "--shard" not in refusal(monkeypatch, "base", whole - 1, Config(batch_size=1))
    monkeypatch.setenv("WORLD_SIZE", "4")
    dims = memory.official_dimensions("base")
    assert dims is not None
    assert whole - needed("base", batch_size=1, shard=True) == pytest.approx(12 * sum(memory.parameters(dims)) * 3 / 4)
    assert "--shard" in refusal(monkeypatch, "base", whole - 1, Config(batch_size=1))


def test_ranks_share_a_hosts_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its part, and a refusal says so; a machine that fits one training need not fit two."""
    dims = memory.official_dimensions("tiny")
    assert dims is not None
    free = SimpleNamespace(available=int(1.5 * needed("tiny")))
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: free)

    def faults() -> list[str]:
        return memory.check_memory(dims, Config(model="tiny"), "fp32", CPU, N_SAMPLES)

    assert faults() == []
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory.available_bytes(CPU) == free.available // 2
    (fault,) = faults()
    assert "GB free for each of 2 ranks; what would fit: --batch_size" in fault


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_free_memory_of_a_gpu() -> None:
    """What CUDA says."""
    free = memory.available_bytes(torch.device("cuda"))
    assert 0 < free <= torch.cuda.get_device_properties(0).total_memory


@pytest.mark.parametrize("targets", ["all", "attention", "qv", "mlp", "encoder", "decoder"])
def test_adapters_are_counted_as_they_are(targets: str) -> None:
    """R (in + out) of every layer that gets one, against the adapters themselves."""
    model = random_whisper(layers=2)
    cfg = Config(method="lora", lora_rank=3, lora_targets=targets)  # type: ignore[arg-type]
    lora.attach(model, lora.of_config(cfg))
    assert memory.adapter_parameters(model.dims, cfg) == sum(its.numel() for its in lora.adapter_state(model).values())


def test_what_holds_on_to_the_original_is_counted() -> None:
    """A frozen copy for KL, in half where asked; the anchor's weights and Fisher; under LoRA the Fisher alone."""
    dims = memory.official_dimensions("tiny.en")
    assert dims is not None

    def megabytes(**options: object) -> float:
        cfg = Config(freeze_encoder=False, **options)  # type: ignore[arg-type]
        return memory.training_bytes(dims, cfg, "fp32", 80_000) / 1e6

    weights = 4 * sum(memory.parameters(dims)) / 1e6
    assert megabytes(kl=1.0) - megabytes() == pytest.approx(weights)
    assert megabytes(kl=1.0, kl_storage="bf16") - megabytes() == pytest.approx(weights / 2)
    assert megabytes(ewc=1.0) - megabytes() == pytest.approx(2 * weights)
    assert megabytes(l2sp=1.0) - megabytes() == pytest.approx(weights)
    assert megabytes(method="lora", kl=1.0) == megabytes(method="lora") < megabytes()
    assert megabytes(method="lora", ewc=1.0) - megabytes(method="lora") == pytest.approx(weights)


UNLIKE = ModelDimensions(80, 1500, 128, 2, 5, 1000, 448, 128, 2, 4)
METHODS = [
    {},
    {"freeze_encoder": True},
    *({"method": "lora", "lora_rank": 1, "lora_targets": targets} for targets in ("all", "attention", "decoder")),
    {"lean": True},
    {"lean": True, "freeze_encoder": True},
    {"lean": True, "method": "lora", "lora_rank": 1},
]


def ready(cfg: Config) -> Whisper:
    """A random model with what trains chosen."""
    torch.manual_seed(0)
    model = Whisper(UNLIKE)
    torch.nn.init.normal_(model.decoder.positional_embedding)
    choose_trainable(model, cfg)
    return model


@pytest.mark.parametrize("options", METHODS)
def test_fixed_items_are_what_a_training_holds(options: dict[str, Any]) -> None:
    """Weights, gradients and moments, byte by byte, after a step."""
    cfg = Config(lr=1e-5, **{"method": "full", **options})
    model = ready(cfg)
    weights = sum(p.nbytes for name, p in model.named_parameters() if "lora_" not in name)
    optimizer = build_optimizer(model, cfg)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    with torch.compiler.set_stance("force_eager"):  # the 8-bit update compiles itself
        optimizer.step()
    account = memory.ledger(UNLIKE, cfg, "fp32", N_SAMPLES)
    assert account.weights == weights
    assert account.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    moments = [its[name] for its in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    stored = [part for each in moments for part in ((each.codes, each.scale) if hasattr(each, "codes") else (each,))]
    # vectors are not stored in 8 bits, and are more than their share in so small a model
    assert account.moments == pytest.approx(sum(each.nbytes for each in stored), rel=0.03 if cfg.lean else 0)
    assert account.total == memory.training_bytes(UNLIKE, cfg, "fp32", N_SAMPLES)


def kept_bytes(cfg: Config, precision: str, positions: int, tokens: int) -> int:
    """Bytes that a real forward pass of two clips saves for the backward pass, weights and their casts apart."""
    model = ready(cfg)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    shapes = {p.shape for p in model.parameters()} | {p.T.shape for p in model.parameters() if p.ndim == 2}
    held: dict[int, torch.UntypedStorage] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own and x.shape not in shapes:
            held[storage.data_ptr()] = storage  # held, so that no other tensor gets its place
        return x

    mel, rows = torch.randn(2, UNLIKE.n_mels, 2 * positions), torch.randint(UNLIKE.n_vocab, (2, tokens))
    in_precision = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with in_precision, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        with torch.set_grad_enabled(any(p.requires_grad for p in model.encoder.parameters())):
            features = encode(model, mel, cfg.checkpointing)
        hidden = decode(model, rows, features, cfg.checkpointing)
    assert hidden.requires_grad
    return sum(storage.nbytes() for storage in held.values())


@pytest.mark.parametrize("options", METHODS)
@pytest.mark.parametrize(("precision", "fused"), [("fp32", True), ("bf16", True), ("bf16", False)])
def test_activations_are_what_a_forward_pass_keeps(
    options: dict[str, Any], precision: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against tensors that autograd saves, with fused attention as on a GPU, and with the plain one of CPUs."""
    if fused:
        for module in (forward, memory):
            monkeypatch.setattr(module, "PLAIN_ATTENTION_WEIGHTS", 0)
    cfg = Config(batch_size=2, **{"method": "full", **options})
    account = memory.ledger(UNLIKE, cfg, precision, 250 * audio.SAMPLES_PER_POSITION, "cpu", tokens=40)
    expected = kept_bytes(cfg, precision, positions=250, tokens=40)
    assert account.encoder_activations + account.decoder_activations == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_under_checkpointing_a_layer_keeps_its_input(precision: str) -> None:
    """What autograd saves, and the layer of each side that is computed again."""
    cfg = Config(method="full", batch_size=2, checkpointing=True)
    arguments = precision, 250, 40, "cuda"

    def clip(dims: ModelDimensions, checkpointing: bool) -> int:
        return sum(memory.activations(dims, replace(cfg, checkpointing=checkpointing), *arguments))

    shallower = replace(UNLIKE, n_audio_layer=UNLIKE.n_audio_layer - 1, n_text_layer=UNLIKE.n_text_layer - 1)
    again = clip(UNLIKE, False) - clip(shallower, False)
    assert 2 * (clip(UNLIKE, True) - again) == pytest.approx(kept_bytes(cfg, precision, 250, 40), rel=0.02)


def test_the_ledger_of_the_first_experiment() -> None:
    """large-v3, batch 16, mixed precision, no checkpointing took about 70 GB, as its author wrote."""
    assert needed("large-v3", precision="bf16", method="full", batch_size=16) / 1e9 == pytest.approx(71, abs=2)
    assert needed("large-v3", precision="bf16", method="full", batch_size=16, checkpointing=True) / 1e9 < 30


def test_the_lean_ledger() -> None:
    """large-v3: bf16 weights and gradients and 8-bit moments take 6 bytes a parameter, where 18 were with the casts."""
    dims = memory.official_dimensions("large-v3")
    assert dims is not None

    def fixed(cfg: Config) -> float:
        account = memory.ledger(dims, cfg, "bf16", N_SAMPLES)
        items = account.weights + account.casts + account.gradients + account.moments + account.original
        return items / sum(memory.parameters(dims))

    assert fixed(Config(method="full")) == pytest.approx(18, rel=0.01)
    assert fixed(Config(method="full", lean=True)) == pytest.approx(6, rel=0.01)
    assert fixed(Config(method="full", lean=True, kl=1.0)) == pytest.approx(8, rel=0.01)
    assert fixed(Config(method="lora", lean=True)) == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize(("device", "largest"), [("cpu", 8), ("cuda", 64)])
def test_the_largest_batch_fills_a_share_of_what_is_free(
    device: str, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power of two that fits while its double does not; no more than is of use; one where nothing fits."""
    dims = memory.official_dimensions("base")
    assert dims is not None

    def chosen(free: float) -> int:
        monkeypatch.setattr(memory, "available_bytes", lambda device: int(free))
        return memory.largest_batch_size(dims, Config(method="full"), "fp32", torch.device(device), N_SAMPLES)

    def of(size: int) -> float:
        return (
            memory.training_bytes(dims, Config(method="full", batch_size=size), "fp32", N_SAMPLES) / memory.FREE_SHARE
        )

    assert [chosen(of(4) + 2), chosen(of(4) - 2), chosen(of(8) - 2)] == [4, 2, 4]
    assert (chosen(1e13), chosen(1)) == (largest, 1)


# ---- Disk, and the host's memory.


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_checkpoint_takes_what_the_ledger_says(tmp_path: Path, method: str) -> None:
    """To a hundredth: of tensors, in files that were really written after a step."""
    model, cfg = random_whisper(), Config(method=method, lr=1e-3, lora_rank=4)
    parameters = choose_trainable(model, cfg)
    optimizer = build_optimizer(model, cfg)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    origin = weights.Origin("tiny.en", "somewhere", "0" * 64, None)
    trained = checkpoint.what_trained(model, origin)
    saved = checkpoint.save(tmp_path, 1, trained, {"optimizer": optimizer.state_dict()}, {}, "")
    written = sum((saved / name).stat().st_size for name in (checkpoint.MODEL_FILE, checkpoint.TRAINER_FILE))
    expected = memory.checkpoint_bytes(model.dims, cfg)
    if method == "full":
        expected += 4 * model.encoder.positional_embedding.numel()  # a buffer: saved, and no parameter
    assert written == pytest.approx(expected, rel=0.01 if method == "full" else 0.25)


@pytest.mark.parametrize(("resume", "times"), [(None, 2), (Path("run"), 1)])
def test_a_disk_without_room_is_told_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: Path | None, times: int
) -> None:
    """A new run needs room for two checkpoints, a resumed one for another; the folder need not be there yet."""
    cfg, dims = Config(method="full", runs_dir=tmp_path / "not" / "yet", resume=resume), small_whisper().dims
    needed = times * memory.checkpoint_bytes(dims, cfg)
    for free, faults in ((needed, 0), (needed - 1, 1)):
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free) if path == tmp_path else None
        )
        found = memory.check_disk(dims, cfg)
        assert len(found) == faults
    assert f"--runs_dir {cfg.runs_dir}: checkpoints need" in found[0]
    assert "make room, or give another folder; --method lora" in found[0]


def test_the_hosts_memory_must_hold_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the GPU is."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**12, 10**12))
    large = memory.official_dimensions("large-v3")
    assert large is not None
    (fault,) = memory.check_memory(large, Config(model="large-v3"), "bf16", torch.device("cuda"), N_SAMPLES)
    assert "reading its weights takes 12.3 GB, and the host's memory has 1.0 GB free" in fault
