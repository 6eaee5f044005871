/* Guests and their pages: made, removed, filled, read and written from Dom0, touched by themselves; grant entries. */
#include "executor.h"
#include <time.h>

#define ENTRIES_V1 512u
#define ENTRIES_V2 256u

static uint32_t owner_of(const char *page)
{
    char name[16];

    snprintf(name, sizeof name, "%.*s", (int)strcspn(page, "/"), page);
    return domid_of(name);
}

static void *page_open(const char *page, int writable, long *wrong)
{
    uint64_t frame = frame_of(page);
    uint32_t owner = owner_of(page);
    int error;
    void *at;

    *wrong = -ENOENT;
    if (!owner)
        return NULL;
    at = foreign_map(owner, &frame, 1, writable, &error);
    *wrong = at ? 0 : error ? error : -errno;
    return at;
}

static long page_word(int writes)
{
    long wrong;
    char *at = page_open(word("pg"), writes, &wrong);
    uint64_t value = (uint64_t)number("v", 0), address = (uint64_t)at + ((uint64_t)number("off", 0) & 0xff8);
    int signal;

    if (!at)
        return wrong;
    signal = writes ? guarded_store(address, value) : guarded_load(address, &value);
    if (signal)
        answer(",\"sig\":%d", signal);
    else if (!writes)
        answer(",\"v\":\"0x%lx\"", value);
    foreign_unmap(at, 1);
    return 0;
}

static long page_crc(void)
{
    long wrong;
    unsigned char *at = page_open(word("pg"), 0, &wrong);
    uint32_t crc = ~0u;

    if (!at)
        return wrong;
    for (unsigned i = 0; i < PAGE; i++) {
        crc ^= at[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xedb88320u & -(crc & 1));
    }
    answer(",\"crc\":\"0x%08x\"", ~crc);
    foreign_unmap(at, 1);
    return 0;
}

static long pages_fill(void)
{
    struct guest *guest = guest_named(word("d"));
    uint64_t *all;
    int error;

    if (!guest)
        return -ENOENT;
    if (!(all = foreign_map(guest->domid, guest->pool, POOL_PAGES, 1, &error)))
        return error ? error : -errno;
    for (uint64_t page = 0; page < POOL_PAGES; page++)
        for (uint64_t i = 0; i < 512; i++)
            all[page * 512 + i] = (uint64_t)guest->name[0] << 32 | page << 16 | i * 8;
    foreign_unmap(all, POOL_PAGES);
    return 0;
}

/* The granter rewrites its entry as careful drivers do: invalid first, the flags last. */
static long entry_write(void)
{
    struct guest *guest = guest_named(word("d"));
    uint64_t ref = (uint64_t)number("ref", 0), frame = frame_of(word("pg"));
    uint16_t flags = (uint16_t)number("flags", 0);
    domid_t domid = (domid_t)domid_of(word("dom"));

    if (!guest || !guest->entries)
        return -ENOENT;
    if (ref >= (guest->version == 1 ? ENTRIES_V1 : ENTRIES_V2))
        return -ERANGE;
    if (guest->version == 1) {
        volatile grant_entry_v1_t *entry = (grant_entry_v1_t *)guest->entries + ref;

        entry->flags = 0;
        __sync_synchronize();
        entry->domid = domid;
        entry->frame = (uint32_t)frame;
        __sync_synchronize();
        entry->flags = flags;
        return 0;
    }
    volatile grant_entry_v2_t *entry = (grant_entry_v2_t *)guest->entries + ref;

    entry->hdr.flags = 0;
    __sync_synchronize();
    entry->hdr.domid = domid;
    if (word("tdom")) {
        entry->transitive.trans_domid = (domid_t)domid_of(word("tdom"));
        entry->transitive.gref = (grant_ref_t)number("tref", 0);
    } else {
        entry->sub_page.page_off = (uint16_t)number("off", 0);
        entry->sub_page.length = (uint16_t)number("len", 0);
        entry->full_page.frame = frame;
    }
    __sync_synchronize();
    entry->hdr.flags = flags;
    return 0;
}

