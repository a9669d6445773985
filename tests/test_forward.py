"""The forward pass is whisper's own; what it adds are shorter contexts and a sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import random_whisper
from torch import Tensor
from whisper import Whisper
from whisper.model import Linear

from whisper_min.config import Config, InputError
from whisper_min.data.tokens import IGNORED, Tokens
from whisper_min.model import forward, lora
from whisper_min.model.forward import (
    POSITIONS_AT_ONCE,
    check_compiler,
    compile_blocks,
    decode,
    encode,
    linear,
    project,
    sum_cross_entropy,
)
from whisper_min.training.optimizer import choose_trainable

TEXTS = ["A short text.", "And one that is a good deal longer than the other, so that the short one is padded."]


def random_mel(model: Whisper, frames: int = 3000, batch: int = 2, seed: int = 0) -> Tensor:
    """A log-mel with the range of real ones: (B, M, F)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, model.dims.n_mels, frames, generator=generator) * 2 - 1


@pytest.fixture(params=[(False, 80), (True, 128)], ids=["english", "multilingual-128"])
def model(request: pytest.FixtureRequest) -> Whisper:
    """Two layers, both mel layouts."""
    multilingual, n_mels = request.param
    return random_whisper(multilingual, n_mels, layers=2)


def test_encode_with_gradients_is_whispers_encoder_to_the_bit(model: Whisper) -> None:
    """30 s windows as training sees them."""
    mel = random_mel(model)
    assert torch.equal(encode(model, mel), model.encoder(mel))


def test_encode_without_gradients_is_whispers_encoder(model: Whisper) -> None:
    """Evaluation takes other kernels: the last digits may differ, no more."""
    mel = random_mel(model)
    with torch.no_grad():
        torch.testing.assert_close(encode(model, mel), model.encoder(mel), atol=1e-5, rtol=1e-5)


def test_encode_under_bf16_is_whispers_encoder_within_bf16(model: Whisper) -> None:
    """The plain attention that bf16 takes on a CPU computes the same as whisper's."""
    mel = random_mel(model, batch=1)
    with torch.no_grad():
        exact = model.encoder(mel)
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = encode(model, mel), model.encoder(mel)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    our_error, their_error = ((each.float() - exact).pow(2).mean().sqrt() for each in (ours, theirs))
    assert our_error < 0.05
    assert our_error < 1.5 * their_error


@pytest.mark.parametrize("seconds", [5, 10, 20])
def test_a_shorter_context_is_slicing_by_hand(tiny_whisper: Whisper, seconds: int) -> None:
    """Whisper's own forward with its positions cut to the length gives the same bits."""
    mel = random_mel(tiny_whisper, frames=100 * seconds)
    ours = encode(tiny_whisper, mel)
    assert ours.shape == (2, 50 * seconds, tiny_whisper.dims.n_audio_state)
    encoder = tiny_whisper.encoder
    encoder.positional_embedding = encoder.positional_embedding[: 50 * seconds]
    assert torch.equal(ours, encoder(mel))


def test_encoding_a_batch_is_encoding_its_rows(tiny_whisper: Whisper) -> None:
    """No row sees another."""
    mel = random_mel(tiny_whisper, frames=500, batch=3)
    with torch.no_grad():
        rows = torch.cat([encode(tiny_whisper, row[None]) for row in mel])
        torch.testing.assert_close(encode(tiny_whisper, mel), rows, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_whispers_own_forward(tiny_whisper: Whisper) -> None:
    """Encoder and decoder: every gradient equals the one through `model(mel, tokens)`, and none is zero."""
    tokens = Tokens(tiny_whisper.dims).teacher_forcing(TEXTS)
    mel = random_mel(tiny_whisper)
    gradients = []
    for logits in (
        tiny_whisper.decoder(tokens.inputs, encode(tiny_whisper, mel)),
        tiny_whisper(mel, tokens.inputs),
    ):
        sum_cross_entropy(logits, tokens.targets).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in tiny_whisper.named_parameters()})
        tiny_whisper.zero_grad()
    for name, ours in gradients[0].items():
        theirs = gradients[1][name]
        assert ours.norm() > 0, name
        # not to the bit: autograd adds up the gradients of query, key and value in another order
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm(), name


