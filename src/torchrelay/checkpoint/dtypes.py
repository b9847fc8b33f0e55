"""torch's dtypes by the names that checkpoints give them, and tensors as plain bytes."""

import torch

_NAMES: dict[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex32: "C32",
    torch.complex64: "C64",
    torch.complex128: "C128",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def dtype_name(dtype: torch.dtype) -> str | None:
    """A checkpoint's name for a dtype, or None if checkpoints do not have it."""
    return _NAMES.get(dtype)


def dtype_of(name: str) -> torch.dtype:
    """The dtype of a checkpoint's name. Raises: KeyError."""
    return _DTYPES[name]


def writable_bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous host tensor, to be filled."""
    if tensor.numel() == 0:  # numpy gives a view without elements a stride that memoryview cannot cast
        return memoryview(bytearray())
    return in_a_row(tensor).view(torch.uint8).numpy().data


def in_a_row(tensor: torch.Tensor) -> torch.Tensor:
    """The elements of a contiguous tensor in one dimension. `view(-1)` leaves a single element the stride it had."""
    return tensor.as_strided((tensor.numel(),), (1,))
