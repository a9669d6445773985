"""Weights in, from every layout; nothing that could run code; errors that say what to do."""

from __future__ import annotations

import json
import pickle
import types
import urllib.request
from dataclasses import asdict
from pathlib import Path

import pytest
import soundfile
import torch
import whisper
from conftest import needs_weights, random_whisper
from quick_model import Attack, same_weights, save_openai, small_whisper
from safetensors.torch import save_file
from torch import Tensor
from whisper import Whisper

from whisper_min import audio
from whisper_min.config import InputError
from whisper_min.data.sources import DEMO_FOLDER
from whisper_min.model import weights
from whisper_min.training import checkpoint, memory


def huggingface_name(name: str) -> str:
    """OpenAI's tensor name -> Hugging Face's, part by part."""
    side, *rest = name.split(".")
    if rest == ["positional_embedding"]:
        return f"model.{side}.embed_positions.weight"
    if rest[0] == "token_embedding":
        return "model.decoder.embed_tokens.weight"
    if rest[0] in ("ln_post", "ln"):
        return f"model.{side}.layer_norm.{rest[1]}"
    if rest[0] != "blocks":
        return f"model.{name}"  # the convolutions
    layer, module, *last = rest[1:]
    parts = {
        "attn": "self_attn",
        "attn_ln": "self_attn_layer_norm",
        "cross_attn": "encoder_attn",
        "cross_attn_ln": "encoder_attn_layer_norm",
        "mlp_ln": "final_layer_norm",
    }
    if module == "mlp":
        return f"model.{side}.layers.{layer}.fc{1 if last[0] == '0' else 2}.{last[1]}"
    projections = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    return ".".join([f"model.{side}.layers.{layer}", parts[module], *(projections.get(part, part) for part in last)])


def save_huggingface(model: Whisper, folder: Path) -> Path:
    """Write `model.safetensors` as Hugging Face's WhisperForConditionalGeneration does."""
    folder.mkdir()
    state = {huggingface_name(name): tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(
        {**state, "proj_out.weight": model.decoder.token_embedding.weight.detach().clone()},
        folder / "model.safetensors",
    )
    return folder


def save_safetensors(model: Whisper, path: Path, **metadata: str) -> Path:
    """Write OpenAI's names as safetensors."""
    path.parent.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path, metadata or None)
    return path


# ---- The fingerprint.


def test_fingerprint_does_not_see_layout_or_a_copy_in_fp16() -> None:
    """Order of the tensors, strides and a copy that was stored as fp16 change nothing."""
    state = small_whisper().state_dict()
    expected = weights.fingerprint(state)
    strided = {name: tensor.t().contiguous().t() if tensor.ndim == 2 else tensor for name, tensor in state.items()}
    assert any(not tensor.is_contiguous() for tensor in strided.values())
    assert weights.fingerprint(dict(reversed(state.items()))) == expected
    assert weights.fingerprint(strided) == expected
    assert weights.fingerprint({name: tensor.half() for name, tensor in state.items()}) == expected
    assert weights.fingerprint({name: tensor.half().float() for name, tensor in state.items()}) == expected


def test_fingerprint_sees_a_number_and_a_name() -> None:
    """One number, or two tensors that changed places, make other weights."""
    state = small_whisper().state_dict()
    expected = weights.fingerprint(state)
    changed = {name: tensor.clone() for name, tensor in state.items()}
    changed["encoder.conv1.weight"][0, 0, 0] += 0.01
    one, other = "encoder.blocks.0.attn.query.weight", "encoder.blocks.0.attn.value.weight"
    swapped = {**state, one: state[other], other: state[one]}
    assert len({expected, weights.fingerprint(changed), weights.fingerprint(swapped)}) == 3


def test_every_layout_has_the_same_fingerprint_and_the_same_numbers(tmp_path: Path) -> None:
    """A .pt in fp32 and fp16, safetensors in both namings and a run folder are one model."""
    model = small_whisper(layers=2)
    paths = {
        "pt": save_openai(model, tmp_path / "model.pt"),
        "openai safetensors": save_safetensors(model, tmp_path / "openai" / "model.safetensors").parent,
        "huggingface": save_huggingface(model, tmp_path / "huggingface"),
    }
    for layout, path in paths.items():
        loaded, origin = weights.load(str(path))
        assert same_weights(loaded, model), layout
        assert loaded.dims == model.dims, layout
        assert origin.fingerprint == weights.fingerprint(model.state_dict()), layout
        assert origin.name == str(path)
        assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    half, origin = weights.load(str(save_openai(model, tmp_path / "half.pt", torch.float16)))
    assert origin.fingerprint == weights.fingerprint(model.state_dict())
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())


