/* What the parts of the Dom0 executor share: the words of one call, its answer, the guests, and memory of others. */
#ifndef BULKHEAD_EXECUTOR_H
#define BULKHEAD_EXECUTOR_H
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xen/xen.h>
#include <xen/domctl.h>
#include <xen/grant_table.h>
#include <xen/memory.h>
#include "mailbox.h"

#define MAX_GUESTS     16
#define PAGE           4096ul
#define BLOCK_PAGES    32                       /* Dom0's own argument block; calls use the first half */
#define USER_PAGES     64                       /* of the user buffer */
#define USER_AT        0x2000000000ull
#define MMAP_AT        0x1000000000ull          /* where mmaps go, by their number */
#define MMAP_STRIDE    0x1000000ull
#define MAX_MAPS       4096
#define NO_ANSWER      (-9999)                  /* of a hypercall, when its caller has crashed or it does not return */
#define STUCK_AFTER_MS 8000                     /* emulation on a busy host is slow; and for each repetition: */
#define STUCK_EACH_MS  10

enum { CRASHED = 1, STUCK };                     /* why a guest answers no more */

struct guest {
    char name[16];
    int used, agent;                            /* agent: makes calls by itself */
    int translated;                             /* its page numbers are not machine frames */
    int broken;                                 /* it answers no more */
    uint32_t domid;
    int born;                                   /* in which order they were made */
    uint64_t pool[POOL_PAGES], mailbox_mfn, l4, l3, l2, l1;
    struct mailbox *mailbox;
    char *args;                                 /* its argument block */
    int port;                                   /* Dom0's end of its event channel */
    int version;                                /* of its grant table */
    char *entries;                              /* first frame of its table, mapped here */
};

/* words.c: `op key=value ...` in, one JSON object out */
const char *word(const char *key);
int64_t number(const char *key, int64_t otherwise);
void words_read(char *line);
void answer(const char *format, ...) __attribute__((format(printf, 1, 2)));
extern const char *operation;

/* guests.c */
extern struct guest guests[MAX_GUESTS];
struct guest *guest_named(const char *name);
long guest_make(void);
long guest_remove(void);
long privilege_dropped(void);
void guest_describe(uint32_t domid);
long guest_state(uint32_t domid, struct xen_domctl_getdomaininfo *info);
int grants_mapped(struct guest *guest, int version);
uint16_t *status_mapped(struct guest *guest);

/* callers.c: hypercalls by Dom0's kernel and by agents */
long dom0_call(uint64_t nr, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5);
long agent_call(struct guest *guest, unsigned vcpu, uint64_t nr, const uint64_t args[5], unsigned times);
long agent_touch(struct guest *guest, int is_write, uint64_t address, uint64_t value);
int wait_for(struct guest *guest, volatile uint32_t *cell, uint32_t value, unsigned times);
int port_for(uint32_t domid);
void port_close(int port);
int callers_start(void);
void callers_stop(void);
extern char *dom0_args, *user_buffer;

/* memory.c: pages of others, and accesses that survive a signal */
void *foreign_map(uint32_t domid, const uint64_t *frames, unsigned count, int writable, int *error);
void foreign_unmap(void *address, unsigned count);
void *resource_map(uint32_t domid, unsigned kind, unsigned id);
int guarded_load(uint64_t address, uint64_t *value);
int guarded_store(uint64_t address, uint64_t value);
extern int signal_code;
void memory_start(void);
void memory_stop(void);

/* names.c: symbols to numbers and back */
uint32_t domid_of(const char *text);
uint64_t frame_of(const char *text);
void frame_name(char *out, size_t size, uint64_t frame);
uint64_t value_of(const char *by, const char *expression);
extern struct variable { char name[24]; uint64_t value; } variables[4096];
uint64_t *variable(const char *name, int make);

/* system.c: files and mappings by the numbers of the recording */
int file_at(int number);
void file_known(int number, int file);
size_t area_size(int m);
void area_known(int m, void *at, size_t size);

/* One function per family of operations: 1 if it knew the operation, with what it returned in *result. */
int pages_run(long *result);
int calls_run(long *result);
int system_run(long *result);
int areas_run(long *result);
int files_run(long *result);
void entries_show(const char *list);
#endif
