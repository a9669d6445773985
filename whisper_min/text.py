"""Label styles: how references are written, and how to write them as Whisper would. Standard library only.

Upper-case, unpunctuated references teach Whisper to shout, and damage its words too.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence

STYLES = ("auto", "keep", "lower", "sentence", "original")
# The text of a clip in which nobody speaks, spelt as Whisper's own token for it.
NON_SPEECH = "<|nospeech|>"
# A set counts as upper-case, lower-case or unpunctuated when at least this share of its texts is.
STYLE_SHARE = 0.9
# Environment variables that hold tokens, and the fewest characters that are one.
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
SHORTEST_TOKEN = 8
# The user and password of an address, and what signs it: group 1 stays. `$NAME` names a secret and is none.
SECRET_IN_ADDRESS = re.compile(
    r"(\w://)(?!\$\w+[:@])[^\s/?@]+(?=@)|"
    r"([?&][\w.-]*(?:sig|token|secret|password|credential|key)[\w.-]*=)(?!\$\w)[^\s&'\")]+",
    re.IGNORECASE,
)

_PRONOUN_I = re.compile(r"\bi\b(?!')|\bi(?='(m|ve|ll|d)\b)")
_END_OF_SENTENCE = re.compile(r"([.!?]\s+)([a-zà-öø-ÿ])")
_PUNCTUATION = re.compile(r"[.,!?;:]")
# A word as it stands between spaces: what opens it, its letters, what closes it.
_WORD = re.compile(r"(\W*)(.*?)(\W*)", re.DOTALL)
# What a reference takes over from a transcript. Quotes and brackets come in pairs, of which one word is only a half.
_OPENING, _CLOSING = "¿¡", ".,!?;:"


def describe_style(texts: Sequence[str]) -> str:
    """What most of the texts look like: `upper-case`, `lower-case unpunctuated`, `cased`, … (`no text` for none)."""
    texts = [text for text in texts if text != NON_SPEECH and any(character.isalpha() for character in text)]
    if not texts:
        return "no text"
    share = STYLE_SHARE * len(texts)
    punctuated = sum(bool(_PUNCTUATION.search(text)) for text in texts)
    case = (
        "upper-case"
        if sum(text.isupper() for text in texts) >= share
        else "lower-case"
        if sum(text.islower() for text in texts) >= share
        else "cased"
    )
    return case if punctuated > len(texts) - share else f"{case} unpunctuated"


def resolve_style(style: str, texts: Sequence[str]) -> str:
    """The style to apply: `auto` is `sentence` for references without case or punctuation, else `keep`.

    `original` is `keep`, too, for references that have both: what people wrote is not made again.
    """
    if style not in ("auto", "original"):
        return style
    if describe_style(texts) in ("cased", "no text"):
        return "keep"
    return "sentence" if style == "auto" else style


def restyle(text: str, style: str) -> str:
    """Write one reference in a style of `STYLES` (but `auto`, which `resolve_style` settles for a whole set).

    `sentence` writes what Whisper's own transcripts look like as far as that can be known without listening: lower
    case, a capital at the start of each sentence and for the pronoun I, a full stop at the end. `original` waits for
    a transcript (`restyle_like`): the text stays as it is.
    """
    text = text.strip()
    if style in ("keep", "original") or not text or text == NON_SPEECH:
        return text
    text = text.lower()
    if style == "lower":
        return text
    if style != "sentence":
        raise ValueError(f"unknown label style {style!r}; known are {', '.join(STYLES)}")
    text = _PRONOUN_I.sub("I", text)
    text = _END_OF_SENTENCE.sub(lambda match: match[1] + match[2].upper(), text)
    text = _capitalise(text)
    return text if text[-1] in ".!?…" else text + "."


def join(texts: Sequence[str]) -> str:
    """The text of clips that follow each other: those in which nobody speaks add nothing to the words of others."""
    spoken = [text for text in texts if text != NON_SPEECH]
    return " ".join(spoken) if spoken or not texts else NON_SPEECH


def repeated(words: Sequence[str]) -> list[str]:
    """The words that are there more than once, in the order of the alphabet."""
    return sorted(word for word, count in Counter(words).items() if count > 1)


def visible(text: str) -> str:
    """A text as one line that cannot steer a terminal and tells no secret: what is not printable is its escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in redact(text))


def redact(text: str) -> str:
    """A text without the passwords and signatures of addresses, and without the tokens that the environment holds."""
    for name in TOKEN_VARIABLES:
        if len(token := os.environ.get(name, "")) >= SHORTEST_TOKEN:
            text = text.replace(token, f"${name}")
    return SECRET_IN_ADDRESS.sub(r"\1\2…", text)


