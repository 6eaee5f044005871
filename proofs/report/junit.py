"""Results as JUnit XML, for build servers: a suite for each group, a case for each check.

An open check (neither shown nor refuted) is an error, a failed one a failure; an expected finding is in
the output of its case. Jenkins and GitLab read this form.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from bulkhead.proofs.results.vocabulary import Check, Result, Status

# Characters that XML 1.0 cannot contain, not even escaped: a guest's console may print them.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(result: Result) -> str:
    """The result as the text of an XML file."""
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