/* The polite end of a grant: refused while the entry is in use, which version 2 says in its status word. */
static long entry_end(void)
{
    struct guest *guest = guest_named(word("d"));
    uint64_t ref = (uint64_t)number("ref", 0);
    volatile uint16_t *flags;
    uint16_t now, used, *status;

    if (!guest || !guest->entries)
        return -ENOENT;
    if (ref >= (guest->version == 1 ? ENTRIES_V1 : ENTRIES_V2))
        return -ERANGE;
    flags = (uint16_t *)(guest->entries + ref * (guest->version == 1 ? sizeof(grant_entry_v1_t) : sizeof(grant_entry_v2_t)));
    now = *flags;
    status = status_mapped(guest);
    used = guest->version == 1 ? now : status ? status[ref] : 0;
    foreign_unmap(status, 1);
    if (used & (GTF_reading | GTF_writing)) {
        answer(",\"busy\":1");
        return -EBUSY;
    }
    return __sync_bool_compare_and_swap(flags, now, 0) ? 0 : -EAGAIN;
}

/* ,"e":{"A:8":{...}} of the entries in a list A:8+B:9. */
void entries_show(const char *list)
{
    char text[8192], page[64], *rest;
    const char *comma = "";

    if (!list)
        return;
    snprintf(text, sizeof text, "%s", list);
    answer(",\"e\":{");
    for (char *item = strtok_r(text, "+", &rest); item; item = strtok_r(NULL, "+", &rest)) {
        char *colon = strchr(item, ':');
        struct guest *guest;
        unsigned long ref;

        if (!colon)
            continue;
        *colon = 0;
        guest = guest_named(item);
        ref = strtoul(colon + 1, NULL, 0);
        if (!guest || !guest->entries || ref >= (guest->version == 1 ? ENTRIES_V1 : ENTRIES_V2))
            continue;
        if (guest->version == 1) {
            volatile grant_entry_v1_t *entry = (grant_entry_v1_t *)guest->entries + ref;

            frame_name(page, sizeof page, entry->frame);
            answer("%s\"%s:%lu\":{\"flags\":%u,\"domid\":%u,\"page\":\"%s\"}", comma, item, ref, entry->flags, entry->domid,
                   page);
        } else {
            volatile grant_entry_v2_t *entry = (grant_entry_v2_t *)guest->entries + ref;

            uint16_t *status = status_mapped(guest);

            frame_name(page, sizeof page, entry->full_page.frame);
            answer("%s\"%s:%lu\":{\"flags\":%u,\"domid\":%u,\"page\":\"%s\",\"status\":%u}", comma, item, ref,
                   entry->hdr.flags, entry->hdr.domid, page, status ? status[ref] : 0xffff);
            foreign_unmap(status, 1);
        }
        comma = ",";
    }
    answer("}");
}

static long touch(int is_write)
{
    struct guest *guest = guest_named(word("by"));
    uint64_t base;

    if (!guest || !guest->agent)
        return -ENOENT;
    base = word("slot") ? PFN_WINDOW + (uint64_t)number("slot", 0) % WINDOW_SLOTS : PFN_POOL + (uint64_t)number("pg", 0);
    return agent_touch(guest, is_write, GUEST_BASE + base * PAGE + (uint64_t)number("off", 0), (uint64_t)number("v", 0));
}

