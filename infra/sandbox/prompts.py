"""The provider's prompt cache: which leading part of a prompt it has seen before."""

import hashlib
from collections import OrderedDict

# OpenAI caches prompts from 1,024 tokens on, in steps of 128; Anthropic's smallest cacheable prefix
# is 1,024 tokens too for most models.
CACHE_TOKENS_MIN = 1_024
CACHE_STEP_TOKENS = 128
_ENTRIES_MAX = 20_000


class PromptCache:
    """Chained hashes of the blocks of recent prompts."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def match(self, owner: str, pieces: list[str], *, remember: int | None = None) -> int:
        """Tokens of the longest known prefix; afterwards the first `remember` tokens are known."""
        tokens = len(pieces) if remember is None else min(remember, len(pieces))
        if tokens < CACHE_TOKENS_MIN:
            return 0
        chain = hashlib.blake2b(owner.encode(), digest_size=16)
        known = 0
        unbroken = True
        for start in range(0, tokens - CACHE_STEP_TOKENS + 1, CACHE_STEP_TOKENS):
            block = "".join(pieces[start : start + CACHE_STEP_TOKENS])
            chain.update(block.encode("utf-8", "surrogatepass"))
            key = chain.digest()
            if key in self._seen:
                self._seen.move_to_end(key)
                known += CACHE_STEP_TOKENS if unbroken else 0
            else:
                unbroken = False
                self._seen[key] = None
        while len(self._seen) > _ENTRIES_MAX:
            self._seen.popitem(last=False)
        return known if known >= CACHE_TOKENS_MIN else 0
