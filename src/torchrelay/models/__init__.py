"""Small models to start from: a perceptron, a convolutional net, a character-level transformer."""

from torchrelay.models.convolutional import cnn
from torchrelay.models.perceptron import mlp
from torchrelay.models.transformer import GPT, gpt

__all__ = ["GPT", "cnn", "gpt", "mlp"]
