/* Guests: PV and PVH guests with the agent in them, built by hypercalls alone, and translated domains that hold memory but
 * do not run. Nothing of Xen's libraries is used: the layout has to be the one that mailbox.h states. */
#include "executor.h"
#include <xen/hvm/save.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AT_DOMCTL  (BLOCK_PAGES / 2 * PAGE)      /* in dom0_args, behind what calls use */
#define AT_CONTEXT (AT_DOMCTL + PAGE)
#define AT_LIST    (AT_CONTEXT + 2 * PAGE)
#define MAX_KIB    9216
#define GRANT_FRAMES 8
#define MAPTRACK_FRAMES 64
#define PRESENT    0x61ull                      /* accessed and dirty, so that hardware never changes an entry */
#define WRITABLE   0x2ull
#define USER       0x4ull

struct guest guests[MAX_GUESTS];
static const char *step;
static int births;

static long domctl(uint32_t command, uint32_t *domid, void *body, size_t size)
{
    struct xen_domctl *call = (void *)(dom0_args + AT_DOMCTL);
    long result;

    memset(call, 0, sizeof *call);
    call->cmd = command;
    call->interface_version = XEN_DOMCTL_INTERFACE_VERSION;
    call->domain = (domid_t)*domid;
    memcpy(&call->u, body, size);
    result = dom0_call(__HYPERVISOR_domctl, (uint64_t)call, 0, 0, 0, 0);
    *domid = call->domain;
    memcpy(body, &call->u, size);
    return result;
}

struct guest *guest_named(const char *name)
{
    for (int i = 0; name && i < MAX_GUESTS; i++)
        if (guests[i].used && !strcmp(guests[i].name, name))
            return &guests[i];
    return NULL;
}

/* 0 and what Xen says of exactly this domain, or an error. */
long guest_state(uint32_t domid, struct xen_domctl_getdomaininfo *info)
{
    uint32_t asked = domid;
    long result;

    memset(info, 0, sizeof *info);
    result = domctl(XEN_DOMCTL_getdomaininfo, &asked, info, sizeof *info);
    return result ? result : asked == domid ? 0 : -ESRCH;
}

void guest_describe(uint32_t domid)
{
    struct xen_domctl_getdomaininfo info;

    if (guest_state(domid, &info))
        answer(",\"exists\":0");
    else
        answer(",\"exists\":1,\"dying\":%d,\"shutdown\":%d,\"paused\":%d,\"pages\":%lu", !!(info.flags & XEN_DOMINF_dying),
               !!(info.flags & XEN_DOMINF_shutdown), !!(info.flags & XEN_DOMINF_paused), (unsigned long)info.tot_pages);
}

/* The guest's grant entries as Dom0 sees them: 0 or -errno. */
int grants_mapped(struct guest *guest, int version)
{
    foreign_unmap(guest->entries, 1);
    guest->version = version;
    guest->entries = resource_map(guest->domid, XENMEM_resource_grant_table, XENMEM_resource_grant_table_id_shared);
    return guest->entries ? 0 : -errno;
}

/* Its status words, NULL before version 2. Not kept: as long as anybody maps them, the guest cannot go back to version 1. */
uint16_t *status_mapped(struct guest *guest)
{
    if (guest->version != 2)
        return NULL;
    return resource_map(guest->domid, XENMEM_resource_grant_table, XENMEM_resource_grant_table_id_status);
}

/* Pages for the guest's page numbers from `first` on: their machine frames, or in a translated guest the numbers themselves. */
static long populate(uint32_t domid, unsigned first, unsigned count, uint64_t *frames)
{
    struct xen_memory_reservation wanted = { .nr_extents = count, .domid = (domid_t)domid };
    uint64_t *list = (void *)(dom0_args + AT_LIST);
    long got;

    for (unsigned i = 0; i < count; i++)
        list[i] = first + i;
    set_xen_guest_handle(wanted.extent_start, (void *)list);
    memcpy(dom0_args + AT_DOMCTL, &wanted, sizeof wanted);
    got = dom0_call(__HYPERVISOR_memory_op, XENMEM_populate_physmap, (uint64_t)(dom0_args + AT_DOMCTL), 0, 0, 0);
    memcpy(frames, list, count * sizeof *frames);
    return got == (long)count ? 0 : got < 0 ? got : -ENOMEM;
}

static uint64_t entry(uint64_t frame, int writable)
{
    return frame << 12 | PRESENT | USER | (writable ? WRITABLE : 0);
}

