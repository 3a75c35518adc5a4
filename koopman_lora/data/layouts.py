"""How data lie in chunks, and what to do where reading them a part at a time is hopeless."""

from __future__ import annotations

import math
from collections.abc import Sequence

from koopman_lora.data.sources import PART, Source

# Bytes of what must be decoded at once beyond which a buffer holds no several of them; of a chunk, below which opening
# takes longer than reading: see `benchmarks/scale.py --only layouts`.
LARGEST_BLOCK, SMALLEST_CHUNK = 2**28, 2**14


def layout_advice(sources: Sequence[Source]) -> str | None:
    """A sentence about the first source whose chunks make reading hopeless, and how to rewrite it; None if all is well.

    Examples
    --------
    >>> import dask.array as da
    >>> from koopman_lora.data.sources import sources_of
    >>> print(layout_advice(sources_of(da.zeros((10**6, 16), chunks=(10, 16)))))
    trajectory 0 lies in chunks of 10 frames x 16 of 16 numbers, 1.28 kB each: opening them takes longer than reading \
them. Write it once in chunks of about 32768 frames with all numbers of a state, such as \
array.chunk({'time': 32768, ...: -1}).to_zarr(path).
    """
    for source in sources:
        if source.chunk_shape and (why := _why_hopeless(source)):
            n_frames = max(1, PART // max(1, source.frame_bytes))
            return (
                f"{why}. Write it once in chunks of about {n_frames} frames with all numbers of a state, such as "
                f"array.chunk({{'time': {n_frames}, ...: -1}}).to_zarr(path)."
            )
    return None


def _why_hopeless(source: Source) -> str | None:
    n_leading = 2 if source.has_trajectories else 1
    n_numbers, n_frames = math.prod(source.state_shape), source.chunk_shape[n_leading - 1]
    n_together = math.prod(source.chunk_shape[n_leading:])
    chunk = math.prod(source.chunk_shape) * source.dtype.itemsize
    block = source.largest_block * source.frame_bytes
    lies = (
        f"{source.name} lies in chunks of {n_frames} frames x {n_together} of {n_numbers} numbers, {_bytes(chunk)} each"
    )
    if block > LARGEST_BLOCK:
        return f"{lies}: to read one frame, {_bytes(block)} are decoded"
    n_bytes = source.n_trajectories * source.n_frames * source.frame_bytes
    if chunk < SMALLEST_CHUNK and n_bytes > LARGEST_BLOCK // 4:
        return f"{lies}: opening them takes longer than reading them"
    return None


def _bytes(n: int) -> str:
    unit = next((unit for unit in ("GB", "MB", "kB") if n >= {"GB": 1e9, "MB": 1e6, "kB": 1e3}[unit]), "bytes")
    return f"{n / {'GB': 1e9, 'MB': 1e6, 'kB': 1e3, 'bytes': 1}[unit]:.3g} {unit}"