@pytest.mark.parametrize(("multilingual", "n_mels", "vocabulary"), [(True, 80, 51865), (True, 128, 51866)])
def test_dimensions_come_from_shapes(tmp_path: Path, multilingual: bool, n_mels: int, vocabulary: int) -> None:
    """Safetensors without metadata: mel bins, vocabulary, layers and heads are read off the tensors."""
    model = random_whisper(multilingual, n_mels, layers=2)
    loaded, _ = weights.load(str(save_safetensors(model, tmp_path / "m" / "model.safetensors").parent))
    assert loaded.dims == model.dims
    assert loaded.dims.n_vocab == vocabulary
    assert loaded.is_multilingual == multilingual
    assert loaded.num_languages == (99 if n_mels == 80 else 100)


def test_two_heads_are_told_from_the_width() -> None:
    """A head has 64 channels in every Whisper."""
    model = small_whisper(width=128)
    assert weights.dimensions(model.state_dict(), "x") == model.dims
    assert model.dims.n_audio_head == 2


def test_alignment_heads_come_from_hugging_faces_generation_config(tmp_path: Path) -> None:
    """They are in no state dict; word timestamps need them."""
    folder = save_huggingface(small_whisper(layers=2), tmp_path / "hf")
    (folder / "generation_config.json").write_text(json.dumps({"alignment_heads": [[1, 0]]}))
    model, origin = weights.load(str(folder))
    assert origin.alignment_heads == [[1, 0]]
    assert model.alignment_heads.indices().T.tolist() == [[1, 0]]


@pytest.mark.parametrize("heads", [[], [[7, 0]], [[0]], [[0.5, 0]], "nonsense", 3])
def test_alignment_heads_of_another_model_are_passed_over(tmp_path: Path, heads: object) -> None:
    """Fine-tuned models in the wild carry the generation_config of another size; training needs no heads."""
    folder = save_huggingface(small_whisper(), tmp_path / "hf")
    (folder / "generation_config.json").write_text(json.dumps({"alignment_heads": heads}))
    model, origin = weights.load(str(folder))
    assert origin.alignment_heads is None
    assert model.alignment_heads.shape == (1, 1)  # whisper's own default stays


@pytest.mark.parametrize("metadata", [{"dims": "{"}, {"dims": '{"n_mels": 80}'}, {"alignment_heads": "["}])
def test_strange_metadata_is_refused_by_name(tmp_path: Path, metadata: dict[str, str]) -> None:
    """Safetensors whose metadata only look like ours."""
    path = save_safetensors(small_whisper(), tmp_path / "m" / "model.safetensors", **metadata)
    with pytest.raises(InputError, match=r"model\.safetensors: its metadata"):
        weights.load(str(path.parent))


