"""The order of an epoch's samples, as a function from position to sample index that needs no list.

A Feistel network whose round keys come from (seed, epoch, n) permutes the smallest range of 2^b numbers that holds
0..n-1; a result beyond n is sent through again until it falls inside (cycle walking: Black and Rogaway, "Ciphers with
Arbitrary Finite Domains", 2002). That is a bijection on 0..n-1 for every key, and takes fewer than two
passes on average.

What is saved in a checkpoint is a position, so this function must never change: tests hold golden values.
"""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

ROUNDS = 8
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)  # the two multipliers of splitmix64 (Steele et al., 2014)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_1 = np.uint64(32)
_SHIFT_2 = np.uint64(29)


class EpochOrder:
    """The permutation of 0..n-1 that one epoch goes through. Takes the same memory for every n up to 2**62.

    `order[positions]` gives sample indices; positions are an int, a slice, or an array of ints in 0..n-1.
    """

    def __init__(self, n: int, seed: int, epoch: int) -> None:
        if not 1 <= n <= 2**62:
            raise ValueError(f"the order of {n} samples: expected 1 to 2**62")
        if epoch < 0:
            raise ValueError(f"epoch {epoch}: expected 0 or more")
        self.n = n
        bits = max(1, (n - 1).bit_length())
        self._low_bits = np.uint64(bits - bits // 2)
        self._low_mask = np.uint64((1 << (bits - bits // 2)) - 1)
        self._high_mask = np.uint64((1 << (bits // 2)) - 1)
        self._keys = _round_keys(n, seed, epoch)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, positions: Any) -> Indices:
        """Sample indices at the positions, int64, of the same shape. Raises: IndexError beyond 0..n-1."""
        if isinstance(positions, slice):
            positions = np.arange(*positions.indices(self.n))
        wanted = np.asarray(positions, dtype=np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < self.n):
            raise IndexError(f"positions {wanted.min()} to {wanted.max()}: expected 0 to {self.n - 1}")
        words = self._permute(wanted.reshape(-1).astype(np.uint64))
        beyond = np.flatnonzero(words >= self.n)
        while beyond.size:
            again = self._permute(words[beyond])
            words[beyond] = again
            beyond = beyond[again >= self.n]
        return words.astype(np.int64).reshape(wanted.shape)

    def _permute(self, words: _Words) -> _Words:
        """One pass through the network: in turn, each half is XORed with a hash of the other half and a key."""
        high, low = words >> self._low_bits, words & self._low_mask
        for turn, key in enumerate(self._keys):
            if turn % 2:
                low ^= _hash(high, key) & self._low_mask
            else:
                high ^= _hash(low, key) & self._high_mask
        return (high << self._low_bits) | low


def _round_keys(n: int, seed: int, epoch: int) -> list[_Words]:
    digest = hashlib.blake2b(f"torchrelay order 1: {n} {seed} {epoch}".encode(), digest_size=8 * ROUNDS).digest()
    keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
    return [keys[turn : turn + 1] for turn in range(ROUNDS)]  # arrays: they wrap around without a warning


def _hash(half: _Words, key: _Words) -> _Words:
    """A 64-bit hash of each number under a key, after splitmix64's finaliser."""
    mixed = half + key
    mixed *= _MULTIPLIER_1
    mixed ^= mixed >> _SHIFT_1
    mixed *= _MULTIPLIER_2
    mixed ^= mixed >> _SHIFT_2
    return mixed
