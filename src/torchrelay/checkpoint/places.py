"""Which tensors of training a restore can fill where they are."""

from collections.abc import Mapping

import torch

from torchrelay.checkpoint.dtypes import dtype_name
from torchrelay.contract.manifest import Manifest


def places_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those that are plain memory of the host and share none of it: what two names share is as the later one says."""
    plain = {name: tensor for name, tensor in tensors.items() if is_plain_memory(tensor) and tensor.numel()}
    ordered = sorted(plain, key=lambda name: plain[name].data_ptr())
    end, before, shared = 0, "", set()
    for name in ordered:
        if plain[name].data_ptr() < end:
            shared |= {before, name}
        if plain[name].data_ptr() + plain[name].nbytes > end:
            end, before = plain[name].data_ptr() + plain[name].nbytes, name
    return {name: tensor for name, tensor in plain.items() if name not in shared}


def fills(manifest: Manifest, name: str, tensor: torch.Tensor) -> bool:
    """Whether a checkpoint has a tensor like this one by that name."""
    entry = manifest.tensors.get(name)
    return entry is not None and (entry.dtype, entry.shape) == (dtype_name(tensor.dtype), tuple(tensor.shape))


def is_plain_memory(tensor: torch.Tensor) -> bool:
    """Whether a tensor's bytes lie in the host's memory one behind the other, and mean what they say."""
    return tensor.device.type == "cpu" and tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()
