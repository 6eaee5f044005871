/* `sys.*` on mapped areas: what the kernel does with the pages of a mapping, and what reaches them other than a load or store.
 *   sys.madvise m= [pg= n=] adv=   sys.mlock m= [pg= n=] [un=1]   sys.mincore m= [pg= n=]   sys.msync m= [pg= n=] [fl=]
 *   sys.fixed m= [pg=] n= [f= off=EXPR] [prot=rw] [priv=1]: mmap with MAP_FIXED, of anonymous memory without a file
 *   sys.resize m= [pg= n=] new= fl= [to=]   sys.uffd m= [pg= n=]
 *   sys.peek m= pg= off= n= way=vm|mem|ptrace|write   sys.poke m= pg= off= n= way=vm|mem|ptrace|read v=
 *     vm, ptrace: by a child, to its parent; mem: /proc/self/mem; write, read: of a pipe
 *   sys.pipe p=   sys.vmsplice p= m= pg= off= n= [gift=1]   sys.drain p= n=   sys.pclose p=
 * Pipes have numbers of the recording's own; they hold the pages that were spliced into them until they are drained. */
#include "executor.h"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_PIPES 16
#define MOST      64                            /* bytes that one peek tells */

static int pipes[MAX_PIPES][2];
static int started;

static int is(const char *name)
{
    return !strcmp(operation + 4, name);
}

static long or_errno(long result)
{
    return result < 0 ? -errno : result;
}

static char *place(int m)
{
    return (char *)MMAP_AT + (uint64_t)m * MMAP_STRIDE + (uint64_t)number("pg", 0) * PAGE;
}

static size_t bytes(int m)
{
    return word("n") ? (size_t)number("n", 1) * PAGE : area_size(m) - (size_t)number("pg", 0) * PAGE;
}

static void hex(const char *name, const unsigned char *data, long size)
{
    char text[2 * MOST + 1] = "";

    for (long i = 0; i < size && i < MOST; i++)
        snprintf(text + 2 * i, 3, "%02x", data[i]);
    answer(",\"%s\":\"%s\"", name, text);
}

static long area_resident(int m)
{
    unsigned char present[MOST] = { 0 };
    long result = bytes(m) > MOST * PAGE ? -E2BIG : or_errno(mincore(place(m), bytes(m), present));

    if (!result)
        hex("in", present, (long)(bytes(m) / PAGE));
    return result;
}

static long area_fixed(int m)
{
    int kind = (word("f") ? 0 : MAP_ANONYMOUS) | (number("priv", !word("f")) ? MAP_PRIVATE : MAP_SHARED) | MAP_FIXED;
    const char *may = word("prot") ? word("prot") : "rw";
    int prot = (strchr(may, 'r') ? PROT_READ : 0) | (strchr(may, 'w') ? PROT_WRITE : 0);
    void *at = mmap(place(m), bytes(m), prot, kind, word("f") ? file_at((int)number("f", 0)) : -1,
                    word("off") ? (off_t)value_of("d0", word("off")) : 0);

    if (at == MAP_FAILED)
        return -errno;
    if (!area_size(m))
        area_known(m, place(m), bytes(m));
    return 0;
}

static long area_resize(int m)
{
    int to = (int)number("to", 0);
    size_t size = (size_t)number("new", 1) * PAGE;
    void *at = mremap(place(m), bytes(m), size, (int)number("fl", 0), (void *)(MMAP_AT + (uint64_t)to * MMAP_STRIDE));

    if (at == MAP_FAILED)
        return -errno;
    if (word("to"))
        area_known(to, at, size);
    return at == place(m) ? 0 : 1;
}

static long area_watched(int m)
{
    struct uffdio_api api = { .api = UFFD_API };
    struct uffdio_register wanted = { .range = { (uint64_t)place(m), bytes(m) }, .mode = UFFDIO_REGISTER_MODE_MISSING };
    int file = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    long result;

    if (file < 0)
        return -errno;
    result = or_errno(ioctl(file, UFFDIO_API, &api));
    if (!result)
        result = or_errno(ioctl(file, UFFDIO_REGISTER, &wanted));
    close(file);
    return result;
}

static long by_ptrace(pid_t pid, char *at, unsigned char *data, int is_poke)
{
    int status;
    long value, result;

    if (ptrace(PTRACE_ATTACH, pid, NULL, NULL))
        return -errno;
    waitpid(pid, &status, __WALL);
    errno = 0;
    if (is_poke) {
        memcpy(&value, data, sizeof value);
        result = or_errno(ptrace(PTRACE_POKEDATA, pid, at, value));
    } else {
        value = ptrace(PTRACE_PEEKDATA, pid, at, NULL);
        result = errno ? -errno : 0;
        memcpy(data, &value, sizeof value);
    }
    ptrace(PTRACE_DETACH, pid, NULL, NULL);
    return result ? result : (long)sizeof value;
}

