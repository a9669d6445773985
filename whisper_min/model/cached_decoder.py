"""The decoder token by token: keys and values of the audio computed once, the text's in a cache of fixed size."""

from __future__ import annotations

import torch
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
        self.capacity = capacity
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
        start, self.position = self.position, self.position + tokens.shape[1]
        return self.read(tokens, slice(start, self.position), self.position)

    def read(
        self, tokens: Tensor, places: slice | Tensor, stop: int | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Put tokens (B, T) at these places of the caches; they see what is there up to `stop`, and in the mask."""
        x = self.decoder.token_embedding(tokens) + self.decoder.positional_embedding[places]  # (B, T, C)
        causal = tokens.shape[1] > 1  # several come only at the start, where causal means what it says
        for block, (audio_k, audio_v), (text_k, text_v) in zip(self.decoder.blocks, self.audio, self.text, strict=True):
            normed = block.attn_ln(x)
            text_k[:, :, places] = keys(block.attn, normed)
            text_v[:, :, places] = values(block.attn, normed)
            x = x + attend(block.attn, normed, text_k[:, :, :stop], text_v[:, :, :stop], causal, mask)
            x = x + attend(block.cross_attn, block.cross_attn_ln(x), audio_k, audio_v)
            x = x + mlp(block, block.mlp_ln(x))
        last = self.decoder.ln(x[:, -1])  # (B, C)
        # the long side first: on a CPU this product is twice as fast as last @ embedding.T
        return (self.decoder.token_embedding.weight @ last.T).T.float()

    def keep(self, rows: Tensor) -> None:
        """Drop all rows of the batch but these (int64 indices)."""
        self.audio = [(k[rows], v[rows]) for k, v in self.audio]
        self.text = [(k[rows], v[rows]) for k, v in self.text]


class FixedStep:
    """The decoder's step of one token with shapes and places in memory that never change; on CUDA one graph's launch.

    A step launches hundreds of small kernels, and a GPU waits for each; a CUDA graph launches all at once. For that the
    token attends to the whole cache, of which a mask hides what is not written yet. `CachedDecoder.keep` ends its use.

    Parameters
    ----------
    decoder : CachedDecoder
        has read the prefix
    tokens : Tensor, shape = (B, 1)
        that come next
    """

    def __init__(self, decoder: CachedDecoder, tokens: Tensor) -> None:
        self.decoder, self.tokens, device = decoder, tokens.clone(), tokens.device
        self.place = torch.tensor([decoder.position], device=device)
        self.places = torch.arange(decoder.capacity, device=device)
        self.graph = torch.cuda.CUDAGraph() if device.type == "cuda" else None
        if self.graph is not None:
            # libraries set themselves up in a first call, beside the main stream (torch's notes on CUDA graphs); what
            # it writes to the caches is what the first replay writes
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                self._read()
            torch.cuda.current_stream().wait_stream(beside)
            # what other threads ask of CUDA meanwhile is none of the graph's
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.logits = self._read()

    def __call__(self, tokens: Tensor) -> Tensor:
        """As the decoder's own, for one token (B, 1); the logits (B, V) are overwritten by the next call."""
        self.tokens.copy_(tokens)
        self.place.fill_(self.decoder.position)
        self.decoder.position += 1
        if self.graph is None:
            return self._read()
        self.graph.replay()
        return self.logits

    def _read(self) -> Tensor:
        return self.decoder.read(self.tokens, self.place, mask=self.places[None] <= self.place)
