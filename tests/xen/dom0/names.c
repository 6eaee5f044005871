/* Symbols of a recording to numbers, and frames back to symbols. A sum of terms joined by + and -:
 *   number | SELF XEN IO COW INVALID IDLE d0 NAME (domids) | NAME/3 NAME/l1 NAME/l2 NAME/l3 NAME/l4 NAME/mb NAME/si (frames)
 *   f.TERM (frame << 12) | k.TERM (pages in KiB) | v.N w.N (the caller's addresses of pool page and slot N)
 *   t.N t.NAME.N (machine address of the slot's L1 entry) | q.N (of pool page N's) | arg | ub | m.N | $variable */
#include "executor.h"

struct variable variables[4096];
static int nvariables;

uint64_t *variable(const char *name, int make)
{
    for (int i = 0; i < nvariables; i++)
        if (!strcmp(variables[i].name, name))
            return &variables[i].value;
    if (!make || nvariables == (int)(sizeof variables / sizeof *variables))
        return NULL;
    snprintf(variables[nvariables].name, sizeof variables->name, "%s", name);
    variables[nvariables].value = 0;
    return &variables[nvariables++].value;
}

uint32_t domid_of(const char *text)
{
    static const struct { const char *name; uint32_t domid; } special[] = {
        { "d0", 0 }, { "SELF", DOMID_SELF }, { "IO", DOMID_IO }, { "XEN", DOMID_XEN }, { "COW", DOMID_COW },
        { "INVALID", DOMID_INVALID }, { "IDLE", DOMID_IDLE } };
    struct guest *guest = guest_named(text);

    if (!text)
        return 0;
    for (size_t i = 0; i < sizeof special / sizeof *special; i++)
        if (!strcmp(text, special[i].name))
            return special[i].domid;
    return guest ? guest->domid : (uint32_t)strtoul(text, NULL, 0);
}

static uint64_t part_of(struct guest *guest, const char *part)
{
    struct xen_domctl_getdomaininfo info;

    if (!strcmp(part, "l1"))
        return guest->l1;
    if (!strcmp(part, "l2"))
        return guest->l2;
    if (!strcmp(part, "l3"))
        return guest->l3;
    if (!strcmp(part, "l4"))
        return guest->l4;
    if (!strcmp(part, "mb"))
        return guest->mailbox_mfn;
    if (!strcmp(part, "si"))
        return guest->translated ? PFN_SHARED_INFO : guest_state(guest->domid, &info) ? ~0ull : info.shared_info_frame;
    return guest->pool[strtoul(part, NULL, 0) % POOL_PAGES];
}

uint64_t frame_of(const char *text)
{
    char name[16];
    const char *slash = text ? strchr(text, '/') : NULL;
    struct guest *guest;

    if (!text)
        return 0;
    if (!slash)
        return strtoull(text, NULL, 0);
    snprintf(name, sizeof name, "%.*s", (int)(slash - text), text);
    guest = guest_named(name);
    return guest ? part_of(guest, slash + 1) : ~0ull;
}

static int index_of(const struct guest *guest, uint64_t frame)
{
    for (int i = 0; i < POOL_PAGES; i++)
        if (guest->pool[i] == frame)
            return i;
    return -1;
}

/* The names that recordings use: pool pages, l1 and mb; "0", "max", or "?" for any other frame. A frame that one guest gave
 * away and another one was built from has the name that it got last; numbers of translated guests are the first one's, or the
 * last one's of those that make calls, of whose pages only the pool has names. */
void frame_name(char *out, size_t size, uint64_t frame)
{
    struct guest *last = NULL;

    for (struct guest *guest = guests; frame && guest < guests + MAX_GUESTS; guest++)
        if (guest->used && (index_of(guest, frame) >= 0 || (guest->agent && !guest->translated && (frame == guest->l1 || frame == guest->mailbox_mfn)))
            && (!last || (guest->agent && guest->born > last->born)))
            last = guest;
    if (!last)
        snprintf(out, size, "%s", !frame ? "0" : frame >= 0xffffffff ? "max" : "?");
    else if (index_of(last, frame) >= 0)
        snprintf(out, size, "%s/%d", last->name, index_of(last, frame));
    else
        snprintf(out, size, "%s/%s", last->name, frame == last->l1 ? "l1" : "mb");
}

static uint64_t slot_entry(struct guest *guest, unsigned long slot)
{
    return guest ? (guest->l1 << 12) + (PFN_WINDOW + slot % WINDOW_SLOTS) * 8 : 0;
}

static uint64_t term(const char *by, const char *text)
{
    struct guest *guest = guest_named(by);
    const char *rest = text + 2;

    if (*text == '$') {
        uint64_t *value = variable(text + 1, 0);

        return value ? *value : 0xbadbad;
    }
    if (text[0] && text[1] == '.')
        switch (text[0]) {
        case 'f': return term(by, rest) << 12;
        case 'k': return term(by, rest) * 4;
        case 'v': return GUEST_BASE + ((PFN_POOL + strtoull(rest, NULL, 0)) << 12);
        case 'w': return GUEST_BASE + ((PFN_WINDOW + strtoull(rest, NULL, 0)) << 12);
        case 'q': return guest ? (guest->l1 << 12) + (PFN_POOL + strtoull(rest, NULL, 0)) * 8 : 0;
        case 'm': return MMAP_AT + strtoull(rest, NULL, 0) * MMAP_STRIDE;
        case 't': {
            const char *dot = strchr(rest, '.');
            char name[16];

            if (!dot)
                return slot_entry(guest, strtoul(rest, NULL, 0));
            snprintf(name, sizeof name, "%.*s", (int)(dot - rest), rest);
            return slot_entry(guest_named(name), strtoul(dot + 1, NULL, 0));
        }
        }
    if (!strcmp(text, "arg"))
        return guest && guest->agent ? GUEST_BASE + PFN_ARGS * PAGE : (uint64_t)dom0_args;
    if (!strcmp(text, "ub"))
        return (uint64_t)user_buffer;
    if (strchr(text, '/'))
        return frame_of(text);
    return *text >= '0' && *text <= '9' ? strtoull(text, NULL, 0) : domid_of(text);
}

uint64_t value_of(const char *by, const char *expression)
{
    char text[256], *at = text;
    uint64_t sum = 0;
    int minus = 0;

    snprintf(text, sizeof text, "%s", expression);
    if (*at == '-') {
        minus = 1;
        at++;
    }
    while (*at) {
        char *end = at + strcspn(at, "+-"), sign = *end;
        uint64_t value;

        *end = 0;
        value = term(by, at);
        sum += minus ? -value : value;
        minus = sign == '-';
        if (!sign)
            break;
        at = end + 1;
    }
    return sum;
}