# ---- linear.


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 64), (3, 250, 64), (7, 64)])
def test_linear_through_onednn_is_the_layer(bias: bool, shape: tuple[int, ...]) -> None:
    """The fast product of evaluation, on every shape that comes up."""
    torch.manual_seed(0)
    layer, x = Linear(64, 48, bias=bias), torch.randn(*shape)
    with torch.no_grad():
        torch.testing.assert_close(linear(layer, x), layer(x), atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(linear(layer, x), layer(x), atol=1e-5, rtol=1e-5)


def test_linear_with_gradients_is_the_layer_to_the_bit() -> None:
    """Training never takes another kernel."""
    torch.manual_seed(0)
    layer, x = Linear(64, 48), torch.randn(3, 5, 64)
    ours = linear(layer, x)
    assert ours.requires_grad
    assert torch.equal(ours, layer(x))


def test_layers_of_other_classes_run_as_they_are() -> None:
    """An adapter that extends whisper's Linear keeps its own forward, with and without gradients."""

    class Adapter(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1000

    layer, x = Adapter(4, 4), torch.randn(2, 4)
    assert linear(layer, x).min() > 900
    with torch.no_grad():
        assert linear(layer, x).min() > 900


# ---- The loss.


@pytest.mark.parametrize("vocabulary", [2, 100, 51864])
def test_uniform_logits_cost_log_v_a_token(vocabulary: int) -> None:
    """n tokens of a model that knows nothing: n · log V, whatever the constant; masked ones cost nothing."""
    targets = torch.tensor([[IGNORED, 0, 1], [IGNORED, 1, IGNORED]])
    for constant in (0.0, -7.5):
        loss = sum_cross_entropy(torch.full((2, 3, vocabulary), constant), targets)
        assert loss.item() == pytest.approx(3 * math.log(vocabulary), rel=1e-6)


def test_certain_and_right_costs_nothing() -> None:
    """A logit that stands out by 100 is certainty."""
    logits = torch.zeros(1, 2, 5)
    logits[0, 0, 3] = logits[0, 1, 4] = 100.0
    assert sum_cross_entropy(logits, torch.tensor([[3, 4]])).item() == pytest.approx(0.0, abs=1e-6)
    assert sum_cross_entropy(logits, torch.tensor([[3, 3]])).item() == pytest.approx(100.0, rel=1e-6)


def test_logits_of_masked_tokens_do_not_matter() -> None:
    """Neither to the sum nor to the gradient."""
    torch.manual_seed(0)
    targets = torch.tensor([[IGNORED, 3, 1, IGNORED]])
    logits = torch.randn(1, 4, 10, requires_grad=True)
    other = logits.detach().clone()
    other[0, [0, 3]] = torch.randn(2, 10) * 50
    loss = sum_cross_entropy(logits, targets)
    assert loss.item() == sum_cross_entropy(other, targets).item()
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, [0, 3]].abs().max() == 0
    expected = logits.detach()[0, [1, 2]].softmax(-1) - torch.nn.functional.one_hot(targets[0, [1, 2]], 10)
    torch.testing.assert_close(logits.grad[0, [1, 2]], expected)


def test_a_split_batch_sums_to_the_whole(tiny_whisper: Whisper) -> None:
    """The identity that accumulation rests on: Σ over parts is Σ over all, for losses and for gradients."""
    tokens = Tokens(tiny_whisper.dims).teacher_forcing(TEXTS * 2)
    mel = random_mel(tiny_whisper, frames=500, batch=4)

    def gradient(parts: list[slice]) -> tuple[float, Tensor]:
        tiny_whisper.zero_grad()
        losses = []
        for part in parts:
            logits = tiny_whisper.decoder(tokens.inputs[part], encode(tiny_whisper, mel[part]))
            loss = sum_cross_entropy(logits, tokens.targets[part])
            loss.backward()
            losses.append(loss.item())
        grads = [parameter.grad.flatten() for parameter in tiny_whisper.parameters() if parameter.grad is not None]
        return sum(losses), torch.cat(grads)

    whole, whole_gradient = gradient([slice(0, 4)])
    split, split_gradient = gradient([slice(0, 1), slice(1, 4)])
    assert split == pytest.approx(whole, rel=1e-6)
    assert (split_gradient - whole_gradient).norm() < 1e-5 * whole_gradient.norm()


def test_padding_text_changes_no_loss(tiny_whisper: Whisper) -> None:
    """A short text costs the same beside a long one as alone: padding comes after all that is predicted."""
    tokens = Tokens(tiny_whisper.dims)
    features = encode(tiny_whisper, random_mel(tiny_whisper, frames=500))
    alone, together = tokens.teacher_forcing(TEXTS[:1]), tokens.teacher_forcing(TEXTS)
    assert alone.inputs.shape[1] < together.inputs.shape[1]
    with torch.no_grad():
        by_itself = sum_cross_entropy(tiny_whisper.decoder(alone.inputs, features[:1]), alone.targets)
        padded = sum_cross_entropy(tiny_whisper.decoder(together.inputs, features)[:1], together.targets[:1])
    assert padded.item() == pytest.approx(by_itself.item(), rel=1e-6)


def test_half_precision_logits_are_summed_in_fp32() -> None:
    """A sum of thousands of bf16 losses would lose digits."""
    torch.manual_seed(0)
    logits, targets = torch.randn(1, 3000, 10).bfloat16(), torch.randint(10, (1, 3000))
    loss = sum_cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(sum_cross_entropy(logits.double().float(), targets).item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_positions_are_summed_in_parts(dtype: torch.dtype) -> None:
    """Loss and gradient are torch's own of all of them; no fp32 copy and no log-probabilities of all are kept."""
    torch.manual_seed(0)
    count, vocabulary = 2 * POSITIONS_AT_ONCE + 76, 50
    logits = torch.randn(count, vocabulary).to(dtype).requires_grad_()
    targets = torch.randint(vocabulary, (count,))
    targets[::3] = IGNORED
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        loss = sum_cross_entropy(logits * 1, targets)
    (gradient,) = torch.autograd.grad(loss, logits)
    plain = F.cross_entropy(logits.float(), targets, reduction="sum")
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(plain, logits)[0], rtol=1e-5, atol=1e-7)
    assert all(each.numel() < count * vocabulary for each in kept if each.dtype == torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_encode_on_cuda_is_whispers_encoder(tiny_whisper: Whisper) -> None:
    """The same module on a GPU, without the CPU's kernels."""
    model, mel = tiny_whisper.cuda(), random_mel(tiny_whisper).cuda()
    with torch.no_grad():
        assert torch.equal(encode(model, mel), model.encoder(mel))


def test_projecting_the_counted_positions_equals_whispers_decoder() -> None:
    """Hidden states, logits at the positions that count, loss and gradient: whisper's own, without the rest."""
    model = random_whisper(layers=2)
    tokens = Tokens(model.dims)
    rows = tokens.teacher_forcing(["One.", "A longer text than the other one."])
    features = torch.randn(2, 250, 64, generator=torch.Generator().manual_seed(0))
    whole = model.decoder(rows.inputs, features)  # (B, T, V)
    logits = project(model, decode(model, rows.inputs, features), rows.positions)  # (N, V)
    torch.testing.assert_close(logits, whole.flatten(0, 1)[rows.positions], rtol=0, atol=1e-5)
    assert len(logits) == rows.count < rows.targets.numel()
    loss = sum_cross_entropy(logits, rows.targets.flatten()[rows.positions])
    torch.testing.assert_close(loss, sum_cross_entropy(whole, rows.targets), rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad(each, model.decoder.blocks[0].mlp[0].weight, retain_graph=True)[0]
                 for each in (loss, sum_cross_entropy(whole, rows.targets))]  # fmt: skip
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


def test_plain_attention_with_gradients_equals_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 on a CPU: both forms of the encoder agree to bf16's rounding, forward and backward, in blocks of queries."""
    model = random_whisper(layers=2)
    positions = forward.QUERIES_PER_BLOCK + 50  # two blocks, of unequal size
    mel = torch.randn(1, 80, 2 * positions, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(1, positions, 64, generator=torch.Generator().manual_seed(1))
    results = []
    for weights_kept in (0, positions**2):
        monkeypatch.setattr(forward, "PLAIN_ATTENTION_WEIGHTS", weights_kept)
        with torch.autocast("cpu", torch.bfloat16):
            features = encode(model, mel)
        (gradient,) = torch.autograd.grad((features.float() * direction).sum(), model.encoder.conv1.weight)
        results.append((features.float(), gradient))
    (fused, fused_gradient), (plain, plain_gradient) = results
    assert (fused - plain).norm() < 0.02 * fused.norm()
    cosine = torch.cosine_similarity(fused_gradient.flatten(), plain_gradient.flatten(), dim=0)
    assert cosine > 0.99, cosine


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_computes_the_same(model: Whisper, precision: str) -> None:
    """Outputs and every gradient to the bit, in less memory: what a block keeps is its input."""
    mel, rows = random_mel(model, frames=400), torch.arange(20).view(2, 10)
    results, kept = [], []
    for checkpointing in (False, True):
        held: dict[int, int] = {}

        def pack(x: Tensor, held: dict[int, int] = held) -> Tensor:
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        model.zero_grad(set_to_none=True)
        in_precision = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        with in_precision, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            hidden = decode(model, rows, encode(model, mel, checkpointing), checkpointing)
        hidden.float().pow(2).sum().backward()
        results.append([hidden.detach(), *(p.grad for p in model.parameters())])
        kept.append(sum(held.values()))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    assert kept[1] < kept[0] / 2


def test_checkpointing_repeats_the_adapters_dropout() -> None:
    """What is computed again must drop what was dropped the first time: the gradient is that of the output."""
    model = random_whisper(layers=2)
    lora.attach(model, lora.Adapters(4, 8.0, "all"), dropout=0.5)
    for layer in lora.adapted_layers(model).values():
        torch.nn.init.normal_(layer.lora_B, std=0.1)
    model.train()
    mel, gradients = random_mel(model, frames=100), []
    for checkpointing in (False, True):
        model.zero_grad(set_to_none=True)
        torch.manual_seed(1)
        encode(model, mel, checkpointing).pow(2).sum().backward()
        gradients.append([its.lora_A.grad for name, its in lora.adapted_layers(model).items() if "encoder" in name])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


# ---- Compiled.


@pytest.fixture
def graphs() -> Iterator[Callable[[], int]]:
    """Tells how many graphs were made."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def random_step(model: Whisper, clips: int, positions: int, tokens: int, checkpointing: bool = False) -> Tensor:
    """A loss of noise and random tokens, and its gradients."""
    rows = torch.randint(1000, (clips, tokens), generator=torch.Generator().manual_seed(tokens))
    model.zero_grad(set_to_none=True)
    features = encode(model, random_mel(model, 2 * positions, clips), checkpointing)
    logits = project(model, decode(model, rows, features, checkpointing), torch.arange(rows.numel()))
    loss = sum_cross_entropy(logits, rows) / rows.numel()
    loss.backward()
    return loss.detach()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"method": "full"},
        {"method": "full", "checkpointing": True},
        {"method": "full", "freeze_encoder": True},
        {"method": "lora", "checkpointing": True},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_compiled_layers_compute_the_same(options: dict[str, Any], graphs: Callable[[], int]) -> None:
    """Losses and gradients are the eager ones in fp32, and the state dict keeps its names."""
    cfg = Config(**options)
    model = random_whisper(layers=2)
    choose_trainable(model, cfg)
    for layer in lora.adapted_layers(model).values():
        torch.nn.init.normal_(layer.lora_B, std=0.1)
    names, results = list(model.state_dict()), []
    for _ in range(2):
        loss = random_step(model, 2, 60, 7, cfg.checkpointing)
        results.append([loss, *(p.grad for p in model.parameters() if p.requires_grad)])
        compile_blocks(model, "aot_eager")  # torch's own kernels: no C++ compiler is asked for
    assert graphs() >= 2
    assert list(model.state_dict()) == names
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_graph_a_side_serves_every_length(precision: str, graphs: Callable[[], int]) -> None:
    """No break (that would be an error), and no new graph for another text, context, batch or layer."""
    model = random_whisper(layers=3)
    compile_blocks(model, "eager")  # graphs are counted before a backend sees them
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for clips, positions, tokens in [(2, 60, 5), (2, 60, 6), (3, 350, 40), (2, 60, 448), (5, 20, 3)]:
            random_step(model, clips, positions, tokens)
    assert graphs() == 2


@pytest.mark.slow
def test_adapters_switched_off_make_a_bounded_number_of_graphs(graphs: Callable[[], int]) -> None:
    """LoRA with KL: with and without adapters, a first layer without gradients and a single clip each make one more."""
    model = random_whisper(layers=2)
    lora.attach(model, lora.Adapters(4, 8.0, "all"))
    compile_blocks(model, "eager")  # graphs are counted before a backend sees them
    for clips, tokens in [(2, 5), (3, 20), (1, 5), (1, 11)]:
        random_step(model, clips, 60, tokens)
        rows = torch.zeros(clips, tokens, dtype=torch.int64)
        with lora.adapters_off(model):
            assert not decode(model, rows, encode(model, random_mel(model, 120, clips))).requires_grad
    # torch._dynamo allows eight of a function: three kinds of gradients, and each for one clip and for several
    assert graphs() <= 2 * 6


def test_evaluation_stays_as_it_is(graphs: Callable[[], int]) -> None:
    """Without gradients nothing is compiled: a score does not depend on --compile."""
    model, mel = random_whisper(), random_mel(random_whisper(), frames=100)
    with torch.no_grad():
        before = encode(model, mel)
        compile_blocks(model, "aot_eager")
        assert torch.equal(before, encode(model, mel))
    assert graphs() == 0


@pytest.mark.slow
def test_no_compiler_is_told_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option, what the compiler said, and the way out."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.cxx": (None, "/no/such/compiler")}), pytest.raises(InputError) as caught:
        check_compiler(torch.device("cpu"))
    assert "--compile" in str(caught.value)
    assert "/no/such/compiler" in str(caught.value)
    assert "leave --compile out" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_inductor_computes_the_same(precision: str) -> None:
    """What --compile really runs, where a C++ compiler is."""
    try:
        check_compiler(torch.device("cpu"))
    except InputError as error:
        pytest.skip(str(error))
    torch._dynamo.reset()
    model, results = random_whisper(layers=2), []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            losses = [random_step(model, 2, positions, tokens) for positions, tokens in [(60, 7), (350, 9)]]
        results.append((torch.stack(losses), torch.cat([p.grad.flatten() for p in model.parameters()])))
        compile_blocks(model)
    (losses, gradient), (compiled_losses, compiled_gradient) = results
    tolerance = 1e-4 if precision == "fp32" else 0.02
    torch.testing.assert_close(compiled_losses, losses, rtol=tolerance, atol=0)
    assert (compiled_gradient - gradient).norm() < tolerance * gradient.norm()
