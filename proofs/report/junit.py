"""Results as JUnit XML, the form in which build servers take test results: a suite for each group, a case for each check.

A check that is open (neither shown nor refuted) is an error, one that failed a failure; what was expected to be found is in
the output of its case. The file has the shape that Jenkins and GitLab read.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from bulkhead.proofs.results.vocabulary import Check, Result, Status

# What XML 1.0 cannot hold, not even escaped: a guest's console may print it.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(result: Result) -> str:
    """The result as text of an XML file."""
    root = ElementTree.Element("testsuites", name=result.format.partition("/")[0])
    groups: dict[str, list[Check]] = {}
    for check in result.checks():
        groups.setdefault(check.group, []).append(check)
    for group, checks in groups.items():
        count = {status: sum(c.status is status for c in checks) for status in Status}
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_clean(group),
            tests=str(len(checks)),
            failures=str(count[Status.FAILED]),
            errors=str(count[Status.OPEN]),
            skipped="0",
            time=f"{sum(c.seconds for c in checks):.3f}",
        )
        for check in checks:
            _case(suite, check)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, check: Check) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", classname=_clean(check.group), name=_clean(check.rule), time=f"{check.seconds:.3f}"
    )
    if check.place is not None and check.place.line:
        case.set("file", check.place.file)
        case.set("line", str(check.place.line))
    told = "\n".join([check.message, *(f.text for f in check.flow)])
    if check.status.good:
        ElementTree.SubElement(case, "system-out").text = _clean(told)
        return
    kind = "failure" if check.status is Status.FAILED else "error"
    what = ElementTree.SubElement(case, kind, message=_clean(check.message.split("\n")[0]), type=str(check.status))
    what.text = _clean(told)


def _clean(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
