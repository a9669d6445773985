"""Adapters: the original to the bit until they have learnt, invisible to whisper, a few MB on disk."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import whisper
from conftest import needs_speech, needs_weights, random_whisper
from quick_model import lively_whisper, one_thread, scale_adapters  # noqa: F401
from torch import Tensor
from whisper import DecodingOptions, Whisper
from whisper.model import Linear

from whisper_min import audio
from whisper_min.config import Config, InputError
from whisper_min.data.sources import read_manifest
from whisper_min.data.tokens import Tokens
from whisper_min.model import lora, weights
from whisper_min.model.forward import encode
from whisper_min.model.lora import Adapters
from whisper_min.scoring.decode import greedy


def adapted(targets: str = "all", seed: int = 0, learnt: bool = True, **changes: object) -> tuple[Whisper, Whisper]:
    """(original, the same with adapters), whose B is random where they have `learnt` something."""
    original = lively_whisper(seed=seed)
    model = copy.deepcopy(original)
    lora.attach(model, Adapters(**{"rank": 4, "alpha": 8.0, "targets": targets, **changes}))  # type: ignore[arg-type]
    if learnt:
        for layer in lora.adapted_layers(model).values():
            torch.nn.init.normal_(layer.lora_B, std=0.02)
    return original, model


def mel_and_tokens(model: Whisper) -> tuple[Tensor, Tensor]:
    """A noise log-mel (1, M, F) and some tokens (1, T)."""
    generator = torch.Generator().manual_seed(1)
    mel = audio.log_mel(torch.randn(1, 480_000, generator=generator) * 0.1, model.dims.n_mels)
    return mel, torch.randint(0, 50_000, (1, 7), generator=generator)


def test_fresh_adapters_leave_the_original_to_the_bit() -> None:
    original, model = adapted(learnt=False)
    assert torch.equal(model(*mel_and_tokens(model)), original(*mel_and_tokens(original)))


def test_adapters_off_is_the_original_to_the_bit() -> None:
    original, model = adapted()
    inputs = mel_and_tokens(model)
    assert not torch.allclose(model(*inputs), original(*inputs), atol=1e-3), "the adapters do nothing"
    with lora.adapters_off(model):
        assert torch.equal(model(*inputs), original(*inputs))
    assert not torch.allclose(model(*inputs), original(*inputs), atol=1e-3), "the adapters stay off"


def test_state_dict_and_fingerprint_are_the_originals() -> None:
    original, model = adapted()
    assert list(model.state_dict()) == list(original.state_dict())
    assert weights.fingerprint(model.state_dict()) == weights.fingerprint(original.state_dict())
    before = lora.adapter_state(model)
    model.load_state_dict(random_whisper(layers=2, seed=5).state_dict())  # strict: no key is missed
    assert all(torch.equal(value, lora.adapter_state(model)[key]) for key, value in before.items())


def test_merged_equals_unmerged_and_comes_back_to_the_bit() -> None:
    original, model = adapted()
    inputs = mel_and_tokens(model)
    with torch.no_grad():
        unmerged = model(*inputs)
        with lora.merged(model):
            torch.testing.assert_close(model(*inputs), unmerged, rtol=1e-4, atol=1e-5 * float(unmerged.abs().max()))
        assert torch.equal(model(*inputs), unmerged)
    state = original.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_weights_come_back_where_the_work_inside_fails() -> None:
    original, model = adapted()
    with pytest.raises(ZeroDivisionError), lora.merged(model):
        _ = 1 / 0
    assert weights.fingerprint(model.state_dict()) == weights.fingerprint(original.state_dict())
    assert all(layer.enabled for layer in lora.adapted_layers(model).values())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_merging_a_share_interpolates(share: float) -> None:
    """Scaling B A is interpolating the weights."""
    original, model = adapted()
    tuned = copy.deepcopy(model)
    lora.merge(tuned)
    scale_adapters(model, share)
    lora.merge(model)
    assert not lora.adapted_layers(model)
    assert all(type(module) is Linear for module in model.modules() if isinstance(module, torch.nn.Linear))
    for name, value in original.state_dict().items():
        expected = torch.lerp(value, tuned.state_dict()[name], share)
        torch.testing.assert_close(model.state_dict()[name], expected, rtol=1e-5, atol=1e-6)
    if share == 0:
        assert weights.fingerprint(model.state_dict()) == weights.fingerprint(original.state_dict())


def test_scale_is_alpha_by_rank_or_by_its_root() -> None:
    assert Adapters(16, 32.0, "all").scale == 2
    assert Adapters(16, 32.0, "all", rslora=True).scale == 8
    assert lora.of_config(Config(lora_rank=8)).alpha == 16
    _, model = adapted()
    layer = lora.adapted_layers(model)["encoder.blocks.0.attn.query"]
    x = torch.randn(3, layer.in_features)
    expected = x @ (layer.weight + 2 * layer.lora_B @ layer.lora_A).T + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("targets", "layers"),
    [("all", 32), ("attention", 24), ("qv", 12), ("mlp", 8), ("encoder", 12), ("decoder", 20)],
)
def test_targets_choose_the_layers_and_nothing_else_trains(targets: str, layers: int) -> None:
    _, model = adapted(targets)
    names = lora.adapted_layers(model)
    assert len(names) == layers
    training = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert training == {f"{name}.{part}" for name in names for part in ("lora_A", "lora_B")}


def test_whispers_own_decoding_works_with_adapters() -> None:
    """With its key-value cache, unmerged; and it writes what our decoder writes."""
    _, model = adapted(seed=1)
    mel, _ = mel_and_tokens(model)
    tokens = Tokens(model.dims)
    options = DecodingOptions(language="en", without_timestamps=True, fp16=False, sample_len=tokens.text_context // 2)
    theirs = model.decode(mel[0], options)
    with torch.inference_mode():
        ours = greedy(model, encode(model, mel), tokens)[0]
    assert ours.tokens == theirs.tokens
    with lora.merged(model):
        assert model.decode(mel[0], options).tokens == theirs.tokens
    assert isinstance(whisper.transcribe(model, torch.zeros(16_000), fp16=False)["text"], str)


def saved(model: Whisper, fingerprint: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    return lora.adapter_state(model), lora.adapter_metadata(model, "base.pt", fingerprint)


def test_adapters_alone_come_back_on_a_copy_of_the_base() -> None:
    original, model = adapted("attention", rslora=True)
    fingerprint = weights.fingerprint(original.state_dict())
    state, metadata = saved(model, fingerprint)
    assert sum(value.numel() for value in state.values()) == sum(
        parameter.numel() for parameter in model.parameters() if parameter.requires_grad
    )
    copied = copy.deepcopy(original)
    lora.load_adapters(copied, fingerprint, state, metadata, "adapters")
    assert torch.equal(copied(*mel_and_tokens(copied)), model(*mel_and_tokens(model)))


def test_adapters_of_other_weights_or_damaged_ones_are_refused() -> None:
    original, model = adapted()
    fingerprint = weights.fingerprint(original.state_dict())
    state, metadata = saved(model, fingerprint)
    other = random_whisper(layers=2, seed=9)
    with pytest.raises(InputError, match=r"f\.st: these adapters were trained on base\.pt .* not on these weights"):
        lora.load_adapters(other, weights.fingerprint(other.state_dict()), state, metadata, "f.st")
    with pytest.raises(InputError, match="do not fit this model's layers"):
        lora.load_adapters(copy.deepcopy(original), fingerprint, dict(list(state.items())[1:]), metadata, "f.st")
    damaged = {**metadata, "adapters": json.dumps({"rang": 4})}
    with pytest.raises(InputError, match="does not say what its adapters are"):
        lora.load_adapters(copy.deepcopy(original), fingerprint, state, damaged, "f.st")


def test_dropout_acts_in_training_mode_only() -> None:
    original, model = adapted(learnt=False)
    model = copy.deepcopy(original)
    lora.attach(model, Adapters(4, 8.0, "all"), dropout=0.5)
    layer = lora.adapted_layers(model)["encoder.blocks.0.mlp.0"]
    torch.nn.init.normal_(layer.lora_B)
    x = torch.randn(2, layer.in_features)
    assert torch.equal(layer.eval()(x), layer(x))
    assert not torch.equal(layer.train()(x), layer(x))


@pytest.mark.slow
def test_real_weights_with_fresh_adapters_write_what_the_original_writes() -> None:
    needs_weights()
    speech = needs_speech("hello")
    model, _ = weights.load("tiny.en")
    examples = read_manifest(speech / "hello" / "manifest.jsonl")
    mel = audio.log_mel(audio.pad([example.read() for example in examples]), model.dims.n_mels)
    tokens = Tokens(model.dims)
    with torch.inference_mode():
        before = [each.text for each in greedy(model, encode(model, mel), tokens)]
    lora.attach(model, Adapters(16, 32.0, "all"))
    with torch.inference_mode():
        assert [each.text for each in greedy(model, encode(model, mel), tokens)] == before
