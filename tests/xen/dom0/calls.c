/* `x`: one hypercall with symbolic arguments, by Dom0's kernel or an agent; and the places that arguments lie in.
 *
 *   x by=WHO nr=N a1=EXPR .. a5=EXPR [w=PLACE:SIZE:EXPR[:COUNT:STRIDE],...] [o=NAME:PLACE:SIZE[:KIND],...] [keep=1] [rep=N] [nor=1] [vcpu=N]
 *
 * PLACE: OFF in the caller's argument block, pN.OFF in its pool page N, uOFF in the user buffer, r for the result itself.
 * KIND: u number, s signed, m name of a frame, f low four bits, V a variable too, v a variable that is not printed.
 * The argument block is cleared first (keep=1: it is not); nor=1 answers 0 in place of the result; vcpu=N: a guest's vCPU N
 * makes it, which must be up. */
#include "executor.h"
#include <ctype.h>

#define CLEARED_PAGES 8                         /* of Dom0's argument block */

int places_write(const char *by, const char *list);
void places_read(const char *by, const char *list, long result);

static char *mapped;                            /* the pool page behind the last place, to be unmapped */

static char *place(const char *by, const char *text, int writable)
{
    struct guest *guest = guest_named(by);

    mapped = NULL;
    if (*text == 'u')
        return user_buffer + strtoul(text + 1, NULL, 0);
    if (*text == 'p') {
        char *end;
        unsigned long page = strtoul(text + 1, &end, 0);
        int error;

        if (!guest)
            return NULL;
        mapped = foreign_map(guest->domid, &guest->pool[page % POOL_PAGES], 1, writable, &error);
        return mapped ? mapped + (*end == '.' ? strtoul(end + 1, NULL, 0) : 0) : NULL;
    }
    return (guest && guest->agent ? guest->args : dom0_args) + strtoul(text, NULL, 0);
}

static int put(const char *by, const char *text, uint64_t value, unsigned long size)
{
    char *at = place(by, text, 1);

    if (!at)
        return 1;
    if (size <= 8)
        memcpy(at, &value, size);
    else
        memset(at, (int)value, size);
    foreign_unmap(mapped, 1);
    return 0;
}

/* The place COUNT strides on; a list in pool pages goes on in the next one. */
static void place_after(char *out, size_t size, const char *text, unsigned long distance)
{
    char *end;

    if (*text == 'p') {
        unsigned long page = strtoul(text + 1, &end, 0), offset = *end == '.' ? strtoul(end + 1, NULL, 0) : 0;

        offset += distance;
        snprintf(out, size, "p%lu.%lu", page + offset / PAGE, offset % PAGE);
    } else
        snprintf(out, size, "%s%lu", *text == 'u' ? "u" : "", strtoul(text + (*text == 'u'), NULL, 0) + distance);
}

/* How many of the writes had no place. */
int places_write(const char *by, const char *list)
{
    static char text[1 << 15];
    char *rest, *fields;
    int lost = 0;

    if (!list)
        return 0;
    snprintf(text, sizeof text, "%s", list);
    for (char *item = strtok_r(text, ",", &rest); item; item = strtok_r(NULL, ",", &rest)) {
        char *where = strtok_r(item, ":", &fields), *size = strtok_r(NULL, ":", &fields);
        char *what = strtok_r(NULL, ":", &fields), *count = strtok_r(NULL, ":", &fields);
        char *stride = strtok_r(NULL, ":", &fields), next[48];
        uint64_t value;

        if (!what)
            continue;
        value = value_of(by, what);
        if (!count || !stride) {
            lost += put(by, where, value, strtoul(size, NULL, 0));
            continue;
        }
        for (unsigned long i = 0; i < strtoul(count, NULL, 0); i++) {
            place_after(next, sizeof next, where, i * strtoul(stride, NULL, 0));
            lost += put(by, next, value, strtoul(size, NULL, 0));
        }
    }
    return lost;
}

