"""The forgetting budget against closed forms: what is no loss, what is, what cannot be told, and what is chosen."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from whisper_min.data.examples import Example
from whisper_min.scoring import budget, report, significance, wer
from whisper_min.scoring.budget import Budget, Candidate, Loss, choose, measure, relative_loss
from whisper_min.scoring.evaluation import SetResult, Utterance

QUICK = settings(deadline=None, max_examples=15)


def result(name: str, errors: Sequence[int], words: int = 10, is_drift: bool = False) -> SetResult:
    """A set whose utterances have so many errors each."""
    utterances = []
    for index, count in enumerate(errors):
        example = Example(str(index), Path("x.wav"), "text", "here")
        counts = wer.Errors(insertions=int(count), units=words)
        utterances.append(Utterance(example, 1.0, "", "", "", "", counts, counts, counts, False, True))
    return SetResult(name, utterances, 1.0, None, is_drift)


def candidate(name: str, gain: float, loss: float | None, upper: float | None = None, **more: object) -> Candidate:
    """A candidate with these numbers; its bound is its loss, where none is given."""
    pooled = None
    if loss is not None:
        bound = loss if upper is None else upper
        pooled = Loss(loss, bound, bound, smallest_shown=0.01, p_value=0.5)
    return replace(Candidate(name, 0.5 - gain, gain, gain / 0.5, pooled, {}, {}), **more)


COUNTS = st.lists(st.integers(0, 9), min_size=3, max_size=12)
LOSSES = st.floats(-0.5, 0.5)
CANDIDATES = st.lists(
    st.builds(
        lambda gain, loss, more: candidate("x", gain, loss, upper=loss + more),
        st.floats(-0.4, 0.4),
        LOSSES,
        st.floats(0, 0.2),
    ),
    max_size=6,
)


# ---- What was lost.


@QUICK
@given(COUNTS, COUNTS)
def test_the_same_transcripts_are_no_loss(domain: list[int], general: list[int]) -> None:
    """Loss and bound are 0, nothing is significant, and the strictest budget is kept."""
    results = {"domain": result("domain", domain), "general": result("general", general)}
    results["silent"] = result("silent", [0] * 3, is_drift=True)
    its = measure("same", results, results, ["domain"], ["general", "silent"], 0.99)
    assert its.pooled is not None
    assert (its.pooled.relative, its.pooled.upper, its.pooled.upper_95, its.pooled.p_value) == (0, 0, 0, 1)
    assert (its.gain, its.mean_loss, its.worst_loss, its.drift) == (0, 0, 0, {"silent": 0})
    assert Budget(0.0, 0.0, 0.99).faults(its) == []


def test_pooled_is_one_count_of_errors() -> None:
    """Two sets of other sizes: (ΣE - ΣE⁰) / ΣE⁰, beside the mean and the worst of their own."""
    before = {"d": result("d", [5, 5]), "one": result("one", [2] * 10), "other": result("other", [10] * 8)}
    after = {"d": result("d", [4, 2]), "one": result("one", [3] * 10), "other": result("other", [9] * 8)}
    its = measure("x", before, after, ["d"], ["one", "other"])
    assert its.pooled is not None
    assert its.pooled.relative == (30 + 72 - 20 - 80) / (20 + 80)
    assert {name: loss.relative for name, loss in its.sets.items()} == {"one": 0.5, "other": -0.1}
    assert (its.mean_loss, its.worst_loss) == (0.2, 0.5)
    assert its.domain_wer == pytest.approx(0.3)
    assert its.gain == pytest.approx(0.2)
    assert its.relative_gain == pytest.approx(0.4)
    assert its.drift == {}


def test_the_domain_is_the_mean_of_its_sets() -> None:
    """Each counts alike, whatever its size."""
    before = {"small": result("small", [10]), "large": result("large", [0] * 99)}
    after = {"small": result("small", [0]), "large": result("large", [1] * 99)}
    its = measure("x", before, after, ["small", "large"], [])
    assert its.gain == pytest.approx((1.0 - 0.1) / 2)
    assert its.pooled is None
    assert math.isnan(its.mean_loss)
    assert math.isnan(its.worst_loss)


def test_a_loss_in_every_utterance_alike_has_no_doubt() -> None:
    """A tenth more errors everywhere: the bound is the loss, at any confidence."""
    loss = relative_loss([(result("g", [10] * 20, 30), result("g", [11] * 20, 30))], 0.999)
    assert loss.relative == 0.1
    assert loss.upper == pytest.approx(0.1)
    assert loss.upper_95 == pytest.approx(0.1)
    assert loss.p_value == pytest.approx(1 / (significance.RESAMPLES + 1))


def test_the_bound_is_that_of_a_mean() -> None:
    """Every utterance's own rate constant: the relative change has the standard error σ/√n, and its bound z of them."""
    generator = np.random.default_rng(0)
    changes = generator.integers(-3, 4, 400)
    pair = result("g", [10] * 400, 20), result("g", (10 + changes).tolist(), 20)
    error = changes.std() / 10 / math.sqrt(400)
    for confidence, quantile in [(0.95, 1.645), (0.99, 2.326)]:
        loss = relative_loss([pair], confidence)
        assert loss.smallest_shown == pytest.approx(quantile * error, rel=0.03)
        assert loss.upper == pytest.approx(loss.relative + quantile * error, abs=0.1 * error)
        assert loss.upper_95 == pytest.approx(loss.relative + 1.645 * error, abs=0.1 * error)


