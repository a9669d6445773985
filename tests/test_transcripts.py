"""The original's transcripts: what greedy decoding writes, once for each recording, and never from a spoilt file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from conftest import needs_speech, needs_weights
from quick_model import checked_set, listening_whisper, one_thread, write_set  # noqa: F401
from rich.console import Console
from torch import Tensor
from whisper import DecodingOptions, Whisper

from whisper_min import audio, runs
from whisper_min.config import Config, InputError
from whisper_min.data.checked import CheckedSet, Report
from whisper_min.data.tokens import Tokens
from whisper_min.model import weights
from whisper_min.scoring import decode, wer
from whisper_min.scoring.decode import Hypothesis
from whisper_min.scoring.transcripts import Transcriber, Transcript, times_like
from whisper_min.training.reporter import Reporter

SECONDS = (3.0, 1.0, 2.0, 1.5, 2.5, 4.0)


def reporter() -> Reporter:
    """One that prints into memory."""
    made = Reporter()
    made.console = Console(file=io.StringIO(), width=200)
    return made


def printed(transcriber: Transcriber) -> str:
    file = transcriber.reporter.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def refuse() -> Whisper:
    raise AssertionError("the original is asked for, and all is known")


@dataclass
class Bench:
    """A set of six clips, a model that hears, and the sizes of the batches that are decoded."""

    folder: Path
    model: Whisper
    checked: CheckedSet
    decoded: list[int]

    def transcriber(self, **changes: object) -> Transcriber:
        cfg = Config(data_dir=self.folder / "cache", eval_batch_size=4)
        tokens = Tokens(self.model.dims)
        return replace(Transcriber(cfg, lambda: self.model, tokens, "abc", "fp32", reporter()), **changes)  # type: ignore[arg-type]

    def part(self, indices: Sequence[int]) -> CheckedSet:
        """Some of the set's clips."""
        speech = replace(self.checked.speech, examples=[self.checked.speech.examples[index] for index in indices])
        return replace(self.checked, speech=speech, facts=[self.checked.facts[index] for index in indices])


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> tuple[Whisper, CheckedSet]:  # noqa: F811
    folder = tmp_path_factory.mktemp("sets")
    model = listening_whisper()
    manifest = write_set(folder / "calm", [""] * len(SECONDS), SECONDS)
    return model, checked_set(manifest, Tokens(model.dims), folder / "cache", "replay")


