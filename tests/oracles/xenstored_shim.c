/* What the C xenstored asks of Xen, answered without Xen: rings are files, event channels a FIFO, domains files `alive-N`.
 *
 * For tests/oracles/xenstored.py: laid before Debian's xenstored by LD_PRELOAD, with the directory in SHIMDIR. A port that
 * is written to the FIFO `events` has rung; what the daemon itself rings is dropped, for the test looks at the rings.
 * What it is not: a check of permissions of Xen's. Declarations follow libxenctrl, libxenevtchn and libxengnttab 4.17.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define VIRQ_PORT 1
#define FIRST_LOCAL_PORT 1000
#define RUNNING (1u << 5) /* xc_dominfo_t: the sixth bit of the third word */

static int events = -1;

static const char *in_directory(char *out, size_t size, const char *format, unsigned number)
{
    char name[64];
    const char *directory = getenv("SHIMDIR");

    snprintf(name, sizeof(name), format, number);
    snprintf(out, size, "%s/%s", directory ? directory : ".", name);
    return out;
}

int open(const char *path, int flags, ...)
{
    static int (*real)(const char *, int, ...);
    char own[512];
    va_list rest;
    int mode;

    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "open");
    va_start(rest, flags);
    mode = va_arg(rest, int);
    va_end(rest);
    if (!strcmp(path, "/proc/xen/xsd_port"))
        path = in_directory(own, sizeof(own), "port", 0);
    else if (!strcmp(path, "/proc/xen/xsd_kva") || !strcmp(path, "/dev/xen/xsd_kva"))
        path = in_directory(own, sizeof(own), "ring-%u", 0);
    return real(path, flags, mode);
}

void *xenevtchn_open(void *logger, unsigned flags)
{
    char path[512];

    in_directory(path, sizeof(path), "events", 0);
    mkfifo(path, 0600);
    events = open(path, O_RDWR | O_NONBLOCK, 0);
    return events < 0 ? NULL : (void *)1;
}

void *xenevtchn_fdopen(void *logger, int fd, unsigned flags) { return (void *)1; }
int xenevtchn_fd(void *handle) { return events; }
int xenevtchn_bind_interdomain(void *handle, uint32_t domid, uint32_t port) { return (int)domid + FIRST_LOCAL_PORT; }
int xenevtchn_bind_virq(void *handle, unsigned virq) { return VIRQ_PORT; }
int xenevtchn_notify(void *handle, uint32_t port) { return 0; }
int xenevtchn_unmask(void *handle, uint32_t port) { return 0; }
int xenevtchn_unbind(void *handle, uint32_t port) { return 0; }

int xenevtchn_pending(void *handle)
{
    uint32_t port;

    if (read(events, &port, sizeof(port)) == sizeof(port))
        return (int)port;
    errno = EAGAIN;
    return -1;
}

void *xengnttab_open(void *logger, unsigned flags) { return (void *)2; }
int xengnttab_close(void *handle) { return 0; }
int xengnttab_set_max_grants(void *handle, uint32_t count) { return 0; }

void *xengnttab_map_grant_ref(void *handle, uint32_t domid, uint32_t ref, int protection)
{
    char path[512];
    void *page;
    int fd = open(in_directory(path, sizeof(path), "ring-%u", domid), O_RDWR, 0);

    if (fd < 0)
        return NULL;
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED ? NULL : page;
}

int xengnttab_unmap(void *handle, void *page, uint32_t count) { return munmap(page, count * 4096ul); }

void *xc_interface_open(void *logger, void *second, unsigned flags) { return (void *)3; }
int xc_interface_close(void *handle) { return 0; }

/* The first domain that exists from `first` on: its number, and that it runs. */
int xc_domain_getinfo(void *handle, uint32_t first, unsigned count, uint32_t *info)
{
    char path[512];
    uint32_t domid;

    for (domid = first; domid < 0x7ff0; domid++) {
        if (domid && access(in_directory(path, sizeof(path), "alive-%u", domid), F_OK))
            continue;
        info[0] = domid;
        info[1] = 0;
        info[2] = RUNNING;
        return 1;
    }
    errno = ESRCH;
    return -1;
}
