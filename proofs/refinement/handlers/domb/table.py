"""The table of DomB's handlers, and the outcomes of DomB's rules that they cannot reach, with reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bulkhead.proofs.refinement.domb.coverage import CANNOT_HAPPEN
from bulkhead.proofs.refinement.handlers.domb import building, connection, files, pages, requests
from bulkhead.proofs.refinement.handlers.domb.guests import ServiceRun
from bulkhead.proofs.refinement.handlers.domb.run import rules
from bulkhead.proofs.refinement.handlers.path import Handler, Run

DOMB: Mapping[str, Handler] = {
    "DomB: message": Handler(connection.receive, "protocol.Pipe.receive", "take_create, take_pause", start=Run),
    "DomB: create": Handler(requests.create, "service._handle, _create", "take_create.act", start=requests.CreateRun),
    "DomB: files": Handler(
        files.files, "service.fetch, _build, _advance", "take_file_answer.act, take_file_data.act", start=files.FilesRun
    ),
    "DomB: build": Handler(
        building.build, "builder.build", "build_check, build_create .. build_finish", start=building.BuildRun
    ),
    "DomB: undo": Handler(building.undo, "builder.XcDom.undo", "build_undo", start=building.UndoRun),
    "DomB: control": Handler(
        requests.control,
        "service._handle, _control",
        "take_pause.act, take_unpause.act, take_destroy.act, take_info.act",
        start=ServiceRun,
    ),
    "DomB: answers": Handler(connection.flush, "service._flush", "guest_told", start=connection.ConnectionRun),
    "DomB: told": Handler(connection.told, "service._see_who_was_told", "guest_told", start=connection.ConnectionRun),
    "DomB: hang up": Handler(
        connection.hang_up,
        "service.hang_up, _retry",
        "hang_up, destroy_abandoned, channel_close",
        start=connection.ConnectionRun,
    ),
    "DomB: offer": Handler(
        connection.offer, "vchan.server_init, Vchan.close", "channel_open, channel_share", start=connection.OfferRun
    ),
    "DomB: foreign pages": Handler(
        pages.foreign, "MiniOs.map_frames_ex, unmap_frames", "build_map, build_unmap", start=pages.MapRun
    ),
    "DomB: shared pages": Handler(
        pages.shared, "MiniOs.share, unshare, retry_late", "channel_share, channel_withdraw", start=pages.ShareRun
    ),
}
# DomB's own rules: builder, channel and files.
PREFIXES = ("build_", "take_", "channel_", "hang_up", "destroy_abandoned", "guest_told", "proxy_open", "domb_", "write_ring")
TAKEN = "the copy of a message is compared field by field, and its `act` begins from that copy"
CONTRACT = "Xen's part of it is a contract here: it finds what is fit, or the call fails as a whole"
LEFT_OUT: Mapping[str, str] = {
    **{
        f"take_{name}: okay": TAKEN for name in ("create", "file_answer", "file_data", "pause", "unpause", "destroy", "info")
    },
    "write_ring: okay": "any other process: what it may write is any bytes, at any moment",
    **dict.fromkeys(
        ("proxy_open: okay", "proxy_open.open: okay", "proxy_open.open: EACCES"), "the file proxy is a tool of Dom0"
    ),
    "domb_crashes: okay": "where DomB stops, nothing of its code runs; campaigns stop it at each step",
    **dict.fromkeys(
        [
            f"take_{name}.act: EINTR"
            for name in ("create", "file_answer", "file_data", "pause", "unpause", "destroy", "info")
        ],
        "DomB has crashed between copying and acting: nothing of its code runs",
    ),
    "domb_notes: okay": "what lies in pages of its own is a ghost; that they are cleared before they are shared is proved",
    **dict.fromkeys(
        (
            "build_create: ENOMEM",
            "build_populate: ENOMEM",
            "channel_share: ENOMEM",
            "channel_share: ENOSPC",
            "channel_open: ENOSPC",
        ),
        CONTRACT,
    ),
    "build_map: EBUSY": CONTRACT,
}


def pairs() -> tuple[str, ...]:
    """The (rule, outcome) pairs of builder, channel and files."""
    out: dict[str, None] = {}
    for step in rules().steps:
        if step.label.startswith(PREFIXES):
            out |= dict.fromkeys(
                f"{step.label}: {code}" for code in ("okay", *[check.code for check in step.checks if check.code])
            )
    return tuple(out)


def unexplained(reached: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Pairs that no handler reaches, without a reason; and reached pairs with a reason."""
    known = set(reached)
    open_ = tuple(pair for pair in pairs() if pair not in known and pair not in LEFT_OUT and pair not in CANNOT_HAPPEN)
    wrong = tuple(pair for pair in pairs() if pair in known and pair in LEFT_OUT)
    return open_, wrong
