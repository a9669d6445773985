"""What a run holds on to, built before anything trains: the original for the KL term, anchors, replay."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from whisper import Whisper

from whisper_min.config import Config, InputError
from whisper_min.data.batches import Replay, Window
from whisper_min.data.checked import Report
from whisper_min.model.lora import adapters_off
from whisper_min.retain import fisher
from whisper_min.retain.anchor import Anchor, anchored_parameters
from whisper_min.training.ranks import ALONE, Ranks
from whisper_min.training.reporter import Reporter
from whisper_min.training.setup import Prepared


def replays(report: Report, cfg: Config) -> list[Replay]:
    """The `--replay` sets as streams of clips, each with its share."""
    sets = report.role("replay")
    domain_share = 1 - sum(each.speech.share for each in sets)
    return [
        Replay(
            *(each.speech.examples, each.labels, each.seconds, each.speech.share, domain_share),
            *(cfg.audio_context, cfg.clips_per_batch, f"{cfg.seed} {each.speech.name}"),
        )
        for each in sets
    ]


def anchors(
    model: Whisper,
    fingerprint: str,
    prepared: Prepared,
    autocast: Callable[[], AbstractContextManager[object]],
    reporter: Reporter,
    ranks: Ranks = ALONE,
) -> list[Anchor]:
    """EWC and L2-SP, as the options ask for them, held at the weights that the model has now.

    Of several ranks the main one alone has them: it adds their gradients, before all are summed.
    """
    cfg = prepared.cfg
    weights: list[tuple[float, dict[str, torch.Tensor] | None]] = [(cfg.l2sp, None)] if cfg.l2sp else []
    if cfg.ewc:
        weights.append((cfg.ewc, fisher_information(model, fingerprint, prepared, autocast, reporter, ranks)))
    return ranks.together(lambda: [Anchor(model, *each) for each in weights] if ranks.is_main else [])


def fisher_information(
    model: Whisper,
    fingerprint: str,
    prepared: Prepared,
    autocast: Callable[[], AbstractContextManager[object]],
    reporter: Reporter,
    ranks: Ranks = ALONE,
) -> dict[str, torch.Tensor]:
    """The Fisher information of the replay sets, of mean 1; from disk where it was estimated before.

    Each rank takes the squared gradients of its share of the utterances, and they are added up; what is on disk is read
    by the main rank, and empty on the others.
    """
    cfg, report, tokens = prepared.cfg, prepared.report, prepared.tokens
    known: list[tuple[Window, str]] = []
    for each, replay in zip(report.role("replay"), replays(report, cfg), strict=True):
        known += zip(replay.windows, [facts.digest for facts in each.facts], strict=True)
    known = random.Random(cfg.seed).sample(known, min(cfg.fisher_samples, len(known)))
    windows, digests = [window for window, _ in known], [digest for _, digest in known]
    parameters = anchored_parameters(model)
    kind = f"{cfg.fisher} {cfg.seed} {cfg.language} {cfg.task} {cfg.normalize}"
    path = cfg.data_dir / "fisher" / f"{fisher.cache_key(fingerprint, parameters, windows, digests, kind)}.safetensors"
    device = next(model.parameters()).device
    if ranks.on_main(path.is_file):
        found = ranks.together(lambda: fisher.load(path, fingerprint, parameters) if ranks.is_main else {})
        reporter.print(f"Fisher information of {len(windows)} utterances: {path}")
        return {name: each.to(device) for name, each in found.items()}

    mine = ranks.mine(windows)

    def squares() -> dict[str, torch.Tensor]:
        with adapters_off(model), reporter.bar("Fisher information", len(mine)) as bar:
            likelihoods = fisher.log_likelihoods(
                model, mine, tokens, cfg.fisher == "sampled", cfg.normalize, cfg.seed, autocast
            )

            def shown() -> Iterator[torch.Tensor]:
                for done, likelihood in enumerate(likelihoods, start=1):
                    yield likelihood
                    reporter.advance(bar, done)

            return fisher.sum_squares(parameters, shown())

    trains = {name: parameter.requires_grad for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        summed = ranks.together(squares)
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(trains[name])
    ranks.sum_(list(summed.values()))
    try:
        estimated = fisher.rescale(summed)
    except ValueError as error:
        raise InputError(f"--ewc: {error}; give other --replay sets") from None
    ranks.on_main(fisher.save, path, estimated, fingerprint)
    reporter.print(f"Fisher information of {len(windows)} utterances: estimated, and kept at {path}")
    return estimated
