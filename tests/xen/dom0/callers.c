/* Who makes a hypercall: Dom0's kernel, on behalf of privcmd, or an agent guest through its mailbox. */
#include "executor.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "linux.h"

char *dom0_args, *user_buffer;
static int privcmd = -1, buffers = -1, evtchn = -1;

/* 0, or -1 if there is no privcmd: then nothing here can be called. */
int callers_start(void)
{
    user_buffer = mmap((void *)USER_AT, USER_PAGES * PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_POPULATE | MAP_LOCKED, -1, 0);
    privcmd = open("/dev/xen/privcmd", O_RDWR | O_CLOEXEC);
    buffers = open("/dev/xen/hypercall", O_RDWR | O_CLOEXEC);
    evtchn = open("/dev/xen/evtchn", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (privcmd < 0 || buffers < 0)
        return -1;
    dom0_args = mmap(NULL, BLOCK_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, buffers, 0);
    memset(dom0_args, 0, BLOCK_PAGES * PAGE);
    return 0;
}

void callers_stop(void)
{
    munmap(dom0_args, BLOCK_PAGES * PAGE);
    close(buffers);
    close(privcmd);
    privcmd = buffers = -1;
}

/* What Xen answered, or -errno of what privcmd made of it. */
long dom0_call(uint64_t nr, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5)
{
    struct privcmd_hypercall call = { nr, { a1, a2, a3, a4, a5 } };
    long result = ioctl(privcmd, IOCTL_PRIVCMD_HYPERCALL, &call);

    return result < 0 ? -errno : result;
}

int port_for(uint32_t domid)
{
    struct evtchn_unbound wanted = { domid };

    return ioctl(evtchn, IOCTL_EVTCHN_BIND_UNBOUND, &wanted);
}

void port_close(int port)
{
    struct evtchn_port which = { (unsigned)port };

    ioctl(evtchn, IOCTL_EVTCHN_UNBIND, &which);
}

static void ports_drain(void)
{
    uint32_t ports[64];
    ssize_t got = read(evtchn, ports, sizeof ports);

    if (got > 0 && write(evtchn, ports, (size_t)got) != got)
        fprintf(stderr, "evtchn: ports stay masked\n");
}

static uint64_t milliseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Until the guest has written the value into the cell: 0, CRASHED at once when Xen has ended it, STUCK after a while. */
int wait_for(struct guest *guest, volatile uint32_t *cell, uint32_t value, unsigned times)
{
    uint64_t end = milliseconds() + STUCK_AFTER_MS + (uint64_t)times * STUCK_EACH_MS;

    while (*cell != value) {
        struct pollfd ready = { .fd = evtchn, .events = POLLIN };
        struct xen_domctl_getdomaininfo info;

        if (poll(&ready, 1, 20) > 0) {
            ports_drain();
            continue;
        }
        if (*cell == value)
            break;
        if (guest_state(guest->domid, &info) || (info.flags & (XEN_DOMINF_shutdown | XEN_DOMINF_dying)))
            return guest->broken = CRASHED;
        if (milliseconds() > end)
            return guest->broken = STUCK;
    }
    return 0;
}

static int ask(struct guest *guest)
{
    struct mailbox *box = guest->mailbox;
    struct evtchn_port ring = { (unsigned)guest->port };

    if (guest->broken)
        return guest->broken;
    __sync_synchronize();
    box->asked++;
    ioctl(evtchn, IOCTL_EVTCHN_NOTIFY, &ring);
    return wait_for(guest, &box->answered, box->asked, box->action == DO_HYPERCALL ? box->times : 1);
}

long agent_call(struct guest *guest, unsigned vcpu, uint64_t nr, const uint64_t args[5], unsigned times)
{
    struct mailbox *box = guest->mailbox;

    box->vcpu = vcpu;
    box->action = DO_HYPERCALL;
    box->times = times;
    box->number = nr;
    for (int i = 0; i < 5; i++)
        box->args[i] = args[i];
    return ask(guest) ? NO_ANSWER : (long)box->result;
}

/* A load or store by the guest itself; the answer says what it read or how it faulted. */
long agent_touch(struct guest *guest, int is_write, uint64_t address, uint64_t value)
{
    struct mailbox *box = guest->mailbox;

    box->vcpu = 0;
    box->action = is_write ? DO_WRITE : DO_READ;
    box->args[0] = address;
    box->args[1] = value;
    if (ask(guest))
        return -ETIMEDOUT;
    if (box->fault != NO_FAULT)
        answer(",\"fault\":%lu,\"ec\":\"0x%lx\"", box->fault, box->fault_code);
    else if (!is_write)
        answer(",\"v\":\"0x%lx\"", box->result);
    return 0;
}
