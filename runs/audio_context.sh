#!/usr/bin/env bash
# What `--audio_context full`, `trim` and `pack` cost and gain: one epoch of accented-train each, three seeds, evaluated in
# 30 s windows. `pack` joins about seven clips into a window, so that a window a step sees as many clips as eight others.
# Speech: WHISPER_MIN_SPEECH, else ../shared/data; tests/bench/make_speech_sets.py builds it from public downloads.
set -euo pipefail
cd "$(dirname "$0")/.."
speech=${WHISPER_MIN_SPEECH:-../shared/data}
python=${PYTHON:-python}
folder=${1:-runs}

for seed in 0 1 2; do
    for context in trim pack full; do
        batch=8
        [ "$context" = pack ] && batch=1
        "$python" train.py --model tiny.en --run "$context-$seed" --runs_dir "$folder" --seed "$seed" \
            --audio_context "$context" --batch_size "$batch" --epochs 1 --eval_every 1000 \
            --data "accented-train=$speech/accented-train/manifest.jsonl" \
            --eval_data "accented-dev=$speech/accented-dev/manifest.jsonl" \
            --retain "general-dev=$speech/general-dev/manifest.jsonl" "prompts-dev=$speech/prompts-dev/manifest.jsonl"
    done
done

# Mean and range over the seeds, of the last evaluation, and seconds of training.
"$python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

from whisper_min import runs

keys = ["eval/accented-dev/wer", "eval/general-dev/wer", "eval/prompts-dev/wer", "eval/non_speech/words_per_minute"]
print("|", " | ".join(["context", "clips/s", *(key.split("/")[1] for key in keys)]), "|")
for context in ("full", "trim", "pack"):
    found = []
    for seed in (0, 1, 2):
        rows = list(runs.merge_steps(runs.read_jsonl(Path(sys.argv[1]) / f"{context}-{seed}" / "metrics.jsonl")).values())
        speeds = sorted(row["perf/samples_per_second"] for row in rows if "perf/samples_per_second" in row)
        found.append([speeds[len(speeds) // 2], *(rows[-1][key] * (100 if key.endswith("wer") else 1) for key in keys)])
    cells = [f"{sum(each) / 3:.1f} ({min(each):.1f} … {max(each):.1f})" for each in zip(*found, strict=True)]
    print("|", " | ".join([context, *cells]), "|")
PYTHON