def test_the_smallest_loss_shown_is_one_whose_bound_excludes_nothing_lost() -> None:
    """Move every utterance by that much, and the lower bound of the loss lies at 0: p is 1 - confidence."""
    generator = np.random.default_rng(1)
    noise = generator.permutation(np.repeat([-20, 20], 200))  # no change in the mean
    first = result("g", [100] * 400, 500)
    shown = relative_loss([(first, result("g", (100 + noise).tolist(), 500))]).smallest_shown
    moved = relative_loss([(first, result("g", (100 + noise + round(100 * shown)).tolist(), 500))])
    assert shown == pytest.approx(1.645 * 0.2 / 20, rel=0.03)
    assert 0.01 < moved.p_value < 0.08  # 0.05, but for the step of one error


def test_sets_count_in_whole_errors() -> None:
    """Where not one transcript differs the bootstrap sees no spread, but less than one error cannot be shown."""
    same = result("g", [2] * 10)
    assert relative_loss([(same, same)]).smallest_shown == 1 / 20


def test_an_original_without_errors() -> None:
    """Nothing lost is no loss; anything lost has no bound."""
    perfect = result("g", [0] * 5)
    none = relative_loss([(perfect, perfect)])
    assert (none.relative, none.upper) == (0, 0)
    some = relative_loss([(perfect, result("g", [1, 0, 0, 0, 0]))])
    assert (some.relative, some.upper, some.smallest_shown) == (math.inf, math.inf, math.inf)
    rare = relative_loss([(result("g", [1, 0, 0, 0, 0]), result("g", [1, 1, 0, 0, 0]))])
    assert (rare.relative, rare.upper) == (1, math.inf)


# ---- The budget.


def test_each_rule_by_itself() -> None:
    """Pooled loss, its bound under --confidence alone, a single set significantly worse, drift."""
    keeps = candidate("x", 0.1, 0.05, upper=0.08, drift={"silent": 0.1})
    assert Budget(0.05).faults(keeps) == []
    assert Budget(0.04).faults(keeps) == ["general loss +5.0 %, above 4.0 %"]
    assert Budget(0.05, confidence=0.9).faults(keeps) == ["the 90 % bound of its general loss +8.0 %, above 5.0 %"]
    assert Budget(0.08, confidence=0.9).faults(keeps) == []
    assert Budget(max_drift=0.1).faults(keeps) == []
    assert Budget(max_drift=0.09).faults(keeps) == ["silent drifted 10.0 %, above 9.0 %"]
    sure, chance = (Loss(0.03, 0.04, 0.04, 0.01, p_value) for p_value in (0.049, 0.051))
    better = Loss(-0.03, -0.01, -0.01, 0.01, 0.999)
    assert Budget(0.05).faults(replace(keeps, sets={"a": chance, "b": better})) == []
    worse = replace(keeps, sets={"a": sure, "b": better})
    assert Budget(0.05).faults(worse) == ["a significantly worse, +3.0 % with p = 0.049"]
    assert Budget(max_drift=0.2).faults(worse) == []  # without a limit on forgetting no set counts


