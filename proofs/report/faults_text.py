"""Text of `faults`: a list of the faults, or a line for each fault that was laid."""

from __future__ import annotations

from itertools import groupby

from bulkhead.proofs.results.faults import FaultResult, FaultsResult, Layer

WIDEST = 90  # maximum length of one fault's text


def faults_text(result: FaultsResult) -> str:
    """The faults in groups: of the rules of each system, then of the implementation."""
    out: list[str] = []
    for (layer, where), group in groupby(result.faults, key=_group):
        mine = list(group)
        title = f"faults of the rules of {where}" if layer is Layer.RULES else "faults of the implementation"
        out += [*([""] if out else []), title]
        width = max(len(f.name) for f in mine)
        out += [f"  {f.name:<{width}}  {_told(f)}" for f in mine]
    laid = [f for f in result.faults if f.noticed is not None]
    if laid:
        noticed = sum(bool(f.noticed) for f in laid)
        out += ["", f"{noticed} of {len(laid)} faults are noticed, {result.seconds:.1f} s."]
    elif result.faults:
        out += ["", f"{len(result.faults)} faults."]
    return "\n".join(out) + "\n"


def _group(fault: FaultResult) -> tuple[Layer, str]:
    return fault.layer, fault.where if fault.layer is Layer.RULES else ""


def _told(fault: FaultResult) -> str:
    if fault.noticed is not None:
        how = fault.how if len(fault.how) <= WIDEST else fault.how[: WIDEST - 3] + "..."
        after = f" after {fault.calls} calls" if fault.noticed and fault.calls is not None else ""
        return f"{'noticed' + after if fault.noticed else 'NOT NOTICED'}: {how}"
    breaks = f" (breaks {', '.join(fault.breaks)} in {fault.step})" if fault.breaks else ""
    place = f" [{fault.where}]" if fault.layer is Layer.IMPLEMENTATION else ""
    return f"{fault.doc}{breaks}{place}"
