"""Other engines: names and vocabulary by identities, and each engine itself on real weights, where it is here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import needs_weights, random_whisper
from quick_model import ending_whisper, save_openai, small_whisper

from whisper_min import export
from whisper_min.audio import Waveform
from whisper_min.data.tokens import Tokens
from whisper_min.engines import faster_whisper, huggingface, openai, whisper_cpp
from whisper_min.model import weights
from whisper_min.scoring import decode

TEXTS = [
    "Hello, my name is Izaak.",
    " Two  spaces, a tab\tand a new line\n",
    "It's 12,345.67 dollars, isn't it? 'Twas!",
    "naïve café, Übergröße, 東京で会いましょう, привет, 🎙️",
]


def needs(module: str) -> None:
    """Skip where an engine is not installed."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not here: pip install -e '.[ct2,ggml]' brings it")


def test_hugging_faces_names_are_ours_and_back() -> None:
    state = small_whisper(layers=2).state_dict()
    renamed = weights.to_huggingface(state)
    assert renamed.keys() >= {"model.encoder.layers.1.self_attn.k_proj.weight", "model.decoder.layers.0.fc2.bias"}
    back = weights.from_huggingface(renamed)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_merges_are_read_off_the_ranks() -> None:
    """`abab` was joined of `ab` and `ab`, which was the lowest rank; `bab`, which came later, plays no part in it."""
    letters = [b"a", b"b", b"c"]
    ranks = {token: rank for rank, token in enumerate([*letters, b"ab", b"abab", b"bab", b"ababc"])}
    assert huggingface.pairs(ranks) == [(b"a", b"b"), (b"ab", b"ab"), (b"b", b"ab"), (b"abab", b"c")]


@pytest.mark.slow
@pytest.mark.parametrize("multilingual", [False, True])
def test_transformers_reads_texts_as_whisper_does(multilingual: bool) -> None:
    needs("transformers")
    tokens = Tokens(random_whisper(multilingual).dims)
    theirs = huggingface.hugging_tokenizer(tokens.tokenizer)
    for text in TEXTS:
        ours = tokens.tokenizer.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ours, text
        assert theirs.decode(ours, clean_up_tokenization_spaces=False) == text
    assert len(theirs) == random_whisper(multilingual).dims.n_vocab


def test_a_ggml_file_holds_what_its_head_says(tmp_path: Path) -> None:
    """Read by the layout alone, every number comes back; matrices in fp16, the rest as it was."""
    model = random_whisper()
    whisper_cpp.write(model, None, tmp_path / "model.bin", "fp16")
    data = memoryview((tmp_path / "model.bin").read_bytes())

    def integers(count: int) -> list[int]:
        nonlocal data
        values, data = list(data[: 4 * count].cast("i")), data[4 * count :]
        return values

    magic, *sizes = integers(12)
    dims = model.dims
    assert magic.to_bytes(4, "big") == b"ggml"
    assert sizes[:3] == [dims.n_vocab, dims.n_audio_ctx, dims.n_audio_state] and sizes[-2:] == [dims.n_mels, 1]
    mels, bins = integers(2)
    data = data[4 * mels * bins :]
    (count,) = integers(1)
    for _ in range(count):
        (length,) = integers(1)
        data = data[length:]
    found = {}
    while data:
        rank, length, half = integers(3)
        shape = list(reversed(integers(rank)))
        name, data = bytes(data[:length]).decode(), data[length:]
        dtype = torch.float16 if half else torch.float32
        size = torch.Size(shape).numel() * dtype.itemsize
        found[name], data = torch.frombuffer(bytearray(data[:size]), dtype=dtype).reshape(shape), data[size:]
    state = model.state_dict()
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(found[name].float().reshape(tensor.shape), tensor.to(found[name].dtype).float()), name
    assert {found[name].dtype for name in whisper_cpp.ALWAYS_FP32} == {torch.float32}


def test_the_lead_is_measured_where_two_transcripts_part() -> None:
    """At the first token that differs, the end counting as one: never negative for what greedy decoding wrote."""
    model = ending_whisper()
    tokens = Tokens(model.dims)
    features = torch.randn(1, 1500, 64, generator=torch.Generator().manual_seed(0))
    (heard,) = decode.greedy(model, features, tokens)
    ours = heard.tokens
    inputs = torch.tensor([[*tokens.prefix, *ours]])
    logits = model.decoder(inputs, features).detach()[0, len(tokens.prefix) - 1 :]  # (T, V)
    for at in range(len(ours)):
        theirs = [*ours[:at], 1000, *ours[at + 1 :]]
        expected = float(logits[at, ours[at]] - logits[at, 1000])
        assert export.lead(model, features, ours, theirs, tokens) == pytest.approx(expected, abs=1e-4)
        assert expected > 0
    shorter = float(logits[-2, ours[-1]] - logits[-2, tokens.end])
    assert export.lead(model, features, ours, ours[:-1], tokens) == pytest.approx(shorter, abs=1e-4)
    assert export.lead(model, features, ours, ours, tokens) == float("inf")


def test_an_engine_that_hears_something_else_is_no_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, the clip and both texts named, nothing left."""
    model = save_openai(ending_whisper(), tmp_path / "model.pt")
    monkeypatch.setattr(export, "VERIFIED_CLIPS", 2)

    def deaf(out: Path, tokens: Tokens) -> Callable[[Waveform], str]:
        return lambda waveform: "What?"

    monkeypatch.setattr(openai, "transcriber", deaf)
    assert export.main([str(model), str(tmp_path / "out.pt"), "--to", "openai"]) == 1
    told = capsys.readouterr().err
    assert "0 of 2 clips heard alike by openai" in told
    assert "'What?' for" in told
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--to", "ggml", "--precision", "fp32"], "--precision fp32: --to ggml takes fp16"),
        (["--to", "hf", "--precision", "int8"], "--precision int8: --to hf takes fp32 or fp16"),
        (["--to", "hf", "--language", "klingon"], "--language klingon: Whisper does not know it"),
        (["--to", "ct2"], "--to ct2: needs nothing_such; pip install 'whisper-min[ct2]'"),
    ],
)
def test_wrong_input_is_named_before_anything_loads(
    options: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(faster_whisper, "NEEDS", ("nothing_such",))
    monkeypatch.setattr(export, "load", lambda options: pytest.fail("loaded"))
    assert export.main(["tiny.en", str(tmp_path / "out"), *options]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "module", "precision"),
    [
        ("openai", "whisper", "fp16"),
        ("hf", "transformers", "fp32"),
        ("ct2", "faster_whisper", "fp32"),
        ("ct2", "faster_whisper", "int8"),
        ("ggml", "pywhispercpp", "fp16"),
    ],
)
def test_every_engine_hears_what_we_hear(
    engine: str, module: str, precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real weights, shipped clips, the real engine on what was written for it."""
    needs_weights()
    needs(module)
    out = tmp_path / "out"
    assert export.main(["tiny.en", str(out), "--to", engine, "--precision", precision]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    if precision != "int8":
        assert f"{export.VERIFIED_CLIPS} of {export.VERIFIED_CLIPS} clips heard alike by {engine}" in told
    assert out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