def test_what_was_not_measured_is_not_kept() -> None:
    """A limit without a set for it."""
    assert Budget(0.05).faults(candidate("x", 0.1, None)) == ["no general set has text to measure forgetting on"]
    assert Budget(max_drift=0.1).faults(candidate("x", 0.1, 0.0)) == ["no general set without text to measure drift on"]
    assert Budget().faults(candidate("x", 0.1, None)) == []
    assert not Budget().is_set
    assert Budget(0.0).is_set
    assert Budget(max_drift=0.0).is_set


@QUICK
@given(CANDIDATES, LOSSES, LOSSES)
def test_a_larger_budget_never_chooses_a_smaller_gain(candidates: list[Candidate], one: float, other: float) -> None:
    """Nor does one without --confidence."""
    small, large = sorted([one, other])
    tight, loose = choose(candidates, Budget(small)), choose(candidates, Budget(large))
    sure = choose(candidates, Budget(large, confidence=0.95))
    for less, more in [(tight, loose), (sure, loose)]:
        if less.candidate is not None:
            assert more.candidate is not None
            assert more.candidate.gain >= less.candidate.gain


@QUICK
@given(CANDIDATES, LOSSES)
def test_what_is_chosen_keeps_the_budget_and_gains_most(candidates: list[Candidate], limit: float) -> None:
    """By the definition."""
    choice = choose(candidates, Budget(limit))
    keeping = [each for each in candidates if each.gain > 0 and each.pooled and each.pooled.relative <= limit]
    if keeping:
        assert choice.answer == "chosen"
        assert choice.candidate in keeping
        assert choice.candidate.gain == max(each.gain for each in keeping)
    else:
        assert (choice.answer, choice.candidate) == ("none passes", None)


def test_of_equal_gains_the_smaller_loss() -> None:
    """Whatever their order."""
    lossy, kind = candidate("lossy", 0.1, 0.04), candidate("kind", 0.1, 0.01)
    assert choose([lossy, kind], Budget(0.05)).candidate is kind
    assert choose([kind, lossy], Budget(0.05)).candidate is kind


def test_none_passes_says_why() -> None:
    """The nearest and its fault; or that nothing gains."""
    far, near = candidate("far", 0.2, 0.3), candidate("near", 0.1, 0.07)
    choice = choose([far, near], Budget(0.05))
    assert choice.answer == "none passes"
    assert choice.reason == "none passes; the nearest is near: general loss +7.0 %, above 5.0 %"
    still = choose([candidate("same", 0.0, 0.0)], Budget(0.05))
    assert still.reason == "none passes: none is better than the original on the domain"
    assert choose([], Budget(0.05)).answer == "none passes"


def test_sets_too_small_to_prove_it_are_an_answer() -> None:
    """The number passes, its bound does not, and no loss within the budget could have been shown."""
    wide = Loss(0.01, 0.12, 0.12, smallest_shown=0.08, p_value=0.4)
    vague = candidate("vague", 0.1, 0.0, sets={}, pooled=wide)
    sure = Budget(0.05, confidence=0.95)
    choice = choose([vague], sure)
    assert (choice.answer, choice.candidate) == ("too small", None)
    assert "too small to prove it" in choice.reason
    assert "8.0 %" in choice.reason
    assert choose([vague], Budget(0.05)).candidate is vague
    # a set large enough says no by itself
    sharp = candidate("sharp", 0.1, 0.0, pooled=replace(wide, relative=0.04, upper=0.06, smallest_shown=0.02))
    assert choose([sharp], sure).answer == "none passes"
    # and another point that passes is taken
    assert choose([vague, candidate("small", 0.02, 0.0)], sure).answer == "chosen"
    # a fault that more data would not mend
    drifted = replace(vague, drift={"silent": 0.5})
    assert choose([drifted], replace(sure, max_drift=0.1)).answer == "none passes"


