#!/usr/bin/env bash
# The README's figures on accented speech: tiny.en, 190 steps of 8 clips, then every test set once.
# Speech: WHISPER_MIN_SPEECH, else ../shared/data; tests/bench/make_speech_sets.py builds it from public downloads.
set -euo pipefail
cd "$(dirname "$0")/.."
speech=${WHISPER_MIN_SPEECH:-../shared/data}
python=${PYTHON:-python}
run=${1:-accented}

"$python" train.py --model tiny.en --run "$run" \
    --data "accented-train=$speech/accented-train/manifest.jsonl" --label_style sentence \
    --eval_data "accented-dev=$speech/accented-dev/manifest.jsonl" \
    --retain "general-dev=$speech/general-dev/manifest.jsonl" \
    --max_steps 190 --eval_every 95

# Seconds of training, evaluations not counted: the sum of what each step took.
"$python" - "runs/$run/metrics.jsonl" <<'PYTHON'
import sys
from itertools import pairwise
from pathlib import Path

from whisper_min import runs

rows = [row for row in runs.read_jsonl(Path(sys.argv[1])) if "train/loss" in row]
heard = [0.0, *(row["train/audio_seconds"] for row in rows)]
pace = [row["perf/audio_hours_per_hour"] for row in rows]
print(f"{sum((b - a) / p for (a, b), p in zip(pairwise(heard), pace, strict=True)):.0f} s of training in {len(rows)} steps")
PYTHON

"$python" evaluate.py "runs/$run" --json "runs/$run/test.json" --hypotheses "runs/$run/test.jsonl" \
    --data "accented-test=$speech/accented-test/manifest.jsonl" "general-test=$speech/general-test/manifest.jsonl" \
    "reader-test=$speech/reader-test/manifest.jsonl" "prompts-test=$speech/prompts-test/manifest.jsonl"

"$python" tests/bench/figure.py "fine-tuned on the domain (sentence case)=runs/$run" \
    --domain accented-dev --general general-dev --out tests/bench/figures/accented.svg
