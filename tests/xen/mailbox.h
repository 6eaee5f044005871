/* What the agent guest and the executor in Dom0 agree on: where the guest's pages lie, and the mailbox through which
 * calls go in and answers come out. The addresses are those of the implementation's own guests (impl/xen/pv_build.py):
 * a direct map of all pages, and behind it a window of single entries for mappings. */
#ifndef BULKHEAD_MAILBOX_H
#define BULKHEAD_MAILBOX_H

#define GUEST_BASE      0xffff888000000000
#define POOL_PAGES      64                      /* NAME/0 .. NAME/63 */
#define WINDOW_SLOTS    64                      /* slots 0 .. 63, each maps a zero page of its own at first */
#define PFN_MAILBOX     64
#define PFN_ARGS        65
#define PFN_WINDOW      66
#define PFN_IMAGE       130                     /* code, data */
#define IMAGE_PAGES     8
#define PFN_HYPERCALL   138
#define PFN_STACK       139
#define STACK_PAGES     2
#define PFN_TABLES      141                     /* l4, l3, l2, l1 of the direct map, l1 of the window */
#define TABLES          5
#define RAM_PAGES       146
#define PFN_SHARED_INFO 146                     /* an address without RAM: Xen's shared_info page is mapped there */
#define PFN_FIRST_SLOT  512
#define PAGE_STUBS      128                     /* hypercalls that a hypercall page has stubs for */

#ifndef __ASSEMBLER__
#include <stdint.h>

enum { DO_HYPERCALL = 1, DO_READ, DO_WRITE };
#define MAILBOX_READY 0x62756c6b
#define NO_FAULT      (~0ull)

struct mailbox {
    volatile uint32_t state;                    /* MAILBOX_READY once the agent listens */
    volatile uint32_t asked, answered;          /* a call is pending while they differ */
    volatile uint32_t action;
    volatile uint32_t times;                    /* a hypercall is made so often; the last answer counts */
    volatile uint32_t dom0_port, own_port;      /* event channel to the executor */
    volatile uint32_t unused;
    volatile uint64_t number, args[5], result;
    volatile uint64_t fault, fault_code, fault_rip;
};
#endif
#endif
