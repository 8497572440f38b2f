"""The sandbox's own tokenizer: lossless, deterministic, and the one measure of every count it reports."""

import re

# A word of up to twelve letters with its leading space, up to three digits, one sign, line ends, one blank.
_PIECE = re.compile(r" ?[^\W\d_]{1,12}|\d{1,3}| ?[^\w\s]|\n+|\s|_")

# What one message costs beyond its text, and what opens the answer: OpenAI's published chat overhead.
TOKENS_PER_MESSAGE = 3
TOKENS_PER_REPLY = 3
# A picture in low detail, at OpenAI's published flat rate. The sandbox does not look at pictures.
TOKENS_PER_IMAGE = 85


def pieces(text: str) -> list[str]:
    """Cut a text into tokens; joining them gives the text back."""
    return _PIECE.findall(text)


def count(text: str) -> int:
    """Number of tokens in a text."""
    return len(_PIECE.findall(text))
