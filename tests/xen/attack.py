"""`python -m tests.xen.attack [TRACE]`: runs the attack of `bulkhead attack monolithic only_by_grant` on real Xen.

The trace's initial state is built from running guests, each of which writes a secret to its page; then the trace's
events are executed as system calls of a process of Dom0. After that the privcmd module is unloaded and the same calls
are made again, together with a map of a grant that a guest made for Dom0. Contents: that run, its log and its picture.
Not here: the search for the attack.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bulkhead.model import loader
from bulkhead.model.diagnostics import UsageError
from bulkhead.model.ir import System
from bulkhead.model.trace import Event, Trace, load_jsonl
from bulkhead.proofs.atomic_files import write_file
from bulkhead.proofs.report.canvas import Canvas, Caption
from bulkhead.proofs.report.pictures import save
from bulkhead.proofs.report.trace_text import save_trace
from bulkhead.proofs.theorems.attack import find_attack
from tests.xen.build import Images
from tests.xen.machine import Machine
from tests.xen.problems import RigFailed, Unavailable
from tests.xen.protocol import Call, answers, record, write_recording
from tests.xen.rig import BUILD, images
from tests.xen.workload.devices import BATCH_V2, MAP_REF

SYSTEM, CLAIM = "monolithic", "only_by_grant"
OUT: Final = BUILD / "attack"
PAGES: Final = range(16)
GRANTED, REF, GRANT_AREA, GNTDEV = 20, 8, 900, 40
ERRNO: Final = {2: "ENOENT", 9: "EBADF", 13: "EACCES", 22: "EINVAL"}


@dataclass
class Stage:
    """The trace's elements on the real machine: guests by domain, pages by frame, files and areas by number."""

    guests: dict[int, str] = field(default_factory=dict)
    pages: dict[int, str] = field(default_factory=dict)
    files: dict[int, int] = field(default_factory=dict)
    areas: int = 0


@dataclass(frozen=True)
class Step:
    """One executed event of the trace: its name, its calls' answers, and the bytes read by frame."""

    label: str
    code: int
    frame: int | None = None
    read: bytes = b""


@dataclass
class Outcome:
    """Both runs of the attack, and the bytes read by grant without privcmd."""

    secrets: dict[int, bytes] = field(default_factory=dict)
    before: list[Step] = field(default_factory=list)
    after: list[Step] = field(default_factory=list)
    unloaded: int = -1
    granted: bytes = b""
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def stolen(self) -> bool:
        """Was a guest's secret read without a grant, with privcmd?"""
        return any(step.read and step.read == self.secrets.get(step.frame or 0) for step in self.before)

    @property
    def kept(self) -> bool:
        """Did each call of the attack fail without privcmd, and the grant still work?"""
        return self.unloaded == 0 and all(step.code < 0 and not step.read for step in self.after) and self.granted == GIFT


GIFT: Final = b"given to Dom0.  "


def secret(frame: int) -> bytes:
    """Sixteen unique bytes in a guest's page."""
    return f"secret: frame {frame}".encode().ljust(16, b".")[:16]


def words(data: bytes) -> list[int]:
    """As loads and stores of eight bytes."""
    return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]


