"""Teach Whisper a domain without making it forget everything else.

Imports go to the same folder or to a lower number, never up; the scripts `train.py`, `evaluate.py`
and `tui.py` import anything and nobody imports them:

0  config.py   one frozen dataclass: the command line, config.json and the loop's argument
0  runs.py     the run folder: metrics, samples, status, control
0  text.py     label styles
0  ffmpeg.py   how a file is handed to ffmpeg
1  audio.py    file -> 16 kHz waveform -> log-mel
1  ui/         the terminal app: runs read as they grow, and drawn; imports rank 0 alone, never torch
2  data/       sources -> examples -> preflight -> tokens -> batches
2  model/      weights in, the forward, adapters, fingerprints, points between two models
3  demo/       the speech that is shipped, and how it was made
3  retain/     what keeps the old knowledge: KL to the original, Fisher information, EWC
4  training/   optimizer and schedule, precision, checkpoints, memory, ranks
5  scoring/    batched decoding, word error rate, significance, forgetting budget, loops and non-speech
6  engines/    the formats of other engines, and the engines themselves
7  export.py   weights out
7  limits.py   operations, memory and speed, counted before anything runs

Letters, everywhere: B batch, M mel bins, F mel frames, A audio positions, T tokens, C channels, V vocabulary.
"""