/* Pages of a domain, less those it had when it was first asked for. */
static long pages_counted(void)
{
    struct guest *guest = guest_named(word("n"));
    uint64_t *last, *first;
    char name[24];
    long now;

    if (!guest)
        return -ENOENT;
    *(uint16_t *)dom0_args = (uint16_t)guest->domid;
    now = dom0_call(__HYPERVISOR_memory_op, XENMEM_current_reservation, (uint64_t)dom0_args, 0, 0, 0);
    if (now < 0)
        return now;
    snprintf(name, sizeof name, "cur.%s", guest->name);
    last = variable(name, 1);
    snprintf(name, sizeof name, "base.%u", guest->domid);
    first = variable(name, 0);
    if (!first && (first = variable(name, 1)))
        *first = (uint64_t)now;
    if (!first || !last)
        return -ENOSPC;
    *last = (uint64_t)now;
    answer(",\"d\":%ld", now - (long)*first);
    return 0;
}

/* Pending and mask bit of a port, from the guest's shared_info. */
static long port_pending(void)
{
    struct guest *guest = guest_named(word("by"));
    char name[24];
    uint64_t frame, port, *bits;
    int error;

    if (!guest || !word("p"))
        return -ENOENT;
    snprintf(name, sizeof name, "%s/si", guest->name);
    frame = frame_of(name);
    if (!(bits = foreign_map(guest->domid, &frame, 1, 0, &error)))
        return error ? error : -errno;
    port = value_of(word("by"), word("p")) % 4096;
    struct shared_info *shared = (void *)bits;

    answer(",\"pending\":%d,\"mask\":%d", (int)(shared->evtchn_pending[port / 64] >> port % 64 & 1),
           (int)(shared->evtchn_mask[port / 64] >> port % 64 & 1));
    foreign_unmap(bits, 1);
    return 0;
}

static long pause_or_not(uint32_t command)
{
    struct xen_domctl *call = (void *)(dom0_args + BLOCK_PAGES / 2 * PAGE);

    memset(call, 0, sizeof *call);
    call->cmd = command;
    call->interface_version = XEN_DOMCTL_INTERFACE_VERSION;
    call->domain = (domid_t)domid_of(word("n"));
    return dom0_call(__HYPERVISOR_domctl, (uint64_t)call, 0, 0, 0, 0);
}

static long foreign_try(void)
{
    long wrong;
    char *at = page_open(word("pg"), number("w", 0) != 0, &wrong);
    uint64_t value;

    if (!at)
        return wrong;
    if (!guarded_load((uint64_t)at, &value))
        answer(",\"v\":\"0x%lx\"", value);
    foreign_unmap(at, 1);
    return 0;
}

static int is(const char *name)
{
    return !strcmp(operation, name);
}

int pages_run(long *result)
{
    struct timespec pause = { number("ms", 0) / 1000, number("ms", 0) % 1000 * 1000000 };

    if (is("mkdom"))
        *result = guest_make();
    else if (is("rmdom"))
        *result = guest_remove();
    else if (is("dominfo")) {
        guest_describe(word("id") ? (uint32_t)number("id", 0) : domid_of(word("n")));
        *result = 0;
    } else if (is("pause"))
        *result = pause_or_not(XEN_DOMCTL_pausedomain);
    else if (is("unpause"))
        *result = pause_or_not(XEN_DOMCTL_unpausedomain);
    else if (is("pfill"))
        *result = pages_fill();
    else if (is("prd") || is("pwr"))
        *result = word("pg") ? page_word(is("pwr")) : -ENOENT;
    else if (is("pcrc"))
        *result = word("pg") ? page_crc() : -ENOENT;
    else if (is("fmap"))
        *result = word("pg") ? foreign_try() : -ENOENT;
    else if (is("ge"))
        *result = entry_write();
    else if (is("gend"))
        *result = entry_end();
    else if (is("rd") || is("wr"))
        *result = touch(is("wr"));
    else if (is("cur"))
        *result = pages_counted();
    else if (is("pend"))
        *result = port_pending();
    else if (is("drop"))
        *result = privilege_dropped();
    else if (is("show"))
        *result = 0;
    else if (is("sleep"))
        *result = nanosleep(&pause, NULL) ? -errno : 0;
    else
        return 0;
    return 1;
}
