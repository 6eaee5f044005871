"""The console page and the XenStore page: layout of their rings and words.

Contents: offsets, and the two rings of each page from either side. Not here: protocols (impl/tools).
Source: Xen public/io/console.h (xencons_interface), public/io/xs_wire.h (xenstore_domain_interface).
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from bulkhead.impl.rings.ring import RingAt

CONSOLE_IN: Final = (0, 1024, 3072, 3076)  # to the guest: data, size, cons, prod
CONSOLE_OUT: Final = (1024, 2048, 3080, 3084)  # from the guest
XENSTORE_REQ: Final = (0, 1024, 2048, 2052)  # from the guest
XENSTORE_RSP: Final = (1024, 1024, 2056, 2060)  # to the guest
SERVER_FEATURES: Final = 2064
CONNECTION: Final = 2068
ERROR: Final = 2072
ERROR_RINGIDX: Final = 2
ERROR_PROTO: Final = 3

# --- XenStore messages ---
XS_HEADER: Final = Struct("<4I")  # type, req_id, tx_id, len
XS_PAYLOAD_MAX: Final = 4096
XS_DIRECTORY, XS_READ, XS_GET_PERMS, XS_WATCH, XS_UNWATCH = 1, 2, 3, 4, 5
XS_TRANSACTION_START, XS_TRANSACTION_END, XS_INTRODUCE, XS_RELEASE, XS_GET_DOMAIN_PATH = 6, 7, 8, 9, 10
XS_WRITE, XS_MKDIR, XS_RM, XS_SET_PERMS, XS_WATCH_EVENT, XS_ERROR = 11, 12, 13, 14, 15, 16
XS_CONTROL, XS_IS_DOMAIN_INTRODUCED, XS_RESUME, XS_SET_TARGET, XS_RESET_WATCHES, XS_DIRECTORY_PART = 0, 17, 18, 19, 21, 22


def ring_at(page: int, place: tuple[int, int, int, int]) -> RingAt:
    """A ring of the page at an address."""
    data, size, cons, prod = place
    return RingAt(page + data, size, page + cons, page + prod)