/* By a child, to the memory of this process. */
static long by_other(const char *way, char *at, unsigned char *data, size_t size, int is_poke)
{
    struct told { long result; unsigned char data[MOST]; } told = { 0, { 0 } };
    struct iovec own = { told.data, size }, there = { at, size };
    int ends[2], status;
    pid_t child, parent = getpid();

    memcpy(told.data, data, MOST);
    if (pipe(ends) || (child = fork()) < 0)
        return -errno;
    if (!child) {
        if (!strcmp(way, "ptrace"))
            told.result = by_ptrace(parent, at, told.data, is_poke);
        else if (is_poke)
            told.result = or_errno(process_vm_writev(parent, &own, 1, &there, 1, 0));
        else
            told.result = or_errno(process_vm_readv(parent, &own, 1, &there, 1, 0));
        _exit(write(ends[1], &told, sizeof told) != (ssize_t)sizeof told);
    }
    close(ends[1]);
    if (read(ends[0], &told, sizeof told) != (ssize_t)sizeof told)
        told.result = -EPIPE;
    close(ends[0]);
    waitpid(child, &status, 0);
    memcpy(data, told.data, MOST);
    return told.result;
}

static long by_memory_file(char *at, unsigned char *data, size_t size, int is_poke)
{
    int file = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    long result;

    if (file < 0)
        return -errno;
    result = or_errno(is_poke ? pwrite(file, data, size, (off_t)at) : pread(file, data, size, (off_t)at));
    close(file);
    return result;
}

/* The process's own memory as the buffer of a system call. */
static long by_pipe(char *at, unsigned char *data, size_t size, int is_poke)
{
    int ends[2];
    long result;

    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC))
        return -errno;
    result = or_errno(is_poke ? write(ends[1], data, size) : write(ends[1], at, size));
    if (result > 0)
        result = or_errno(is_poke ? read(ends[0], at, size) : read(ends[0], data, size));
    close(ends[0]);
    close(ends[1]);
    return result;
}

static long area_reached(int m, int is_poke)
{
    unsigned char data[MOST] = { 0 };
    uint64_t value = (uint64_t)number("v", 0);
    size_t size = (size_t)number("n", 8) % (MOST + 1);
    char *at = place(m) + number("off", 0);
    const char *way = word("way") ? word("way") : "";
    long result;

    for (size_t i = 0; is_poke && i < size; i++)
        data[i] = (unsigned char)(value >> 8 * (i & 7));
    if (!strcmp(way, "vm") || !strcmp(way, "ptrace"))
        result = by_other(way, at, data, size, is_poke);
    else if (!strcmp(way, "mem"))
        result = by_memory_file(at, data, size, is_poke);
    else
        result = by_pipe(at, data, size, is_poke);
    if (!is_poke && result > 0)
        hex("v", data, result);
    return result;
}

static long pipe_filled(int p, int m)
{
    struct iovec part = { place(m) + number("off", 0), (size_t)number("n", 8) };

    return or_errno(vmsplice(pipes[p][1], &part, 1, SPLICE_F_NONBLOCK | (number("gift", 0) ? SPLICE_F_GIFT : 0)));
}

static long pipe_drained(int p)
{
    static unsigned char data[16 * PAGE];
    long result = or_errno(read(pipes[p][0], data, (size_t)number("n", 8) % sizeof data));

    if (result > 0)
        hex("v", data, result);
    return result;
}

static long pipe_closed(int p)
{
    long result = or_errno(close(pipes[p][0]));

    close(pipes[p][1]);
    pipes[p][0] = pipes[p][1] = -1;
    return result;
}

int areas_run(long *result)
{
    int m = (int)number("m", 0) & (MAX_MAPS - 1), p = (int)number("p", 0) & (MAX_PIPES - 1);

    if (strncmp(operation, "sys.", 4))
        return 0;
    for (; started < MAX_PIPES; started++)
        pipes[started][0] = pipes[started][1] = -1;
    if (is("madvise"))
        *result = or_errno(madvise(place(m), bytes(m), (int)number("adv", 0)));
    else if (is("mlock"))
        *result = or_errno(number("un", 0) ? munlock(place(m), bytes(m)) : mlock(place(m), bytes(m)));
    else if (is("mincore"))
        *result = area_resident(m);
    else if (is("msync"))
        *result = or_errno(msync(place(m), bytes(m), (int)number("fl", MS_SYNC)));
    else if (is("fixed"))
        *result = area_fixed(m);
    else if (is("resize"))
        *result = area_resize(m);
    else if (is("uffd"))
        *result = area_watched(m);
    else if (is("peek") || is("poke"))
        *result = area_reached(m, is("poke"));
    else if (is("pipe"))
        *result = or_errno(pipe2(pipes[p], O_NONBLOCK | O_CLOEXEC));
    else if (is("vmsplice"))
        *result = pipe_filled(p, m);
    else if (is("drain"))
        *result = pipe_drained(p);
    else if (is("pclose"))
        *result = pipe_closed(p);
    else
        return 0;
    return 1;
}
