"""The forward pass that training and decoding share: OpenAI's modules, with an audio context of any length."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint
from whisper import Whisper
from whisper.model import Linear, MultiHeadAttention, ResidualAttentionBlock

from whisper_min.config import InputError
from whisper_min.model.lora import LoRALinear

# Attention weights of a layer, clips x heads x queries x keys, that training in bf16 on a CPU keeps: 256 MiB.
PLAIN_ATTENTION_WEIGHTS = 2**27
# Positions whose logits are held in fp32 at once: 512 times a vocabulary of 51,866 is 106 MB.
POSITIONS_AT_ONCE = 512
# Queries of a block of plain attention: its weights against 30 s of audio stay in a processor's cache.
QUERIES_PER_BLOCK = 300


def encode(model: Whisper, mel: Tensor, checkpointing: bool = False) -> Tensor:
    """Run the encoder on a log-mel of any length up to 30 s.

    Whisper's own `AudioEncoder.forward` asserts 1500 positions; sinusoidal positions do not depend on the length, so a
    shorter context takes the first of them. With gradients, on 30 s, it is whisper's forward to the bit; without, it
    may differ in the last digits (see `linear`).

    Parameters
    ----------
    mel : Tensor, shape = (B, M, F)
    checkpointing : bool
        keep each block's input alone for the backward pass, which computes the block again

    Returns
    -------
    Tensor, shape = (B, A, C)
        with A = F / 2
    """
    encoder = model.encoder
    x = F.gelu(encoder.conv1(mel))
    x = F.gelu(encoder.conv2(x)).permute(0, 2, 1)  # (B, A, C)
    x = (x + encoder.positional_embedding[: x.shape[1]]).to(x.dtype)
    for block in encoder.blocks:
        x = _run(encoder_block, checkpointing, block, x)
    features: Tensor = encoder.ln_post(x)
    return features


def decode(model: Whisper, tokens: Tensor, features: Tensor, checkpointing: bool = False) -> Tensor:
    """Run the decoder up to its last LayerNorm, teacher-forced.

    Whisper's own `TextDecoder.forward` projects every position to the vocabulary; see `project`.

    Parameters
    ----------
    tokens : Tensor, shape = (B, T)
    features : Tensor, shape = (B, A, C)
    checkpointing : bool
        as in `encode`

    Returns
    -------
    Tensor, shape = (B, T, C)
    """
    decoder = model.decoder
    x = (decoder.token_embedding(tokens) + decoder.positional_embedding[: tokens.shape[1]]).to(features.dtype)
    for block in decoder.blocks:
        x = _run(decoder_block, checkpointing, block, x, features)
    hidden: Tensor = decoder.ln(x)
    return hidden


def encoder_block(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """One layer of the encoder: (B, A, C) -> (B, A, C)."""
    normed = block.attn_ln(x)
    x = x + attend(block.attn, normed, keys(block.attn, normed), values(block.attn, normed))
    return x + mlp(block, block.mlp_ln(x))


def decoder_block(block: ResidualAttentionBlock, x: Tensor, features: Tensor) -> Tensor:
    """One layer of the decoder, teacher-forced: (B, T, C), (B, A, C) -> (B, T, C)."""
    normed = block.attn_ln(x)
    x = x + attend(block.attn, normed, keys(block.attn, normed), values(block.attn, normed), causal=True)
    cross = block.cross_attn
    x = x + attend(cross, block.cross_attn_ln(x), keys(cross, features), values(cross, features))
    return x + mlp(block, block.mlp_ln(x))


def compile_blocks(model: Whisper, backend: str = "inductor") -> None:
    """Have torch.compile make one graph of a layer of the encoder, and one of the decoder, for all layers alike.

    Wherever gradients are enabled the model's layers run through them from then on; evaluation keeps its kernels, and
    its results. A part that cannot be compiled is an error. Parameters and their names stay what they are.
    """
    for side, layer in ((model.encoder, encoder_block), (model.decoder, decoder_block)):
        # dynamic: sizes are symbols, so that no new length of a text or a context compiles anew
        compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
        for block in side.blocks:
            block.compiled = compiled


def check_compiler(device: torch.device, option: str = "--compile") -> None:
    """Compile something small for the device; InputError where that fails, for want of a C++ compiler for instance."""
    try:
        torch.compile(F.gelu, fullgraph=True)(torch.ones(8, device=device))
    except Exception as error:  # each backend and compiler fails in its own way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{option}: this torch ({torch.__version__}) cannot compile for {device} ({reason}); install a C++ "
            f"compiler (g++) and Python's headers, or leave {option} out"
        ) from None


def _run(layer: Callable[..., Tensor], checkpointing: bool, block: ResidualAttentionBlock, *inputs: Tensor) -> Tensor:
    """A block's output; under checkpointing (arXiv:1604.06174) nothing in it is kept for the backward pass."""
    if torch.is_grad_enabled():
        layer = getattr(block, "compiled", layer)
    # the block itself gathers its weights where they are split among ranks (`training/sharding.py`)
    sharded = isinstance(block, FSDPModule)
    call: Callable[..., Tensor] = block if sharded else partial(layer, block)
    if checkpointing and torch.is_grad_enabled():
        again: Tensor = checkpoint(call, *inputs, use_reentrant=False)
        return again
    return call(*inputs)