def test_real_sets_too_small_to_prove_it() -> None:
    """Ten utterances, of which two change either way: nothing lost, and nothing proved."""
    before = {"d": result("d", [5] * 10), "g": result("g", [2] * 10)}
    after = {"d": result("d", [3] * 10), "g": result("g", [1, 3] + [2] * 8)}
    its = measure("x", before, after, ["d"], ["g"], 0.95)
    assert choose([its], Budget(0.05)).answer == "chosen"
    assert choose([its], Budget(0.05, confidence=0.95)).answer == "too small"
    many = {"d": after["d"], "g": result("g", [2] * 3000)}
    large = measure("x", {**before, "g": many["g"]}, many, ["d"], ["g"], 0.95)
    assert choose([large], Budget(0.05, confidence=0.95)).answer == "chosen"


# ---- What is shown.


def test_the_table_and_what_is_said() -> None:
    """Everything in per cent; the chosen one, who keeps the budget, the stars, the smallest loss."""
    sets = {"a": Loss(0.2, 0.3, 0.3, 0.1, 0.01), "b": Loss(0.0, 0.0, 0.0, 0.1, 0.5)}
    good = candidate("runs/x@0.5", 0.1, 0.012, upper=0.034, drift={"silent": 0.07})
    bad = candidate("runs/x@1", 0.2, 0.112, sets=sets)
    limits = Budget(0.05)
    choice = choose([good, bad], limits)
    for width, wide in [(80, False), (140, True)]:
        console = Console(width=width)
        with console.capture() as captured:
            console.print(budget.table([good, bad], limits, choice, wide))
        lines = captured.get().splitlines()
        assert max(map(len, lines)) <= width
        (first,) = [line.split() for line in lines if "x@0.5" in line]
        (second,) = [line.split() for line in lines if "x@1" in line]
        assert first[:6] == ["x@0.5", "40.0", "+20.0", "+1.2", "+3.4", "7.0"]
        assert second[:6] == ["x@1", "30.0", "+40.0", "+11.2", "+11.2", "+20.0*"]
        assert (first[-1], second[-1]) == ("yes", "no")
    assert budget.closing([good, bad], choice) == [
        "The smallest general loss that these sets could have shown is 1.0 %.",
        "Chosen: runs/x@0.5: domain WER 40.0 %, 20.0 % less than the original's; general loss +1.2 % "
        "(95 % bound +3.4 %); silent drifted 7.0 %.",
    ]
    assert budget.closing([bad], choose([bad], limits))[1].startswith("None passes; the nearest is runs/x@1:")
    assert budget.closing([candidate("x", 0.1, None)]) == []


def test_the_json_form_is_whole() -> None:
    """Every number of a candidate, and a choice by its system's name."""
    its = candidate("x", 0.1, math.inf, sets={"a": Loss(0.1, 0.2, 0.2, 0.1, 0.3)})
    record = json.loads(json.dumps(report.finite(its.record()), allow_nan=False))
    assert record["pooled"]["relative"] is None
    assert record["sets"]["a"]["upper_95"] == 0.2
    assert record["mean_loss"] == record["worst_loss"] == 0.1
    assert choose([its], Budget(0.05)).record()["system"] is None
    assert choose([its], Budget(math.inf)).record() | {"reason": ""} == {
        "answer": "chosen",
        "system": "x",
        "reason": "",
    }
