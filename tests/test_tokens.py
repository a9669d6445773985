"""Tokens: golden rows for each vocabulary, parity with whisper's own, and what the loss counts."""

from __future__ import annotations

import functools

import pytest
import torch
from conftest import random_whisper
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper import DecodingOptions, ModelDimensions
from whisper.decoding import DecodingTask
from whisper.tokenizer import LANGUAGES, get_tokenizer

from whisper_min.config import InputError
from whisper_min.data.examples import Segment
from whisper_min.data.tokens import IGNORED, Label, Tokens, language_code, written_language
from whisper_min.model.forward import sum_cross_entropy
from whisper_min.text import NON_SPEECH

ENGLISH, MULTILINGUAL, LARGE_V3 = 51864, 51865, 51866


@functools.cache
def tokens_of(vocabulary: int, language: str = "en", task: str = "transcribe") -> Tokens:
    n_mels = 128 if vocabulary == LARGE_V3 else 80
    return Tokens(ModelDimensions(n_mels, 1500, 64, 1, 1, vocabulary, 448, 64, 1, 1), language, task)


@pytest.mark.parametrize(
    ("vocabulary", "language", "task", "row"),
    [
        # <|startoftranscript|> <|notimestamps|> " Hello" "." <|endoftext|>
        (ENGLISH, "en", "transcribe", [50257, 50362, 18435, 13, 50256]),
        # language and task between: <|en|> is 50259, <|de|> two further on
        (MULTILINGUAL, "en", "transcribe", [50258, 50259, 50359, 50363, 2425, 13, 50257]),
        (MULTILINGUAL, "de", "transcribe", [50258, 50261, 50359, 50363, 2425, 13, 50257]),
        (MULTILINGUAL, "German", "translate", [50258, 50261, 50358, 50363, 2425, 13, 50257]),
        # one language more moves all that comes after the languages
        (LARGE_V3, "en", "transcribe", [50258, 50259, 50360, 50364, 2425, 13, 50257]),
        (LARGE_V3, "de", "translate", [50258, 50261, 50359, 50364, 2425, 13, 50257]),
        (LARGE_V3, "yue", "transcribe", [50258, 50358, 50360, 50364, 2425, 13, 50257]),
    ],
)
def test_golden_rows(vocabulary: int, language: str, task: str, row: list[int]) -> None:
    tokens = tokens_of(vocabulary, language, task)
    assert tokens.encode("Hello.") == tokens.encode("  Hello. ") == row
    assert tokens.encode("").count(tokens.end) == 1 and tokens.encode("")[: len(tokens.prefix)] == tokens.prefix
    targets = tokens.teacher_forcing(["Hello."])
    ignored = [IGNORED] * (len(tokens.prefix) - 1)
    assert targets.inputs.tolist() == [row[:-1]]
    assert targets.targets.tolist() == [[*ignored, *row[len(tokens.prefix) :]]]
    assert targets.count == 3 and targets.inputs.dtype == targets.targets.dtype == torch.int64


@pytest.mark.parametrize("vocabulary", [ENGLISH, MULTILINGUAL, LARGE_V3])
@pytest.mark.parametrize("task", ["transcribe", "translate"])
@pytest.mark.parametrize("language", ["en", "de", "jw"])
def test_the_prefix_is_what_whisper_decodes_from(vocabulary: int, task: str, language: str) -> None:
    tokens = tokens_of(vocabulary, language, task)
    multilingual = vocabulary != ENGLISH
    own = get_tokenizer(multilingual, num_languages=vocabulary - 51765 - multilingual, language=language, task=task)
    assert tokens.prefix == list(own.sot_sequence_including_notimestamps)
    assert (tokens.prefix[-1], tokens.end) == (own.no_timestamps, own.eot)
    text = "It's 3.5 °C in Århus!"
    assert tokens.encode(text) == [*own.sot_sequence_including_notimestamps, *own.encode(" " + text), own.eot]


@pytest.mark.parametrize("multilingual", [False, True])
def test_the_prefix_is_what_whispers_decoding_starts_with(multilingual: bool) -> None:
    model = random_whisper(multilingual)
    task = DecodingTask(model, DecodingOptions(language="en", without_timestamps=True))
    assert tuple(Tokens(model.dims).prefix) == task.initial_tokens