/* Page tables while they are still plain pages; Xen checks them when the root is pinned. */
static void fill_tables(char *memory, const uint64_t *frames, uint64_t shared_info)
{
    uint64_t *table[TABLES];

    for (int i = 0; i < TABLES; i++)
        table[i] = (void *)(memory + (PFN_TABLES + i) * PAGE);
    table[0][GUEST_BASE >> 39 & 511] = entry(frames[PFN_TABLES + 1], 1);
    table[1][GUEST_BASE >> 30 & 511] = entry(frames[PFN_TABLES + 2], 1);
    table[2][0] = entry(frames[PFN_TABLES + 3], 1);
    table[2][1] = entry(frames[PFN_TABLES + 4], 1);
    for (int pfn = 0; pfn < RAM_PAGES; pfn++)
        table[3 + pfn / 512][pfn % 512] = entry(frames[pfn], pfn < PFN_TABLES || pfn >= PFN_TABLES + TABLES);
    table[3][PFN_SHARED_INFO] = entry(shared_info, 1);
}

static long pin(uint32_t domid, uint64_t frame)
{
    struct mmuext_op operation = { .cmd = MMUEXT_PIN_L4_TABLE };

    operation.arg1.mfn = frame;
    memcpy(dom0_args + AT_DOMCTL, &operation, sizeof operation);
    return dom0_call(__HYPERVISOR_mmuext_op, (uint64_t)(dom0_args + AT_DOMCTL), 1, 0, domid, 0);
}

static long start_vcpu(uint32_t domid, uint64_t root)
{
    struct vcpu_guest_context *context = (void *)(dom0_args + AT_CONTEXT);
    struct xen_domctl_vcpucontext body = { .vcpu = 0 };

    memset(context, 0, sizeof *context);
    context->flags = VGCF_in_kernel | VGCF_online;
    context->user_regs.rip = GUEST_BASE + PFN_IMAGE * PAGE;
    context->user_regs.rsp = context->kernel_sp = GUEST_BASE + (PFN_STACK + STACK_PAGES) * PAGE;
    context->user_regs.cs = FLAT_KERNEL_CS;
    context->user_regs.ss = context->kernel_ss = FLAT_KERNEL_SS;
    context->user_regs.rflags = 1 << 9;
    context->ctrlreg[3] = root << 12;
    for (int i = 0; i < 256; i++) {
        context->trap_ctxt[i].vector = (uint8_t)i;
        context->trap_ctxt[i].cs = FLAT_KERNEL_CS;
    }
    set_xen_guest_handle(body.ctxt, (void *)context);
    return domctl(XEN_DOMCTL_setvcpucontext, &domid, &body, sizeof body);
}

/* The first vCPU of a PVH guest as a restored one starts: in long mode, with the guest's own tables; events stay masked. */
static long start_pvh(uint32_t domid, uint64_t root)
{
    struct state {
        struct hvm_save_descriptor header_is;
        struct hvm_save_header header;
        struct hvm_save_descriptor cpu_is;
        struct hvm_hw_cpu cpu;
        struct hvm_save_descriptor end_is;
    } *state = (void *)(dom0_args + AT_CONTEXT);
    struct hvm_hw_cpu *cpu = &state->cpu;
    struct xen_domctl_hvmcontext body = { .size = sizeof *state };

    memset(state, 0, sizeof *state);
    state->header_is = (struct hvm_save_descriptor){ HVM_SAVE_CODE(HEADER), 0, HVM_SAVE_LENGTH(HEADER) };
    state->header.magic = HVM_FILE_MAGIC;
    state->header.version = HVM_FILE_VERSION;
    state->cpu_is = (struct hvm_save_descriptor){ HVM_SAVE_CODE(CPU), 0, HVM_SAVE_LENGTH(CPU) };
    state->end_is = (struct hvm_save_descriptor){ HVM_SAVE_CODE(END), 0, 0 };
    cpu->rip = GUEST_BASE + PFN_IMAGE * PAGE;
    cpu->rsp = GUEST_BASE + (PFN_STACK + STACK_PAGES) * PAGE;
    cpu->rflags = 2;
    cpu->cr0 = 0x80010033;                      /* paging, write protection, protected mode */
    cpu->cr3 = root << 12;
    cpu->cr4 = 0x20;                            /* physical addresses of 64 bits */
    cpu->msr_efer = 0x501;                      /* syscall, long mode enabled and active */
    cpu->cs_sel = 8;
    cpu->cs_limit = cpu->ds_limit = cpu->es_limit = cpu->fs_limit = cpu->gs_limit = cpu->ss_limit = ~0u;
    cpu->cs_arbytes = 0xa9b;
    cpu->ds_sel = cpu->es_sel = cpu->ss_sel = 16;
    cpu->ds_arbytes = cpu->es_arbytes = cpu->fs_arbytes = cpu->gs_arbytes = cpu->ss_arbytes = 0xc93;
    cpu->tr_limit = 0x67;
    cpu->tr_arbytes = 0x8b;
    cpu->dr6 = 0xffff0ff0;
    cpu->dr7 = 0x400;
    set_xen_guest_handle(body.buffer, (void *)state);
    return domctl(XEN_DOMCTL_sethvmcontext, &domid, &body, sizeof body);
}

