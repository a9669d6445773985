"""How a model is judged: decoding, word error rate, significance, health."""
