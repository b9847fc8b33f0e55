"""A small causal transformer: pre-norm blocks with learned positions (Radford et al., 2019)."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from torchrelay.contract.errors import ConfigError


@dataclass(frozen=True)
class Shape:
    """Sizes of a GPT."""

    vocabulary: int
    block: int
    layers: int
    heads: int
    width: int
    dropout: float = 0.0


def gpt(  # noqa: PLR0913 - they are the names that a spec's `args` use
    vocabulary: int,
    *,
    block: int = 64,
    layers: int = 4,
    heads: int = 4,
    width: int = 128,
    dropout: float = 0.0,
    tie_weights: bool = False,
) -> "GPT":
    """A GPT that takes up to `block` tokens; `tie_weights` uses one matrix to embed tokens and to score them."""
    return GPT(Shape(vocabulary, block, layers, heads, width, dropout), tie_weights)


class GPT(nn.Module):
    """Takes tokens (batch, length) int64 with length <= block; gives logits (batch, length, vocabulary)."""

    def __init__(self, shape: Shape, tie_weights: bool = False) -> None:
        super().__init__()
        if shape.width % shape.heads:
            raise ConfigError(f"width {shape.width} does not divide into {shape.heads} heads")
        self.block = shape.block
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.block, shape.width)
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.Sequential(*(_Block(shape) for _ in range(shape.layers)))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self._initialize(shape.layers)
        if tie_weights:
            self.head.weight = self.tokens.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        if length > self.block:
            raise ValueError(f"{length} tokens, but the model takes at most {self.block}")
        places = torch.arange(length, device=tokens.device)
        hidden = self.dropout(self.tokens(tokens) + self.positions(places))
        logits: torch.Tensor = self.head(self.norm(self.blocks(hidden)))
        return logits

    def _initialize(self, layers: int) -> None:
        """Normal with 0.02; what adds to the residual stream is scaled down by its number of additions."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                continue
            scale = 1 / math.sqrt(2 * layers) if name.endswith("out.weight") else 1.0
            nn.init.normal_(parameter, std=0.02 * scale)


class _Block(nn.Module):
    """Attention, then a two-layer perceptron, each on normalised input and added to the stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.width)
        self.attention = _Attention(shape)
        self.mlp_norm = nn.LayerNorm(shape.width)
        self.mlp = _Mlp(shape)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden))
        after: torch.Tensor = hidden + self.mlp(self.mlp_norm(hidden))
        return after


class _Attention(nn.Module):
    """Causal self-attention over (batch, length, width)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.attention_dropout = shape.heads, shape.dropout
        self.inputs = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        batch, length, width = hidden.shape
        split = self.inputs(hidden).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        dropout = self.attention_dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        joined = mixed.transpose(1, 2).reshape(batch, length, width)
        attended: torch.Tensor = self.dropout(self.out(joined))
        return attended


class _Mlp(nn.Module):
    """Two linear layers with GELU between, four times as wide inside."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.inputs = nn.Linear(shape.width, 4 * shape.width)
        self.out = nn.Linear(4 * shape.width, shape.width)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        mapped: torch.Tensor = self.dropout(self.out(functional.gelu(self.inputs(hidden))))
        return mapped
