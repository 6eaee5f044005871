"""Lays a fault over a function of the implementation, removes it again, and hunts it with a campaign.

The changed function is compiled in its own module and its code object replaced, so that all importers run the fault.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from types import FunctionType

from bulkhead.proofs.faults.catalogue import Fault
from bulkhead.proofs.faults.catalogue_domb import BY_NAME as OF_DOMB
from bulkhead.proofs.refinement.campaign import Report, campaign
from bulkhead.proofs.refinement.domb import campaign as domb_campaign
from bulkhead.proofs.refinement.domb import world as domb_world
from bulkhead.proofs.refinement.lockstep.spec_world import Size, rules_for

LIMIT = 50_000  # calls of a campaign


def function_at(where: str) -> FunctionType:
    """The function that a fault names, without its decorators."""
    module, _, path = where.partition(":")
    folder, _, name = module.rpartition("/")
    found: object = importlib.import_module(f"bulkhead.impl.{folder or 'xen'}.{name}")
    for part in path.split("."):
        found = inspect.getattr_static(found, part)
    return _plain(found)


def _plain(found: object) -> FunctionType:
    """The function itself: faults lie in it, and a decorator's own code is the same for all that it decorates."""
    if isinstance(found, staticmethod):
        found = found.__func__
    if isinstance(found, property):
        found = found.fget
    assert callable(found)
    found = inspect.unwrap(found)
    assert isinstance(found, FunctionType)
    return found


@contextlib.contextmanager
def installed(fault: Fault) -> Iterator[None]:
    """A context in which the implementation has a fault. Raises `LookupError` if its text is not found."""
    function = function_at(fault.where)
    source = textwrap.dedent(inspect.getsource(function))
    old, new = fault.old, fault.new
    if source.count(old) < 1 and "\n" in old:
        old, new = old.replace("\n    ", "\n"), new.replace("\n    ", "\n")
    if old not in source:
        raise LookupError(f"{fault.name}: `{fault.old}` does not stand in {fault.where}")
    code = compile("from __future__ import annotations\n" + source.replace(old, new, 1), f"<{fault.name}>", "exec")
    scope: dict[str, object] = {}
    exec(code, function.__globals__, scope)
    changed = _plain(scope[function.__name__])
    kept = function.__code__
    function.__code__ = changed.__code__
    try:
        yield
    finally:
        function.__code__ = kept


def hunt(fault: Fault, seed: int = 1, limit: int = LIMIT) -> Report:
    """A campaign over the faulty implementation: of DomB for a fault of DomB, else of Xen and Dom0's drivers."""
    with installed(fault):
        if fault.name in OF_DOMB:
            return domb_campaign.campaign(domb_world.rules_for(domb_world.Size()), seed, limit)
        return campaign(rules_for(Size()), seed, limit)
