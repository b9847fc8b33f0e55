"""The data sets that come with the runtime."""

from pathlib import Path

import pytest
import torch

from torchrelay.contract.errors import ConfigError
from torchrelay.data.digits import Digits
from torchrelay.data.text import CharText
from torchrelay.data.transforms import InOrder


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("abcdefghij" * 10, encoding="utf-8")
    return path


def text(path: Path, **options: object) -> CharText:
    return CharText(str(path.parent), path.name, **options)  # type: ignore[arg-type]


def test_digits_are_split_once_and_for_all() -> None:
    train, test = Digits(train=True), Digits(train=False)
    assert (len(train), len(test)) == (1437, 360)
    seen = {image.numpy().tobytes() for image in train.images}
    assert sum(image.numpy().tobytes() in seen for image in test.images) == 0
    assert train.labels[:10] == [1, 0, 6, 6, 4, 4, 5, 9, 7, 3]


def test_a_digit_is_an_image_and_its_class() -> None:
    image, label = Digits(train=True)[0]
    assert image.shape == (1, 8, 8)
    assert image.dtype == torch.float32
    assert image.min() >= 0
    assert image.max() <= 1
    assert label in range(10)


def test_digits_can_be_normalized_and_transformed() -> None:
    images = Digits(train=True, normalize=True).images
    assert images.mean().abs() < 0.02
    assert (images.std() - 1).abs() < 0.02
    changed = Digits(train=True, transform=lambda image: image * 0)
    assert changed[0][0].sum() == 0
    assert not changed.draws_nothing
    assert Digits(train=True).draws_nothing


def test_text_is_cut_into_windows(text_file: Path) -> None:
    train = text(text_file, block=4)
    assert "".join(train.vocabulary) == "abcdefghij"
    assert len(train) == 90 - 4
    inputs, targets = train[3]
    assert inputs.tolist() == [3, 4, 5, 6]
    assert targets.tolist() == [4, 5, 6, 7]
    assert train[len(train) - 1][1][-1] == train.tokens[-1]


def test_validation_windows_do_not_overlap(text_file: Path) -> None:
    val = text(text_file, block=4, split="val")
    assert len(val) == 2
    assert [val[i][0].tolist() for i in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(text(text_file, block=4, split="val", stride=1)) == 6
    with pytest.raises(IndexError):
        val[2]


def test_a_missing_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no text file .*nowhere.txt"):
        CharText(str(tmp_path), "nowhere.txt")


def test_a_text_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_bytes(b"ab\xff\xfe")
    with pytest.raises(ConfigError, match=r"not UTF-8 text: .* at byte 2"):
        CharText(str(tmp_path))
    with pytest.raises(ConfigError, match="can't be read"):
        CharText(str(tmp_path.parent), tmp_path.name)


@pytest.mark.parametrize("options", [{"split": "test"}, {"block": 0}, {"stride": 0}, {"block": 90}])
def test_wrong_options_are_refused(text_file: Path, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        text(text_file, **options)


def test_transforms_go_in_order() -> None:
    assert InOrder([lambda x: x + 1, lambda x: x * 10])(1) == 20
    assert "InOrder" in repr(InOrder([]))
