"""The engines that an export is written for: each module writes a model, and transcribes with what it has written.

openai.py         whisper itself: a .pt
huggingface.py    transformers: a folder with safetensors, tokenizer and generation config
faster_whisper.py CTranslate2, by its own converter: a folder
whisper_cpp.py    whisper.cpp: one ggml file

`write(model, heads, out, precision)` writes; `transcriber(out, tokens)` loads what was written in the real
engine and gives a function from a waveform (samples,) at 16 kHz to its text: greedy, without timestamps, fallback or
prompt, in a window of 30 s. Both raise ImportError where the engine is not installed.
"""
