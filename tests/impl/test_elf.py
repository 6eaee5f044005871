"""Guest kernel images: good ones load, bad ones are refused with a message, and garbage never does more."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkhead.impl.domb import elf
from bulkhead.impl.domb.elf import ElfError, parse
from bulkhead.impl.domb.layout import Layout, plan, table_pages
from bulkhead.impl.guests import test_kernel as tk
from bulkhead.impl.guests.test_kernel import Source, build_kernel
from bulkhead.impl.xen.abi import U64
from bulkhead.impl.xen.pagetables import PTE_MFN, PTE_P, PTE_RW

KERNEL = build_kernel()


def refused(raw: bytes) -> str:
    with pytest.raises(ElfError) as caught:
        parse(raw)
    return str(caught.value)


def test_the_test_kernel() -> None:
    image = parse(KERNEL)
    assert image.virt_base == tk.VIRT_BASE and image.virt_entry == tk.VIRT_BASE + 4096
    assert image.virt_kend - image.virt_kstart == 5 * 4096 and image.guest_os == "bulkhead-test"
    assert image.segments[0].data[:9] == tk.code()[:9] and image.segments[1].memsz == 3 * 4096


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "is empty"),
        (b"hello", "not an ELF file"),
        (KERNEL[:40], "inside the ELF header"),
        (KERNEL[:100], "inside the program headers"),
        (KERNEL[:9000], "passes the end"),
        # A loadable segment that ends one byte behind the file, and begins well inside of it.
        (KERNEL[:152] + pack("<QQ", *[len(KERNEL) - 3 * 4096 + 1] * 2) + KERNEL[168:], "passes the end"),
        (KERNEL[:4] + b"\1" + KERNEL[5:], "not a 64-bit"),
        (KERNEL[:5] + b"\2" + KERNEL[6:], "not a little-endian"),
        (KERNEL[:18] + b"\x28\0" + KERNEL[20:], "not for x86-64"),
        (KERNEL[:16] + b"\1\0" + KERNEL[18:], "not an executable"),
        (KERNEL[:56] + b"\0\0" + KERNEL[58:], "0 program headers"),
        (KERNEL[:54] + b"\1\0" + KERNEL[56:], "program headers"),
        (KERNEL[:104] + pack("<Q", 4096) + KERNEL[112:], "more bytes in the file"),
        (build_kernel(Source(without=frozenset(range(20)))), "no Xen notes"),
        (build_kernel(Source(notes={tk.XEN_VERSION: b"xen-2.0\0"})), "another interface"),
        (build_kernel(Source(notes={tk.LOADER: b"special\0"})), "wants the loader"),
        (build_kernel(Source(notes={tk.FEATURES: b"!auto_translated_physmap\0"})), "requires the feature"),
        (build_kernel(Source(notes={tk.ENTRY: pack("<Q", 64)})), "entry"),
        (build_kernel(Source(notes={tk.ENTRY: b"12345"})), "note 1 of 5 bytes"),
        (build_kernel(Source(notes={tk.HYPERCALL_PAGE: pack("<Q", tk.VIRT_BASE + 5)})), "hypercall page"),
        (build_kernel(Source(virt_base=0xFFFF800000000000)), "where no guest kernel may be"),
        (build_kernel(Source(notes={tk.PADDR_OFFSET: pack("<Q", 1 << 40)})), "below its virtual base"),
    ],
)
def test_refusals_say_why(raw: bytes, said: str) -> None:
    assert said in refused(raw)


def lay_out(ramdisk: int = 0, pages: int = 1024, **notes: bytes) -> Layout:
    numbers = {int(k[1:]): v for k, v in notes.items()}
    return plan(parse(build_kernel(Source(notes=numbers))), ramdisk, pages)


def test_segments_stand_in_libxc_order() -> None:
    layout = lay_out(9000)
    assert list(layout.segments) == [
        "kernel",
        "ramdisk",
        "p2m",
        "start_info",
        "xenstore",
        "console",
        "pagetables",
        "bootstack",
    ]
    at = 1
    for segment in layout.segments.values():
        assert segment.first == at
        at += segment.npages


def test_notes_move_frame_list_and_ramdisk_out() -> None:
    layout = lay_out(9000, n15=pack("<Q", 0x8000000000), n16=pack("<Q", 1))
    assert list(layout.segments)[-2:] == ["ramdisk", "p2m"] and len(layout.ranges) == 2
    last = layout.segments["p2m"]
    assert layout.ranges[1].first == last.first and layout.ranges[1].virt == 0x8000000000


@pytest.mark.parametrize(
    ("p2m", "said"),
    [
        (0xFFFFFFFFFFFFE000, "past the last address"),  # 8 KiB before the end, where 1024 pages have a list of 8 KiB
        (0xFFFFFFFFFFFFF000, "past the last address"),
        (0xFFFF7FFFFFFFF000, ""),  # beside the hypervisor: no address of a guest is there
        (0xFFFFFFFFFF000000, ""),
    ],
)
def test_what_is_mapped_with_a_kernel_ends_at_the_last_address(p2m: int, said: str) -> None:
    raw = build_kernel(Source(notes={elf.INIT_P2M: pack("<Q", p2m)}))
    try:
        layout = plan(parse(raw), 0, 1024 if said == "" else 2048)
    except ElfError as error:
        assert said in str(error) and (said or p2m == 0xFFFF7FFFFFFFF000)
    else:
        assert not said and layout.ranges[1].virt == p2m


def test_page_tables_map_everything_and_themselves_readonly() -> None:
    for layout in (lay_out(), lay_out(100, n15=pack("<Q", 0x8000000000))):
        mfns = [5000 + 3 * pfn for pfn in range(layout.nr_pages)]
        content = table_pages(layout, mfns)
        pfn_of = {mfn: pfn for pfn, mfn in enumerate(mfns)}

        def walk(
            addr: int, content: dict[int, bytes] = content, pfn_of: dict[int, int] = pfn_of, layout: Layout = layout
        ) -> int:
            pfn = layout.root
            for shift in (39, 30, 21, 12):
                pte = U64.unpack_from(content[pfn], (addr >> shift & 511) << 3)[0]
                assert pte & PTE_P
                pfn = pfn_of[(pte & PTE_MFN) >> 12]
            writable: int = pte & PTE_RW
            return pfn << 2 | writable

        for pfn in range(layout.nr_pages):
            readonly = pfn in layout.tables.values()
            assert walk(layout.virt(pfn)) == pfn << 2 | (0 if readonly else PTE_RW)
        for each in layout.ranges[1:]:
            assert walk(each.virt) >> 2 == each.first


def test_too_little_memory() -> None:
    with pytest.raises(ElfError, match=r"needs .* KiB of guest memory"):
        lay_out(4096 * 1000, 512)
    with pytest.raises(ElfError, match="where it cannot be"):
        lay_out(n15=pack("<Q", 0xFFFF800000000000 - 4096))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_changed_images_load_or_are_refused(data: st.DataObject) -> None:
    raw = bytearray(KERNEL)
    for _ in range(data.draw(st.integers(1, 6))):
        area = data.draw(st.sampled_from([(0, 64), (64, 232), (16384, len(KERNEL))]))
        at = data.draw(st.integers(area[0], area[1] - 1))
        value = data.draw(st.binary(min_size=1, max_size=8))
        raw[at : at + len(value)] = value
    cut = data.draw(st.sampled_from([len(raw), len(raw), 300, 13000]))
    try:
        image = parse(bytes(raw[:cut]))
        layout = plan(image, data.draw(st.integers(0, 1 << 20)), data.draw(st.integers(64, 4096)))
    except ElfError:
        return
    assert sum(s.npages for s in layout.segments.values()) <= layout.nr_pages


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_behind_a_good_magic(rest: bytes) -> None:
    for raw in (rest, b"\x7fELF\2\1\1" + rest, KERNEL[:64] + rest):
        try:
            parse(raw)
        except ElfError:
            pass
    assert elf.MAX_PHDRS == 64
