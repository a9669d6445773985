"""What metrics are called, in which order they are shown and how their values are written."""

from __future__ import annotations

from collections.abc import Iterable

from whisper_min.ui.axes import Kind

# Shares that are read as per cent.
_PERCENT = ("wer", "cer", "raw_wer", "wer_without_loops", "drift", "data_wait", "mfu")
# What an evaluation says about its set, the same at every step: shown where somebody asks for it by name.
_CONSTANT = ("utterances", "words", "audio_seconds")
# After the word error rates; then the rest of train/, perf/, gpu/, eval/, in this order.
_AFTER_WER = (
    "eval/pooled_general/relative_loss",
    "eval/non_speech/words_per_minute",
    "train/lr",
    "train/grad_norm",
    "train/kl",
    "train/ewc",
)
# Curves without noise: an average would only lag behind them.
_SMOOTH = ("train/lr", "train/tokens", "train/audio_seconds", "train/epoch", "data/bad")
_FAMILIES = ("train", "perf", "gpu", "eval")


def kind_of(key: str) -> Kind:
    """How a metric's values are written."""
    last = key.rpartition("/")[2]
    if "relative_loss" in last:
        return "signed"
    return "percent" if last in _PERCENT else "number"


def is_evaluation(key: str) -> bool:
    """Whether the values are measured over whole sets, now and then."""
    return key.startswith("eval/")


def is_noisy(key: str) -> bool:
    """Whether an average shows more: not of evaluations, each of which counts, nor of what has no noise."""
    return not is_evaluation(key) and key not in _SMOOTH


def in_order(keys: Iterable[str], general_sets: Iterable[str] = (), wanted: str = "") -> list[str]:
    """The metrics that hold every word of `wanted` in their names, the most telling first."""
    general, words = set(general_sets), wanted.lower().split()
    found = [key for key in keys if all(word in key.lower() for word in words)]
    if not words:
        found = [key for key in found if not (is_evaluation(key) and key.rpartition("/")[2] in _CONSTANT)]
    return sorted(found, key=lambda key: (*_rank(key, general), key))


def _rank(key: str, general: set[str]) -> tuple[int, int]:
    family, _, rest = key.partition("/")
    name, _, what = rest.rpartition("/")
    if key == "train/loss":
        return 0, 0
    if family == "eval" and what in ("wer", "drift"):
        return 1, int(name in general)
    if key in _AFTER_WER:
        return 2, _AFTER_WER.index(key)
    if family == "eval" and what == "loss":
        return 3, int(name in general)
    return 4, _FAMILIES.index(family) if family in _FAMILIES else len(_FAMILIES)
