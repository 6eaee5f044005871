"""Dom0's user space in a campaign: a hostile process with gntdev and gntalloc, its mappings, its exit, and the next process.

The kernel maps each grant twice, for the process and for itself; by the rules its own address space is one more process
that maps the same grant through a file of its own. System calls run to their end at once. What Xen answered to each part is
learned by recording the kernel's hypercalls.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from impl.dom0.gntalloc import Gntalloc, GntallocPool
from impl.dom0.gntdev import Gntdev
from impl.dom0.kernel import KernelError
from impl.dom0.process import MAP_SHARED, PROT_READ, PROT_WRITE, Process
from impl.xen import abi
from model.walk import OKAY
from proofs.refinement.rig import RecordingKernel
from proofs.refinement.rules_of import status_name
from proofs.refinement.shadow import ANY, Mismatch
from proofs.refinement.world import KERNEL, TOOLS, USER

if TYPE_CHECKING:
    from proofs.refinement.bench import Bench

VPN = 0x50000
SLOTS = 4


class Slot:
    """One mmap of the process: what it maps, and the rule translations of the process and of the kernel."""

    def __init__(self, kind: str, file: int) -> None:
        self.kind = kind
        self.file = file
        self.user: int | None = None
        self.kernel: int | None = None
        self.writable = True


class Dom0:
    """The process and what it has open."""

    def __init__(self, bench: Bench, rng: random.Random, kernel: RecordingKernel) -> None:
        self.b = bench
        self.rng = rng
        self.kernel = kernel
        self.pool = GntallocPool(kernel, limit=3)
        self.process = Process(kernel)
        self.gntdevs: dict[int, tuple[Gntdev, int]] = {}  # descriptor -> (device, File)
        self.gntallocs: dict[int, tuple[Gntalloc, int]] = {}
        self.maps: list[tuple[int, int, int, bool]] = []  # descriptor, byte offset, Map, mapped
        self.pages: dict[int, tuple[int, int, int]] = {}  # Frame -> descriptor, byte offset, reference
        self.slots: dict[int, Slot] = {}
        self.spent: set[tuple[int, int]] = set()  # maps that a refused mmap has used up
        self.released: set[int] = set()  # files whose last user may be gone
        bench.shadow.lives[bench.rig.dom0] = 0
        self.kernel_file = self._element("file.open")
        self._rule("open_gntdev", {"p": KERNEL, "x_x": self.kernel_file})

    def _rule(self, label: str, args: dict[str, int], expect: str = OKAY, fail: str | None = None) -> str:
        return self.b.shadow.step(label, args, expect, fail) if self.b.rules_on else OKAY

    def _element(self, func: str) -> int:
        """The first element of which a fact does not hold."""
        return self.b.shadow.T[func].index(0)

    # Moves.

    def move(self) -> str:
        """One system call of the process; what it was."""
        x = self.rng.random()
        if len(self.gntdevs) + len(self.gntallocs) == 0 or (x < 0.04 and len(self.gntdevs) + len(self.gntallocs) < 4):
            return self.open()
        for limit, move in ((0.2, self.map_ref), (0.45, self.mmap), (0.62, self.munmap), (0.68, self.unmap_ref),
                            (0.78, self.alloc), (0.84, self.share), (0.9, self.dealloc), (0.93, self.store),
                            (0.97, self.close), (0.985, self.bad), (1.0, self.exit)):
            if x < limit:
                text = move()
                self.settle()
                return text
        return ""

    def open(self) -> str:
        """open() of a device."""
        x = self._element("file.open") if self.b.rules_on else 0
        if self.rng.random() < 0.6:
            device = Gntdev(self.kernel)
            self.gntdevs[self.process.open(device)] = (device, x)
            self._rule("open_gntdev", {"p": USER, "x_x": x})
            return "open gntdev"
        alloc = Gntalloc(self.pool)
        self.gntallocs[self.process.open(alloc)] = (alloc, x)
        self._rule("open_gntalloc", {"p": USER, "x_x": x})
        return "open gntalloc"

    def bad(self) -> str:
        """Calls on a descriptor that is not there."""
        try:
            self.process.close(99)
        except KernelError as error:
            code = "EBADF" if error.code == abi.EBADF else str(error.code)
        else:
            code = OKAY
        free = self._element("file.open") if self.b.rules_on else 0
        self._rule("close", {"p": USER, "x": free}, code)
        return "close of nothing"

    def map_ref(self) -> str:
        """IOCTL_GNTDEV_MAP_GRANT_REF."""
        if not self.gntdevs or len(self.maps) >= 4:
            return ""
        fd = self.rng.choice(list(self.gntdevs))
        device, x = self.gntdevs[fd]
        dom = self.rng.choice([d for d in self.b.rig.xen.domains if d < 4] or [1])
        ref = self.rng.choice([n for n in self.b.shadow.size.refs if n < 1000])
        offers = []
        for d, guest in self.b.rig.guests.items():
            table = guest.domain.grant_table
            for number in self.b.shadow.size.refs:
                if number < table.nr_entries and abi.HEADER.unpack_from(*table.header_at(number))[1] == 0:
                    offers.append((d, number))
        if offers and self.rng.random() < 0.8:
            dom, ref = self.rng.choice(offers)
        offset = device.map_grant_ref([(dom, ref)])
        m = self._element("gmap.listed") if self.b.rules_on else 0
        self._rule("gntdev_map_grant_ref", {"p": USER, "x": x, "dom": self.b.shadow.domain(dom),
                                            "ref": self.b.shadow.ref(ref), "m": m})
        self.maps.append((fd, offset, m, False))
        return f"gntdev map_grant_ref d{dom} ref {ref}"

    def mmap(self) -> str:
        """mmap of a map; the second one of the same map fails."""
        free = [s for s in range(SLOTS) if s not in self.slots]
        if not self.maps or not free:
            return ""
        i = int(self.rng.random() * len(self.maps))
        fd, offset, m, _ = self.maps[i]
        x = self.gntdevs[fd][1]
        grant = next(g for g in self.gntdevs[fd][0].maps if g.index == offset >> 12).grants[0]
        guest = self.b.rig.xen.domains.get(grant[0])
        if guest is not None and grant[0] and grant[1] < guest.grant_table.nr_entries:
            act = guest.grant_table.active[grant[1]]
            pinned = act.frame is not None and act.frame.xenheap
            if pinned or self.b.rig.special(guest.grant_table.frame_field(grant[1])):
                return ""
        writable = self.rng.random() < 0.5
        slot = Slot("grant", x)
        slot.writable = writable
        self.kernel.grant_log.clear()
        code = OKAY
        try:
            self.process.mmap(VPN + free[0], 1, PROT_READ | (PROT_WRITE if writable else 0), MAP_SHARED, fd, offset)
        except KernelError as error:
            code = "EINVAL" if error.code == abi.EINVAL else str(error.code)
        self.maps[i] = (fd, offset, m, True)
        if self.b.rules_on:
            spent = (fd, offset) in self.spent
            if spent and code != "EINVAL":
                raise Mismatch(f"a map that a refused mmap has used up was mapped: {code}")
            self._follow_mmap(slot, m, x, writable, code, spent)
        if code == OKAY:
            self.slots[free[0]] = slot
        elif self.b.rules_on and (fd, offset) not in self.spent and not self.b.shadow.T["gmap.mapped"][m]:
            # A refused mmap spends the map. The rules keep it unspent; here it goes off their list, which answers alike.
            self._rule("gntdev_unmap_grant_ref", {"p": USER, "x": x, "m": m})
            self.spent.add((fd, offset))
        return f"gntdev mmap of map {m}: {code}"

    def _follow_mmap(self, slot: Slot, m: int, x: int, writable: bool, code: str, spent: bool) -> None:
        sh = self.b.shadow
        log = list(self.kernel.grant_log)
        if not log and spent:
            return
        if not log:
            self._rule("gntdev_mmap", {"p": USER, "x": x, "m": m, "writable": int(writable), "got_h": 0,
                                       "this": sh.free_calls[-1]}, code)
            return
        granter, ref = sh.T["gmap.granter"][m], sh.T["gmap.ref"][m]
        for n, (cmd, raw) in enumerate(log):
            if cmd == abi.GNTTABOP_MAP_GRANT_REF:
                fields = abi.MAP_GRANT_REF.unpack(raw)
                p, file, gmap = (USER, x, m) if n == 0 else (KERNEL, self.kernel_file, self._element("gmap.listed"))
                if n:
                    self._rule("gntdev_map_grant_ref", {"p": KERNEL, "x": file, "dom": granter, "ref": ref, "m": gmap})
                t = self._map(p, file, gmap, writable, status_name(fields[4]), fields[5])
                if n:
                    self._rule("gntdev_unmap_grant_ref", {"p": KERNEL, "x": file, "m": gmap})
                    slot.kernel = t
                else:
                    slot.user = t
            else:
                self._unmap(raw, slot)

    def _map(self, p: int, x: int, m: int, writable: bool, status: str, number: int) -> int | None:
        b, sh = self.b, self.b.shadow
        call = sh.free_calls[-1]
        h = sh.free_handle()
        code = sh.try_step("gntdev_mmap", {"p": p, "x": x, "m": m, "writable": int(writable), "got_h": h, "this": call})
        if code == OKAY and status == OKAY:
            t = sh.free_translation()
            sh.step("gntdev_mmap.insert", {"this": call, "got_t": t, "got_u": sh.free_translation(t)})
            sh.handles[0, number] = h
            return t
        if code == OKAY:
            if not self._may_fail(m):
                raise Mismatch(f"gntdev mmap: the rules say okay, Xen {status}")
            sh.step("gntdev_mmap.insert", {"this": call, "got_t": 0, "got_u": 0}, "EINVAL", "EINVAL")
        elif status == OKAY or code is None:
            raise Mismatch(f"gntdev mmap: the rules say {code}, Xen {status}")
        del b
        return None

    def _may_fail(self, m: int) -> bool:
        """A writable map of a page table fails late."""
        sh = self.b.shadow
        k = sh.T["gmap.granter"][m] * sh.rules.nrefs + sh.T["gmap.ref"][m]
        frame = sh.T["active.frame"][k] if sh.T["status.reading"][k] else sh.T["entry.frame"][k]
        return self.b.is_table(sh.mfn(frame))

    def _unmap(self, raw: bytes, slot: Slot) -> None:
        sh = self.b.shadow
        _, _, number, status, _ = abi.UNMAP_GRANT_REF.unpack(raw)
        h = sh.handles.get((0, number))
        if h is None:
            if status_name(status) != "GNTST_bad_handle":
                raise Mismatch(f"Dom0 unmaps handle {number:#x}, which it does not have: {status_name(status)}")
            return
        t = sh.T["mapping.host_t"][h]
        p = USER if t == slot.user else KERNEL
        call = sh.free_calls[-1]
        frame = sh.T["translation.frame"][t]
        code = sh.step("gntdev_munmap", {"p": p, "t": t, "this": call}, ANY)
        if (code == OKAY) != (status == 0):
            raise Mismatch(f"gntdev munmap: the rules say {code}, Xen {status_name(status)}")
        if code == OKAY:
            del sh.handles[0, number]
            sh.step("gntdev_munmap.flush", {"this": call})
            sh.step("gntdev_munmap.complete", {"this": call})
            self.b.touch_frame(frame)

    def munmap(self) -> str:
        """munmap."""
        if not self.slots:
            return ""
        n = self.rng.choice(list(self.slots))
        self.kernel.grant_log.clear()
        self.process.space.unmap(VPN + n, 1)
        self._unmapped(n)
        return f"munmap {n}"

    def _unmapped(self, n: int) -> None:
        slot = self.slots.pop(n)
        self.released.add(slot.file)
        if not self.b.rules_on:
            return
        if slot.kind == "own" and slot.user is not None:
            frame = self.b.shadow.T["translation.frame"][slot.user]
            self._rule("gntalloc_munmap", {"p": USER, "t": slot.user})
            self._rule("flush_tlb", {"d": 0})
            self.b.touch_frame(frame)
            return
        for cmd, raw in self.kernel.grant_log:
            if cmd == abi.GNTTABOP_UNMAP_GRANT_REF:
                self._unmap(raw, slot)
        self.kernel.grant_log.clear()

    def unmap_ref(self) -> str:
        """IOCTL_GNTDEV_UNMAP_GRANT_REF; what is mapped stays."""
        if not self.gntdevs:
            return ""
        fd = self.rng.choice(list(self.gntdevs))
        device, x = self.gntdevs[fd]
        mine = [m for m in self.maps if m[0] == fd]
        if not mine:
            try:
                device.unmap_grant_ref(0x77000, 1)
                code = OKAY
            except KernelError as error:
                code = "ENOENT" if error.code == abi.ENOENT else str(error.code)
            self._rule("gntdev_unmap_grant_ref", {"p": USER, "x": x,
                                                  "m": self._element("gmap.listed") if self.b.rules_on else 0}, code)
            return "gntdev unmap_grant_ref of nothing"
        fd, offset, m, _ = self.rng.choice(mine)
        device.unmap_grant_ref(offset, 1)
        self.maps = [e for e in self.maps if e[2] != m or e[0] != fd or e[1] != offset]
        if (fd, offset) in self.spent:
            self.spent.discard((fd, offset))
        else:
            self._rule("gntdev_unmap_grant_ref", {"p": USER, "x": x, "m": m})
        return f"gntdev unmap_grant_ref {m}"

    def alloc(self) -> str:
        """IOCTL_GNTALLOC_ALLOC_GREF."""
        if not self.gntallocs:
            return ""
        fd = self.rng.choice(list(self.gntallocs))
        device, x = self.gntallocs[fd]
        dom = self.rng.choice((1, 2, 3))
        writable = self.rng.random() < 0.7
        code, mfn, offset, refs = OKAY, 0, 0, [0]
        self.pool.retry_deferred()  # so does the call itself, but what it frees it may give out again at once
        self.settle()
        try:
            offset, refs = device.alloc(dom, int(writable), 1)
            mfn = device.pages[-1].frame.mfn
        except KernelError as error:
            code = "ENOSPC" if error.code == abi.ENOSPC else str(error.code)
        self.settle()
        if not self.b.rules_on:
            return "gntalloc alloc"
        sh = self.b.shadow
        args = {"p": USER, "x": x, "dom": dom, "writable": int(writable)}
        if code == OKAY:
            used = set(sh.dom0_frames.values())
            f = next(e for e in range(sh.size.heap, sh.size.heap + sh.size.dom0_frames) if e not in used)
            sh.dom0_frames[mfn] = f
            args |= {"f": f, "r": sh.ref(refs[0])}
            self.pages[f] = (fd, offset, refs[0])
        self._rule("gntalloc_alloc_gref", args, code, None if code == OKAY else code)
        return f"gntalloc alloc for d{dom}: {code}"

    def share(self) -> str:
        """mmap of a page that gntalloc gave out."""
        free = [s for s in range(SLOTS) if s not in self.slots]
        if not self.pages or not free:
            return ""
        f, (fd, offset, _) = self.rng.choice(list(self.pages.items()))
        if fd not in self.gntallocs:
            return ""
        x = self.gntallocs[fd][1]
        code = OKAY
        try:
            self.process.mmap(VPN + free[0], 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset)
        except KernelError as error:
            code = "ENOENT" if error.code == abi.ENOENT else str(error.code)
        slot = Slot("own", x)
        if self.b.rules_on:
            t = self.b.shadow.free_translation()
            self._rule("gntalloc_mmap", {"p": USER, "x": x, "f": f, "t_t": t, "t_nil": self.b.shadow.size.handles - 1}, code)
            slot.user = t
        if code == OKAY:
            self.slots[free[0]] = slot
        return f"gntalloc mmap: {code}"

    def dealloc(self) -> str:
        """IOCTL_GNTALLOC_DEALLOC_GREF."""
        if not self.pages:
            return ""
        f, (fd, offset, _) = self.rng.choice(list(self.pages.items()))
        if fd not in self.gntallocs:
            return ""
        device, x = self.gntallocs[fd]
        code = OKAY
        try:
            device.dealloc(offset, 1)
        except KernelError as error:
            code = "EINVAL" if error.code == abi.EINVAL else str(error.code)
        self._rule("gntalloc_dealloc_gref", {"p": USER, "x": x, "f": f}, code)
        return f"gntalloc dealloc: {code}"

    def store(self) -> str:
        """A store of the process."""
        for n, slot in self.slots.items():
            if slot.writable and slot.user is not None:
                self.process.space.store((VPN + n << 12) + 256, b"dom0")
                self._rule("store", {"space": USER, "t": slot.user})
        return "store"

    def close(self) -> str:
        """close(); what is mapped keeps the file."""
        fds = [*self.gntdevs, *self.gntallocs]
        if not fds:
            return ""
        fd = self.rng.choice(fds)
        x = (self.gntdevs.get(fd) or self.gntallocs[fd])[1]
        self._forget(fd, x)
        self.process.close(fd)
        self._rule("close", {"p": USER, "x": x})
        return f"close {fd}"

    def _forget(self, fd: int, x: int) -> None:
        """What the file lists goes with it."""
        for entry in [e for e in self.maps if e[0] == fd]:
            self.maps.remove(entry)
            if entry[:2] in self.spent:
                self.spent.discard(entry[:2])
            else:
                self._rule("gntdev_unmap_grant_ref", {"p": USER, "x": x, "m": entry[2]})
        if self.b.rules_on:
            for f, (owner, offset, ref) in list(self.pages.items()):
                if owner == fd:
                    self.pages[f] = (-1, offset, ref)
                if owner == fd and self.b.shadow.T["shared_page.listed"][f]:
                    self._rule("gntalloc_dealloc_gref", {"p": USER, "x": x, "f": f})
        self.gntdevs.pop(fd, None)
        self.gntallocs.pop(fd, None)
        self.released.add(x)

    def exit(self) -> str:
        """kill -9; the toolstack starts the next process, which gives up what it inherits."""
        if self.b.flights:
            return ""
        for fd, (_, x) in [*self.gntdevs.items(), *self.gntallocs.items()]:
            self._forget(fd, x)
        self.kernel.grant_log.clear()
        self._rule("exit", {"p": USER})
        for n in sorted(self.slots):
            self.process.space.unmap(VPN + n, 1)
            self._unmapped(n)
        self.process.exit()
        self.settle()
        self._rule("reap", {"p": USER})
        self._rule("fork", {"p": TOOLS, "child": USER})
        self._rule("close", {"p": USER, "x": self.b.privcmd})
        self._rule("setuid", {"p": USER})
        self._rule("open_privcmd", {"p": USER, "x_x": 0}, "EACCES")
        self.process = Process(self.kernel)
        return "exit and a new process"

    def settle(self) -> None:
        """Files and shared pages that nobody uses any more."""
        sh = self.b.shadow
        if not self.b.rules_on:
            return
        in_use = {entry.ref for entry in self.pool.deferred}
        for f, (_, _, ref) in list(self.pages.items()):
            if not sh.T["shared_page.listed"][f] and ref in self.kernel.free_refs and ref not in in_use:
                sh.step("gntalloc_free", {"f": f})
                del self.pages[f]
                sh.limbo.discard(f)
                sh.dom0_frames = {m: e for m, e in sh.dom0_frames.items() if e != f}
        if not self.b.flights:
            for x in list(self.released):
                if not sh.T["file.open"][x] or sh.try_step("release_file", {"x": x}) == OKAY:
                    self.released.discard(x)

    def end(self) -> None:
        """The process goes, and its peers' last pages come back."""
        self.exit()
        self.pool.retry_deferred()
        self.settle()
        if self.pool.deferred or self.pages:
            raise Mismatch("Dom0 keeps a shared page at the end")
        self.process.exit()
