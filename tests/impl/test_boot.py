"""Whole systems: boot, reachability, attacks, teardown; and the command `boot`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bulkhead.impl.boot import BootedSystem, BootError, boot
from bulkhead.impl.domb.protocol import CreateRequest
from bulkhead.impl.guests.test_kernel import Source, build_kernel
from bulkhead.impl.libs import foreignmemory as fm
from bulkhead.impl.libs.osdep import PROT_READ
from bulkhead.impl.tools.services import ToolError
from bulkhead.impl.xen import abi
from bulkhead.model.diagnostics import UsageError
from bulkhead.proofs.cli import boot as boot_cli

SECRET = b"the guest's secret key"


@pytest.mark.parametrize("system", ["monolithic", "disaggregated"])
def test_a_boot_leaves_nothing_behind(system: str) -> None:
    log = boot(system, None, 3, 7)
    assert log.left_behind == () and len(log.guests) == 3
    for guest in log.guests:
        assert guest.state == b"running" and b"bss zero" in guest.console and b"data/state OK" in guest.console
        assert b"name=" + guest.name.encode() in guest.console
    assert log == boot(system, None, 3, 7)


A_LIFE = """
xl -> Dom0: open /dev/xen/privcmd: errno 2, so it turns to DomB
xl -> DomB: create guest1 from kernel, 1024 pages
DomB -> file proxy: open kernel
DomB -> file proxy: stat
DomB -> file proxy: stat
DomB -> file proxy: close
DomB -> file proxy: read kernel: # bytes
DomB -> file proxy: open ramdisk
DomB -> file proxy: stat
DomB -> file proxy: stat
DomB -> file proxy: close
DomB -> file proxy: read ramdisk: # bytes
DomB -> Xen: open: privileged interface
DomB -> Xen: parse: ELF image of # bytes
DomB -> Xen: create: createdomain
DomB -> Xen: configure: max_vcpus, max_mem
DomB -> Xen: event channels: alloc_unbound for XenStore and console
DomB -> Xen: populate: 1024 pages
DomB -> Xen: load kernel: 5 pages at pfn 1
DomB -> Xen: load ramdisk: 2 pages at pfn 6
DomB -> Xen: hypercall page: at 0xffffffff80002000
DomB -> Xen: magic pages: start_info, XenStore and console pages
DomB -> Xen: page tables: 5 tables
DomB -> Xen: pin: L4 table in frame #
DomB -> Xen: shared info: frame #
DomB -> Xen: seed grants: 0 for the console, 1 for XenStore
DomB -> Xen: vcpu: entry 0xffffffff80001000
DomB -> Xen: seal: own mappings dropped
xl -> xenstored: introduce domain 2, port 1
xenstored -> Xen: map the XenStore ring of domain 2 by grant
xl -> xenconsoled: connect domain 2, port 2
xenconsoled -> Xen: map the console ring of domain 2 by grant
xl -> DomB: unpause domain 2
xl -> DomB: destroy domain 2
"""


def test_the_log_of_a_guests_life_names_who_asks_whom_for_what() -> None:
    """The log is what people see of a boot: no line is missing, and none is said of another. Sizes and frames are masked."""
    lines = [f"{step.who} -> {step.whom}: {step.what}" for step in boot("disaggregated", None, 1, 0).steps]
    masked = [re.sub(r"\d+(?= bytes)|(?<=frame )0x[0-9a-f]+", "#", line) for line in lines]
    life = A_LIFE.split("\n")[1:-1]
    assert masked[masked.index(life[0]) :] == life


def ways(system: str) -> set[tuple[str, str]]:
    """(process of Dom0, way) to frames of guests."""
    log = boot(system, None, 2, 0)
    return {
        (row.who.removeprefix("Dom0 process "), row.by)
        for row in log.reach
        if " process " in row.who and row.owner.startswith("guest")
    }


def test_before_everything_after_only_by_grant() -> None:
    before, after = ways("monolithic"), ways("disaggregated")
    assert {("xenstored", "foreign"), ("xenconsoled", "foreign"), ("xl", "could map")} <= before
    assert after == {("xenstored", "grant"), ("xenconsoled", "grant")}


def test_the_table_counts_frames() -> None:
    log = boot("disaggregated", None, 1, 0)
    rings = {row.who: row.frames for row in log.reach if row.owner == "guest 2" and row.by == "grant"}
    assert rings["Dom0 kernel"] == tuple(sorted(rings["Dom0 process xenstored"] + rings["Dom0 process xenconsoled"]))
    assert len(rings["Dom0 kernel"]) == 2
    assert not [row for row in log.reach if row.who.startswith("Dom0") and row.by in ("foreign", "could map")]
    before = boot("monolithic", None, 1, 0)
    assert [
        len(row.frames)
        for row in before.reach
        if (row.who, row.by, row.owner) == ("Dom0 process xl", "could map", "guest 1")
    ] == [1024]


@pytest.mark.parametrize("system", ["monolithic", "disaggregated"])
def test_any_process_steals_a_page_before_and_none_after(system: str, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(build_kernel())
    machine = BootedSystem(system, tmp_path)
    domid = machine.create("victim", CreateRequest("kernel", "", 128))
    guest = machine.guests[domid]
    guest.memory.store(guest.data(1), SECRET)
    thief = machine.spawn("thief")
    handle = fm.xenforeignmemory_open(thief)
    if system == "disaggregated":
        assert handle is None and thief.errno == abi.ENOENT
    else:
        assert handle is not None
        stolen = [
            addr
            for mfn in sorted(guest.domain.pages)
            if (addr := fm.xc_map_foreign_range(handle, domid, 4096, PROT_READ, mfn)) is not None
            and thief.load(addr, len(SECRET)) == SECRET
        ]
        assert len(stolen) == 1
    assert machine.shut_down() == []


@pytest.mark.parametrize("system", ["monolithic", "disaggregated"])
def test_many_guests_come_and_go(system: str, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(build_kernel())
    machine = BootedSystem(system, tmp_path, seed=3)
    wanted = CreateRequest("kernel", "", 128)
    seen: set[int] = set()
    for round_ in range(6):
        domids = [machine.create(f"g{round_}{i}", wanted) for i in range(4)]
        assert not seen & set(domids)
        seen |= set(domids)
        for domid in domids[:: 1 if round_ % 2 else -1]:
            assert b"data/state OK" in machine.destroy(domid)
    # Ids wrap around: the next ones start after the highest.
    machine.xen.last_domid = 0x7FEF
    assert machine.create("again", wanted) in (1, 2)
    assert machine.shut_down() == []


@pytest.mark.parametrize("system", ["monolithic", "disaggregated"])
def test_memory_runs_out(system: str, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(build_kernel())
    machine = BootedSystem(system, tmp_path, nframes=0x4000 + 4600)
    made = []
    with pytest.raises(ToolError) as caught:
        for i in range(100):
            made.append(machine.create(f"g{i}", CreateRequest("kernel", "", 512)))
    assert caught.value.errno in (abi.EBUSY, abi.ENOMEM) and made
    machine.destroy(made.pop())
    made.append(machine.create("after", CreateRequest("kernel", "", 512)))
    assert machine.shut_down() == []


def test_another_kernel_is_loaded_but_not_run(tmp_path: Path) -> None:
    log = boot("disaggregated", build_kernel(Source(text=b"\xf4" * 20)), 1, 0)
    assert log.guests[0].console == b"" and log.guests[0].state == b"" and log.left_behind == ()
    assert any("not executed" in step.what for step in log.steps)


@pytest.mark.parametrize(
    ("system", "kernel", "guests", "said"),
    [
        ("other", None, 1, "no system"),
        ("monolithic", None, 0, "0 guests"),
        ("monolithic", None, 99, "1 to 32"),
        ("monolithic", b"MZ", 1, "not an ELF file"),
        ("disaggregated", build_kernel()[:5000], 1, "truncated"),
    ],
)
def test_what_cannot_be_booted(system: str, kernel: bytes | None, guests: int, said: str) -> None:
    with pytest.raises(BootError, match=said):
        boot(system, kernel, guests, 0)


def call(*args: str) -> Result:
    return CliRunner().invoke(boot_cli.boot, args, standalone_mode=False)


def test_the_command(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel.elf"
    kernel.write_bytes(build_kernel())
    for system in ("monolithic", "disaggregated"):
        result = call(system, "--guests", "2", "--kernel", str(kernel), "--out", str(tmp_path / "out"))
        assert result.exit_code == 0 and result.exception is None, result.output
        assert "every frame, handle and port is back" in result.output and "XenStore data/state: running" in result.output
        assert (tmp_path / "out" / f"boot-{system}.dot").read_text().startswith("digraph")
    assert "could map by foreign mapping" in result.output and "Dom0 process xenstored    maps by grant" in result.output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["monolithics"], "Did you mean `monolithic`?"),
        (["monolithic", "--guests", "0"], "0 guests"),
        (["monolithic", "--guests", "1000"], "1 to 32"),
        (["monolithic", "--kernel", "/none"], "/none: no such file"),
        (["monolithic", "--kernel", "/"], "not a regular file"),
        (["monolithic", "--kernel", "TEXT"], "is not an ELF file"),
        (["disaggregated", "--kernel", "CUT"], "truncated"),
        (["monolithic", "--kernel", "I386"], "not a 64-bit"),
        (["monolithic", "--out", "TEXT"], "cannot write there"),
    ],
)
def test_bad_use_gives_one_message(args: list[str], said: str, tmp_path: Path) -> None:
    files = {"TEXT": b"no kernel\n", "CUT": build_kernel()[:70], "I386": b"\x7fELF\1\1\1" + bytes(60)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    result = call(*[str(tmp_path / a) if a in files else a for a in args])
    assert isinstance(result.exception, UsageError) and said in str(result.exception), result.exception
