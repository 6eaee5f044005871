/* What the agent guest and the executor in Dom0 agree on: where the guest's pages lie, and the mailbox through which
 * calls go in and answers come out. The layout is that of recordings (proofs/replay/guests.py): 4 MiB from linear
 * address 0, with pool pages, window slots and the argument block under one L1 table. */
#ifndef BULKHEAD_MAILBOX_H
#define BULKHEAD_MAILBOX_H

#define GUEST_BASE      0ul                     /* linear address of a page: its number, shifted */
#define RAM_PAGES       1024
#define PFN_IMAGE       1                       /* code, data */
#define IMAGE_PAGES     7
#define PFN_HYPERCALL   8
#define PAGE_STUBS      128                     /* hypercalls that a hypercall page has stubs for */
#define PFN_STACK       10
#define STACK_PAGES     2
#define PFN_MAILBOX     0x10
#define PFN_ARGS        0x11                    /* the argument block */
#define ARG_PAGES       16
#define PFN_SHARED_INFO 0x30                    /* in place of RAM: Xen's shared_info page is mapped there */
#define PFN_POOL        0x40                    /* NAME/0 .. NAME/63 */
#define POOL_PAGES      64
#define PFN_WINDOW      0x80                    /* slots 0 .. 63; each maps a page of its own at first */
#define WINDOW_SLOTS    64
#define PFN_TABLES      0x300                   /* l4, l3, l2, and the two l1; the first of these maps all of the above */
#define TABLES          5
#define PFN_STACKS      11                      /* of vCPU n, from 1 on: the page with this number plus n */
#define VCPUS           4

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
    volatile uint32_t vcpu;                     /* who is to act */
    volatile uint64_t number, args[5], result;
    volatile uint64_t fault, fault_code, fault_rip;
};
#endif
#endif