class Player:
    """The trace on one machine."""

    def __init__(self, machine: Machine, system: System, trace: Trace) -> None:
        self.machine = machine
        self.system = system
        self.trace = trace
        self.numbers = {name: k for k, name in enumerate(system.funcs)}
        self.stage = Stage()
        self.out = Outcome()

    def call(self, op: str, **args: Any) -> dict[str, Any]:
        """Make and record one call."""
        call = Call(op, args)
        answer = next(answers(self.machine, [call]))
        self.out.lines.append(record(len(self.out.lines), call, answer))
        return dict(answer.results)

    def _value(self, function: str, index: int) -> str:
        value = self.trace.initial[self.numbers[function]][index]
        sort = self.system.funcs[function].sort
        return self.system.enums[sort][value] if sort in self.system.enums else str(value)

    def build(self) -> None:
        """The running guests of the trace, a secret in each of its pages, and a granted page."""
        sizes, dom0 = self.trace.world.sizes, self.trace.world.consts["dom0"]
        for domain in range(sizes["Domain"]):
            if domain != dom0 and self._value("domain.phase", domain) == "running":
                name = "ABCDEFGH"[len(self.stage.guests)]
                self._good(self.call("mkdom", n=name))
                self.stage.guests[domain] = name
        for frame in range(sizes["Frame"]):
            owner = self.trace.initial[self.numbers["frame.owner"]][frame]
            if owner in self.stage.guests and self._value("frame.use", frame) == "ram":
                name = self.stage.guests[owner]
                self.stage.pages[frame] = f"{name}/{PAGES[frame]}"
                self.out.secrets[frame] = secret(frame)
                self._write(name, PAGES[frame], secret(frame))
        first = next(iter(self.stage.guests.values()))
        self._write(first, GRANTED, GIFT)
        self._good(self.call("ge", d=first, ref=REF, flags=5, dom="d0", pg=f"{first}/{GRANTED}"))
        self.first = first

    def _write(self, name: str, page: int, data: bytes) -> None:
        for at, value in enumerate(words(data)):
            self._good(self.call("wr", by=name, pg=page, off=8 * at, v=value))

    @staticmethod
    def _good(result: dict[str, Any]) -> None:
        if result["r"] != 0:
            raise RigFailed(f"the stage of the attack cannot be built: {result}")

    # --- the trace's events ---
    def steps(self) -> Iterator[Step]:
        """Execute each event of the trace as system calls."""
        makers = {"open_privcmd": self._open, "privcmd_mmapbatch": self._map}
        for event in self.trace.events:
            if event.label not in makers:
                raise UsageError(f"no system call is known for the step `{event.label}` of the trace")
            yield makers[event.label](event)

    def _open(self, event: Event) -> Step:
        number = self.stage.files.setdefault(event.args["x_x"], 20 + event.args["x_x"])
        return Step(event.label, int(self.call("sys.open", f=number, dev="privcmd")["r"]))

    def _map(self, event: Event) -> Step:
        number, area, frame = self.stage.files[event.args["x"]], 800 + self.stage.areas, event.args["f"]
        self.stage.areas += 1
        writable = bool(event.args["writable"])
        domid = self.stage.guests[event.args["dom"]]
        code = int(self.call("sys.mmap", f=number, m=area, n=1, prot="rw" if writable else "r")["r"])
        batch = self.call(
            "sys.ioctl",
            f=number,
            req=BATCH_V2,
            o="e0:u4096:4:s",
            w=f"u0:4:1,u4:2:{domid},u8:8:m.{area},u16:8:ub+2048,u24:8:ub+4096,u2048:8:{self.stage.pages[frame]}",
        )
        code = code or int(batch["r"]) or int(batch.get("e0", 0))
        return Step(event.label, code, frame, self._read(area) if not code else b"")

    def _read(self, area: int) -> bytes:
        data = b""
        for at in (0, 8):
            result = self.call("sys.rd", m=area, off=at)
            data += int(result["v"], 0).to_bytes(8, "little") if "v" in result else b""
        return data

    def by_grant(self) -> bytes:
        """Read the granted page through gntdev."""
        self.call("sys.open", f=GNTDEV, dev="gntdev")
        self.call("sys.ioctl", f=GNTDEV, req=MAP_REF, w=f"u0:4:1,u16:4:{self.first},u20:4:{REF}", o="index:u8:8:V")
        result = self.call("sys.mmap", f=GNTDEV, m=GRANT_AREA, n=1, prot="r", off="$index")
        return self._read(GRANT_AREA) if result["r"] == 0 else b""


def run(made: Images, system: System, trace: Trace) -> Outcome:
    """The attack with privcmd, then without it."""
    with Machine(made) as machine:
        player = Player(machine, system, trace)
        player.build()
        player.out.before = list(player.steps())
        for number in player.stage.files.values():
            player.call("sys.munmap", m=800)
            player.call("sys.close", f=number)
        player.out.unloaded = int(player.call("drop")["r"])
        player.out.after = list(player.steps())
        player.out.granted = player.by_grant()
        return player.out


