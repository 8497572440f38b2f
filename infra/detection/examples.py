"""Labelled prompts to learn from: the grammars', written ones, and what typing does to both."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import msgspec

from gateway.detection.detector import TASKS
from infra.detection.grammar import Grammar, Prompt

WRITTEN = Path(__file__).with_name("written.jsonl")
DEVELOPMENT = Path(__file__).with_name("development.jsonl")
"""Prompts on other themes that nothing learns from: the model's sureness is set by them, and
choices between models are made by them."""
KEYS = "abcdefghijklmnopqrstuvwxyz"
FRAMED, TYPED, LOWERED, BARE, SHOUTED, SYSTEM = 0.30, 0.22, 0.25, 0.15, 0.02, 0.15
"""How often each change is made to a prompt."""
TYPO_RATE = 0.03
STRANGE = 0.25
"""How often the words of a prompt are mixed with words that nobody knows: what a prompt is about,
and most of what is pasted, will be new."""
STRANGE_RATE = 0.15
_WORD = re.compile(r"[A-Za-z]{4,}")
_ONSETS = [
    "b",
    "br",
    "c",
    "ch",
    "cl",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "qu",
    "r",
    "s",
    "sh",
    "st",
    "str",
    "t",
    "th",
    "tr",
    "v",
    "w",
    "z",
]
_RIMES = [
    "a",
    "ack",
    "ain",
    "al",
    "an",
    "ar",
    "ast",
    "e",
    "ed",
    "eel",
    "en",
    "er",
    "est",
    "i",
    "ick",
    "ill",
    "in",
    "ing",
    "it",
    "o",
    "od",
    "ol",
    "on",
    "oon",
    "or",
    "ost",
    "u",
    "ul",
    "un",
    "ur",
    "y",
]


def made(grammar: Grammar, per_task: int, seed: int) -> list[Prompt]:
    """Return `per_task` prompts of every task, changed as people change them."""
    rng = random.Random(seed)
    return [
        changed(grammar, grammar.prompt(task, rng), rng) for task in TASKS for _ in range(per_task)
    ]


def written(path: Path = WRITTEN) -> list[Prompt]:
    """Return the prompts that people wrote, as they are; of some nobody graded the complexity."""
    lines = path.read_text("utf-8").splitlines()
    rows = [msgspec.json.decode(line, type=dict[str, str]) for line in lines]
    return [Prompt(row["prompt"], row["label"], row.get("complexity", "")) for row in rows]


def repeated(grammar: Grammar, prompts: list[Prompt], times: int, seed: int) -> list[Prompt]:
    """Return prompts several times, each time changed anew."""
    rng = random.Random(seed)
    return [changed(grammar, prompt, rng) for prompt in prompts for _ in range(times)]


def changed(grammar: Grammar, prompt: Prompt, rng: random.Random) -> Prompt:
    """Return a prompt with something around it, mistyped, in other cases or without marks."""
    text = prompt.text
    if rng.random() < STRANGE:
        text = _WORD.sub(lambda match: _strange(match.group(), rng), text)
    if rng.random() < FRAMED and prompt.task != "conversational":
        text = _framed(grammar, text, rng)
    if rng.random() < TYPED:
        text = _mistyped(text, rng)
    if rng.random() < LOWERED:
        text = text.lower()
    elif rng.random() < SHOUTED:
        text = text.upper()
    if rng.random() < BARE:
        text = text.rstrip(".?!:")
    system = ""
    if rng.random() < SYSTEM:
        system = grammar.expand("{system}", rng)
    return replace(prompt, text=text, system=system)


def _framed(grammar: Grammar, text: str, rng: random.Random) -> str:
    gap = rng.choice([" ", " ", "\n", "\n\n"])
    if rng.random() < 0.6:
        text = f"{grammar.expand('{before}', rng)}{gap}{text}"
    if rng.random() < 0.5:
        text = f"{text}{gap}{grammar.expand('{after}', rng)}"
    return text


def _strange(word: str, rng: random.Random) -> str:
    """Return a word that does not exist in place of some words, a capital where one was."""
    if rng.random() > STRANGE_RATE:
        return word
    new = "".join(rng.choice(_ONSETS) + rng.choice(_RIMES) for _ in range(rng.randint(1, 3)))
    return new.capitalize() if word[0].isupper() else new


def _mistyped(text: str, rng: random.Random) -> str:
    """Drop, double, swap or replace single letters."""
    letters = list(text)
    for index in range(len(letters) - 1):
        if not letters[index].isalpha() or rng.random() > TYPO_RATE:
            continue
        match rng.randrange(4):
            case 0:
                letters[index] = ""
            case 1:
                letters[index] *= 2
            case 2:
                letters[index], letters[index + 1] = letters[index + 1], letters[index]
            case _:
                letters[index] = rng.choice(KEYS)
    return "".join(letters)
