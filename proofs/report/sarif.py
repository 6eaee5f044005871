"""Results as SARIF 2.1.0, for editors and code hosts: each check with its place in a rules file.

The steps of an attack are a code flow through the rules that they use. A check that failed is an error; an expected
refutation is a note; one that is neither shown nor refuted is `open`. Source: OASIS, SARIF version 2.1.0.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from bulkhead.model.diagnostics import Span
from bulkhead.proofs.results.vocabulary import Check, Flow, Result, Status

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
KINDS = {
    Status.PASSED: ("pass", "none"),
    Status.FOUND: ("fail", "note"),
    Status.FAILED: ("fail", "error"),
    Status.OPEN: ("open", "none"),
}
CHECKOUT = "ROOT"  # denotes the folder in which the command ran


def sarif(result: Result, here: Path | None = None) -> dict[str, Any]:
    """The result as a SARIF log. Places within `here` (the folder of the command) become relative."""
    folder = (here or Path.cwd()).resolve()
    checks = result.checks()
    rules: dict[str, Check] = {}
    for check in checks:
        rules.setdefault(_rule(check), check)
    numbers = {rule: k for k, rule in enumerate(rules)}
    driver = {
        "name": "Bulkhead",
        "version": metadata.version("bulkhead"),
        "semanticVersion": metadata.version("bulkhead"),
        "rules": [_descriptor(rule, check) for rule, check in rules.items()],
    }
    run = {
        "tool": {"driver": driver},
        "invocations": [{"executionSuccessful": True, "exitCode": 0 if result.good else 1}],
        "originalUriBaseIds": {CHECKOUT: {"uri": folder.as_uri().rstrip("/") + "/"}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(check, numbers[_rule(check)], folder) for check in checks],
        "properties": {"format": result.format},
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(check: Check) -> str:
    return f"{check.group}/{check.rule}".replace(" ", "_")


def _descriptor(rule: str, check: Check) -> dict[str, Any]:
    made: dict[str, Any] = {"id": rule, "name": check.rule}
    return {**made, "shortDescription": {"text": check.doc}} if check.doc else made


def _result(check: Check, number: int, folder: Path) -> dict[str, Any]:
    kind, level = KINDS[check.status]
    made: dict[str, Any] = {
        "ruleId": _rule(check),
        "ruleIndex": number,
        "kind": kind,
        "level": level,
        "message": {"text": check.message},
    }
    where: dict[str, Any] = {"logicalLocations": [{"name": check.rule, "fullyQualifiedName": _rule(check)}]}
    if check.place is not None and check.place.line:
        where["physicalLocation"] = _physical(check.place, folder)
    made["locations"] = [where]
    if check.flow:
        made["codeFlows"] = [{"threadFlows": [{"locations": [_step(k, f, folder) for k, f in enumerate(check.flow, 1)]}]}]
    return made


def _step(number: int, flow: Flow, folder: Path) -> dict[str, Any]:
    location: dict[str, Any] = {"message": {"text": flow.text}}
    if flow.place is not None and flow.place.line:
        location["physicalLocation"] = _physical(flow.place, folder)
    return {"executionOrder": number, "location": location}


def _physical(place: Span, folder: Path) -> dict[str, Any]:
    path = Path(place.file).resolve()
    try:
        artifact = {"uri": path.relative_to(folder).as_posix(), "uriBaseId": CHECKOUT}
        if any(c in artifact["uri"] for c in " %#?"):
            artifact["uri"] = path.as_uri()[len(folder.as_uri()) + 1 :]
    except ValueError:
        artifact = {"uri": path.as_uri()}
    region = {"startLine": place.line, "startColumn": place.column, "endColumn": place.column + max(1, place.width)}
    return {"artifactLocation": artifact, "region": region}
