"""Random seeds for initial values, computed without compiling a program.

`nnx.Rngs` derives every key by a small jitted program; compiling these takes most of the time that
the construction of a student needs. The keys here have the same bits.
"""

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Key, UInt32

_MASK = np.uint64(0xFFFFFFFF)
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def make_rngs(seed: int) -> nnx.Rngs:
    """Returns an `nnx.Rngs` that yields the same keys as `nnx.Rngs(seed)`.

    Args:
      seed: Any integer that `jax.random.key` accepts.

    Returns:
      The random number generators, with the single stream `default`.
    """
    if not 0 <= seed < 2**32 or _prng() != "threefry2x32":
        return nnx.Rngs(seed)
    rngs = nnx.Rngs()
    rngs.default = _Stream(seed)  # type: ignore[attr-defined]
    return rngs


def draw_generator(rngs: nnx.Rngs) -> np.random.Generator:
    """Returns a NumPy generator seeded with the next key of the stream `params`.

    Args:
      rngs: From `make_rngs`, or any other `nnx.Rngs`.
    """
    return np.random.default_rng(np.asarray(jax.random.key_data(rngs.params())))


def _prng() -> str:
    return jax.config.jax_default_prng_impl  # type: ignore[attr-defined]


class _Stream(nnx.RngStream):
    """A stream whose keys NumPy computes."""

    def __init__(self, seed: int) -> None:
        self.tag = "default"
        data = jax.device_put(np.array([0, seed], np.uint32))
        self.key = nnx.RngKey(jax.random.wrap_key_data(data), tag=self.tag)
        self.count = nnx.RngCount(jax.device_put(np.uint32(0)), tag=self.tag)

    def __call__(self) -> Key[Array, ""]:
        key = np.asarray(jax.random.key_data(self.key[...]))
        count = int(self.count[...])
        self.count.set_value(jax.device_put(np.uint32(count + 1)))
        folded = threefry2x32(key, np.array([0, count], np.uint32))
        return jax.random.wrap_key_data(jax.device_put(folded))


def threefry2x32(key: UInt32[np.ndarray, "2"], data: UInt32[np.ndarray, "2"]) -> np.ndarray:
    """Encrypts two words with Threefry-2x32 in 20 rounds (Salmon et al. 2011).

    `jax.random.fold_in(key, n)` is the encryption of (0, n).

    Args:
      key: Two words.
      data: Two words.

    Returns:
      Two words, uint32.
    """
    k0, k1 = (np.uint64(word) for word in key)
    schedule = (k0, k1, k0 ^ k1 ^ np.uint64(0x1BD11BDA))
    x0, x1 = (np.uint64(word) for word in data)
    x0, x1 = (x0 + schedule[0]) & _MASK, (x1 + schedule[1]) & _MASK
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = (x0 + x1) & _MASK
            left, right = np.uint64(rotation), np.uint64(32 - rotation)
            x1 = (((x1 << left) & _MASK) | (x1 >> right)) ^ x0
        x0 = (x0 + schedule[(group + 1) % 3]) & _MASK
        x1 = (x1 + schedule[(group + 2) % 3] + np.uint64(group + 1)) & _MASK
    return np.array([x0, x1], np.uint32)
