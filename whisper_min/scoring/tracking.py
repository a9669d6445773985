"""Evaluations along a run: every set, the original beside the model, logged and kept utterance by utterance."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from whisper import Whisper

from whisper_min import runs
from whisper_min.config import Config
from whisper_min.data.checked import CheckedSet, Report
from whisper_min.data.examples import Example
from whisper_min.data.tokens import Tokens, written_language
from whisper_min.runs import RunFolder
from whisper_min.scoring import budget, significance, wer
from whisper_min.scoring.budget import Budget, Candidate
from whisper_min.scoring.decode import Hypothesis
from whisper_min.scoring.evaluation import Scorer, SetResult
from whisper_min.scoring.originals import KeptResults
from whisper_min.scoring.report import empty_table, with_interval
from whisper_min.training.ranks import ALONE, Ranks
from whisper_min.training.reporter import Reporter
from whisper_min.training.steering import Steering

NON_SPEECH_KEY = "eval/non_speech/words_per_minute"
# General sets with text, their errors added up.
POOLED_KEY = "eval/pooled_general"


class Evaluation:
    """Evaluates a model on the domain's and the general sets and remembers what the original did there.

    Several ranks call it alike and share the decoding of the sets; the rest is small, or the main rank's.
    """

    def __init__(
        self,
        cfg: Config,
        tokens: Tokens,
        report: Report,
        run: RunFolder,
        steering: Steering,
        reporter: Reporter,
        autocast: Callable[[], AbstractContextManager[object]],
        kept: KeptResults,
        ranks: Ranks = ALONE,
    ) -> None:
        language = written_language(cfg.language, cfg.task)
        self.normalizer = wer.normalizer(language)[0]
        self.domain, self.general = report.role("eval_data"), report.role("retain")
        self.run, self.steering, self.reporter, self.ranks = run, steering, reporter, ranks
        self.scorer = Scorer(tokens, language, cfg.eval_batch_size, cfg.normalize, autocast=autocast, ranks=ranks)
        self.kept, self.budget = kept, Budget.of(cfg)
        self.domain_names = [each.speech.name for each in self.domain]
        self.general_names = [each.speech.name for each in self.general]
        self.original = self.read_results(step=0)
        self.latest: dict[str, dict[str, Any]] = {}
        """Set name -> its newest summary, with `original_wer` beside `wer`."""
        self.latest_step = 0
        self.results: dict[str, SetResult] = {}
        self.over_budget = False
        """Whether the newest results forget more than the budget allows; without one none do."""

    def read_results(self, step: int) -> dict[str, SetResult]:
        """Results of a step from samples.jsonl; so a resumed run does not decode the original again."""
        rows = {
            (row.get("set"), row.get("id")): row
            for row in runs.read_jsonl(self.run.path / "samples.jsonl")
            if row.get("_step") == step
        }
        found = {}
        for checked in [*self.domain, *self.general]:
            name = checked.speech.name
            mine = [rows.get((name, example.id)) for example in checked.speech.examples]
            known = [row for row in mine if row is not None]
            if len(known) == len(mine):
                written = [Hypothesis([], row["hypothesis"], "no_end" not in row["flags"]) for row in known]
                originals = [row["original"] for row in known]
                found[name] = self.scorer.score(checked, written, None, 0.0, original=originals)
        return found

    def __call__(self, model: Whisper, step: int) -> float:
        """Evaluate everything; returns the mean word error rate of the domain's sets. Raises Stop when asked to."""
        state = self.run.status["state"]
        self.run.beat(state="evaluating", step=step)
        metrics: dict[str, Any] = {}
        with self._ticking("evaluating"):
            for checked in [*self.domain, *self.general]:
                result = self._evaluate_set(model, checked, step)
                metrics |= {f"eval/{checked.speech.name}/{key}": value for key, value in result.summary().items()}
            words = self.ranks.on_main(lambda: self.scorer.words_on_non_speech(model))
        metrics[NON_SPEECH_KEY] = words["all"]
        # a run resumed without its samples.jsonl does not know the original's results any more
        faults = ["the original's results are lost"] if self.budget.is_set else []
        if self.original.keys() >= self.results.keys():
            measured = self.measure(f"step {step}", self.results)
            faults = self.budget.faults(measured)
            if measured.pooled is not None:
                metrics[f"{POOLED_KEY}/relative_loss"] = measured.pooled.relative
                metrics[f"{POOLED_KEY}/relative_loss_upper_95"] = measured.pooled.upper_95
        self.latest_step = step
        self.run.log_metrics(step, metrics)
        self.run.beat(state=state)
        shown = ", ".join(f"{name} {percent(its)}" for name, its in self.latest.items())
        over = f"; over the budget: {'; '.join(faults)}" if faults else ""
        self.reporter.print(f"step {step}: {shown}, non-speech {words['all']:.1f} words/min{over}")
        domain = sum(self.results[name].words.rate for name in self.domain_names) / len(self.domain_names)
        # decided once: another host may not see what this run wrote before it was resumed
        self.over_budget, domain = self.ranks.on_main(lambda: (bool(faults), domain))
        return domain

    def score(self, model: Whisper, name: str) -> dict[str, SetResult]:
        """Results of a model that is no step of the run, such as an interpolated one; nothing is logged or shared."""
        with self._ticking(name):
            self.scorer = replace(self.scorer, ranks=ALONE)
            found = {}
            for checked in [*self.domain, *self.general]:
                written = [each.hypothesis for each in self.original[checked.speech.name].utterances]
                found[checked.speech.name] = self.scorer.evaluate(model, checked, original=written)
        return found

    def measure(self, name: str, results: Mapping[str, SetResult]) -> Candidate:
        """What a model gained and lost against the original."""
        confidence = self.budget.confidence
        return budget.measure(name, self.original, results, self.domain_names, self.general_names, confidence)

    @contextmanager
    def _ticking(self, description: str) -> Iterator[None]:
        """A progress line that every batch moves; commands are read between batches, and a stop raises Stop."""
        done = 0
        clips_of_all = sum(len(each.speech.examples) for each in [*self.domain, *self.general])
        with self.reporter.bar(description, clips_of_all) as bar:

            def tick(clips: int) -> None:
                nonlocal done
                done = min(done + clips * self.scorer.ranks.world_size, clips_of_all)  # the others are as far
                self.reporter.advance(bar, done)
                self.steering.inside_evaluation()

            self.scorer = replace(self.scorer, tick=tick, ranks=self.ranks)
            yield

    def _evaluate_set(self, model: Whisper, checked: CheckedSet, step: int) -> SetResult:
        name = checked.speech.name
        decode_set = self._decode_original if step == 0 else self.scorer.decode_set
        hypotheses, loss, seconds = decode_set(model, checked)
        before = self.original.get(name)
        written = [utterance.hypothesis for utterance in before.utterances] if before else None
        result = self.scorer.score(checked, hypotheses, loss, seconds, original=written)
        if step == 0:
            self.original[name] = result
        self.results[name] = result
        original = self.original.get(name)
        summary = result.summary()
        if original is not None and not result.is_drift:
            summary["original_wer"] = original.words.rate
        self.latest[name] = summary
        if not self.ranks.is_main:
            return result
        rows = []
        for index, utterance in enumerate(result.utterances):
            first = original.utterances[index] if original is not None else None
            rows.append(
                {
                    "_step": step,
                    "set": name,
                    "id": utterance.example.id,
                    "audio_filepath": str(self._recording(name, utterance.example).resolve()),
                    "offset": utterance.example.offset,
                    "duration": round(utterance.seconds, 3),
                    "reference": utterance.reference,
                    "hypothesis": utterance.hypothesis,
                    "original": first.hypothesis if first else None,
                    "reference_normalized": utterance.reference_normalized,
                    "hypothesis_normalized": utterance.hypothesis_normalized,
                    "original_normalized": first.hypothesis_normalized if first else None,
                    "wer": utterance.words.rate,
                    "original_wer": first.words.rate if first else None,
                    "substitutions": utterance.words.substitutions,
                    "deletions": utterance.words.deletions,
                    "insertions": utterance.words.insertions,
                    "flags": utterance.flags,
                }
            )
        self.run.append("samples.jsonl", rows)
        return result

    def _recording(self, name: str, example: Example) -> Path:
        """Where a reader finds an utterance's audio: its file, or for an entry of a tar a copy in the run folder."""
        if example.member is None:
            return example.audio_filepath
        label = re.sub(r"[^\w.-]+", "-", f"{name}-{example.id}")[:80]
        digest = hashlib.blake2b(example.where.encode(), digest_size=4).hexdigest()  # ids may look alike as names
        copy = self.run.path / "audio" / f"{label}-{digest}{Path(example.member.name).suffix}"
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            beside = copy.with_name(f".{copy.name}.{os.getpid()}")
            example.copy_audio(beside)
            os.replace(beside, copy)
        return copy

    def _decode_original(self, model: Whisper, checked: CheckedSet) -> tuple[list[Hypothesis], float | None, float]:
        """As `Scorer.decode_set`, but what an earlier run has decoded is taken from there, and said."""
        if known := self.ranks.on_main(lambda: self.kept.read(checked)):
            self.reporter.print(f"{checked.speech.name}: the original's results are known ({self.kept.path(checked)})")
            return known
        decoded = self.scorer.decode_set(model, checked)
        try:
            if self.ranks.is_main:
                self.kept.write(checked, *decoded)
        except OSError as error:
            self.reporter.print(f"{checked.speech.name}: the original's results could not be kept ({error})")
        return decoded

    def one_line(self) -> str:
        """The newest rates, for the progress line."""
        return "  ".join(f"{name} {percent(its)}" for name, its in self.latest.items())

    def summarise(self, out: Console, best: dict[str, Any] | None, cfg: Config) -> None:
        """Print the best checkpoint beside the original, and what to type next."""
        step = best["step"] if best else 0
        out.print(self.table(step, self.read_results(step)))
        domain = [self.original[each.speech.name].words.rate for each in self.domain]
        if best is None or best["wer"] >= sum(domain) / len(domain):
            out.print("No checkpoint is better than the original on the domain.")
        for line in (
            "\nNext:",
            f"  python evaluate.py {self.run.path} {cfg.model} --data NAME=SET …",
            f"  python -m whisper_min.export {self.run.path} --to openai {self.run.path.name}.pt",
            f"  whisper clip.wav --model {self.run.path.name}.pt --language {cfg.language}",
        ):
            out.print(line, markup=False, highlight=False, soft_wrap=True)

    def table(self, step: int, results: dict[str, SetResult]) -> Table:
        """Original and fine-tuned, domain and general, with paired 95 % intervals of the difference."""
        title = f"WER in % of the best checkpoint, step {step} ({self.normalizer})"
        made = empty_table(title, ["set", ""], ["clips", "original", "tuned", "change (95 %)", "loops"], name_width=6)
        for kind, sets in [("domain", self.domain), ("general", self.general)]:
            for name in (checked.speech.name for checked in sets):
                original, result = self.original[name], results[name]
                loops = str(sum(utterance.loop for utterance in result.utterances))
                clips, rate = str(len(result.utterances)), f"{100 * result.words.rate:.1f}"
                if result.is_drift:
                    made.add_row(escape(name), f"{kind}, drift", clips, "0.0", rate, "", loops)
                    continue
                before, after = significance.resample([original.units([result])])
                compared = significance.compare(before, after, original.words.rate, result.words.rate)
                change = with_interval(compared.delta_wer, compared.delta_ci, "+")
                made.add_row(escape(name), kind, clips, f"{100 * original.words.rate:.1f}", rate, change, loops)
        return made


def percent(summary: dict[str, Any]) -> str:
    """A set's rate as people read it; `drift` where it has no transcripts."""
    rate = summary.get("wer", summary.get("drift"))
    text = "?" if rate is None or math.isnan(rate) else f"{100 * rate:.1f} %"
    return text if "wer" in summary else f"drift {text}"