@pytest.mark.parametrize("vocabulary", [ENGLISH, MULTILINGUAL, LARGE_V3])
@settings(deadline=None)
@given(text=st.text())
def test_a_text_comes_back_and_the_start_stands_once(vocabulary: int, text: str) -> None:
    tokens = tokens_of(vocabulary)
    row = tokens.encode(text)
    assert tokens.decode(row) == text.strip()
    assert [row.count(special) for special in (*tokens.prefix, tokens.end)] == [1] * (len(tokens.prefix) + 1)
    assert all(token < tokens.end for token in row[len(tokens.prefix) : -1])


def test_a_text_that_spells_a_special_token_is_text() -> None:
    tokens = tokens_of(ENGLISH)
    text = "he typed <|endoftext|> and <|startoftranscript|>"
    row = tokens.encode(text)
    assert tokens.decode(row) == text and row.count(tokens.end) == 1 and row.count(tokens.prefix[0]) == 1


TEXTS = ["Hello.", "", "A much longer sentence, with a comma and no end", "Two words"]


@pytest.mark.parametrize("vocabulary", [ENGLISH, MULTILINGUAL])
def test_teacher_forcing_shifts_and_masks_prefix_and_padding(vocabulary: int) -> None:
    tokens = tokens_of(vocabulary)
    rows = [tokens.encode(text) for text in TEXTS]
    batch = tokens.teacher_forcing(TEXTS)
    assert batch.inputs.shape == batch.targets.shape == (4, max(map(len, rows)) - 1)
    for inputs, targets, row in zip(batch.inputs.tolist(), batch.targets.tolist(), rows, strict=True):
        padding = len(inputs) - (len(row) - 1)
        given = len(tokens.prefix) - 1
        assert inputs == row[:-1] + [tokens.end] * padding
        assert targets == [IGNORED] * given + row[given + 1 :] + [IGNORED] * padding
    assert batch.count == sum(len(row) - len(tokens.prefix) for row in rows)


