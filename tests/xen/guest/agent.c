/* The agent guest: takes calls from its mailbox, makes them as this domain, and puts the answers back. Its first vCPU waits for
 * its event channel in between, so that idle guests cost nothing; others look into the mailbox every few milliseconds, as a
 * port of their own would be seen in what guests are told of their ports. */
#include <stdint.h>
#include <xen/xen.h>
#include <xen/event_channel.h>
#include <xen/sched.h>
#include <xen/vcpu.h>
#include "mailbox.h"

#pragma GCC visibility push(hidden)             /* addresses of entry.S relative to here, not through a table */
extern volatile uint64_t fault_vector, fault_code, fault_rip;
extern void trap_0(void), trap_3(void), trap_6(void), trap_13(void), trap_14(void);
extern uint64_t guarded_read(uint64_t address), guarded_write(uint64_t address, uint64_t value);
void agent_main(void);
void agent_other(uint32_t me);
void agent_give_up(void);
#pragma GCC visibility pop

#define AT(pfn) (GUEST_BASE + ((uint64_t)(pfn) << 12))
#define MAILBOX ((struct mailbox *)AT(PFN_MAILBOX))
#define LOOKS_EVERY 2000000ul                    /* nanoseconds */
#define SHARED  ((struct shared_info *)AT(PFN_SHARED_INFO))

#ifdef PVH
struct gate { uint16_t low, selector, kind, middle; uint32_t high, none; } trap_gates[15];
#else
static struct trap_info traps[6];
#endif

static uint64_t hypercall(uint64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5)
{
    uint64_t result = AT(PFN_HYPERCALL) + number * 32;
    register uint64_t r10 asm("r10") = a4;
    register uint64_t r8 asm("r8") = a5;

    asm volatile("call *%%rax" : "+a"(result), "+D"(a1), "+S"(a2), "+d"(a3), "+r"(r10), "+r"(r8)
                 : : "rcx", "r11", "r9", "memory");
    return result;
}

/* Handlers run without events: Xen's way, and the processor's, in a PVH guest. */
#ifdef PVH
static void catch(int row, int vector, void (*handler)(void))
{
    uint64_t at = (uint64_t)handler;

    (void)row;
    trap_gates[vector] = (struct gate){ (uint16_t)at, 8, 0x8e00, (uint16_t)(at >> 16), (uint32_t)(at >> 32), 0 };
}

static void catch_all(void)
{
}
#else
static void catch(int row, int vector, void (*handler)(void))
{
    traps[row].vector = vector;
    traps[row].flags = 4;                       /* no events while it runs */
    traps[row].cs = FLAT_KERNEL_CS;
    traps[row].address = (uint64_t)handler;
}

static void catch_all(void)
{
    hypercall(__HYPERVISOR_set_trap_table, (uint64_t)traps, 0, 0, 0, 0);
}
#endif

/* A fault that no call expected: leave word, and crash where Xen can see it. */
void agent_give_up(void)
{
    struct sched_shutdown crash = { .reason = SHUTDOWN_crash };

    MAILBOX->fault = fault_vector;
    MAILBOX->fault_code = fault_code;
    MAILBOX->fault_rip = fault_rip;
    for (;;)
        hypercall(__HYPERVISOR_sched_op, SCHEDOP_shutdown, (uint64_t)&crash, 0, 0, 0);
}

static uint64_t act(struct mailbox *box)
{
    uint64_t result = 0;
    uint32_t left = box->times;

    switch (box->action) {
    case DO_HYPERCALL:
        if (box->number >= PAGE_STUBS)
            return -38;
        do
            result = hypercall(box->number, box->args[0], box->args[1], box->args[2], box->args[3], box->args[4]);
        while (left-- > 1);
        return result;
    case DO_READ:
        return guarded_read(box->args[0]);
    case DO_WRITE:
        return guarded_write(box->args[0], box->args[1]);
    }
    return -38;
}

/* One call, and its answer. */
static void serve(struct mailbox *box, struct evtchn_send *ring)
{
    fault_vector = NO_FAULT;
    fault_code = 0;
    box->result = act(box);
    box->fault = fault_vector;
    box->fault_code = fault_code;
    box->fault_rip = fault_rip;
    asm volatile("" ::: "memory");
    box->answered = box->asked;
    hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_send, (uint64_t)ring, 0, 0, 0);
}

static int asked(struct mailbox *box, uint32_t me)
{
    return box->asked != box->answered && box->vcpu == me;
}

/* Further vCPUs: only one acts at a time, so that all share what a fault leaves. */
void agent_other(uint32_t me)
{
    struct mailbox *box = MAILBOX;
    struct evtchn_send ring = { .port = box->own_port };
    struct vcpu_runstate_info now;

    SHARED->vcpu_info[me].evtchn_upcall_mask = 1;
    catch_all();
    for (;;) {
        struct sched_poll pause = { .nr_ports = 0 };

        if (asked(box, me)) {
            serve(box, &ring);
            continue;
        }
        hypercall(__HYPERVISOR_vcpu_op, VCPUOP_get_runstate_info, me, (uint64_t)&now, 0, 0);
        pause.timeout = now.state_entry_time + LOOKS_EVERY;
        hypercall(__HYPERVISOR_sched_op, SCHEDOP_poll, (uint64_t)&pause, 0, 0, 0);
    }
}

void agent_main(void)
{
    struct mailbox *box = MAILBOX;
    struct evtchn_bind_interdomain bind = { .remote_dom = 0, .remote_port = box->dom0_port };
    evtchn_port_t port;
    struct evtchn_send ring;

    SHARED->vcpu_info[0].evtchn_upcall_mask = 1;    /* it asks for its events; there is no handler to be called */
    catch(0, 0, trap_0);
    catch(1, 3, trap_3);
    catch(2, 6, trap_6);
    catch(3, 13, trap_13);
    catch(4, 14, trap_14);
    catch_all();
    hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_bind_interdomain, (uint64_t)&bind, 0, 0, 0);
    port = ring.port = bind.local_port;
    box->own_port = port;
    box->fault = NO_FAULT;
    box->state = MAILBOX_READY;
    hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_send, (uint64_t)&ring, 0, 0, 0);
    for (;;) {
        asm volatile("lock btrq %1, %0" : "+m"(SHARED->evtchn_pending[0]) : "r"((uint64_t)port) : "memory");
        if (!asked(box, 0)) {
            struct sched_poll wait = { .nr_ports = 1 };

            set_xen_guest_handle(wait.ports, &port);
            hypercall(__HYPERVISOR_sched_op, SCHEDOP_poll, (uint64_t)&wait, 0, 0, 0);
            continue;
        }
        serve(box, &ring);
    }
}
