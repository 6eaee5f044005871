"""Certifies the proved claims by the second encoding (`proofs/certify`), and formats its answer for the report."""

from __future__ import annotations

from collections.abc import Iterator

from bulkhead.proofs.certify.check import CONFIRMED, Certificate, Claims, certify
from bulkhead.proofs.certify.tree import read
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.theorems.induction import Proof, Settings

SHOWN = 10  # unconfirmed queries to show


def claims_of(proof: Proof) -> Claims:
    """The proved claims, and as hints the dependencies of each claim's proof."""
    hints: dict[tuple[str, str], frozenset[str]] = {}
    for r in proof.results:
        used = frozenset(bare for kind, _, bare in (n.partition("/") for n in r.core) if kind in ("invariant", "theorem"))
        hints[r.label, r.claim] = hints.get((r.label, r.claim), frozenset()) | used
    two_state = set(proof.system.step_claims)
    return Claims(
        frozenset(proof.standing),
        frozenset(proof.proved - proof.standing - two_state),
        frozenset(proof.proved & two_state),
        hints,
    )


def certified(proof: Proof, source: str, faults: tuple[str, ...], settings: Settings, pool: Workers | None) -> Certificate:
    """Check all proved claims by the second encoding. `source` is a shipped system or the path of a rules file."""
    return certify(read(source, faults), claims_of(proof), pool, settings.limit, settings.jobs)


def findings(certificate: Certificate) -> Iterator[str]:
    """The reasons for which the run fails; none when every claim is confirmed."""
    if certificate.verdict == CONFIRMED:
        return
    for answer in certificate.open[:SHOWN]:
        yield str(answer)
    if len(certificate.open) > SHOWN:
        yield f"certify: {len(certificate.open) - SHOWN} more questions without a yes"


__all__ = ["certified", "claims_of", "findings"]
