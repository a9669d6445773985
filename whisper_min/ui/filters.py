"""Which runs are listed: words of a name and conditions such as `method=lora lr>=1e-4 state:running`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from whisper_min.ui.model import ENDED, RunView

_CONDITION = re.compile(r"(?P<not>-?)(?P<key>[A-Za-z_][\w./-]*)(?P<operator>>=|<=|!=|=|:|>|<)(?P<value>.*)")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
# Words for several states.
KINDS = {"running": ("training", "starting", "evaluating", "saving", "paused"), "ended": ENDED}
HELP = "words of the name, and: method=lora  lr>=1e-4  state:running  domain<0.2  -model:tiny"


@dataclass(frozen=True)
class Filter:
    """A filter as typed; every word of it must hold, a `-` before one turns it round."""

    text: str = ""

    def accepts(self, run: RunView) -> bool:
        """Whether the run is listed."""
        return all(_holds(word, run) for word in self.text.split())


def _holds(word: str, run: RunView) -> bool:
    match = _CONDITION.fullmatch(word)
    if match is None:
        wanted = word.removeprefix("-") if len(word) > 1 else word
        return (wanted.lower() in run.name.lower()) != (wanted != word)
    if not match["value"]:
        return True  # still being typed
    return _compare(lookup(run, match["key"]), match["operator"], match["value"]) != bool(match["not"])


def lookup(run: RunView, key: str) -> Any:
    """What a condition's key names: something of the list, an option, a part of the environment or a metric."""
    if key in ("state", "name", "step"):
        return getattr(run, key)
    if key in ("domain", "general"):
        return run.domain_wer[1] if key == "domain" else run.general_wer[1]
    if key in run.config:
        return run.config[key]
    environment = run.config.get("environment")
    if isinstance(environment, dict) and key in environment:
        return environment[key]
    value = run.newest(key)
    return None if math.isnan(value) else value


def _compare(found: Any, sign: str, wanted: str) -> bool:
    if sign in _COMPARE:
        try:
            return _COMPARE[sign](float(found), float(wanted))
        except (TypeError, ValueError):
            return False
    if wanted in KINDS and isinstance(found, str):
        same = found in KINDS[wanted]
    elif sign == ":":
        same = wanted.lower() in _as_text(found).lower()
    else:
        same = _as_text(found).lower() == wanted.lower() or _same_number(found, wanted)
    return same != (sign == "!=")


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


def _same_number(found: Any, wanted: str) -> bool:
    try:
        return not isinstance(found, bool) and float(found) == float(wanted)
    except (TypeError, ValueError):
        return False
