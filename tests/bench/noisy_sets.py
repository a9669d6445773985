"""General speech again, in generated noise and rooms: the sets noisy-dev and noisy-unlabelled, made of two others.

    python tests/bench/noisy_sets.py --out DIR
    python evaluate.py tiny.en runs/mine --precision auto \
        --data noisy-dev=DIR/noisy-dev/manifest.jsonl noisy-unlabelled=DIR/noisy-unlabelled/manifest.jsonl

A clip gets what `--augment` would draw for it at a visit; each visit makes a clip.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import common
import numpy as np
import soundfile

from whisper_min import audio, config, runs
from whisper_min.config import InputError
from whisper_min.data.augment import Augmentation

SEED = 7
# name -> (the set that it is made of, what is done to it, visits)
SETS = {
    "noisy-dev": ("general-dev", ("noise=0..12@1", "reverb=0.1..0.6@0.5"), 3),
    "noisy-unlabelled": ("general-unlabelled", ("noise=0..15@1", "reverb=0.1..0.6@0.5"), 1),
}
LOUDEST = 0.99


def make(name: str, out: Path) -> None:
    """Write one set: its recordings, and a manifest with the rows of the set that it is made of."""
    source, words, visits = SETS[name]
    manifest, augmentation, rows = common.manifest(source), Augmentation(words, SEED), []
    (out / name / "audio").mkdir(parents=True)
    for visit in range(visits):
        for row in runs.read_jsonl(manifest):
            path = manifest.parent / row["audio_filepath"]
            waveform = audio.read(path)
            waveform = augmentation.on_waveform(waveform, augmentation.draw(path.stem, visit), len(waveform))
            copy = f"audio/{path.stem}-{visit}.flac"
            loudest = max(1.0, float(np.abs(waveform).max()) / LOUDEST)
            soundfile.write(out / name / copy, waveform / np.float32(loudest), audio.SAMPLE_RATE)
            rows.append({**row, "audio_filepath": copy})
    runs.write_atomic(out / name / "manifest.jsonl", "".join(map(runs.to_json_line, rows)))
    print(out / name / "manifest.jsonl")


def main() -> int:
    """Make both sets; exit code 0, or 2 where speech is missing or a set is there already."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=common.SPEECH, help="where the sets are written")
    args = parser.parse_args()
    try:
        if there := [str(args.out / name) for name in SETS if (args.out / name).exists()]:
            raise InputError(f"{' and '.join(there)}: there already; remove it, or name another --out")
        for name in SETS:
            make(name, args.out)
    except InputError as error:
        return config.print_faults(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