static void print_as(const char *name, char kind, unsigned long size, uint64_t value)
{
    char page[64];

    if (kind == 'V' || kind == 'v') {
        uint64_t *kept = variable(name, 1);

        if (kept)
            *kept = value;
    }
    if (kind == 's')
        answer(",\"%s\":%ld", name, size == 2 ? (long)(int16_t)value : size == 4 ? (long)(int32_t)value : (long)value);
    else if (kind == 'm') {
        frame_name(page, sizeof page, value);
        answer(",\"%s\":\"%s\"", name, page);
    } else if (kind == 'v')
        answer(",\"%s\":\"*\"", name);
    else
        answer(",\"%s\":%lu", name, kind == 'f' ? value & 15 : value);
}

void places_read(const char *by, const char *list, long result)
{
    static char text[1 << 13];
    char *rest, *fields;

    if (!list)
        return;
    snprintf(text, sizeof text, "%s", list);
    for (char *item = strtok_r(text, ",", &rest); item; item = strtok_r(NULL, ",", &rest)) {
        char *name = strtok_r(item, ":", &fields), *where = strtok_r(NULL, ":", &fields);
        char *size = strtok_r(NULL, ":", &fields), *kind = strtok_r(NULL, ":", &fields);
        uint64_t value = 0;

        if (!size)
            continue;
        if (*where == 'r')
            value = (uint64_t)result;
        else {
            char *at = place(by, where, 0);
            unsigned long bytes = strtoul(size, NULL, 0);

            if (!at) {
                answer(",\"%s\":\"gone\"", name);
                continue;
            }
            memcpy(&value, at, bytes < 8 ? bytes : 8);
            foreign_unmap(mapped, 1);
        }
        print_as(name, kind ? *kind : 'u', strtoul(size, NULL, 0), value);
    }
}

/* After set_version the entries look different, and there may be status frames. */
static void follow_version(struct guest *guest, uint64_t nr, const uint64_t args[5], long result)
{
    if (guest && nr == __HYPERVISOR_grant_table_op && args[0] == GNTTABOP_set_version && !result) {   /* whatever the count */
        uint32_t now = *(uint32_t *)guest->args;

        if (now == 1 || now == 2)
            grants_mapped(guest, (int)now);
    }
}

int calls_run(long *result)
{
    static const char *names[5] = { "a1", "a2", "a3", "a4", "a5" };
    const char *by = word("by") ? word("by") : "d0";
    struct guest *guest = guest_named(by);
    uint64_t args[5] = { 0 };
    int lost;

    if (strcmp(operation, "x"))
        return 0;
    *result = 0;
    if (!guest && strcmp(by, "d0")) {
        *result = -ENOENT;
        return 1;
    }
    if (!number("keep", 0)) {
        if (guest && guest->agent)
            memset(guest->args, 0, PAGE);
        else
            memset(dom0_args, 0, CLEARED_PAGES * PAGE);
    }
    lost = places_write(by, word("w"));
    if (lost)
        answer(",\"wbad\":%d", lost);
    if (word("nr")) {
        uint64_t nr = (uint64_t)number("nr", 0);

        for (int i = 0; i < 5; i++)
            if (word(names[i]))
                args[i] = value_of(by, word(names[i]));
        if (guest && guest->agent) {
            *result = agent_call(guest, (unsigned)number("vcpu", 0), nr, args, (unsigned)number("rep", 1));
            if (!guest->broken && guest->mailbox->fault != NO_FAULT)
                answer(",\"fault\":%lu", guest->mailbox->fault);
            follow_version(guest, nr, args, *result);
        } else
            for (int64_t left = number("rep", 1); left > 0; left--)
                *result = dom0_call(nr, args[0], args[1], args[2], args[3], args[4]);
    }
    places_read(by, word("o"), *result);
    if (number("nor", 0))
        *result = 0;
    return 1;
}
