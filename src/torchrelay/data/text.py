"""A text file as windows of characters, for next-character prediction."""

from pathlib import Path
from typing import Literal

import torch

from torchrelay.contract.errors import ConfigError

_TRAIN_SHARE = 0.9


class CharText:
    """Windows of one text: the first 90 % of its characters to train on, or the rest to validate on.

    The vocabulary is every character of the whole file, sorted. A sample is (inputs, targets), both (block,)
    int64, where targets are the inputs one character later. Windows begin `stride` characters apart; unless given, 1
    for `train`, and `block` for `val`, so that validation counts each character once.

    Raises: ConfigError if the file is missing, is not UTF-8, or is too short for one window.
    """

    draws_nothing = True

    def __init__(
        self,
        root: str = ".",
        file: str = "input.txt",
        block: int = 64,
        split: Literal["train", "val"] = "train",
        stride: int | None = None,
    ) -> None:
        if split not in ("train", "val"):
            raise ConfigError(f"split {split!r}: expected train or val")
        if block < 1 or (stride is not None and stride < 1):
            raise ConfigError(f"block {block}, stride {stride}: expected 1 or more")
        text = _read(Path(root).expanduser() / file)
        self.vocabulary = sorted(set(text))
        number = {character: i for i, character in enumerate(self.vocabulary)}
        cut = int(len(text) * _TRAIN_SHARE)
        part = text[:cut] if split == "train" else text[cut:]
        self.tokens = torch.tensor([number[character] for character in part], dtype=torch.int64)
        self.block = block
        self.stride = stride or (1 if split == "train" else block)
        if len(self) < 1:
            raise ConfigError(
                f"{Path(root) / file}: its {split} part has {len(part)} characters, block {block} needs more"
            )

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - 1 - self.block) // self.stride + 1)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = index * self.stride
        return self.tokens[start : start + self.block], self.tokens[start + 1 : start + self.block + 1]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no text file {path} (looked in {path.absolute().parent})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror or error}") from None
