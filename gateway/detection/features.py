"""From a prompt to the features of the task model: hashed words, letters shape and size.

All of it is arithmetic on arrays of bytes, so that a prompt of 4,000 characters costs well under
a millisecond. What a prompt asks for stands at its beginning or its end; what it is about, often
pasted, in between. So letters and word pairs are read at both ends only, single words everywhere.
Trainer and gateway share this file: a change here asks for a new model.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = 16
END_BYTES = 240
"""How much of each end counts as the request itself."""
LINE_CHARS_MIN = 25
"""A first or last line that is shorter (a greeting, a name) does not stand alone."""
FIRST_WORDS = 7
LETTERS = (3, 4, 5)
SYSTEM_BYTES_MAX = 600

Bytes = NDArray[np.uint8]
Hashes = NDArray[np.uint32]

_PRIME = np.uint32(0x01000193)
_POWERS = np.cumprod(np.full(64, 0x9E3779B1, np.uint32), dtype=np.uint32)
"""A word is a polynomial in its letters; 64 letters are enough."""
_WORDY = np.zeros(256, bool)
_WORDY[[*range(48, 58), *range(97, 123), 39, 95, *range(128, 256)]] = True
_GAP = np.zeros(1, bool)
_CODE_MARKS = np.zeros(256, bool)
_CODE_MARKS[list(b"{}[]();=<>_$#\\|&*/`")] = True
_DIGITS = np.zeros(256, bool)
_DIGITS[48:58] = True

CONCEPTS = Path(__file__).with_name("concepts.txt")

# How much each group of features counts; every group is scaled to this length.
WEIGHTS = {
    "letters": 1.0,
    "words": 1.4,
    "pairs": 1.0,
    "triples": 0.6,
    "concepts": 1.2,
    "first": 1.2,
    "last": 0.9,
    "body": 0.5,
    "system": 0.5,
    "shape": 0.8,
    "size": 0.8,
}


def features(asked: str, system: str = "") -> tuple[Hashes, NDArray[np.float32]]:
    """Return the indexes (below 2**BITS) of a prompt's features and their values."""
    data = _normal(asked)
    ends, body = _parts(asked, data)
    heads = [_words(end) for end in ends]
    groups: list[tuple[str, Hashes]] = [("shape", _shape(asked, data))]
    groups.append(("size", _size(asked, data, heads)))
    # Each end has its own length: a request of three words is heard beside a page of text.
    for end, words in zip(ends, heads, strict=True):
        groups.append(("letters", _letters(end)))
        groups.append(("words", _tagged(words, 1)))
        groups.append(("pairs", _runs(words, 2)))
        groups.append(("triples", _runs(words, 3)))
        meant = _concepts(words)
        groups.append(("concepts", _tagged(meant, 7)))
        groups.append(("concepts", _tagged(_runs(meant, 2), 8)))
    groups.append(("first", _tagged(heads[0][:FIRST_WORDS], 2)))
    groups.append(("first", _tagged(_runs(heads[0][:3], 2), 3)))
    groups.append(("first", _tagged(_concepts(heads[0][:FIRST_WORDS]), 9)))
    groups.append(("last", _tagged(_words(_last_sentence(data))[:FIRST_WORDS], 4)))
    if body is not None:
        groups.append(("body", _tagged(_words(body), 5)))
    if system:
        groups.append(("system", _tagged(_words(_normal(system)[:SYSTEM_BYTES_MAX]), 6)))
    indexes = np.concatenate([hashes for _, hashes in groups])
    values = np.concatenate(
        [
            np.full(len(hashes), WEIGHTS[name] / max(1.0, len(hashes)) ** 0.5, np.float32)
            for name, hashes in groups
        ]
    )
    return _mixed(indexes) >> np.uint32(32 - BITS), values


def _normal(text: str) -> Bytes:
    """Lower case, every digit alike, any white space one space; a space at both ends."""
    plain = " ".join(text.lower().split())
    data = np.frombuffer(f" {plain} ".encode("utf-8", "replace"), np.uint8).copy()
    data[_DIGITS[data]] = 48
    return data


def _parts(asked: str, data: Bytes) -> tuple[list[Bytes], Bytes | None]:
    """Return the ends of a prompt, where its request stands, and what lies between them.

    A prompt of several lines has its first and its last as ends, one long line its two ends.
    """
    lines = [line for line in asked.split("\n") if line.strip()]
    if len(lines) > 1 and len(data) > END_BYTES // 2:
        first, last = 1, len(lines) - 1
        while first < last and sum(map(len, lines[:first])) < LINE_CHARS_MIN:
            first += 1
        while last > first and sum(map(len, lines[last:])) < LINE_CHARS_MIN:
            last -= 1
        head, tail = _normal(" ".join(lines[:first])), _normal(" ".join(lines[last:]))
        return [head[:END_BYTES], tail[-END_BYTES:]], _normal(" ".join(lines[first:last]))
    if len(data) <= 2 * END_BYTES:
        return [data], None
    return [data[:END_BYTES], data[-END_BYTES:]], data[END_BYTES:-END_BYTES]


def _words(data: Bytes) -> Hashes:
    """Return a hash per word, in order."""
    wordy = np.concatenate([_GAP, _WORDY[data], _GAP])  # a cut may go through a word
    edges = np.flatnonzero(wordy[1:] != wordy[:-1])
    starts, ends = edges[::2], edges[1::2]
    if len(starts) == 0:
        return np.zeros(0, np.uint32)
    lengths = ends - starts
    inside = np.repeat(starts, lengths) + _ranges(lengths)
    powers = _POWERS[np.minimum(_ranges(lengths), len(_POWERS) - 1)]
    letters = (data[inside].astype(np.uint32) + np.uint32(7)) * powers
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    hashes: Hashes = np.add.reduceat(letters, first, dtype=np.uint32)
    return hashes