@pytest.fixture
def bench(heard: tuple[Whisper, CheckedSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path, *heard, [])
    greedy = decode.greedy

    def count(model: Whisper, features: Tensor, tokens: Tokens, with_logprob: bool = False) -> list[Hypothesis]:
        made.decoded.append(len(features))
        return greedy(model, features, tokens, with_logprob)

    monkeypatch.setattr(decode, "greedy", count)
    return made


def test_transcripts_are_what_greedy_decoding_writes(bench: Bench) -> None:
    """In the set's order, though clips of a length are decoded together."""
    transcripts = bench.transcriber().transcripts(bench.checked)
    assert bench.decoded == [4, 2]
    mel = audio.log_mel(audio.pad([each.read() for each in bench.checked.speech.examples]), 80)
    with torch.inference_mode():
        features = decode.encode_windows(bench.model, mel)
    expected = decode.greedy(bench.model, features, Tokens(bench.model.dims), with_logprob=True)
    assert [each.text for each in transcripts] == [each.text for each in expected]
    assert [each.ended for each in transcripts] == [each.ended for each in expected]
    assert [each.avg_logprob for each in transcripts] == pytest.approx([e.avg_logprob for e in expected], abs=1e-4)
    assert len({each.text for each in transcripts}) > 3, "clips differ"


def test_what_was_written_is_kept(bench: Bench) -> None:
    first = bench.transcriber().transcripts(bench.checked)
    again = bench.transcriber(original=refuse)
    assert again.transcripts(bench.checked) == first
    assert bench.decoded == [4, 2]
    assert again.path.is_relative_to(bench.folder / "cache" / "transcripts")


def test_a_set_that_has_grown_only_does_what_is_left(bench: Bench) -> None:
    parted = bench.transcriber().transcripts(bench.part([5, 1]))
    whole = bench.transcriber().transcripts(bench.checked)
    assert bench.decoded == [2, 4]
    assert [whole[5], whole[1]] == parted


def test_equal_recordings_are_heard_once(bench: Bench) -> None:
    transcripts = bench.transcriber().transcripts(bench.part([3, 0, 3, 3]))
    assert bench.decoded == [2]
    assert transcripts[0] == transcripts[2] == transcripts[3] != transcripts[1]


def test_an_interrupted_run_keeps_what_it_did(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    count = decode.greedy

    def interrupt(*arguments: object, **named: object) -> list[Hypothesis]:
        if bench.decoded:
            raise KeyboardInterrupt
        return count(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(decode, "greedy", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.transcriber().transcripts(bench.checked)
    monkeypatch.setattr(decode, "greedy", count)
    assert len(list(runs.read_jsonl(bench.transcriber().path))) == 4
    transcripts = bench.transcriber().transcripts(bench.checked)
    assert bench.decoded == [4, 2]
    assert len(transcripts) == 6


def test_a_spoilt_row_is_made_again(bench: Bench) -> None:
    first = bench.transcriber().transcripts(bench.checked)
    path = bench.transcriber().path
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    spoilt = [
        lines[0].replace('"text": "', '"text": 7, "was": "'),
        lines[1].replace("true", "1").replace("false", "0"),
        lines[2].replace('"avg_logprob": -', '"avg_logprob": "-').replace("}", '"}'),
        lines[3].replace('"text"', '"txet"'),
        lines[4],
        lines[5][:-9],  # a process was killed while it wrote
    ]
    assert all(line != before for line, before in zip(spoilt, lines, strict=True) if line != lines[4])
    path.write_text("".join(spoilt), encoding="utf-8")
    again = bench.transcriber().transcripts(bench.checked)
    assert bench.decoded[2:] == [4, 1]
    assert [each.text for each in again] == [each.text for each in first]
    bench.transcriber(original=refuse).transcripts(bench.checked)
    path.write_bytes(b"\x00\xff" * 1000)
    assert [each.text for each in bench.transcriber().transcripts(bench.checked)] == [each.text for each in first]


def test_other_weights_and_ways_to_decode_have_files_of_their_own(bench: Bench) -> None:
    plain = bench.transcriber()
    paths = {plain.path, bench.transcriber().path}
    assert len(paths) == 1
    multilingual = replace(bench.model.dims, n_vocab=51865)
    for changes in (
        {"fingerprint": "abd"},
        {"precision": "bf16"},
        {"cfg": replace(plain.cfg, normalize=True)},
        {"tokens": Tokens(multilingual, "en")},
        {"tokens": Tokens(multilingual, "de")},
        {"tokens": Tokens(multilingual, "de", "translate")},
    ):
        paths.add(bench.transcriber(**changes).path)
    assert len(paths) == 7


def test_the_same_recording_louder_is_another_one_under_normalize(bench: Bench) -> None:
    """`--normalize` reaches what the original hears."""
    cfg = replace(bench.transcriber().cfg, normalize=True)
    loud = bench.transcriber(cfg=cfg).transcripts(bench.checked)
    mel = audio.log_mel(audio.pad([each.read(normalize=True) for each in bench.checked.speech.examples]), 80)
    with torch.inference_mode():
        features = decode.encode_windows(bench.model, mel)
    assert [each.text for each in loud] == [
        each.text for each in decode.greedy(bench.model, features, Tokens(bench.model.dims))
    ]


def test_a_file_that_went_bad_is_told_or_left_empty(bench: Bench, tmp_path: Path) -> None:
    gone = replace(bench.checked.speech.examples[1], audio_filepath=tmp_path / "gone.wav")
    examples = [bench.checked.speech.examples[0], gone]
    facts = [bench.checked.facts[0], replace(bench.checked.facts[1], digest="")]
    checked = replace(bench.checked, speech=replace(bench.checked.speech, examples=examples), facts=facts)
    with pytest.raises(audio.AudioError, match=r"manifest\.jsonl, line 2: does not exist"):
        bench.transcriber().transcripts(checked)
    lenient = bench.transcriber(cfg=replace(bench.transcriber().cfg, skip_bad=True))
    transcripts = lenient.transcripts(checked)
    assert transcripts[0].text and transcripts[1] == Transcript("", True, 0.0)
    assert "manifest.jsonl, line 2: does not exist" in printed(lenient)
    assert len(list(runs.read_jsonl(lenient.path))) == 1, "it may be mended, so nothing is kept of it"


def test_a_folder_that_takes_no_file_is_said_once(bench: Bench) -> None:
    (bench.folder / "cache").write_text("a file")
    transcriber = bench.transcriber()
    assert len(transcriber.transcripts(bench.checked)) == 6
    assert printed(transcriber).count("transcripts could not be kept in") == 1


@pytest.mark.parametrize(
    ("transcript", "flaw"),
    [
        (Transcript("Hello, there.", True, -0.3), None),
        (Transcript("Hello, there.", True, -1.0), None),
        (Transcript("Hello, there.", True, -1.01), "unsure"),
        (Transcript("Hello, there.", False, -0.3), "endless"),
        (Transcript("I know, I know, " * 20, True, -0.1), "looping"),
        (Transcript("I know, I know, " * 20, False, -0.1), "looping"),
        (Transcript("", True, -0.1), "empty"),
        (Transcript(" ♪♪ …", True, -0.1), "empty"),
        (Transcript("7", True, -0.1), None),
    ],
)
def test_a_flaw_is_named(transcript: Transcript, flaw: str | None) -> None:
    assert transcript.flaw == flaw


# ---- Labels.


def remember(bench: Bench, *transcripts: Transcript) -> Transcriber:
    """A transcriber that knows what the original wrote for the first clips, and cannot ask it for more."""
    transcriber = bench.transcriber(original=refuse)
    transcriber.path.parent.mkdir(parents=True)
    keys = [facts.digest for facts in bench.checked.facts]
    runs.append_jsonl(
        transcriber.path, ({"recording": key, **vars(each)} for key, each in zip(keys, transcripts, strict=False))
    )
    return transcriber


def with_texts(checked: CheckedSet, *texts: str, **changes: object) -> CheckedSet:
    """The set with other references."""
    pairs = zip(checked.speech.examples, texts, strict=True)
    speech = replace(checked.speech, examples=[replace(example, text=text) for example, text in pairs])
    return replace(checked, speech=speech, **changes)  # type: ignore[arg-type]


LOOP = "I know, I know, " * 20


def test_sets_without_text_get_the_original_s_and_flawed_ones_are_counted(bench: Bench) -> None:
    transcriber = remember(
        bench,
        Transcript("One.", True, -0.2),
        Transcript(LOOP, True, -0.1),
        Transcript("Three.", True, -1.5),
        Transcript("Four.", True, -0.9),
        Transcript(LOOP, False, -0.1),
        Transcript("", True, -0.1),
    )
    other = replace(bench.part([0, 1]), role="data")
    before = Report([replace(bench.checked, self_label=True), other], notes=["a note"], skipped=["a fault"])
    after = transcriber.label(before)
    replayed, untouched = after.sets
    assert untouched is other
    assert replayed.labels == ["One.", "Four."]
    assert replayed.speech.examples == [bench.checked.speech.examples[index] for index in (0, 3)]
    assert replayed.seconds == [bench.checked.seconds[index] for index in (0, 3)]
    assert after.notes == ["a note", "replay calm: 4 of 6 clips left out (2 looping, 1 unsure, 1 empty)"]
    manifest = bench.checked.speech.source
    assert after.skipped[:2] == ["a fault", f"{manifest}, line 2: the original's label is looping"]
    assert len(after.skipped) == 5
    assert (before.notes, before.skipped, before.sets[0].written) == (["a note"], ["a fault"], None)


def test_self_labels_win_over_texts(bench: Bench) -> None:
    texts = [f"PERSON WROTE {index}" for index in range(6)]
    transcriber = remember(bench, *(Transcript(f"Heard {index}.", True, -0.2) for index in range(6)))
    checked = with_texts(bench.checked, *texts, self_label=True)
    after = transcriber.label(Report([checked]))
    assert after.sets[0].labels == [f"Heard {index}." for index in range(6)]
    assert after.notes == [], "nothing was left out"


@pytest.mark.parametrize("role", ["data", "replay"])
def test_references_get_case_and_punctuation_and_keep_their_words(bench: Bench, role: str) -> None:
    heard = ["Hello there, Anna.", "Hello, Anna!", "", LOOP, "Unsure, perhaps?", "Hello"]
    said = ["HELLO THERE ANNA", "HELLO HANNAH", "NOBODY HEARD ME", "I KNOW", "UNSURE PERHAPS", "HELLO " * 460]
    transcriber = remember(bench, *(Transcript(text, True, -2.0) for text in heard))
    after = transcriber.label(Report([with_texts(bench.checked, *said, role=role, style="original")]))
    [labelled] = after.sets
    assert labelled.labels == [
        "Hello there, Anna.",
        "Hello, hannah.",
        "Nobody heard me.",
        "I know.",
        "Unsure, perhaps?",
    ]
    assert [example.text for example in labelled.speech.examples] == said[:5]
    assert after.notes == [f"{role} calm: 1 of 6 clips left out (1 too long)"], "words are a person's: no flaw counts"


def test_the_normaliser_is_the_language_s(bench: Bench) -> None:
    """`colour` is `color` to the English one alone."""
    clips = bench.part([0])
    written = []
    for language, task in (("en", "transcribe"), ("de", "transcribe"), ("de", "translate")):
        transcriber = bench.transcriber(original=refuse)
        transcriber = replace(transcriber, cfg=replace(transcriber.cfg, language=language, task=task))
        transcriber.path.parent.mkdir(parents=True, exist_ok=True)
        row = {"recording": clips.facts[0].digest, **vars(Transcript("Color, Anna.", True, -0.2))}
        runs.append_jsonl(transcriber.path, [row])
        [labelled] = transcriber.label(Report([with_texts(clips, "COLOUR ANNA", style="original")])).sets
        written += labelled.labels
    assert written == ["Colour, Anna.", "Colour Anna.", "Colour, Anna."]


def test_a_set_of_which_nothing_is_left_is_refused(bench: Bench) -> None:
    transcriber = remember(bench, *(Transcript("", True, -0.1) for _ in range(6)))
    with pytest.raises(InputError) as refused:
        transcriber.label(Report([replace(bench.checked, self_label=True)]))
    assert refused.value.faults == [
        "--replay calm: the original has a usable label for none of its 6 clips (6 empty); give another set, or "
        "transcripts of it"
    ]


# ---- Real weights and real speech.


def tiny_en_and_six_clips(folder: Path, role: str) -> tuple[Transcriber, CheckedSet]:
    """The real original, and the first clips of a real set."""
    needs_weights()
    manifest = needs_speech("general-dev") / "general-dev" / "manifest.jsonl"
    model, origin = weights.load("tiny.en")
    tokens = Tokens(model.dims)
    checked = checked_set(manifest, tokens, folder, role)
    speech = replace(checked.speech, examples=checked.speech.examples[:6])
    transcriber = Transcriber(Config(data_dir=folder), lambda: model, tokens, origin.fingerprint, "fp32", reporter())
    return transcriber, replace(checked, speech=speech, facts=checked.facts[:6])


@pytest.mark.slow
def test_tiny_en_writes_what_is_said(tmp_path: Path) -> None:
    transcriber, few = tiny_en_and_six_clips(tmp_path, "replay")
    transcripts = transcriber.transcripts(few)
    assert [each.flaw for each in transcripts] == [None] * 6
    for example, transcript in zip(few.speech.examples, transcripts, strict=True):
        said = example.text.lower().split()
        heard = transcript.text.lower().replace(",", "").replace(".", "").split()
        assert sum(word in said for word in heard) >= 0.6 * len(heard)


@pytest.mark.parametrize(
    ("heard", "seconds", "times"),
    [
        ("<|0.00|> Hello there.<|1.20|><|1.50|> Bye.<|2.00|>", 2.0, [(0.0, 1.2, "HELLO THERE"), (1.5, 2.0, "BYE")]),
        ("<|0.00|> hello, there bye<|2.40|>", 2.0, [(0.0, 2.4, "HELLO THERE BYE")]),
        ("<|0.00|> Hello there.<|1.20|><|1.50|> Good-bye.<|2.00|>", 2.0, []),  # other words
        ("<|0.00|> Hello there. Bye.<|9.00|>", 2.0, []),  # beyond the clip's end
        ("<|0.00|> Hello there.<|1.20|><|1.00|> Bye.<|2.00|>", 2.0, []),  # backwards
        ("Hello there. Bye.", 2.0, []),
    ],
)
def test_labels_take_the_times_of_the_same_words(
    heard: str, seconds: float, times: list[tuple[float, float, str]]
) -> None:
    """The words stay the label's; where the transcript has others, or its times are none, there are no times."""
    normalize = wer.normalizer("en")[1]
    found = times_like("HELLO THERE BYE", Transcript(heard, True, -0.1), seconds, normalize)
    assert [(each.start, each.end, each.text) for each in found] == times
    assert times_like("HELLO THERE BYE", Transcript(heard, False, -0.1), seconds, normalize) == ()


@pytest.mark.slow
def test_the_original_gives_its_times_to_real_speech(tmp_path: Path) -> None:
    """Some of six clips get times: whisper's own, within the clip, over the words of the reference."""
    transcriber, few = tiny_en_and_six_clips(tmp_path, "data")
    model, tokens = transcriber.original(), transcriber.tokens
    report = transcriber.timestamp(Report(sets=[few]))
    got = [example for example in report.sets[0].speech.examples if example.segments]
    assert len(got) >= 2
    assert f"{len(got)} of 6 clips without segments get the times" in report.notes[0]
    for example in got:
        assert example.segments[-1].end <= audio.info(example.audio_filepath).seconds + 0.5
        assert " ".join(each.text for each in example.segments).split() == example.text.split()
        result = model.decode(
            audio.log_mel(audio.pad([example.read()]), 80)[0],
            DecodingOptions(language="en", temperature=0.0, fp16=False),
        )
        begin = tokens.tokenizer.timestamp_begin
        times = [round((token - begin) * 0.02, 2) for token in result.tokens if token >= begin]
        assert times == [time for each in example.segments for time in (each.start, each.end)]