def cut_like(text: str, parts: Sequence[str]) -> list[str] | None:
    """Cut a text where these parts of it ended before it was restyled: by letters, else by their numbers of words.

    None where it is another text.
    """
    if "".join(text.split()) == "".join("".join(parts).split()):  # any language, also one without spaces
        return [part.strip() for part in parts]
    words, counts = text.split(), [len(part.split()) for part in parts]
    if sum(counts) != len(words):
        return None
    rest = iter(words)
    return [" ".join(next(rest) for _ in range(count)) for count in counts]


def restyle_like(reference: str, transcript: str, normalize: Callable[[str], str]) -> str:
    """Write a reference with the case and punctuation of the original model's transcript of the same speech.

    The words are the reference's, always. Where the transcript has the same word, it gives what the reference has none
    of, case or punctuation; other words are written in the `sentence` style. A reference with both is left as it is.

    Parameters
    ----------
    normalize : function
        Whisper's normaliser: words that it makes equal are the same word, and it has the last say on whether the words
        are still the reference's. Where they are not (punctuation can change how it reads numbers), the reference gets
        the `sentence` style, and where even that changes them, stays as it is.
    """
    reference = reference.strip()
    words = [_split(word) for word in reference.split()]
    # one dot for three at the end, of which Whisper's normaliser makes a word; a dash that stands alone is no word
    transcript = re.sub(r"\.{2,}$", ".", transcript.strip().replace("…", "..."))
    heard = [parts for parts in map(_split, transcript.split()) if parts[1]]
    has_case, has_punctuation = _has_case(words), bool(_PUNCTUATION.search(reference))
    if not words or (has_case and has_punctuation) or reference == NON_SPEECH:
        return reference
    they_have_case = _has_case(heard)
    source = _align([letters for _, letters, _ in words], [letters for _, letters, _ in heard], normalize)
    last = len(words) - 1
    written: list[str] = []
    for index, (opening, letters, closing) in enumerate(words):
        if not has_case:
            letters = _PRONOUN_I.sub("I", letters.lower())
        is_start = index == 0 or _ends_sentence(written[-1])
        at = source.get(index)
        if at is not None:
            before, theirs, after = heard[at]
            follows = index > 0 and source.get(index - 1) == at - 1
            # a capital that says no more than that a sentence began there; it may not begin here
            begins = at == 0 or _ends_sentence(heard[at - 1][2])
            if they_have_case and not has_case and (follows or not begins or _is_acronym(theirs)):
                letters = _with_case_of(theirs, letters)
            if they_have_case and follows and begins and not theirs[:1].isupper():
                is_start = False  # "on Main St. and beyond"
            # their last mark ends the speech: it is for our last word alone
            if not closing if index == last else not has_punctuation and at < len(heard) - 1:
                opening += "".join(character for character in before if character in _OPENING)
                closing += "".join(character for character in after if character in _CLOSING)
        written.append(opening + (_capitalise(letters) if is_start else letters) + closing)
    # the transcript may end without a full stop, as Whisper does where a clip is cut
    if source.get(last) != len(heard) - 1 and not _ends_sentence(written[-1]):
        written[-1] = written[-1].rstrip(",;:") + "."
    spoken = normalize(reference).split()
    for made in (" ".join(written), reference if has_case else restyle(reference, "sentence")):
        if normalize(made).split() == spoken:
            return made
    return reference


def _split(word: str) -> tuple[str, str, str]:
    """What opens a word, its letters, what closes it: `("Hello",)` is `("`, `Hello`, `",)`."""
    match = _WORD.fullmatch(word)
    assert match is not None  # any word fits
    return match[1], match[2], match[3]


def _has_case(words: Sequence[tuple[str, str, str]]) -> bool:
    """Whether some word is written as `Anna` is; in a text that shouts or whispers none is."""
    return any(letters[:1].isupper() and letters[1:].islower() for _, letters, _ in words)


def _align(words: Sequence[str], heard: Sequence[str], normalize: Callable[[str], str]) -> dict[int, int]:
    """Position in the reference -> position of the same word in the transcript, in order."""
    ours, theirs = ([normalize(word) or word.lower() for word in side] for side in (words, heard))
    blocks = difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    return {block.a + index: block.b + index for block in blocks for index in range(block.size)}


def _with_case_of(theirs: str, letters: str) -> str:
    """Our word with their case; of a word that is spelt differently, its first letter's."""
    if theirs.lower() == letters.lower():
        return theirs
    return _capitalise(letters) if theirs[:1].isupper() else letters


def _is_acronym(word: str) -> bool:
    return len(word) > 1 and word.isupper()


def _ends_sentence(word: str) -> bool:
    return word.endswith((".", "!", "?", "…"))


def _capitalise(text: str) -> str:
    """A capital first, but not where it would be other letters: ß would become SS."""
    first = text[:1].upper()
    return (first if first.lower() == text[:1] else text[:1]) + text[1:]
