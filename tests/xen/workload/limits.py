"""Long lists, and what runs out: uses of one grant, handles, frames of grant tables, ports, pages.

Contents: lists of hundreds of elements of which only some are looked at, and calls at the end of a counter. Not here: short
lists of different elements (grants.py).
"""

from __future__ import annotations

from tests.xen.workload.script import DATA, EVENT_CHANNEL_OP, GRANT_TABLE_OP, MEMORY_OP, REFS, Script

UNTOUCHED = "0x7fff"
MAP_SIZE, UNMAP_SIZE, COPY_SIZE, SWAP_SIZE = 32, 24, 40, 12
MANY = (100, 127, 128, 129, 200, 255, 256, 257, 300, 600)


def _seen(many: int) -> list[int]:
    return sorted({0, many // 2, many - 1, *(n for n in (126, 127, 128, 129, 254, 255, 256) if n < many)})


def uses(s: Script) -> None:
    """One grant mapped hundreds of times, for devices or the host, to the end of its counters; refused from there on."""
    by, granter, ref = s.agent(), s.guest(), s.pick(REFS)
    many, flags = s.pick(MANY), s.pick((1, 5, 5, 2, 6, 7))
    s.grant(granter, ref, by, f"{granter}/{s.pick(DATA)}", s.weighted((80, 1), (20, 5)))
    slot = s.rng.randrange(16, 32)
    words = [
        f"0:8:{'w.' + str(slot) if flags & 2 else 0}:{many}:{MAP_SIZE}",
        f"8:4:{flags}:{many}:{MAP_SIZE}",
        f"12:4:{ref}:{many}:{MAP_SIZE}",
        f"16:2:{granter}:{many}:{MAP_SIZE}",
        f"18:2:{UNTOUCHED}:{many}:{MAP_SIZE}",
        f"20:4:0xdeadbeef:{many}:{MAP_SIZE}",
    ]
    reads = []
    for n in _seen(many):
        name = s.variable("l")
        reads += [f"st{n}:{n * MAP_SIZE + 18}:2:s", f"{name}:{n * MAP_SIZE + 20}:4:V"]
        s.family.setdefault("long", []).append((by, name, flags, slot))
    del s.family["long"][:-120]
    s.hypercall(by, GRANT_TABLE_OP, ",".join(words), ",".join(reads), f"{granter}:{ref}", a1=0, a2="arg", a3=many)


def ends(s: Script) -> None:
    """A run of handles unmapped in one call: those of a long list and others between, some twice."""
    known = s.family.get("long", [])
    if not known:
        return uses(s)
    by, name, flags, slot = s.pick(known)
    many = s.pick((1, 15, 16, 17, 33, 64, 100, 300))
    words = [
        f"0:8:{'w.' + str(slot) if flags & 2 else 0}:{many}:{UNMAP_SIZE}",
        f"20:2:{UNTOUCHED}:{many}:{UNMAP_SIZE}",
        *(f"{n * UNMAP_SIZE + 16}:4:${name}+{n}" for n in range(many)),
    ]
    reads = ",".join(f"st{n}:{n * UNMAP_SIZE + 20}:2:s" for n in _seen(many))
    s.hypercall(by, GRANT_TABLE_OP, ",".join(words), reads, a1=1, a2="arg", a3=many)


def copies(s: Script) -> None:
    """Hundreds of small copies of one grant, or of swaps of two."""
    by, granter, ref, many = s.agent(), s.agent(), s.pick(REFS), s.pick((64, 100, 128, 300, 1000))
    if s.chance(0.3):
        two = s.pick(REFS)
        for each in (ref, two):
            s.granted.pop((by, each), None)
        words = f"0:4:{ref}:{many}:{SWAP_SIZE},4:4:{two}:{many}:{SWAP_SIZE},8:2:{UNTOUCHED}:{many}:{SWAP_SIZE}"
        reads = ",".join(f"st{n}:{n * SWAP_SIZE + 8}:2:s" for n in _seen(many))
        s.hypercall(by, GRANT_TABLE_OP, words, reads, f"{by}:{ref}+{by}:{two}", a1=11, a2="arg", a3=many)
        return
    s.grant(granter, ref, by, f"{granter}/{s.pick(DATA)}", 1)
    page, size = s.pick(DATA), s.pick((0, 8, 64, 4096))
    fields = (
        (0, 8, ref),
        (8, 2, granter),
        (10, 2, s.pick((0, 8))),
        (16, 8, f"{by}/{page}"),
        (24, 2, "SELF"),
        (26, 2, 0),
        (32, 2, size),
        (34, 2, 1),
        (36, 2, UNTOUCHED),
    )
    words = ",".join(f"{at}:{width}:{value}:{many}:{COPY_SIZE}" for at, width, value in fields)
    reads = ",".join(f"st{n}:{n * COPY_SIZE + 36}:2:s" for n in _seen(many))
    s.hypercall(by, GRANT_TABLE_OP, words, reads, f"{granter}:{ref}", a1=5, a2="arg", a3=many)
    s.do("pcrc", pg=f"{by}/{page}")


def frames(s: Script) -> None:
    """A table that grows to its last frame, by its guest or by Dom0; entries of the grown part; sizes."""
    by = s.agent()
    which = s.pick(("setup", "acquire", "status", "entry", "size"))
    if which == "setup":
        words = f"0:2:SELF,4:4:{s.pick((2, 3, 7, 8, 9))},8:2:{UNTOUCHED},16:8:arg+512"
        s.hypercall(by, GRANT_TABLE_OP, words, "st:8:2:s", a1=2, a2="arg", a3=1)
    elif which == "status":
        words = f"0:4:{s.pick((1, 2, 3, 4))},4:2:SELF,6:2:{UNTOUCHED},8:8:arg+512"
        s.hypercall(by, GRANT_TABLE_OP, words, "st:6:2:s", a1=9, a2="arg", a3=1)
    elif which == "acquire":
        words = f"0:2:{s.guest()},2:2:1,4:4:{s.pick((0, 0, 1))},8:4:1,16:8:{s.rng.randrange(10)},24:8:arg+512"
        s.hypercall("d0", MEMORY_OP, words, "n:8:4", a1=28, a2="arg")
    elif which == "entry":
        ref, granter = s.pick((256, 511, 512, 1023, 1024, 2047, 4095, 4096)), s.guest()
        words = f"0:8:w.17,8:4:2,12:4:{ref},16:2:{granter},18:2:{UNTOUCHED}"
        s.hypercall(by, GRANT_TABLE_OP, words, "st:18:2:s", a1=0, a2="arg", a3=1)
    s.hypercall(by, GRANT_TABLE_OP, f"0:2:SELF,12:2:{UNTOUCHED}", "st:12:2:s,nr:4:4,max:8:4", a1=6, a2="arg", a3=1)


def ports(s: Script) -> None:
    """Ports one after the other, hundreds in a row; the last one's state."""
    by, many = s.agent(), s.pick((10, 60, 200))
    name = s.variable("p")
    s.hypercall(by, EVENT_CHANNEL_OP, f"0:2:SELF,2:2:{s.other(by)}", f"{name}:4:4:V", a1=6, a2="arg", rep=many)
    s.hypercall(by, EVENT_CHANNEL_OP, f"0:2:SELF,4:4:${name}", "st:8:4", a1=5, a2="arg")
    s.hypercall(by, EVENT_CHANNEL_OP, f"0:4:${name}-{s.rng.randrange(many)}", a1=3, a2="arg")


def pages(s: Script) -> None:
    """Populated until the limit, by long lists of which the end is refused."""
    name, more = s.agent(), s.pick((0, 1, 5, 64))
    s.count(name)
    s.hypercall("d0", 36, f"0:4:11,4:4:0x15,8:2:{name},16:8:k.$cur.{name}+{4 * more}", a1="arg")
    many = s.pick((1, 4, 65, 100))
    words = f"0:8:arg+512,8:8:{many},16:4:{s.pick((0, 0, 1, 2))},20:4:0,24:2:SELF,512:8:0x900:{many}:8"
    s.hypercall(name, MEMORY_OP, words, a1=s.pick((0, 6)), a2="arg")
    s.count(name)


STEPS = ((24, uses), (24, ends), (16, copies), (14, frames), (8, ports), (14, pages))
