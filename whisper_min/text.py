"""Label styles: how references are written, and how to write them as Whisper would. Standard library only.

Upper-case, unpunctuated references teach Whisper to shout, and damage its words too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

STYLES = ("auto", "keep", "lower", "sentence")
# A set counts as upper-case, lower-case or unpunctuated when at least this share of its texts is.
STYLE_SHARE = 0.9

_PRONOUN_I = re.compile(r"\bi\b(?!')|\bi(?='(m|ve|ll|d)\b)")
_END_OF_SENTENCE = re.compile(r"([.!?]\s+)([a-zà-öø-ÿ])")


def describe_style(texts: Sequence[str]) -> str:
    """What most of the texts look like: `upper-case`, `lower-case unpunctuated`, `cased`, … (`no text` for none)."""
    texts = [text for text in texts if any(character.isalpha() for character in text)]
    if not texts:
        return "no text"
    share = STYLE_SHARE * len(texts)
    punctuated = sum(bool(re.search(r"[.,!?;:]", text)) for text in texts)
    case = (
        "upper-case"
        if sum(text.isupper() for text in texts) >= share
        else "lower-case"
        if sum(text.islower() for text in texts) >= share
        else "cased"
    )
    return case if punctuated > len(texts) - share else f"{case} unpunctuated"


def resolve_style(style: str, texts: Sequence[str]) -> str:
    """The style to apply: `auto` is `sentence` for references without case or punctuation, else `keep`."""
    if style != "auto":
        return style
    description = describe_style(texts)
    return "keep" if description in ("cased", "no text") else "sentence"


def restyle(text: str, style: str) -> str:
    """Write one reference in a style of `STYLES` (but `auto`, which `resolve_style` settles for a whole set).

    `sentence` writes what Whisper's own transcripts look like as far as that can be known without listening: lower
    case, a capital at the start of each sentence and for the pronoun I, a full stop at the end.
    """
    text = text.strip()
    if style == "keep" or not text:
        return text
    text = text.lower()
    if style == "lower":
        return text
    if style != "sentence":
        raise ValueError(f"unknown label style {style!r}; known are {', '.join(STYLES)}")
    text = _PRONOUN_I.sub("I", text)
    text = _END_OF_SENTENCE.sub(lambda match: match[1] + match[2].upper(), text)
    # not where the capital would be other letters: ß would become SS
    text = (text[0].upper() if text[0].upper().lower() == text[0] else text[0]) + text[1:]
    return text if text[-1] in ".!?…" else text + "."
