"""Executes the operations of a recording on the rig.

Contents: one function per recorded operation name; each returns the comparable result fields, and puts
irreproducible fields in the set `skip`. Not here: comparison (compare.py).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from bulkhead.impl.dom0.areas import PROT_READ, PROT_WRITE
from bulkhead.impl.dom0.gntdev import Gntdev, Segment
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.process import MAP_PRIVATE, MAP_SHARED, Fault
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.machine import Livelock
from bulkhead.impl.xen.pagetables import PTE_A, PTE_D, PTE_P, PTE_RW, PTE_USER
from bulkhead.proofs.replay.agents import NO_ANSWER, NOTHING_THERE
from bulkhead.proofs.replay.area_calls import AREA_CALLS
from bulkhead.proofs.replay.extended import EXTENDED
from bulkhead.proofs.replay.file_calls import FILE_CALLS
from bulkhead.proofs.replay.rig import BUFFER_VPN, MMAP_STRIDE, MMAP_VPN, Rig
from bulkhead.proofs.replay.system_calls import SYSTEM_CALLS

Args = dict[str, Any]
Result = dict[str, Any]
UNTOUCHED = 32767
TRANSLATED = ("hvm", "full")  # kinds of domains that never run: PVH, and HVM with all emulated devices
ALL_ONES = (1 << 64) - 1  # what a load from no memory gives
ETIMEDOUT = 110  # the recorder's, for an agent that does not answer
USER_PTE = PTE_P | PTE_USER | PTE_A | PTE_D


def _hex(value: int) -> str:
    return hex(value)


def _word(data: bytearray | bytes | None, off: int) -> int:
    return 0 if data is None else int.from_bytes(data[off : off + 8], "little")


def _in_use(rig: Rig, name: str, ref: int) -> bool:
    data, off = rig.guest(name).domain.grant_table.status_at(ref)
    return bool(abi.U16.unpack_from(data, off)[0] & (abi.GTF_READING | abi.GTF_WRITING))


def op_mkdom(rig: Rig, a: Args, skip: set[str]) -> Result:
    kind, vcpus = a.get("kind"), int(a.get("vcpus", 1))
    if kind == "pvh":
        domid = rig.make_pvh(a["n"], vcpus, int(a.get("maptrack", 64)))
    elif kind in TRANSLATED:
        domid = rig.make_translated(a["n"], abi.EMU_LAPIC if kind == "hvm" else abi.EMU_ALL & ~abi.EMU_VPCI, vcpus)
    else:
        domid = rig.make(a["n"], a.get("label"), vcpus, int(a.get("maptrack", 64)))
    return {"domid": domid, "r": 0} if domid >= 0 else {"r": domid}


def _info(rig: Rig, domid: int) -> Result:
    domain = rig.xen.domains.get(domid)
    if domain is None:
        return {"exists": 0, "r": 0}
    return {"exists": 1, "dying": int(domain.is_dying != 0), "r": 0}


def op_rmdom(rig: Rig, a: Args, skip: set[str]) -> Result:
    domid, _ = rig.remove(a["n"])
    return {"domid": domid, **_info(rig, domid)}


def op_dominfo(rig: Rig, a: Args, skip: set[str]) -> Result:
    return _info(rig, int(a["id"]))


def op_pfill(rig: Rig, a: Args, skip: set[str]) -> Result:
    rig.fill(a["d"])
    return {"r": 0}


def _told_of(rig: Rig, a: Args) -> Frame | None:
    """The page that Dom0 may map by its name; None for a hole in a translated guest, or where it maps a page of others."""
    frame = rig.page(a["pg"])
    name = str(a["pg"]).partition("/")[0]
    if name in rig.translated and (frame is None or frame.owner is not rig.guest(name).domain):
        return None
    assert frame is not None
    return frame


def op_prd(rig: Rig, a: Args, skip: set[str]) -> Result:
    frame = _told_of(rig, a)
    if frame is None:
        return {"r": -abi.EINVAL}
    if rig.tainted(frame.mfn, a["off"], 8):
        skip.add("v")
    return {"v": _hex(_word(frame.data, a["off"])), "r": 0}


def op_pwr(rig: Rig, a: Args, skip: set[str]) -> Result:
    frame = _told_of(rig, a)
    if frame is None:
        return {"r": -abi.EINVAL}
    frame.bytes()[a["off"] : a["off"] + 8] = int(a["v"]).to_bytes(8, "little")
    rig.clean(frame.mfn, a["off"], 8)
    return {"r": 0}


def op_pcrc(rig: Rig, a: Args, skip: set[str]) -> Result:
    frame = _told_of(rig, a)
    if frame is None:
        return {"r": -abi.EINVAL}
    if rig.tainted(frame.mfn):
        skip.add("crc")
    return {"crc": f"0x{zlib.crc32(frame.bytes()):08x}", "r": 0}


def op_fmap(rig: Rig, a: Args, skip: set[str]) -> Result:
    owner = rig.guest(str(a["pg"]).split("/")[0]).domain
    frame = _told_of(rig, a)
    if frame is None:
        return {"r": -abi.EINVAL}
    number = rig.mfn(a["pg"]) if owner.external else frame.mfn
    slot = rig.kernel.alloc_slot()
    ptr = rig.kernel.layout.window_maddr(slot)
    pte = (number << 12) | USER_PTE | (PTE_RW if int(a["w"]) else 0)
    rc = rig.kernel.mmu_update(ptr, pte, owner.domid)
    if rc == 0:
        rig.kernel.mmu_update(ptr, 0, abi.DOMID_SELF)
    rig.kernel.free_slots.append(slot)
    if rc:
        return {"r": rc}
    if rig.tainted(frame.mfn, 0, 8):
        skip.add("v")
    return {"v": _hex(_word(frame.data, 0)), "r": 0}


def op_mmu(rig: Rig, a: Args, skip: set[str]) -> Result:
    agent = rig.agents[a["by"]]
    pte = (rig.mfn(a["pg"]) << 12) | USER_PTE | PTE_RW
    return {"r": rig.mmu_update(a["by"], agent.layout.window_maddr(int(a["slot"])), pte, rig.domid(a["dom"]))}


def op_ge(rig: Rig, a: Args, skip: set[str]) -> Result:
    if a["d"] in rig.unseen:
        return {"r": -abi.ENOENT}
    table = rig.guest(a["d"]).domain.grant_table
    ref, flags = int(a["ref"]), int(a["flags"])
    data, off = table.header_at(ref)
    abi.U16.pack_into(data, off, 0)
    abi.U16.pack_into(data, off + 2, rig.domid(a["dom"]) & 0xFFFF)
    mfn = rig.mfn(a["pg"])
    if table.version == 1:
        abi.U32.pack_into(data, off + 4, mfn & 0xFFFFFFFF)
    elif flags & abi.GTF_TYPE_MASK == abi.GTF_TRANSITIVE:
        abi.U16.pack_into(data, off + 4, rig.domid(a.get("tdom", 0)) & 0xFFFF)
        abi.U32.pack_into(data, off + 8, int(a.get("tref", 0)) & 0xFFFFFFFF)
    else:
        abi.U16.pack_into(data, off + 4, int(a.get("off", 0)) & 0xFFFF)
        abi.U16.pack_into(data, off + 6, int(a.get("len", 0)) & 0xFFFF)
        abi.U64.pack_into(data, off + 8, mfn)
    abi.U16.pack_into(data, off, flags)
    rig.stale.discard((a["d"], ref))
    return {"r": 0}


def op_gend(rig: Rig, a: Args, skip: set[str]) -> Result:
    if a["d"] in rig.unseen:
        return {"r": -abi.ENOENT}
    ref = int(a["ref"])
    if _in_use(rig, a["d"], ref):
        return {"busy": 1, "r": -16}
    data, off = rig.guest(a["d"]).domain.grant_table.header_at(ref)
    abi.U16.pack_into(data, off, 0)
    return {"r": 0}


def _host_addr(rig: Rig, a: Args, pte: bool) -> int:
    if "addr" in a:
        return int(str(a["addr"]), 0)
    if "slot" not in a or a["by"] == "d0":
        return 0
    layout = rig.agent(a["by"]).layout
    return layout.window_maddr(int(a["slot"])) if pte else layout.window_va(int(a["slot"]))


def op_map(rig: Rig, a: Args, skip: set[str]) -> Result:
    flags = int(a["flags"])
    host = _host_addr(rig, a, bool(flags & abi.GNTMAP_CONTAINS_PTE))
    arg = abi.MAP_GRANT_REF.pack(host, flags, int(a["ref"]), rig.domid(a["dom"]), UNTOUCHED, 0, 0)
    rc, out = rig.grant_op(a["by"], abi.GNTTABOP_MAP_GRANT_REF, arg)
    _, _, _, _, status, handle, bus = abi.MAP_GRANT_REF.unpack(out)
    res: Result = {"st": status, "r": rc}
    if status == 0:
        res["h"] = handle
        res["bus"] = rig.name(bus >> 12)
    return res


def op_unmap(rig: Rig, a: Args, skip: set[str]) -> Result:
    host = _host_addr(rig, a, bool(a.get("pte")))
    dev = rig.mfn(a["dev"]) << 12 if "dev" in a else 0
    arg = abi.UNMAP_GRANT_REF.pack(host, dev, int(a["h"]) & 0xFFFFFFFF, UNTOUCHED, 0)
    rc, out = rig.grant_op(a["by"], abi.GNTTABOP_UNMAP_GRANT_REF, arg)
    return {"st": abi.STATUS.unpack_from(out, 20)[0], "r": rc}


def op_unmapr(rig: Rig, a: Args, skip: set[str]) -> Result:
    layout = rig.agent(a["by"]).layout
    new = int(str(a["naddr"]), 0) if "naddr" in a else layout.window_va(int(a["nslot"]))
    arg = abi.UNMAP_AND_REPLACE.pack(_host_addr(rig, a, False), new, int(a["h"]) & 0xFFFFFFFF, UNTOUCHED, 0)
    rc, out = rig.grant_op(a["by"], abi.GNTTABOP_UNMAP_AND_REPLACE, arg)
    return {"st": abi.STATUS.unpack_from(out, 20)[0], "r": rc}


def _side(rig: Rig, value: Any) -> int:
    return rig.mfn(value)


def op_copy(rig: Rig, a: Args, skip: set[str]) -> Result:
    arg = abi.COPY.pack(
        _side(rig, a["s"]),
        rig.domid(a["sd"]),
        int(a["so"]) & 0xFFFF,
        0,
        _side(rig, a["t"]),
        rig.domid(a["dd"]),
        int(a["do"]) & 0xFFFF,
        0,
        int(a["len"]) & 0xFFFF,
        int(a["flags"]) & 0xFFFF,
        UNTOUCHED,
        0,
    )
    rc, out = rig.grant_op(a["by"], abi.GNTTABOP_COPY, arg)
    return {"st": abi.STATUS.unpack_from(out, 36)[0], "r": rc}


def op_swap(rig: Rig, a: Args, skip: set[str]) -> Result:
    arg = abi.SWAP_GRANT_REF.pack(int(a["a"]) & 0xFFFFFFFF, int(a["b"]) & 0xFFFFFFFF, UNTOUCHED, 0)
    before = rig.stale_before(a["by"])
    rc, out = rig.grant_op(a["by"], abi.GNTTABOP_SWAP_GRANT_REF, arg)
    rig.stale_moved(a["by"], before)
    return {"st": abi.STATUS.unpack_from(out, 8)[0], "r": rc}


def op_setver(rig: Rig, a: Args, skip: set[str]) -> Result:
    rc, out = rig.grant_op(a["by"], abi.GNTTABOP_SET_VERSION, abi.SET_VERSION.pack(int(a["v"]) & 0xFFFFFFFF))
    return {"v": abi.SET_VERSION.unpack(out)[0], "r": rc}


def op_getver(rig: Rig, a: Args, skip: set[str]) -> Result:
    arg = abi.GET_VERSION.pack(rig.domid(a["dom"]), 0, 0xDEAD)
    rc, out = rig.grant_op(a["by"], abi.GNTTABOP_GET_VERSION, arg)
    return {"v": abi.GET_VERSION.unpack(out)[2], "r": rc}


def op_qsize(rig: Rig, a: Args, skip: set[str]) -> Result:
    arg = abi.QUERY_SIZE.pack(rig.domid(a["dom"]), 0, 0, 0, UNTOUCHED, 0)
    rc, out = rig.grant_op(a["by"], abi.GNTTABOP_QUERY_SIZE, arg)
    _, _, now, most, status, _ = abi.QUERY_SIZE.unpack(out)
    return {"st": status, "nr": now, "max": most, "r": rc}


def op_dump(rig: Rig, a: Args, skip: set[str]) -> Result:
    return {"r": 0}


def _agent_va(rig: Rig, a: Args) -> int:
    layout = rig.agent(a["by"]).layout
    base = layout.window_va(int(a["slot"])) if "slot" in a else layout.pool_va(int(a["pg"]))
    return base + int(a["off"])


def op_rd(rig: Rig, a: Args, skip: set[str]) -> Result:
    agent = rig.agent(a["by"])
    if agent.silent():
        return {"r": -ETIMEDOUT}
    addr = _agent_va(rig, a)
    frame, code = agent.access(addr, False)
    if code == NOTHING_THERE:
        return {"v": _hex(ALL_ONES), "r": 0}
    if frame is None:
        return {"fault": 14, "ec": _hex(code), "r": 0}
    if rig.tainted(frame.mfn, addr & 0xFFF, 8):
        skip.add("v")
    return {"v": _hex(_word(frame.data, addr & 0xFFF)), "r": 0}


def op_wr(rig: Rig, a: Args, skip: set[str]) -> Result:
    agent = rig.agent(a["by"])
    if agent.silent():
        return {"r": -ETIMEDOUT}
    addr = _agent_va(rig, a)
    frame, code = agent.access(addr, True)
    if code == NOTHING_THERE:
        return {"r": 0}
    if frame is None:
        return {"fault": 14, "ec": _hex(code), "r": 0}
    off = addr & 0xFFF
    frame.bytes()[off : off + 8] = int(a["v"]).to_bytes(8, "little")
    rig.clean(frame.mfn, off, 8)
    return {"r": 0}


# --- gntdev ---
def op_gd_open(rig: Rig, a: Args, skip: set[str]) -> Result:
    device = Gntdev(rig.kernel)
    rig.gntdevs[int(a["fd"])] = device
    rig.process.open(device, int(a["fd"]))
    return {"r": 0}


def op_gd_close(rig: Rig, a: Args, skip: set[str]) -> Result:
    rig.process.close(int(a["fd"]))
    rig.gntdevs.pop(int(a["fd"]), None)
    return {"r": 0}


def _pairs(rig: Rig, text: str) -> list[tuple[int, int]]:
    out = []
    for item in filter(None, text.split("+")):
        dom, ref = item.split(":")
        out.append((rig.domid(dom), int(ref, 0)))
    return out


def op_gd_map(rig: Rig, a: Args, skip: set[str]) -> Result:
    return {"idx": rig.gntdevs[int(a["fd"])].map_grant_ref(_pairs(rig, str(a["refs"]))), "r": 0}


def op_gd_unmap(rig: Rig, a: Args, skip: set[str]) -> Result:
    rig.gntdevs[int(a["fd"])].unmap_grant_ref(int(a["idx"]), int(a["n"]))
    return {"r": 0}


def op_gd_mmap(rig: Rig, a: Args, skip: set[str]) -> Result:
    prot = PROT_READ | (PROT_WRITE if "w" in a["prot"] else 0)
    vpn = MMAP_VPN + int(a["m"]) * MMAP_STRIDE
    flags = MAP_PRIVATE if a.get("priv") else MAP_SHARED
    rig.process.mmap(vpn, int(a["n"]), prot, flags, int(a["fd"]), int(a["idx"]))
    rig.gd_sizes[int(a["m"])] = int(a["n"])
    return {"r": 0}


def op_gd_munmap(rig: Rig, a: Args, skip: set[str]) -> Result:
    m = int(a["m"])
    first = int(a.get("pg", 0))
    count = int(a["n"]) if "n" in a else rig.gd_sizes.get(m, 1)
    rig.process.space.unmap(MMAP_VPN + m * MMAP_STRIDE + first, count)
    return {"r": 0}


def _user_addr(a: Args, off: int = 0) -> int:
    return ((MMAP_VPN + int(a["m"]) * MMAP_STRIDE + int(a.get("pg", 0))) << 12) + off


def op_gd_getoff(rig: Rig, a: Args, skip: set[str]) -> Result:
    index, count = rig.gntdevs[int(a["fd"])].get_offset(rig.process.space, _user_addr(a))
    return {"idx": index, "n": count, "r": 0}


def op_gd_rd(rig: Rig, a: Args, skip: set[str]) -> Result:
    off = int(a["off"])
    try:
        frame = rig.process.space.access(_user_addr(a, off), False)
    except Fault as fault:
        return {"sig": fault.signal, "code": fault.code, "r": 0}
    if rig.tainted(frame.mfn, off, 8):
        skip.add("v")
    return {"v": _hex(_word(frame.data, off)), "r": 0}


def op_gd_wr(rig: Rig, a: Args, skip: set[str]) -> Result:
    off = int(a["off"])
    try:
        frame = rig.process.space.access(_user_addr(a, off), True)
    except Fault as fault:
        return {"sig": fault.signal, "code": fault.code, "r": 0}
    frame.bytes()[off : off + 8] = int(a["v"]).to_bytes(8, "little")
    rig.clean(frame.mfn, off, 8)
    return {"r": 0}


def op_gd_copy(rig: Rig, a: Args, skip: set[str]) -> Result:
    space = rig.process.space
    base = BUFFER_VPN << 12
    if "fillv" in a:
        word = int(a["fillv"]).to_bytes(8, "little")
        for page in range(2):
            space.store(base + page * 4096, word * 512)
            rig.clean(space.access(base + page * 4096, False).mfn, 0, 4096)
    flags = int(a["flags"])
    source: Any = base + int(a["so"])
    dest: Any = base + int(a["do"])
    if flags & abi.GNTCOPY_SOURCE_GREF:
        source = (int(a["s"]) & 0xFFFFFFFF, int(a["so"]), rig.domid(a["sd"]))
    if flags & abi.GNTCOPY_DEST_GREF:
        dest = (int(a["t"]) & 0xFFFFFFFF, int(a["do"]), rig.domid(a["dd"]))
    segment = Segment(source, dest, int(a["len"]), flags)
    rc = 0
    try:
        rig.gntdevs[int(a["fd"])].grant_copy(space, [segment])
    except KernelError as exc:
        rc = -exc.code
    at = base + (int(a["do"]) & 0xFF8)
    if rig.tainted(space.access(at, False).mfn, at & 0xFFF, 8):
        skip.add("l0")
    status = UNTOUCHED if segment.status is None else segment.status
    return {"st": status, "l0": _hex(_word(space.load(at, 8), 0)), "r": rc}


def execute(rig: Rig, op: str, a: Args, skip: set[str]) -> Result:
    """Run one recorded operation; ValueError for an operation that the format does not have."""
    function = OPS.get(op)
    if function is None:
        raise ValueError(f"unknown operation {op!r}")
    try:
        return function(rig, a, skip)
    except KernelError as exc:
        return {"r": -exc.code}
    except Livelock as exc:
        return {"r": NO_ANSWER, "stuck": f"{op}: {exc}"}


OPS: dict[str, Callable[[Rig, Args, set[str]], Result]] = (
    {name[3:].replace("gd_", "gd."): value for name, value in dict(globals()).items() if name.startswith("op_")}
    | EXTENDED
    | SYSTEM_CALLS
    | AREA_CALLS
    | FILE_CALLS
)
