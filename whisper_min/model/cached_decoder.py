"""The decoder token by token: keys and values of the audio computed once, the text's in a cache of fixed size."""

from __future__ import annotations

from torch import Tensor
from whisper import Whisper
from whisper.model import MultiHeadAttention

from whisper_min.model.forward import attend, keys, mlp, values


class CachedDecoder:
    """The decoder with its caches, for one batch.

    Parameters
    ----------
    model : Whisper
    features : Tensor, shape = (B, A, C)
        what the encoder wrote
    capacity : int
        tokens that the cache holds: prefix and all that may be written
    """

    def __init__(self, model: Whisper, features: Tensor, capacity: int) -> None:
        self.decoder = model.decoder
        self.position = 0
        self.audio: list[tuple[Tensor, Tensor]] = []
        self.text: list[tuple[Tensor, Tensor]] = []
        embedding = self.decoder.token_embedding.weight
        for block in self.decoder.blocks:
            # contiguous by head: they are read again for every token
            cross: MultiHeadAttention = block.cross_attn
            self.audio.append((keys(cross, features).contiguous(), values(cross, features).contiguous()))
            heads = block.attn.n_head
            shape = (features.shape[0], heads, capacity, embedding.shape[1] // heads)
            self.text.append((embedding.new_zeros(shape), embedding.new_zeros(shape)))

    def __call__(self, tokens: Tensor) -> Tensor:
        """Read the next tokens (B, T) and return the logits that follow the last: (B, V)."""
        start, stop = self.position, self.position + tokens.shape[1]
        x = self.decoder.token_embedding(tokens) + self.decoder.positional_embedding[start:stop]  # (B, T, C)
        for block, (audio_k, audio_v), (text_k, text_v) in zip(self.decoder.blocks, self.audio, self.text, strict=True):
            normed = block.attn_ln(x)
            text_k[:, :, start:stop] = keys(block.attn, normed)
            text_v[:, :, start:stop] = values(block.attn, normed)
            # several tokens come only at the start, where causal means what it says; one token sees all before it
            x = x + attend(block.attn, normed, text_k[:, :, :stop], text_v[:, :, :stop], causal=tokens.shape[1] > 1)
            x = x + attend(block.cross_attn, block.cross_attn_ln(x), audio_k, audio_v)
            x = x + mlp(block, block.mlp_ln(x))
        self.position = stop
        last = self.decoder.ln(x[:, -1])  # (B, C)
        # the long side first: on a CPU this product is twice as fast as last @ embedding.T
        return (self.decoder.token_embedding.weight @ last.T).T.float()

    def keep(self, rows: Tensor) -> None:
        """Drop all rows of the batch but these (int64 indices)."""
        self.audio = [(k[rows], v[rows]) for k, v in self.audio]
        self.text = [(k[rows], v[rows]) for k, v in self.text]
