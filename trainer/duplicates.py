"""Finds texts that are the same, or nearly: MinHash over character shingles, verified by true Jaccard."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SHINGLE_CHARS = 5
PERMUTATIONS = 64
BANDS = 16
NEAR = 0.9
"""The Jaccard similarity of shingles from which on two texts count as near-duplicates."""

_PRIME = np.uint64((1 << 61) - 1)
_MASK = np.uint64((1 << 32) - 1)


def normalize(text: str) -> str:
    """`text` without differences of case, accents' encoding, punctuation and spacing."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))


def fingerprint(text: str) -> str:
    """The same for two texts exactly when they are equal once normalized."""
    return hashlib.blake2b(normalize(text).encode(), digest_size=16).hexdigest()


def shingles(text: str) -> frozenset[int]:
    """Hashes of the overlapping character runs of the normalized text."""
    plain = normalize(text)
    runs = {plain[i : i + SHINGLE_CHARS] for i in range(max(1, len(plain) - SHINGLE_CHARS + 1))}
    return frozenset(
        int.from_bytes(hashlib.blake2b(run.encode(), digest_size=4).digest(), "big") for run in runs
    )


def near_duplicate_groups(texts: Sequence[str]) -> list[int]:
    """For every text the index of its group's first member; texts alone are their own group."""
    sets = [shingles(text) for text in texts]
    parents = list(range(len(texts)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for index, signature in enumerate(_signatures(sets)):
        for band, part in enumerate(np.split(signature, BANDS)):
            buckets[band, part.tobytes()].append(index)
    for members in buckets.values():
        first = members[0]
        for other in members[1:]:
            a, b = root(first), root(other)
            if a != b and _jaccard(sets[first], sets[other]) >= NEAR:
                parents[max(a, b)] = min(a, b)
    return [root(index) for index in range(len(texts))]


def _signatures(sets: Sequence[frozenset[int]]) -> list[npt.NDArray[np.uint64]]:
    random = np.random.default_rng(0x5EED)
    # Below 2^29, so that a 32-bit shingle times a coefficient stays inside 64 bits.
    a = random.integers(1, 1 << 29, PERMUTATIONS, dtype=np.uint64)
    b = random.integers(0, 1 << 29, PERMUTATIONS, dtype=np.uint64)
    signatures = []
    for members in sets:
        values = np.fromiter(members, dtype=np.uint64, count=len(members))
        hashed = (values[:, None] * a[None, :] + b[None, :]) % _PRIME & _MASK
        signatures.append(hashed.min(axis=0))
    return signatures


def _jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / len(a | b)
