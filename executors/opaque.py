"""Tells strings that nobody would write by hand - tokens, keys, digests - from paths and names."""

from __future__ import annotations

import re
from collections import Counter
from math import log2

from executors.secrets import MASK

MIN_LENGTH = 24
MIN_ENTROPY = 3.0
"""Bits a character; hexadecimal digits have up to 4."""
WORD = 2.7
"""Letters or digits in a row: below that, on average, it is no text of words and numbers."""
LONGEST_WORD = 20

_JWT = re.compile(r"(?<![A-Za-z0-9_\-])eyJ[A-Za-z0-9_\-]{5,}+(?:\.[A-Za-z0-9_\-]*+){2,4}+")
_KNOWN = re.compile(
    r"(?<![A-Za-z0-9])(?:gh[oprsu]_|github_pat_|glpat-|xox[abeprs]-|npm_|pypi-|dckr_pat_)"
    r"[A-Za-z0-9_\-]{16,}+"
)
_RUN = re.compile(r"(?<![A-Za-z0-9+/_\-])(?<!sha256:)[A-Za-z0-9+/_\-]{24,}+={0,2}+")
_BETWEEN = re.compile(r"[+/_\-=]+")
_ATOM = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")


def hide_opaque(text: str) -> str:
    """`text` with every such string masked."""
    text = _KNOWN.sub(MASK, _JWT.sub(MASK, text))
    return _RUN.sub(lambda run: _shown(run[0]), text)


def is_opaque(text: str) -> bool:
    """Whether all of it is such a string."""
    if _RUN.fullmatch(text) and _shown(text) == MASK:
        return True
    return bool(_JWT.fullmatch(text) or _KNOWN.fullmatch(text))


def _shown(run: str) -> str:
    """Of a path with such a string in it, the other segments."""
    if not _drawn(run):
        return run
    segments = {part: len(part) >= MIN_LENGTH and _drawn(part) for part in run.split("/")}
    others = [atom for part, drawn in segments.items() if not drawn for atom in _ATOM.findall(part)]
    if not any(segments.values()) or _mean(others) < WORD:
        return MASK
    return "/".join(MASK if segments[part] else part for part in run.split("/"))


def _drawn(run: str) -> bool:
    """Whether it was drawn by lot rather than put together from words."""
    if _entropy(run) < MIN_ENTROPY:
        return False
    pieces = (piece for piece in _BETWEEN.split(run) if len(piece) >= MIN_LENGTH)
    return _mean(_ATOM.findall(run)) < WORD or any(not _is_words(piece) for piece in pieces)


def _is_words(piece: str) -> bool:
    """Like `SortingAlgorithmBehaviorTest`."""
    atoms = _ATOM.findall(piece)
    return piece.isalpha() and _mean(atoms) >= 4 and max(map(len, atoms)) <= LONGEST_WORD


def _mean(atoms: list[str]) -> float:
    return sum(map(len, atoms)) / max(1, len(atoms))


def _entropy(text: str) -> float:
    counts = Counter(text).values()
    return -sum(count / len(text) * log2(count / len(text)) for count in counts)