static long load_image(char *memory, const char *path)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    long left = IMAGE_PAGES * PAGE, got;
    char *at = memory + PFN_IMAGE * PAGE;

    if (file < 0)
        return -errno;
    while ((got = read(file, at, (size_t)left)) > 0) {
        at += got;
        left -= got;
    }
    close(file);
    return got;
}

/* The agent's memory, with its tables; a PVH guest's page numbers are its linear addresses too. */
static long build_memory(struct guest *guest, int pvh, uint64_t *frames)
{
    struct xen_domctl_getdomaininfo info;
    char *memory;
    int error;
    long wrong;

    step = "populate";
    if ((wrong = populate(guest->domid, 0, RAM_PAGES, frames)))
        return wrong;
    memcpy(guest->pool, frames + PFN_POOL, sizeof guest->pool);
    guest->mailbox_mfn = frames[PFN_MAILBOX];
    guest->l4 = frames[PFN_TABLES];
    guest->l3 = frames[PFN_TABLES + 1];
    guest->l2 = frames[PFN_TABLES + 2];
    guest->l1 = frames[PFN_TABLES + 3];
    step = "getdomaininfo";
    if ((wrong = guest_state(guest->domid, &info)))
        return wrong;
    step = "map";
    if (!(memory = foreign_map(guest->domid, frames, RAM_PAGES, 1, &error)))
        return error ? error : -errno;
    memset(memory, 0, RAM_PAGES * PAGE);
    wrong = load_image(memory, pvh ? "/agent-pvh.bin" : "/agent.bin");
    fill_tables(memory, frames, pvh ? PFN_SHARED_INFO : info.shared_info_frame);
    foreign_unmap(memory, RAM_PAGES);
    step = "image";
    return wrong;
}

static long shared_info_placed(uint32_t domid)
{
    struct xen_add_to_physmap place = { .domid = (domid_t)domid, .space = XENMAPSPACE_shared_info, .gpfn = PFN_SHARED_INFO };

    memcpy(dom0_args + AT_DOMCTL, &place, sizeof place);
    return dom0_call(__HYPERVISOR_memory_op, XENMEM_add_to_physmap, (uint64_t)(dom0_args + AT_DOMCTL), 0, 0, 0);
}

static long build_agent(struct guest *guest, int pvh)
{
    struct xen_domctl_hypercall_init stubs;
    struct evtchn_alloc { uint16_t dom, remote; uint32_t port; } *port = (void *)(dom0_args + AT_DOMCTL);
    uint64_t frames[RAM_PAGES];
    int error;
    long wrong;

    if ((wrong = build_memory(guest, pvh, frames)))
        return wrong;
    step = pvh ? "shared info" : "pin";
    if ((wrong = pvh ? shared_info_placed(guest->domid) : pin(guest->domid, guest->l4)))
        return wrong;
    step = "hypercall_init";
    stubs.gmfn = frames[PFN_HYPERCALL];
    if ((wrong = domctl(XEN_DOMCTL_hypercall_init, &guest->domid, &stubs, sizeof stubs)))
        return wrong;
    step = "vcpu";
    if ((wrong = pvh ? start_pvh(guest->domid, guest->l4) : start_vcpu(guest->domid, guest->l4)))
        return wrong;
    step = "event channels";                    /* 1 and 2 as every toolstack makes them; 3 will be the mailbox's */
    for (int i = 0; i < 2; i++) {
        port->dom = (uint16_t)guest->domid;
        port->remote = 0;
        if ((wrong = dom0_call(__HYPERVISOR_event_channel_op, 6, (uint64_t)port, 0, 0, 0)))
            return wrong;
    }
    if ((guest->port = port_for(guest->domid)) < 0)
        return -errno;
    step = "mailbox";
    if (!(guest->args = foreign_map(guest->domid, frames + PFN_MAILBOX, 1 + ARG_PAGES, 1, &error)))
        return error ? error : -errno;
    guest->mailbox = (void *)guest->args;
    guest->args += (PFN_ARGS - PFN_MAILBOX) * PAGE;
    guest->mailbox->dom0_port = (uint32_t)guest->port;
    guest->agent = 1;
    return 0;
}

