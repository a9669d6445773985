"""A frozen encoder runs once a clip and gives what it gave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from whisper import Whisper

from whisper_min.config import Config
from whisper_min.data.batches import Batch, Window
from whisper_min.data.examples import Example
from whisper_min.data.tokens import Tokens
from whisper_min.model.forward import encode
from whisper_min.training.frozen import FrozenEncoder

FRAMES = 200


class Clips:
    """Batches of numbered clips, and a count of the clips that went through the first convolution."""

    def __init__(self, model: Whisper) -> None:
        self.model, self.tokens = model, Tokens(model.dims)
        self.encoded = 0
        model.encoder.conv1.register_forward_hook(self._count)

    def _count(self, module: torch.nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self.encoded += len(output)

    def batch(self, *windows: int | tuple[int, ...]) -> tuple[Batch, Tensor]:
        """A batch of windows, each of one clip or several joined, and its log-mel (B, M, F)."""
        made, mels = [], []
        for window in windows:
            members = window if isinstance(window, tuple) else (window,)
            examples = [Example(str(each), Path(f"{each}.wav"), "text", f"set, line {each}") for each in members]
            made.append(Window(tuple(examples), ("text",) * len(members), FRAMES * 160))
            generator = torch.Generator().manual_seed(hash(members) % 1000)
            mels.append(torch.rand(80, FRAMES, generator=generator))
        mel = torch.stack(mels)
        labels = self.tokens.teacher_forcing(["text"] * len(made))
        return Batch(tuple(made), torch.empty(len(made), 0), labels, 2.0, [], 80, ()), mel


@pytest.fixture
def clips(tiny_whisper: Whisper) -> Clips:
    """Clips for the random Whisper."""
    return Clips(tiny_whisper)


def plain(model: Whisper, mel: Tensor) -> Tensor:
    """What encoding without a memory gives."""
    with torch.no_grad():
        return encode(model, mel)


def test_features_are_those_of_plain_encoding_each_time(clips: Clips) -> None:
    """First, and from memory; without gradients, as training under a frozen encoder needs none."""
    frozen = FrozenEncoder(clips.model, Config())
    batch, mel = clips.batch(1, 2, 3)
    expected = plain(clips.model, mel)
    for _ in range(2):
        features = frozen(batch, mel)
        assert torch.equal(features, expected)
        assert not features.requires_grad


def test_each_clip_is_encoded_once_in_whatever_batch_it_returns(clips: Clips) -> None:
    """Epochs shuffle clips into other batches and orders."""
    frozen = FrozenEncoder(clips.model, Config())
    for windows in ((1, 2), (3, 4)):
        frozen(*clips.batch(*windows))
    assert clips.encoded == 4
    batch, mel = clips.batch(4, 1, 3)
    features = frozen(batch, mel)
    assert clips.encoded == 4
    torch.testing.assert_close(features, plain(clips.model, mel), atol=1e-5, rtol=1e-5)


def test_a_clip_never_seen_is_encoded(clips: Clips) -> None:
    """A batch with one unknown clip is not answered from memory."""
    frozen = FrozenEncoder(clips.model, Config())
    frozen(*clips.batch(1))
    batch, mel = clips.batch(1, 2)
    torch.testing.assert_close(frozen(batch, mel), plain(clips.model, mel), atol=1e-5, rtol=1e-5)
    count = clips.encoded
    frozen(*clips.batch(2))
    assert clips.encoded == count


def test_joined_clips_are_known_by_all_of_them(clips: Clips) -> None:
    """Under `pack` a window is its clips in their order: 1+2 is neither 2+1 nor 1."""
    frozen = FrozenEncoder(clips.model, Config())
    for window in ((1, 2), (2, 1), (1,)):
        batch, mel = clips.batch(window)
        assert torch.equal(frozen(batch, mel), plain(clips.model, mel))
    assert len(frozen.kept) == 3


def test_what_is_augmented_is_encoded_every_time(clips: Clips) -> None:
    """Its features differ at every visit; the replay's augmentation leaves the domain's clips remembered."""
    for cfg, remembered in ((Config(augment=("gain",)), 0), (Config(replay_augment=("gain",)), 2)):
        frozen = FrozenEncoder(clips.model, cfg)
        frozen(*clips.batch(1, 2))
        assert len(frozen.kept) == remembered


def test_augmented_replay_is_not_answered_with_the_domain_s_features(clips: Clips) -> None:
    """The same clips in both sets: the one's are remembered, the other's are another sound."""
    frozen = FrozenEncoder(clips.model, Config(replay_augment=("gain",)))
    batch, mel = clips.batch(1, 2)
    frozen(batch, mel)
    replay = replace(batch, windows=tuple(replace(window, role="replay") for window in batch.windows))
    assert torch.equal(frozen(replay, mel + 1), plain(clips.model, mel + 1))


def test_memory_is_bounded(clips: Clips) -> None:
    """Beyond its budget clips are encoded again, rightly, and nothing more is kept."""
    frozen = FrozenEncoder(clips.model, Config())
    one = plain(clips.model, clips.batch(1)[1])[0].nbytes
    frozen.budget = 2 * one + 1
    frozen(*clips.batch(1, 2, 3))
    assert len(frozen.kept) == 2
    assert frozen.bytes == 2 * one <= frozen.budget
    count = clips.encoded
    batch, mel = clips.batch(3, 1)
    features = frozen(batch, mel)
    assert clips.encoded == count + 2
    torch.testing.assert_close(features, plain(clips.model, mel), atol=1e-5, rtol=1e-5)
    assert frozen.bytes == 2 * one


def test_what_is_kept_holds_no_more_than_a_row(clips: Clips) -> None:
    """A row that still pointed into its batch would keep the whole batch alive."""
    frozen = FrozenEncoder(clips.model, Config())
    frozen(*clips.batch(1, 2, 3))
    for row in frozen.kept.values():
        assert row.untyped_storage().nbytes() == row.nbytes