def test_a_run_folder_gives_its_best_checkpoint(tmp_path: Path) -> None:
    """The best where there is one, else the last; a checkpoint's own folder works too."""
    origin = weights.Origin("x", "x", "0", [[0, 0]])
    models = {step: small_whisper(seed=step) for step in (1, 2)}
    for step, model in models.items():
        checkpoint.save(tmp_path, step, checkpoint.what_trained(model, origin), {}, {}, "card")
    last, _ = weights.load(str(tmp_path))
    assert same_weights(last, models[2])
    checkpoint.point(tmp_path, "best", 1)
    best, found = weights.load(str(tmp_path))
    assert same_weights(best, models[1])
    assert found.alignment_heads == [[0, 0]]
    direct, _ = weights.load(str(tmp_path / "checkpoints" / "2"))
    assert same_weights(direct, models[2])


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    """A run that has only begun."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(InputError, match=r"--model .*no checkpoint yet"):
        weights.load(str(tmp_path))


# ---- What is refused.


def fault_of(state: dict[str, Tensor], tmp_path: Path, model: Whisper) -> str:
    """The message about a .pt with this state."""
    torch.save({"dims": asdict(model.dims), "model_state_dict": state}, tmp_path / "faulty.pt")
    with pytest.raises(InputError) as caught:
        weights.load(str(tmp_path / "faulty.pt"))
    assert str(tmp_path / "faulty.pt") in str(caught.value)
    return str(caught.value)


def test_faulty_tensors_are_named(tmp_path: Path) -> None:
    """A wrong shape, a missing tensor, one too many, a number that is not finite: all in one message."""
    model = small_whisper()
    state = dict(model.state_dict())
    state["encoder.conv1.bias"] = torch.zeros(65)
    del state["decoder.ln.weight"]
    state["decoder.extra"] = torch.zeros(1)
    broken = state["encoder.conv2.weight"].clone()
    broken[0, 0, 0] = float("nan")
    state["encoder.conv2.weight"] = broken
    message = fault_of(state, tmp_path, model)
    assert "encoder.conv1.bias has shape (65,), not (64,)" in message
    assert "decoder.ln.weight is missing" in message
    assert "decoder.extra is no tensor of Whisper" in message
    assert "encoder.conv2.weight holds non-finite numbers" in message


def test_many_faults_are_counted(tmp_path: Path) -> None:
    """Five are shown, the rest is counted."""
    model = small_whisper()
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("decoder.blocks")}
    missing = len(model.state_dict()) - len(state)
    assert f"and {missing - 5} more" in fault_of(state, tmp_path, model)


def test_dims_that_do_not_fit_the_tensors(tmp_path: Path) -> None:
    """Dimensions of a wider model beside narrow weights: shapes are named, nothing is guessed."""
    model = small_whisper()
    torch.save(
        {"dims": {**asdict(model.dims), "n_vocab": 101}, "model_state_dict": model.state_dict()}, tmp_path / "m.pt"
    )
    with pytest.raises(InputError, match=r"token_embedding.weight has shape \(100, 64\), not \(101, 64\)"):
        weights.load(str(tmp_path / "m.pt"))


def test_a_pt_of_another_layout(tmp_path: Path) -> None:
    """A bare state dict, and dims with unknown keys."""
    torch.save(small_whisper().state_dict(), tmp_path / "bare.pt")
    with pytest.raises(InputError, match=r"bare\.pt: .*'dims' and 'model_state_dict'"):
        weights.load(str(tmp_path / "bare.pt"))
    torch.save({"dims": {"n_mels": 80, "other": 1}, "model_state_dict": {}}, tmp_path / "dims.pt")
    with pytest.raises(InputError, match=r"dims\.pt: its 'dims'"):
        weights.load(str(tmp_path / "dims.pt"))


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.9, 0.99999])
@pytest.mark.parametrize("layout", ["pt", "safetensors"])
def test_files_cut_short_are_refused_by_name(tmp_path: Path, layout: str, share: float) -> None:
    """Wherever a copy stopped, the file is named and no traceback is shown."""
    if layout == "pt":
        path = save_openai(small_whisper(), tmp_path / "cut.pt")
        name = str(path)
    else:
        path = save_safetensors(small_whisper(), tmp_path / "cut" / "model.safetensors")
        name = str(path.parent)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError) as caught:
        weights.load(name)
    assert str(path) in str(caught.value)
    assert any(word in str(caught.value) for word in ("is it whole?", "cut short", "refused"))


def test_other_files_are_refused(tmp_path: Path) -> None:
    """Text and audio given as weights."""
    (tmp_path / "notes.pt").write_text("these are no weights\n")
    with pytest.raises(InputError, match=r"notes\.pt"):
        weights.load(str(tmp_path / "notes.pt"))
    save_file({"some.tensor": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"not Whisper weights \('encoder.conv1.weight' is missing"):
        weights.load(str(tmp_path))


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle", "beside true weights"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, form: str) -> None:
    """Weights from a stranger can do nothing."""
    mark, path = tmp_path / "attacked", tmp_path / "model.pt"
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(Attack(mark)))
    elif form == "beside true weights":
        model = small_whisper()
        torch.save({"dims": asdict(model.dims), "model_state_dict": model.state_dict(), "x": Attack(mark)}, path)
    else:
        torch.save({"dims": Attack(mark)}, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(InputError, match=r"model\.pt: (refused, because loading it could run code|cannot be read)"):
        weights.load(str(path))
    assert not mark.exists()
    if form != "plain pickle":  # torch reads no such file at all
        torch.load(path, weights_only=False)  # the attack would have worked
        assert mark.exists()


def test_an_unknown_name_lists_the_official_ones() -> None:
    """A typing error."""
    with pytest.raises(InputError) as caught:
        weights.load("tinny.en")
    assert "--model tinny.en" in str(caught.value)
    assert all(name in str(caught.value) for name in whisper.available_models())


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    """No weights in a folder that exists."""
    with pytest.raises(InputError, match=r"holds no model\.safetensors, no CTranslate2 model\.bin and no checkpoints"):
        weights.load(str(tmp_path))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No cache and no network; the cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port: nothing listens
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # urllib keeps its proxies after the first request
    return tmp_path / "cache"


def test_a_missing_official_name_without_network(offline: Path) -> None:
    """What was tried, where from, and where to put the file."""
    with pytest.raises(InputError) as caught:
        weights.load("base.en")
    message = str(caught.value)
    assert "--model base.en" in message
    assert str(offline / "whisper" / "base.en.pt") in message
    assert "models--openai--whisper-base.en" in message
    assert whisper._MODELS["base.en"] in message
    assert f"put the file at {offline / 'whisper' / 'base.en.pt'}" in message
    assert not (offline / "whisper" / "base.en.pt").exists()


@pytest.mark.filterwarnings("ignore:.*SHA256 checksum does not match")
def test_a_wrong_file_in_whispers_cache_is_not_used(offline: Path) -> None:
    """A file under an official name is checked by its SHA-256, and kept where no other can be had."""
    (offline / "whisper").mkdir(parents=True)
    path = save_openai(small_whisper(), offline / "whisper" / "base.en.pt")
    with pytest.raises(InputError, match=r"base\.en\.pt"):
        weights.load("base.en")
    assert path.exists()


def test_an_official_model_in_hugging_faces_cache_is_used(offline: Path) -> None:
    """Weights on this machine come before any download; the heads are the official ones."""
    model = small_whisper(width=384, layers=4)  # as many layers and heads as tiny.en
    snapshots = offline.parent / "hf" / "hub" / "models--openai--whisper-tiny.en" / "snapshots"
    snapshots.mkdir(parents=True)
    save_huggingface(model, snapshots / "abc")
    loaded, origin = weights.load("tiny.en")
    assert same_weights(loaded, model)
    assert str(snapshots / "abc") in origin.found
    assert origin.alignment_heads == weights.official_alignment_heads("tiny.en")


@pytest.mark.parametrize("name", whisper.available_models())
def test_official_alignment_heads_are_whispers(name: str) -> None:
    """The same mask that whisper's own `set_alignment_heads` makes of its table."""
    taken: dict[str, Tensor] = {}
    dims = memory.official_dimensions(name)
    receiver = types.SimpleNamespace(dims=dims, register_buffer=lambda key, mask, persistent: taken.update({key: mask}))
    Whisper.set_alignment_heads(receiver, whisper._ALIGNMENT_HEADS[name])
    heads = weights.official_alignment_heads(name)
    assert heads == taken["alignment_heads"].indices().T.tolist()
    assert len(heads) > 0