static void let_go(struct guest *guest)
{
    foreign_unmap(guest->entries, 1);
    foreign_unmap(guest->mailbox, 1 + ARG_PAGES);
    if (guest->port > 0)
        port_close(guest->port);
    guest->entries = NULL;
    guest->mailbox = NULL;
    guest->port = 0;
    guest->used = 0;
}

/* mkdom n=NAME [kind=agent|pvh|hvm|full] [vcpus=N] [maptrack=FRAMES]: a running agent, paravirtual or PVH, or a domain with 64
 * pages that does not run, PVH or HVM with all emulated devices. */
long guest_make(void)
{
    const char *kind = word("kind") ? word("kind") : "agent";
    int full = !strcmp(kind, "full"), runs = !strcmp(kind, "pvh") || !strcmp(kind, "agent");
    int pvh = full || !strcmp(kind, "pvh") || !strcmp(kind, "hvm");
    struct xen_domctl_createdomain wanted = {
        .flags = pvh ? XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap : 0, .max_vcpus = (uint32_t)number("vcpus", 1), .max_evtchn_port = ~0u,
        .max_grant_frames = GRANT_FRAMES, .max_maptrack_frames = (uint32_t)number("maptrack", MAPTRACK_FRAMES),
        .grant_opts = XEN_DOMCTL_GRANT_version(2), .arch.emulation_flags = full ? XEN_X86_EMU_ALL & ~XEN_X86_EMU_VPCI : pvh ? XEN_X86_EMU_LAPIC : 0 };
    struct xen_domctl_max_vcpus vcpus = { (uint32_t)number("vcpus", 1) };
    struct xen_domctl_max_mem memory = { MAX_KIB };
    struct guest *guest = NULL;
    uint32_t nothing = 0;
    long wrong;

    for (int i = MAX_GUESTS; i--;)
        if (!guests[i].used)
            guest = &guests[i];
    if (!guest || !word("n") || guest_named(word("n")))
        return -ENOSPC;
    memset(guest, 0, sizeof *guest);
    snprintf(guest->name, sizeof guest->name, "%s", word("n"));
    guest->translated = pvh;
    step = "createdomain";
    guest->born = ++births;
    wrong = domctl(XEN_DOMCTL_createdomain, &guest->domid, &wanted, sizeof wanted);
    if (wrong) {
        answer(",\"step\":\"%s\"", step);
        return wrong;
    }
    step = "max_vcpus";
    wrong = domctl(XEN_DOMCTL_max_vcpus, &guest->domid, &vcpus, sizeof vcpus);
    if (!wrong)
        wrong = domctl(XEN_DOMCTL_max_mem, &guest->domid, &memory, sizeof memory);
    if (!wrong)
        wrong = runs ? build_agent(guest, pvh) : populate(guest->domid, 0, POOL_PAGES, guest->pool);
    if (!wrong) {
        step = "grant table";
        guest->used = 1;
        wrong = grants_mapped(guest, 1);
    }
    if (!wrong && runs) {
        step = "start";
        wrong = domctl(XEN_DOMCTL_unpausedomain, &guest->domid, &nothing, 0);
        if (!wrong)
            wrong = wait_for(guest, &guest->mailbox->state, MAILBOX_READY, 1);
    }
    if (wrong) {
        answer(",\"step\":\"%s\"", step);
        let_go(guest);
        domctl(XEN_DOMCTL_destroydomain, &guest->domid, &nothing, 0);
        return wrong;
    }
    answer(",\"domid\":%u", guest->domid);
    return 0;
}

/* rmdom n=NAME: all mappings of Dom0 go first, so that only the guests' own keep it alive. */
long guest_remove(void)
{
    struct guest *guest = guest_named(word("n"));
    uint32_t domid, nothing = 0;
    long result;

    if (!guest)
        return -ENOENT;
    domid = guest->domid;
    let_go(guest);
    result = domctl(XEN_DOMCTL_destroydomain, &domid, &nothing, 0);
    answer(",\"domid\":%u", guest->domid);
    guest_describe(guest->domid);
    return result;
}

/* drop: everything that came by privcmd is given back, and its module unloaded. The guests run on; nobody calls them now. */
long privilege_dropped(void)
{
    for (int i = 0; i < MAX_GUESTS; i++)
        if (guests[i].used) {
            let_go(&guests[i]);
            guests[i].used = 1;
            guests[i].broken = CRASHED;
        }
    callers_stop();
    memory_stop();
    return syscall(SYS_delete_module, "xen_privcmd", O_NONBLOCK) ? -errno : 0;
}
