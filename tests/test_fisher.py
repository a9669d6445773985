"""The Fisher information: softmax regression's closed form, whatever is empty refused, kept under its fingerprint."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import babble, random_whisper
from quick_model import lively_whisper, one_thread  # noqa: F401
from torch import Tensor

from whisper_min.config import InputError
from whisper_min.data.batches import Window
from whisper_min.data.examples import Example
from whisper_min.data.tokens import Tokens
from whisper_min.model.forward import encode
from whisper_min.retain import fisher


def regression(classes: int = 4, features: int = 3, count: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """(weights (C, J), inputs (count, J), probabilities (count, C)) of a softmax regression."""
    torch.manual_seed(0)
    weights = torch.randn(classes, features, requires_grad=True)
    inputs = torch.randn(count, features)
    return weights, inputs, (inputs @ weights.T).softmax(-1).detach()


def closed_form(inputs: Tensor, p: Tensor) -> Tensor:
    """F_cj = E[p_c (1 − p_c) x_j²]"""
    return ((p * (1 - p))[:, :, None] * inputs[:, None, :] ** 2).mean(0)


def test_exact_expectation_is_the_closed_form() -> None:
    """Every label of every input, weighted by the root of its probability: squares then average by probability."""
    weights, inputs, p = regression()

    def every_label():
        for x, its in zip(inputs, p, strict=True):
            for label in range(p.shape[1]):
                yield its[label].sqrt() * (weights @ x).log_softmax(-1)[label]

    found = fisher.sum_squares({"w": weights}, every_label())["w"]
    torch.testing.assert_close(found / len(inputs), closed_form(inputs, p), rtol=1e-5, atol=1e-6)


def test_sampled_labels_converge_to_it_and_batching_would_shrink_it() -> None:
    weights, inputs, p = regression()
    generator = torch.Generator().manual_seed(1)

    def drawn(batch: int):
        """Means over so many labels at a time."""
        for start in range(0, 6000, batch):
            rows = torch.arange(start, start + batch) % len(inputs)
            labels = torch.multinomial(p[rows], 1, generator=generator)
            yield (inputs[rows] @ weights.T).log_softmax(-1).gather(1, labels).mean()

    one, batched = (fisher.sum_squares({"w": weights}, drawn(batch))["w"] * batch / 6000 for batch in (1, 20))
    torch.testing.assert_close(one, closed_form(inputs, p), rtol=0.15, atol=0.01)
    assert float(batched.sum()) < 0.2 * float(one.sum())


def test_wrong_labels_give_another_one() -> None:
    """The empirical Fisher is another quantity: it takes labels that the model need not believe."""
    weights, inputs, p = regression()
    unlikely = p.argmin(-1)
    found = fisher.sum_squares(
        {"w": weights}, ((weights @ x).log_softmax(-1)[y] for x, y in zip(inputs, unlikely, strict=True))
    )["w"]
    assert float(found.sum()) / len(inputs) > 1.5 * float(closed_form(inputs, p).sum())


def test_empty_and_zero_are_refused() -> None:
    weight = torch.ones(3, requires_grad=True)
    for log_likelihoods in ([], [(0 * weight).sum()]):
        with pytest.raises(ValueError, match="zero everywhere"):
            fisher.rescale(fisher.sum_squares({"w": weight}, log_likelihoods))


def test_rescaled_to_mean_one_over_all_weights() -> None:
    scaled = fisher.rescale({"a": torch.full((10,), 4.0), "b": torch.zeros(30)})
    assert float(torch.cat([each.flatten() for each in scaled.values()]).mean()) == pytest.approx(1)
    assert float(scaled["a"][0]) == pytest.approx(4)


@pytest.mark.slow
def test_sampling_draws_from_the_models_own_predictions() -> None:
    """The first token's frequencies are its probabilities; a generator's state gives the same text."""
    model = lively_whisper()
    tokens = Tokens(model.dims)
    with torch.no_grad():
        features = encode(model, torch.zeros(1, model.dims.n_mels, 500))
        p = model.decoder(torch.tensor([tokens.prefix]), features)[0, -1].softmax(-1)
    generator = torch.Generator().manual_seed(0)
    texts = [fisher.sample(model, features, tokens, generator) for _ in range(60)]
    assert all(text[: len(tokens.prefix)] == tokens.prefix for text in texts)
    assert all(len(text) <= len(tokens.prefix) + tokens.text_context // 2 for text in texts)
    assert all(tokens.end not in text[:-1] for text in texts)
    likely = int(p.argmax())
    share = np.mean([text[len(tokens.prefix)] == likely for text in texts])
    assert abs(share - float(p[likely])) < 4 * float((p[likely] * (1 - p[likely]) / 60).sqrt()) + 0.02
    again = fisher.sample(model, features, tokens, torch.Generator().manual_seed(0))
    assert again == texts[0]


def spoken_window(folder: Path, index: int) -> Window:
    """A recording of a second."""
    path = folder / f"{index}.wav"
    soundfile.write(path, babble(1.0, seed=index), 16_000)
    example = Example(str(index), path, "One two.", str(path))
    return Window((example,), ("One two.",), 5 * 16_000, "replay")


@pytest.mark.parametrize("sampled", [True, False])
def test_every_weight_that_speaks_matters(tmp_path: Path, sampled: bool) -> None:
    """Through the real forward: encoder and decoder have information, utterance by utterance."""
    model = lively_whisper()
    tokens = Tokens(model.dims)
    windows = [spoken_window(tmp_path, index) for index in range(2)]
    parameters = {name: parameter for name, parameter in model.named_parameters()}

    def run(seed: int) -> dict[str, Tensor]:
        return fisher.sum_squares(
            parameters, fisher.log_likelihoods(model, windows, tokens, sampled, False, seed, nullcontext)
        )

    found = run(0)
    assert all(bool((each >= 0).all()) and bool(each.isfinite().all()) for each in found.values())
    matters = {name for name, each in found.items() if bool(each.any())}
    assert {"encoder.conv1.weight", "encoder.blocks.0.attn.query.weight", "decoder.token_embedding.weight"} <= matters
    again = run(0)
    assert all(torch.equal(each, again[name]) for name, each in found.items()), "the seed does not fix it"


def test_a_sampled_text_does_not_depend_on_the_utterances_before_it(tmp_path: Path) -> None:
    """So that ranks that share them sample what one rank does."""
    model = lively_whisper()
    windows = [spoken_window(tmp_path, index) for index in range(3)]

    def likelihoods(of: list[Window], seed: int) -> list[float]:
        found = fisher.log_likelihoods(model, of, Tokens(model.dims), True, False, seed, nullcontext)
        return [float(each.detach()) for each in found]

    together = likelihoods(windows, 0)
    assert together == [likelihoods([window], 0)[0] for window in windows]
    assert all(one != other for one, other in zip(together, likelihoods(windows, 1), strict=True))


def test_kept_under_the_fingerprint_of_the_weights(tmp_path: Path) -> None:
    parameters = {"w": torch.ones(2, 3)}
    path = tmp_path / "fisher" / "key.safetensors"
    fisher.save(path, {"w": torch.full((2, 3), 2.0)}, "abc")
    found = fisher.load(path, "abc", parameters)
    assert torch.equal(found["w"], torch.full((2, 3), 2.0))
    with pytest.raises(InputError, match="of other weights"):
        fisher.load(path, "abd", parameters)
    with pytest.raises(InputError, match="of other parameters"):
        fisher.load(path, "abc", {"w": torch.ones(3, 3)})
    fisher.save(path, {"w": torch.zeros(2, 3)}, "abc")
    with pytest.raises(InputError, match="zero"):
        fisher.load(path, "abc", parameters)


def test_the_key_knows_weights_audio_and_method() -> None:
    window = Window((Example("a", Path("a.wav"), "A.", "a"),), ("A.",), 80_000, "replay")
    base = fisher.cache_key("f", ["w"], [window], ["d"], "sampled")
    others = [
        fisher.cache_key("g", ["w"], [window], ["d"], "sampled"),
        fisher.cache_key("f", ["v"], [window], ["d"], "sampled"),
        fisher.cache_key("f", ["w"], [window], ["e"], "sampled"),
        fisher.cache_key("f", ["w"], [window], ["d"], "labels"),
    ]
    assert len({base, *others}) == 5
    assert base == fisher.cache_key("f", ["w"], [window], ["d"], "sampled")


def test_random_models_are_not_flat() -> None:
    """The refusal of a zero Fisher is for real: a model whose logits are all equal has one."""
    model = random_whisper()
    with torch.no_grad():
        model.decoder.token_embedding.weight.zero_()
    tokens = Tokens(model.dims)
    features = encode(model, torch.zeros(1, model.dims.n_mels, 500))
    logits = model.decoder(torch.tensor([tokens.prefix]), features)
    weight = model.encoder.conv1.weight
    with pytest.raises(ValueError, match="zero everywhere"):
        fisher.rescale(fisher.sum_squares({"conv": weight}, [logits[0, -1].log_softmax(-1)[0]]))
