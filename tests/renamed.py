"""Rules with other names: each name that a user chose is replaced by another one, wherever it stands.

Words of the language stay. One name becomes one other name in the whole text, whatever it names there, so the meaning is the
same; but nothing that a person, an order of names or a hash could go by is left.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

from bulkhead.model.library import SPEC, shipped_files
from bulkhead.model.parser import GRAMMAR

# Names that the language declares itself, and words of the grammar that are names in some places.
OF_THE_LANGUAGE = frozenset(
    "bool Call Point at idle this true false next failed distinct value proved refuted possible impossible _".split()
)
WORD = re.compile(r'"[^"]*"|--[^\n]*|[A-Za-z_][A-Za-z0-9_]*')
WRITE = "write_"  # what a party's step is called, if the rules do not say


def keywords() -> frozenset[str]:
    """The words of the grammar, and of its terminals."""
    text = GRAMMAR.read_text()
    words = set(re.findall(r'"([a-z]+)"', text))
    for pattern in re.findall(r"^[A-Z_]+\.2: /\(?([a-z|]+)\)?\\b/", text, re.M):
        words |= set(pattern.split("|"))
    return frozenset(words)


def names_in(text: str) -> list[str]:
    """The names of a text, each once, in their order."""
    kept = keywords() | OF_THE_LANGUAGE
    return [w for w in dict.fromkeys(WORD.findall(text)) if w[0] not in '"-' and w not in kept]


def renaming(text: str, seed: int) -> dict[str, str]:
    """Another name for each, from a seed: as long as it has to be, and in another order."""
    rng = random.Random(seed)
    names = names_in(text)
    known, results = set(names), set(re.findall(r"\bas\s+(\w+)", text))
    numbers = list(range(len(names)))
    rng.shuffle(numbers)
    new = {n: f"{rng.choice('abcxyzABCXYZ')}{k}" for n, k in zip(names, numbers, strict=True)}
    sorts = {s.lower(): s for s in re.findall(r"\bsort\s+(\w+)", text)}
    for name in names:  # the elements of a sort, in scenarios
        found = re.fullmatch(r"(\w*[a-z_])(\d+)", name)
        if found and found[1] in sorts:
            new[name] = new[sorts[found[1]]].lower() + found[2]
    for (
        name
    ) in names:  # names that are made of others: the write of a state, a local of a procedure performed `as` something
        for k in range(1, len(name) - 1):
            head, tail = name[:k], name[k + 1 :]
            if name[k] == "_" and tail in known and (head in results or head + "_" == WRITE):
                new[name] = f"{new.get(head, head)}_{new[tail]}"
    return new


def renamed(text: str, new: dict[str, str]) -> str:
    """The text with other names. Comments go, documentation stays."""

    def other(found: re.Match[str]) -> str:
        word = found[0]
        return "" if word.startswith("--") else word if word.startswith('"') else new.get(word, word)

    return WORD.sub(other, text)


def whole_text(system: str) -> str:
    """A shipped system and all components of `spec/` in one text; the text of a file otherwise."""
    if system.endswith(".rules"):
        text = Path(system).read_text(encoding="utf-8")
        library = (SPEC / "library").glob("*.rules") if "library." in text else ()
        return "\n".join([text, *(p.read_text(encoding="utf-8") for p in library)])
    files = [p for p in shipped_files() if p.parent != SPEC / "systems" or p.stem == system]
    return "\n".join(p.read_text(encoding="utf-8") for p in files)


__all__ = ["names_in", "renamed", "renaming", "whole_text"]
