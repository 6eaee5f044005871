"""A rules file as a list of removable parts, so that a difference can be shrunk.

Not here: what stands in the parts (`generate.py`). The checker decides whether the rest is well-formed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Part:
    """An item: a fixed head, statements that may be removed, and perhaps a string before it."""

    head: str
    body: tuple[str, ...] = ()
    doc: str = ""

    def text(self) -> str:
        return "\n".join([*([f'"{self.doc}"'] if self.doc else []), self.head, *(f"    {b}" for b in self.body)])


@dataclass(frozen=True)
class Draft:
    """A whole rules file in parts. The system expects some claims to be refuted, and all others to be proved.

    `more` are components without items of their own, and lines of the system; the system may be the first in the file.
    """

    parts: tuple[Part, ...]
    templates: tuple[str, ...] = ()  # components with parameters, as text
    uses: tuple[str, ...] = ()  # their uses
    more: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    falling: int = 0  # claims that are expected to be refuted, the last ones
    first: bool = False

    def claims(self) -> list[str]:
        return [p.head.split()[1] for p in self.parts if p.head.startswith(("theorem ", "transition "))]

    def text(self) -> str:
        claims = self.claims()
        kept = claims[: max(len(claims) - self.falling, 0)]
        expected = [("proved", kept), ("refuted", claims[len(kept) :])]
        lines = [
            *self.scopes[:1],
            *(f"expect {word} {', '.join(names)}" for word, names in expected if names),
            *self.scopes[1:],
        ]
        templates = "".join(f"{text}\n\n" for text in self.templates)
        uses = f"uses {', '.join(self.uses)}\n" if self.uses else ""
        named = [text.split()[1] for text in self.more]
        system = f'system made "made at random"\n    uses {", ".join(["gen", *named])}\n' + "".join(
            f"    {line}\n" for line in lines
        )
        components = (
            f'{templates}component gen "made at random"\n{uses}\n'
            + "\n".join(p.text() for p in self.parts)
            + "".join(f"\n\n{text}" for text in self.more)
        )
        return f"{system}\n{components}\n" if self.first else f"{components}\n\n{system}"


def smaller(d: Draft) -> list[Draft]:
    """Drafts with one part or statement less, the largest cuts first."""
    out = []
    n = len(d.parts)
    for size in sorted({max(1, n // 2), max(1, n // 4), 1}, reverse=True):
        out += [replace(d, parts=d.parts[:k] + d.parts[k + size :]) for k in range(0, n, size)]
    for k, part in enumerate(d.parts):
        for j in range(len(part.body)):
            less = replace(part, body=part.body[:j] + part.body[j + 1 :])
            out.append(replace(d, parts=(*d.parts[:k], less, *d.parts[k + 1 :])))
    for k, part in enumerate(d.parts):  # what follows a head
        for word in (" then ", " when "):
            if word in part.head and not part.head.startswith("fault "):
                less = replace(part, head=part.head.partition(word)[0])
                out.append(replace(d, parts=(*d.parts[:k], less, *d.parts[k + 1 :])))
    out += [replace(d, uses=d.uses[:k] + d.uses[k + 1 :]) for k in range(len(d.uses))]
    out += [replace(d, more=(), scopes=(), falling=0, first=False)] if d.more or d.scopes or d.falling or d.first else []
    return out


__all__ = ["Draft", "Part", "smaller"]