def project(model: Whisper, hidden: Tensor, positions: Tensor) -> Tensor:
    """Logits of the positions that the loss counts, and of no others: the vocabulary is a step's widest product.

    Parameters
    ----------
    hidden : Tensor, shape = (B, T, C)
    positions : Tensor, shape = (N,)
        indices into the flattened (B, T)

    Returns
    -------
    Tensor, shape = (N, V)
    """
    counted = hidden.flatten(0, 1)[positions]
    logits: Tensor = counted @ model.decoder.token_embedding.weight.to(counted.dtype).T
    return logits


def keys(attention: MultiHeadAttention, x: Tensor) -> Tensor:
    """Keys of (B, T, C) by head: (B, heads, T, C / heads)."""
    return _by_head(linear(attention.key, x), attention.n_head)


def values(attention: MultiHeadAttention, x: Tensor) -> Tensor:
    """Values of (B, T, C) by head: (B, heads, T, C / heads)."""
    return _by_head(linear(attention.value, x), attention.n_head)


def _by_head(x: Tensor, n_head: int) -> Tensor:
    return x.unflatten(2, (n_head, -1)).transpose(1, 2)


def attend(
    attention: MultiHeadAttention, x: Tensor, k: Tensor, v: Tensor, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Attend from x (B, T, C) to keys and values (B, heads, S, C / heads), and project: (B, T, C).

    `mask` (T, S), boolean, says which keys are seen.
    """
    q = _by_head(linear(attention.query, x), attention.n_head).to(k.dtype)
    single = q.shape[2] == 1
    # with gradients the weights (B, heads, T, S) are kept: only where they are small
    small = not torch.is_grad_enabled() or q[..., 0].numel() * k.shape[2] <= PLAIN_ATTENTION_WEIGHTS
    plain = mask is None and not causal and (single or (small and q.dtype == torch.bfloat16))
    if q.device.type == "cpu" and plain and not torch.compiler.is_compiling():
        # torch's flash kernel for CPUs works in blocks of queries: for one query, and in bf16, which it unpacks, plain
        # products are faster. Compiled, each number of blocks would be another graph.
        with torch.autocast("cpu", enabled=False):
            blocks = (q * q.shape[-1] ** -0.5).split(QUERIES_PER_BLOCK, dim=2)
            attended = torch.cat([torch.softmax(block @ k.transpose(-1, -2), dim=-1) @ v for block in blocks], dim=2)
    else:
        attended = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    return linear(attention.out, attended.transpose(1, 2).flatten(2).to(x.dtype))


def mlp(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """The block's two layers with a GELU between."""
    return linear(block.mlp[2], F.gelu(linear(block.mlp[0], x)))


def linear(layer: Linear, x: Tensor) -> Tensor:
    """`layer(x)`; without gradients, in fp32 on a CPU, through oneDNN.

    torch takes MKL there, which is slower on the AMD processors that this was tried on; oneDNN's product is the one
    that torch.compile emits. Layers of other classes run as they are.
    """
    by_onednn = (
        not torch.is_grad_enabled()
        and type(layer) in (Linear, LoRALinear)
        and x.device.type == "cpu"
        and x.dtype == layer.weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )
    if not by_onednn:
        return layer(x)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "none", [], "")
    return layer.adapt(x, product) if isinstance(layer, LoRALinear) else product


def sum_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy summed over the tokens that count; the loop divides once, by the tokens of the whole step.

    Parameters
    ----------
    logits : Tensor, shape = (B, T, V) or (N, V)
    targets : Tensor, shape = (B, T) or (N,)
        `tokens.IGNORED` where no token is predicted
    """

    def sum_of_part(z: Tensor, labels: Tensor) -> Tensor:
        """The logits in fp32 and their log-probabilities exist only in here, and again in the backward pass."""
        return F.cross_entropy(z.float(), labels, reduction="sum")

    every, labels = logits.flatten(0, -2), targets.flatten()
    if len(every) <= POSITIONS_AT_ONCE:
        return sum_of_part(every, labels)
    summed = partial(checkpoint, sum_of_part, use_reentrant=False, preserve_rng_state=False)
    parts = zip(every.split(POSITIONS_AT_ONCE), labels.split(POSITIONS_AT_ONCE), strict=True)
    return torch.stack([summed(*part) for part in parts]).sum()