# ---- Real weights, real libraries.


@pytest.mark.slow
def test_tiny_en_from_the_demo_package(offline: Path) -> None:
    """Without cache and network tiny.en comes from the package, hears Kennedy and times his words."""
    needs_weights()
    model, origin = weights.load("tiny.en")
    assert weights.DEMO_PACKAGE in origin.found
    assert model.dims == memory.official_dimensions("tiny.en")
    assert origin.alignment_heads == model.alignment_heads.indices().T.tolist()
    assert origin.alignment_heads == weights.official_alignment_heads("tiny.en")
    waveform = audio.read(DEMO_FOLDER / "audio" / "jfk.opus")
    result = model.transcribe(waveform, word_timestamps=True, temperature=0.0, fp16=False)
    assert "ask not what your country can do for you" in result["text"]
    words = [word for segment in result["segments"] for word in segment["words"]]
    starts = [word["start"] for word in words]
    assert starts == sorted(starts)
    assert words[-1]["end"] <= soundfile.info(DEMO_FOLDER / "audio" / "jfk.opus").duration + 0.1


@pytest.mark.slow
def test_what_transformers_writes_computes_the_same(tmp_path: Path) -> None:
    """A random model of transformers' own class, saved by itself, gives the same logits under OpenAI's class."""
    audio.torchaudio()  # transformers imports it, which beside a CPU-only torch works through our door only
    transformers = pytest.importorskip("transformers")
    config = transformers.WhisperConfig(
        vocab_size=51864, num_mel_bins=80, d_model=128, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=512, decoder_ffn_dim=512, max_source_positions=1500,
        max_target_positions=448, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.WhisperForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path)
    ours, _ = weights.load(str(tmp_path))
    mel, tokens = torch.randn(1, 80, 3000), torch.tensor([[50257, 50362, 1, 2, 3]])
    with torch.no_grad():
        expected = theirs(input_features=mel, decoder_input_ids=tokens).logits
        torch.testing.assert_close(ours(mel, tokens), expected, atol=1e-4, rtol=1e-4)