def log(out: Outcome) -> str:
    """A readable log of the run."""

    def told(step: Step) -> str:
        text = "okay" if step.code >= 0 else ERRNO.get(-step.code, str(-step.code))
        return f"  {step.label} = {text}" + (f", reads {step.read.decode(errors='replace')!r}" if step.read else "")

    return "\n".join(
        [
            "Real Xen, Dom0 with privcmd:",
            *map(told, out.before),
            f"  the guest's secret {'was read' if out.stolen else 'was not read'}, though nobody granted it.",
            f"xen-privcmd unloaded: {'okay' if out.unloaded == 0 else out.unloaded}. The same calls again:",
            *map(told, out.after),
            f"  by gntdev, the page that the guest granted: {out.granted.decode(errors='replace')!r}",
        ]
    )


def picture(out: Outcome, trace: Trace) -> Any:
    """Picture: Dom0's process, its open files, and the guest's pages, with and without privcmd."""
    caption = Caption(f"{CLAIM} of {SYSTEM} on real Xen", tuple(log(out).splitlines()), red=out.stolen)
    canvas = Canvas(caption, "dashed: tried, and refused")
    for tag, title, steps in (
        ("with", "Dom0 with privcmd", out.before),
        ("without", "the same Dom0, privcmd unloaded", out.after),
    ):
        canvas.box(tag, title)
        canvas.node(f"process {tag}", "a root process", tag)
        canvas.node(f"privcmd {tag}", "/dev/xen/privcmd", tag, bad=tag == "with" and out.stolen)
        canvas.box(f"guest {tag}", "guest A")
        canvas.edge(
            f"process {tag}",
            f"privcmd {tag}",
            steps[0].label if steps else "",
            style="solid" if steps and steps[0].code >= 0 else "dashed",
        )
        for step in steps:
            if step.frame is None:
                continue
            name, bad = f"frame {step.frame} {tag}", bool(step.read)
            canvas.node(name, f"a page\n{out.secrets[step.frame].decode()}", f"guest {tag}", bad=bad)
            canvas.edge(f"privcmd {tag}", name, step.label, bad=bad, style="solid" if step.read else "dashed")
    canvas.node("granted", f"a page granted to Dom0\n{GIFT.decode()}", "guest without", changed=bool(out.granted))
    canvas.node("gntdev", "/dev/xen/gntdev", "without", changed=bool(out.granted))
    canvas.edge("process without", "gntdev", "open", changed=bool(out.granted))
    canvas.edge("gntdev", "granted", "map_grant_ref", changed=bool(out.granted), style="solid" if out.granted else "dashed")
    return canvas.done()


def found(path: Path | None, folder: Path) -> tuple[System, Trace]:
    """The trace of a file, or of a new search, which is written to `folder`."""
    system = loader.load(SYSTEM)
    if path is not None:
        return system, load_jsonl(path, system)
    trace = find_attack(system, CLAIM)
    if trace is None:
        raise UsageError(f"no attack on {CLAIM} of {SYSTEM} was found")
    save_trace(system, CLAIM, trace, folder)
    return system, load_jsonl(folder / "trace.jsonl", system)


def main(argv: Sequence[str]) -> int:
    """0 if the secret was read with privcmd and not without, 1 otherwise, 2 on bad use or without the rig."""
    try:
        system, trace = found(Path(argv[0]) if argv else None, OUT / "trace")
        out = run(images(), system, trace)
        note = save(picture(out, trace), OUT / "overview")
        write_file(OUT / "run.txt", log(out) + "\n")
        write_recording(OUT / "run.jsonl", "xen", 0, out.lines)
    except (UsageError, Unavailable) as exc:
        print(f"tests.xen.attack: {exc}", file=sys.stderr)
        return 2
    except RigFailed as exc:
        print(f"tests.xen.attack: {exc.text()}", file=sys.stderr)
        return 2
    print(log(out) + (f"\n{note}" if note else "") + f"\nfiles: {OUT}")
    return 0 if out.stolen and out.kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
