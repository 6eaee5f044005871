"""Draws a hypervisor's state: domains as boxes that contain frames, grants, processes, open files and mappings.

Only live objects are drawn. A mapping is a small box between its holder (an address space, or the device file that
made it) and the frame; its border is solid for a page-table entry and dashed if only TLBs still have it. A path
that violates the claim is red from the process to the frame.
"""

from __future__ import annotations

from bulkhead.proofs.report.canvas import Canvas, Place
from bulkhead.proofs.report.element_names import Facts, Names

LEGEND = "solid mapping: page-table entry;   dashed: only cached (TLB);   dotted: grant"
GONE = ("absent", "none", "")
PROTECTION = {"true": "rw", "false": "ro"}


def known(facts: Facts) -> bool:
    """Are there frames with owners, and translations to them?"""
    return {"frame.owner", "translation.frame", "translation.present", "translation.space", "space_of"} <= facts.keys()


def draw(canvas: Canvas, facts: Facts, changed: set[Place], bad: set[Place]) -> None:
    """Draw the state on the canvas."""
    _Scene(canvas, facts, changed, bad).draw()


class _Scene:
    def __init__(self, canvas: Canvas, facts: Facts, changed: set[Place], bad: set[Place]) -> None:
        self.canvas, self.facts = canvas, facts
        self.names = Names(facts)
        self.changed = {(f.partition(".")[0], a) for f, a in changed}
        self.bad = {(f.partition(".")[0], a) for f, a in bad}
        self.mappings = [
            t
            for (t,) in facts["translation.frame"]
            if "true" in (self.get("translation.present", t), self.get("translation.cached", t))
        ]
        self.red = {t for t in self.mappings if ("translation", (t,)) in self.bad}
        holds = [a for f, a in bad if f.startswith("hold.") and self.get("hold.page", *a) == "true"]
        self.red_frames = {a[0] for h, a in self.bad if h == "frame"}
        self.red_frames |= {self.get("translation.frame", t) for t in self.red} | {self.get("hold.frame", *a) for a in holds}
        self.red_calls = {a[0] for a in holds} | {a[0] for h, a in self.bad if h == "at"}
        self.drawn: set[str] = set()
        self.named: set[str] = set()  # domains that some drawn object names

    def get(self, name: str, *args: str) -> str:
        return self.facts.get(name, {}).get(args, "")

    def true(self, name: str, *args: str) -> bool:
        return self.get(name, *args) == "true"

    def moved(self, head: str, *args: str) -> bool:
        return (head, args) in self.changed

    def node(self, name: str, label: str, domain: str, changed: bool, bad: bool = False, **more: str) -> None:
        self.drawn.add(name)
        self.named.add(domain)
        self.canvas.node(name, label, domain, changed, bad, **more)

    def draw(self) -> None:
        self.frames()
        self.processes()
        self.files()
        self.spaces_and_mappings()
        self.grants()
        self.calls()
        self.builder()
        self.ports()
        self.domains()

    def frames(self) -> None:
        reached = {self.get("translation.frame", t) for t in self.mappings} | self.red_frames
        for (f,) in self.facts["frame.owner"]:
            use = self.get("frame.use", f)
            if use in ("free", "") and f not in reached and not self.moved("frame", f):
                continue
            what = {"private": "private data", "public": "public data"}.get(
                self.get("frame.content", f), self.get("frame.content", f)
            )
            label = "\n".join([f, ", ".join(w for w in (use.replace("_", " "), what) if w)])
            if self.true("shared_page.used", f):
                label += f"\ngntalloc page, {self.get('shared_page.ref', f)}"
            if self.true("ring.open") and self.get("ring.frame") == f:
                label += "\nthe channel's ring"
            owner = self.get("frame.owner", f) if use not in ("free", "unscrubbed") else "heap"
            if owner == "heap":
                self.canvas.box("heap", "Xen's heap")
            self.node(
                f"frame {f}", label, owner, self.moved("frame", f) or self.moved("shared_page", f), f in self.red_frames
            )

    def processes(self) -> None:
        for (s,) in self.facts["space_of"]:
            phase = self.get("process.phase", s)
            if self.names.is_process(s) and phase != "no_process":
                notes = ["root"] if self.true("process.root", s) else []
                notes += ["exits"] if phase == "process_exits" else []
                if self.get("slot.ask", s) not in ("nothing", ""):
                    notes.append(f"asks DomB to {self.get('slot.ask', s)}")
                self.node(
                    f"space {s}",
                    "\n".join([f"process {s}", ", ".join(notes)]).rstrip(),
                    "dom0",
                    self.moved("process", s) or self.moved("slot", s),
                    s in self.red_spaces(),
                    shape="ellipse",
                )

    def red_spaces(self) -> set[str]:
        issuers = {self.get("issuer.space", c) for c in self.red_calls}
        return {self.get("translation.space", t) for t in self.red} | issuers

    def red_files(self) -> set[str]:
        """Files that made a mapping of the violation."""
        return {self.get("through", t) for t in self.red if self.names.is_process(self.get("translation.space", t))}

    def files(self) -> None:
        for (x,) in self.facts.get("file.open", {}):
            if not self.true("file.open", x):
                continue
            label = f"{x}: /dev/xen/{self.get('file.device', x)}"
            if self.true("file.restricted", x):
                label += f"\nrestricted to {self.names.of(self.get('file.target', x))}"
            self.node(f"file {x}", label, "dom0", self.moved("file", x), x in self.red_files(), shape="component")
        for s, x in self.facts.get("fd", {}):
            if self.true("fd", s, x) and {f"space {s}", f"file {x}"} <= self.drawn:
                self.canvas.edge(
                    f"space {s}", f"file {x}", "fd", self.moved("fd", s, x), s in self.red_spaces() and x in self.red_files()
                )
        for (m,) in self.facts.get("gmap.listed", {}):
            x = self.get("gmap.file", m)
            if self.true("gmap.listed", m) and f"file {x}" in self.drawn:
                label = f"{m}: {self.get('gmap.ref', m)} of {self.names.of(self.get('gmap.granter', m))}"
                self.node(f"map {m}", label, "dom0", self.moved("gmap", m), shape="tab", fontsize="11")
                self.canvas.edge(f"file {x}", f"map {m}", "", self.moved("gmap", m))

    def spaces_and_mappings(self) -> None:
        red_spaces = self.red_spaces()
        for t in self.mappings:
            space, frame = self.get("translation.space", t), self.get("translation.frame", t)
            bad, moved = t in self.red, self.moved("translation", t)
            domain = self.get("space_of", space)
            if f"space {space}" not in self.drawn:
                self.node(
                    f"space {space}",
                    self.names.of(space),
                    domain,
                    self.moved("process", space),
                    space in red_spaces,
                    shape="ellipse",
                )
            origin = self.get("translation.origin", t)
            words = [PROTECTION.get(self.get("translation.writable", t), ""), origin]
            words += ["device"] if self.get("translation.path", t) == "dma" else []
            label = f"{t}\n{', '.join(w for w in words if w)}"
            if origin == "grant" and self.get("translation.handle", t):
                label += f", {self.get('translation.handle', t)}"
            line = {} if self.true("translation.present", t) else {"style": "dashed"}
            self.node(
                f"mapping {t}",
                label,
                domain,
                moved,
                bad,
                fontsize="11",
                **({"style": "rounded,filled,dashed"} if line else {"style": "rounded,filled"}),
            )
            self.canvas.edge(f"mapping {t}", f"frame {frame}", "", moved, bad, **line)
            file = self.get("through", t)
            by_file = self.names.is_process(space) and f"file {file}" in self.drawn
            if by_file:
                self.canvas.edge(f"file {file}", f"mapping {t}", "mmap", moved, bad, **line)
            if not by_file or not self.true("fd", space, file):
                self.canvas.edge(f"space {space}", f"mapping {t}", "", moved, bad, **line)

    def grants(self) -> None:
        for d, r in self.facts.get("entry.kind", {}):
            kind, used = self.get("entry.kind", d, r), self.get("status.reading", d, r)
            if kind == "invalid" and used != "true":
                continue
            grantee = self.get("entry.grantee", d, r)
            how = "ro" if self.true("entry.readonly", d, r) else "rw"
            words = {
                "permit_access": f"to {self.names.of(grantee)}, {how}",
                "accept_transfer": f"accepts a page of {self.names.of(grantee)}",
                "transfer_completed": "transfer completed",
                "invalid": "withdrawn",
            }.get(kind, kind)
            label = f"grant {r}\n{words}"
            if used == "true":
                bits = "reading, writing" if self.true("status.writing", d, r) else "reading"
                label += f"\nin use by {self.names.of(self.get('active.grantee', d, r))} ({bits})"
            self.named |= {grantee} if kind != "invalid" else set()
            moved = any(self.moved(h, d, r) for h in ("entry", "status", "active"))
            bad = any((h, (d, r)) in self.bad for h in ("entry", "status", "active"))
            self.node(f"grant {d} {r}", label, d, moved, bad, shape="note", fontsize="11")
            frame = self.get("active.frame" if used == "true" else "entry.frame", d, r)
            if f"frame {frame}" in self.drawn and kind in ("permit_access", "invalid"):
                self.canvas.edge(f"grant {d} {r}", f"frame {frame}", "", moved, bad, style="dotted")

    def calls(self) -> None:
        for (c,) in self.facts.get("at", {}):
            at = self.get("at", c)
            if at in ("idle", ""):
                continue
            op, _, step = at.partition(".")
            by = self.get("issuer.by", c)
            sides = [a for a in self.facts.get("hold.page", {}) if a[0] == c]
            moved = self.moved("at", c) or any(self.moved("hold", *a) for a in sides)
            self.node(f"call {c}", f"{c}: {op}\nnext: {step}", by, moved, c in self.red_calls, peripheries="2")
            for a in sides:
                frame, pin = self.get("hold.frame", *a), (self.get("hold.granter", *a), self.get("hold.ref", *a))
                does = {"pins": self.true("hold.pin", *a), "holds": self.true("hold.page", *a)}
                words = " and ".join(w for w, on in does.items() if on)
                if words and f"frame {frame}" in self.drawn:
                    grant = f" {pin[1]}" if self.true("hold.pin", *a) else ""
                    self.canvas.edge(
                        f"call {c}",
                        f"frame {frame}",
                        f"{words}{grant}",
                        self.moved("hold", *a),
                        ("hold", a) in self.bad,
                        arrowhead="odot",
                    )

    def builder(self) -> None:
        home = next((d for (d,) in self.facts.get("domain.phase", {}) if d == "domb"), "")
        for (q,) in self.facts.get("request.stage", {}):
            stage = self.get("request.stage", q)
            if stage not in ("no_request", ""):
                guest = "" if stage == "requested" else f"\nguest: {self.names.of(self.get('request.guest', q))}"
                self.node(
                    f"request {q}",
                    f"{q}: {stage}{guest}",
                    home,
                    self.moved("request", q),
                    ("request", (q,)) in self.bad,
                    shape="tab",
                )
        for (b,) in self.facts.get("buffer.used", {}):
            if self.true("buffer.used", b):
                words = f"for {self.get('buffer.request', b)}, data of {self.get('buffer.holds', b)}"
                words += ", shared with Dom0" if self.true("buffer.shared", b) else ""
                self.node(
                    f"buffer {b}",
                    f"{b}\n{words}",
                    home,
                    self.moved("buffer", b),
                    ("buffer", (b,)) in self.bad,
                    shape="folder",
                    fontsize="11",
                )

    def ports(self) -> None:
        for d, q in self.facts.get("port.state", {}):
            state, peer = self.get("port.state", d, q), self.get("port.remote", d, q)
            if state in ("closed", ""):
                continue
            bad = ("port", (d, q)) in self.bad
            label = f"{q}\n" + (f"open to {self.names.of(peer)}" if state == "unbound" else "connected")
            self.node(f"port {d} {q}", label, d, self.moved("port", d, q), bad, shape="invhouse", fontsize="11")
            other = self.get("port.remote_port", d, q)
            if state == "interdomain" and self.get("port.state", peer, other) not in ("closed", ""):
                self.canvas.edge(
                    f"port {d} {q}", f"port {peer} {other}", "events", self.moved("port", d, q), bad, constraint="false"
                )

    def domains(self) -> None:
        """A box for each domain that has contents or that another object names."""
        for (d,), phase in self.facts.get("domain.phase", {}).items():
            moved = self.moved("domain", d)
            if d not in self.named and (not moved or phase in GONE):
                continue
            state = "paused" if phase == "running" and self.true("domain.paused", d) else phase
            title = self.names.of(d) + (f" ({state})" if state not in ("running", "") else "")
            bad = ("domain", (d,)) in self.bad and not (self.red or self.red_frames or self.red_calls)
            self.canvas.box(d, title, moved, bad)


__all__ = ["LEGEND", "draw", "known"]