@cache
def _lexicon() -> tuple[Hashes, Hashes]:
    """Return the hashes of the words that mean something, ascending, and what each means."""
    meant: dict[int, int] = {}
    lines = CONCEPTS.read_text("utf-8").splitlines()
    for number, line in enumerate(line for line in lines if not line.startswith("#")):
        for word in line.split():
            stem = word.removesuffix("e")
            forms = [word, f"{word}s", f"{word}d", f"{stem}ed", f"{stem}ing", f"{word}es"]
            for form in forms:
                hashes = _words(_normal(form))
                if len(hashes) == 1:
                    meant.setdefault(int(hashes[0]), number)
    known = np.array(sorted(meant), np.uint32)
    return known, np.array([meant[int(word)] for word in known], np.uint32)


def _concepts(words: Hashes) -> Hashes:
    """Return what the words mean that mean something, in order."""
    known, meant = _lexicon()
    places = np.minimum(np.searchsorted(known, words), len(known) - 1)
    found = known[places] == words
    concepts: Hashes = (meant[places[found]] + np.uint32(1)) * np.uint32(0x9E3779B1)
    return concepts


def _ranges(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0…n-1 for each n, one after the other."""
    total = int(lengths.sum())
    before = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.arange(total) - before


def _letters(data: Bytes) -> Hashes:
    wide = data.astype(np.uint32) + np.uint32(11)
    found = []
    for size in LETTERS:
        if len(wide) < size:
            continue
        hashes = np.full(len(wide) - size + 1, 0x811C9DC5 + size, np.uint32)
        for offset in range(size):
            hashes = (hashes ^ wide[offset : len(wide) - size + 1 + offset]) * _PRIME
        found.append(hashes)
    return np.concatenate(found) if found else np.zeros(0, np.uint32)


def _runs(words: Hashes, size: int) -> Hashes:
    """Return a hash per run of `size` words."""
    if len(words) < size:
        return np.zeros(0, np.uint32)
    count = len(words) - size + 1
    hashes = np.full(count, size * 0x51ED270B & 0xFFFFFFFF, np.uint32)
    for offset in range(size):
        hashes = (hashes ^ _mixed(words[offset : count + offset])) * _PRIME
    return hashes


def _last_sentence(data: Bytes) -> Bytes:
    """What follows the last sentence mark but one (or the only one that is not at the end)."""
    marks = np.flatnonzero((data == 46) | (data == 63) | (data == 33) | (data == 58))
    marks = marks[marks < len(data) - 3]
    return data[marks[-1] + 1 :] if len(marks) else data


def _shape(asked: str, data: Bytes) -> Hashes:
    """How the prompt looks: lengths, marks, lines, code, digits, other scripts."""
    size = len(data)
    lines = asked.strip().split("\n")
    indented = sum(line[:1] in (" ", "\t") and bool(line.strip()) for line in lines)
    ends = asked.rstrip()[-1:]
    facts = [
        int(np.log2(size + 1) * 2),
        100 + min(10, asked.count("?")),
        120 + min(20, int(np.log2(len(lines)) * 3)),
        150 + int(20 * _CODE_MARKS[data].mean()),
        180 + int(20 * _DIGITS[data].mean()),
        210 + int(10 * (data > 127).mean()),
        230 + (ends == "?"),
        232 + (ends == ":"),
        234 + ("```" in asked),
        236 + (indented > 2),
        238 + min(5, asked.count('"') // 2),
        250 + min(5, asked.count("@")),
        260 + ("\n\n" in asked.strip()),
        262 + min(8, asked.count("!")),
        280 + ("http" in asked),
        # The request before a text, after it, or no text at all.
        290 + (len(lines[0]) < 200) + 2 * (len(lines[-1]) < 200) + 4 * (len(lines) > 3),
    ]
    return (np.array(facts, np.uint32) + np.uint32(1)) * np.uint32(0x85EBCA6B)


def _size(asked: str, data: Bytes, heads: list[Hashes]) -> Hashes:
    """How much is said in one breath: the length and the marks of the longest paragraph, and of how
    many kinds of things the ends speak. Who asks for much asks in long sentences with many commas.
    """
    longest = max(asked.split("\n\n"), key=len)
    paragraph = data if longest == asked else _normal(longest)
    facts = [
        int(np.log2(len(paragraph)) * 3),
        100 + min(12, int((paragraph == 44).sum())),
        120 + min(8, int(np.isin(paragraph, (58, 59)).sum())),
        140 + min(8, int(np.isin(paragraph, (33, 46, 63)).sum())),
        160 + min(20, len(np.unique(np.concatenate([_concepts(words) for words in heads])))),
        190 + min(10, int((paragraph == 48).sum())),
    ]
    return (np.array(facts, np.uint32) + np.uint32(1)) * np.uint32(0x7FEB352D)


def _tagged(hashes: Hashes, tag: int) -> Hashes:
    tagged: Hashes = hashes ^ np.uint32(tag * 0x3C6EF35F & 0xFFFFFFFF)
    return tagged


def _mixed(values: Hashes) -> Hashes:
    """MurmurHash3's finalizer: every bit of the input moves every bit of the hash."""
    values = values ^ (values >> np.uint32(16))
    values = values * np.uint32(0x85EBCA6B)
    values = values ^ (values >> np.uint32(13))
    values = values * np.uint32(0xC2B2AE35)
    mixed: Any = values ^ (values >> np.uint32(16))
    return mixed  # type: ignore[no-any-return]