def test_a_batch_has_the_loss_of_its_rows() -> None:
    model = random_whisper()
    tokens = Tokens(model.dims)
    features = torch.randn(len(TEXTS), 20, 64, generator=torch.Generator().manual_seed(0))

    def loss(texts: list[str], rows: slice) -> torch.Tensor:
        batch = tokens.teacher_forcing(texts)
        return sum_cross_entropy(model.decoder(batch.inputs, features[rows]), batch.targets)

    with torch.no_grad():
        alone = sum(loss([text], slice(row, row + 1)) for row, text in enumerate(TEXTS))
        torch.testing.assert_close(loss(TEXTS, slice(None)), alone, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("vocabulary", [ENGLISH, MULTILINGUAL, LARGE_V3])
def test_fits_at_exactly_448(vocabulary: int) -> None:
    tokens = tokens_of(vocabulary)
    words = 448 - len(tokens.prefix)  # each " a" is a token; the end token is predicted, never read
    exact, over = " ".join(["a"] * words), " ".join(["a"] * (words + 1))
    assert len(tokens.encode(exact)) == 449 and tokens.fits(exact)
    assert len(tokens.encode(over)) == 450 and not tokens.fits(over)
    assert tokens.teacher_forcing([exact]).inputs.shape == (1, 448)


def test_what_fits_is_what_the_decoder_reads() -> None:
    model = random_whisper()
    tokens = Tokens(model.dims)
    features = torch.zeros(1, 4, 64)
    with torch.no_grad():
        read = tokens.teacher_forcing([" ".join(["a"] * 446)]).inputs
        assert model.decoder(read, features).shape == (1, 448, ENGLISH)
        with pytest.raises(RuntimeError):
            model.decoder(tokens.teacher_forcing([" ".join(["a"] * 447)]).inputs, features)


def test_a_shorter_text_context_is_heeded() -> None:
    tokens = Tokens(ModelDimensions(80, 1500, 64, 1, 1, ENGLISH, 10, 64, 1, 1))
    assert tokens.fits("a a a a a a a a") and not tokens.fits("a a a a a a a a a")


@pytest.mark.parametrize(
    ("language", "code"), [("en", "en"), ("DE", "de"), ("German", "de"), ("castilian", "es"), ("klingon", None)]
)
def test_language_code(language: str, code: str | None) -> None:
    assert language_code(language) == code


def test_what_is_translated_is_written_in_english() -> None:
    assert [written_language("German", task) for task in ("transcribe", "translate")] == ["de", "en"]


def test_a_language_that_the_model_has_no_token_for_is_refused_with_the_fix() -> None:
    assert len(LANGUAGES) == 100 and language_code("Cantonese") == "yue"
    with pytest.raises(InputError, match=r"--language Cantonese: .* 99 languages.*--model large-v3"):
        tokens_of(MULTILINGUAL, "Cantonese")
    assert tokens_of(ENGLISH, "yue").prefix == tokens_of(ENGLISH).prefix, "English-only models ignore it"


def test_tokens_have_names() -> None:
    tokens = tokens_of(MULTILINGUAL)
    names = [tokens.name(token) for token in (*tokens.encode("Hello."), IGNORED)]
    assert names == [
        *("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"),
        *("' Hello'", "'.'", "<|endoftext|>", "·"),
    ]
    assert tokens.decode([50258, 2425, 50364, 13, 50257]) == "Hello."


@pytest.mark.parametrize("vocabulary", [ENGLISH, MULTILINGUAL, LARGE_V3])
def test_segments_stand_between_their_times(vocabulary: int) -> None:
    """As whisper's tokenizer spells them; <|notimestamps|> is left out, and the times are predicted, too."""
    tokens = tokens_of(vocabulary)
    label = Label("Hello. Bye.", (Segment(0.0, 1.234, "Hello."), Segment(1.5, 29.999, "Bye.")))
    row, head = tokens.sequence(label)
    assert row[:head] == tokens.prefix[:-1]
    spelt = tokens.tokenizer.decode_with_timestamps(row[head:-1])
    assert spelt == "<|0.00|> Hello.<|1.24|><|1.50|> Bye.<|30.00|>"
    assert row[-1] == tokens.end
    targets = tokens.teacher_forcing([label])
    assert [token for token in targets.targets[0].tolist() if token != IGNORED] == row[head:]


def test_times_are_whisper_s_steps_and_stay_in_its_window() -> None:
    """0.02 s each, the nearest one, from 0 to 30 s."""
    tokens = tokens_of(ENGLISH)
    begin = tokens.tokenizer.timestamp_begin
    for seconds, step in ((0.0, 0), (0.011, 1), (29.98, 1499), (30.0, 1500), (31.0, 1500), (-1.0, 0)):
        assert tokens.timestamp(seconds) == begin + step


def test_a_prompt_is_read_and_never_counted() -> None:
    """In front, as whisper's decoding puts it there, cut to its end where it is long; the targets stay the same."""
    tokens = tokens_of(MULTILINGUAL, "de")
    plain, head = tokens.sequence(Label("Ja."))
    row, more = tokens.sequence(Label("Ja.", prompt="Was vorher war."))
    before = [tokens.special["<|startofprev|>"], *tokens.words("Was vorher war.")]
    assert row == [*before, *plain] and more == head + len(before)
    targets = tokens.teacher_forcing([Label("Ja.", prompt="Was vorher war."), "Ja."])
    counted = [[token for token in its if token != IGNORED] for its in targets.targets.tolist()]
    assert counted[0] == counted[1] == plain[head:]

    long = " ".join(f"w{number}" for number in range(400))
    options = DecodingOptions(prompt=long, language="de", without_timestamps=True, fp16=False)
    row, head = tokens.sequence(Label("Ja.", prompt=long))
    initial = DecodingTask(random_whisper(multilingual=True), options)._get_initial_tokens()
    assert tuple(row[:head]) == initial
    # beside a long text there is less room, and the text wins
    text = " ".join(["a"] * 400)
    row, head = tokens.sequence(Label(text, prompt=long))
    assert len(row) - 1 == tokens.text_context and row[head:] == [*tokens.words(text), tokens.end]
    assert tokens.sequence(Label(" ".join(["a"] * 444), prompt=long))[0] == tokens.encode(" ".join(["a"] * 444))


@pytest.mark.parametrize("vocabulary", [ENGLISH, MULTILINGUAL])
def test_non_speech_is_said_at_the_start(vocabulary: int) -> None:
    """<|startoftranscript|> <|nospeech|> <|endoftext|>: where whisper looks for the probability of no speech."""
    tokens = tokens_of(vocabulary)
    row, head = tokens.sequence(Label(NON_SPEECH))
    assert row == [tokens.tokenizer.sot, tokens.tokenizer.no_speech, tokens.end] and head == 1
    assert tokens.fits(NON_SPEECH)


@pytest.mark.parametrize("word", ["a", " word", "é", "日本", "🎧", "x" * 7])
def test_what_fits_without_counting_fits(word: str) -> None:
    """Short texts are not encoded: a token is a byte or more."""
    tokens = tokens_of(ENGLISH)
    for count in (0, 1, 50, 100, 220, 440, 443, 444, 445, 446, 447, 448, 900):
        text = word * count
        assert tokens.fits(text) == (len(tokens.encode(text)) - 1 <= tokens.text_context)
