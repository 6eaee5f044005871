/* `sys.*`: system calls of a process of Dom0 on its Xen devices, by their bytes.
 *   sys.open f= dev=  sys.close f=  sys.ioctl f= req= [argp=EXPR] [w=] [o=]  sys.read f= n= [argp=] [o=]  sys.write f= n= [w=] [argp=]
 *   sys.mmap f= m= n= [off=EXPR] [prot=rw] [priv=1]  sys.munmap m= [pg= n=]  sys.mprotect m= prot=
 *   sys.mremap m= to= [n=]  sys.rd m= pg= off=  sys.wr m= pg= off= v=  sys.poll f=
 *   sys.child do=rd|wr|munmap|close|ioctl|read|write|none [m= pg= off= v= n=] [f= req= w=]: by a child, which is killed then
 *   sys.dup f= to=   sys.polls f=N+N+...
 *   sys.wait f= n= [close=1] [ring=FILE p=EXPR]: a child reads and may sleep; then this process rings a port of another file.
 *     With close=1 the child is a thread as far as descriptors go, and this process closes the file first
 * Descriptors and mappings have numbers of the recording's own; files are opened O_NONBLOCK, with wait=1 they are not. */
#include "executor.h"
#include "linux.h"
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_FILES 64
#define SETTLED_MS 150                          /* a reader that has not come back by then sleeps */
#define CLEARED   16                            /* pages of the user buffer, before an ioctl */

int places_write(const char *by, const char *list);
void places_read(const char *by, const char *list, long result);

static int files[MAX_FILES];
static struct { char *at; size_t size; } maps[MAX_MAPS];
static int started;

int file_at(int number)
{
    return files[number & (MAX_FILES - 1)];
}

void file_known(int number, int file)
{
    files[number & (MAX_FILES - 1)] = file;
}

size_t area_size(int m)
{
    return maps[m & (MAX_MAPS - 1)].at ? maps[m & (MAX_MAPS - 1)].size : 0;
}

void area_known(int m, void *at, size_t size)
{
    maps[m & (MAX_MAPS - 1)].at = at;
    maps[m & (MAX_MAPS - 1)].size = size;
}

static int is(const char *name)
{
    return !strcmp(operation + 4, name);
}

static long or_errno(long result)
{
    return result < 0 ? -errno : result;
}

static int protection(const char *text)
{
    return (strchr(text, 'r') ? PROT_READ : 0) | (strchr(text, 'w') ? PROT_WRITE : 0) | (strchr(text, 'x') ? PROT_EXEC : 0);
}

static void *user_pointer(void)
{
    return word("argp") ? (void *)value_of("d0", word("argp")) : user_buffer;
}

static long file_open(int file)
{
    char path[64];

    snprintf(path, sizeof path, "/dev/xen/%s", word("dev") ? word("dev") : "");
    files[file] = open(path, O_RDWR | O_CLOEXEC | (number("wait", 0) ? 0 : O_NONBLOCK));
    return files[file] < 0 ? -errno : 0;
}

static long file_ioctl(int file)
{
    long result;

    if (!number("keep", 0))
        memset(user_buffer, 0, CLEARED * PAGE);
    places_write("d0", word("w"));
    result = or_errno(ioctl(files[file], (unsigned long)number("req", 0), user_pointer()));
    places_read("d0", word("o"), result);
    return number("nor", 0) && result > 0 ? 0 : result;
}

static long area_map(int file, int m)
{
    size_t size = (size_t)number("n", 1) * PAGE;
    int kind = number("priv", 0) ? MAP_PRIVATE : MAP_SHARED;
    off_t offset = word("off") ? (off_t)value_of("d0", word("off")) : 0;
    void *at = mmap((void *)(MMAP_AT + (uint64_t)m * MMAP_STRIDE), size, protection(word("prot") ? word("prot") : "rw"),
                    kind | MAP_FIXED_NOREPLACE, files[file], offset);

    if (at == MAP_FAILED)
        return -errno;
    maps[m].at = at;
    maps[m].size = size;
    return 0;
}

static long area_unmap(int m)
{
    size_t first = (size_t)number("pg", 0) * PAGE, size = word("n") ? (size_t)number("n", 1) * PAGE : maps[m].size;
    long result;

    if (!maps[m].at)
        return -ENOENT;
    result = or_errno(munmap(maps[m].at + first, size));
    if (!result && !first && size == maps[m].size)
        maps[m].at = NULL;
    return result;
}

/* To the place of the mapping with number `to`. */
static long area_move(int m, int to)
{
    size_t size = word("n") ? (size_t)number("n", 1) * PAGE : maps[m].size;
    void *at;

    if (!maps[m].at)
        return -ENOENT;
    at = mremap(maps[m].at, maps[m].size, size, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)(MMAP_AT + (uint64_t)to * MMAP_STRIDE));
    if (at == MAP_FAILED)
        return -errno;
    maps[m].at = NULL;
    maps[to].at = at;
    maps[to].size = size;
    return 0;
}

static long area_touch(int m, int is_write)
{
    uint64_t value = (uint64_t)number("v", 0);
    uint64_t address = MMAP_AT + (uint64_t)m * MMAP_STRIDE + (uint64_t)number("pg", 0) * PAGE + (uint64_t)number("off", 0);
    int signal = is_write ? guarded_store(address, value) : guarded_load(address, &value);

    if (signal)
        answer(",\"sig\":%d,\"code\":%d", signal, signal_code);
    else if (!is_write)
        answer(",\"v\":\"0x%lx\"", value);
    return 0;
}

static long file_read(int file)
{
    long result;

    memset(user_buffer, 0, PAGE);
    result = or_errno(read(files[file], user_pointer(), (size_t)number("n", 4)));
    places_read("d0", word("o"), result);
    return result;
}

static long file_write(int file)
{
    places_write("d0", word("w"));
    return or_errno(write(files[file], user_pointer(), (size_t)number("n", 4)));
}

static long file_poll(int file)
{
    struct pollfd ready = { .fd = files[file], .events = POLLIN | POLLOUT };
    long result = or_errno(poll(&ready, 1, 0));

    answer(",\"ev\":%d", ready.revents);
    return result;
}

/* A child of fork() does one thing, tells it, and is killed: what it got of files and mappings ends with it. */
static long in_child(int file, int m)
{
    struct told { long result; int signal, code; uint64_t value; } told = { 0, 0, 0, (uint64_t)number("v", 0) };
    const char *what = word("do") ? word("do") : "";
    uint64_t address = MMAP_AT + (uint64_t)m * MMAP_STRIDE + (uint64_t)number("pg", 0) * PAGE;
    int ends[2], status, is_write = !strcmp(what, "wr");
    pid_t child;

    if (!strcmp(what, "ioctl") || !strcmp(what, "write"))
        places_write("d0", word("w"));
    if (pipe(ends) || (child = fork()) < 0)
        return -errno;
    if (!child) {
        if (is_write || !strcmp(what, "rd")) {
            address += (uint64_t)number("off", 0);
            told.signal = is_write ? guarded_store(address, told.value) : guarded_load(address, &told.value);
            told.code = signal_code;
        } else if (!strcmp(what, "munmap"))
            told.result = or_errno(munmap((void *)address, (size_t)number("n", 1) * PAGE));
        else if (!strcmp(what, "close"))
            told.result = or_errno(close(files[file]));
        else if (!strcmp(what, "ioctl"))
            told.result = or_errno(ioctl(files[file], (unsigned long)number("req", 0), user_buffer));
        else if (!strcmp(what, "read"))
            told.result = or_errno(read(files[file], user_buffer, (size_t)number("n", 4)));
        else if (!strcmp(what, "write"))
            told.result = or_errno(write(files[file], user_buffer, (size_t)number("n", 4)));
        if (write(ends[1], &told, sizeof told) != (ssize_t)sizeof told)
            _exit(1);
        raise(SIGKILL);
    }
    close(ends[1]);
    if (read(ends[0], &told, sizeof told) != (ssize_t)sizeof told)
        told.result = -EPIPE;
    close(ends[0]);
    waitpid(child, &status, 0);
    if (told.signal)
        answer(",\"sig\":%d,\"code\":%d", told.signal, told.code);
    else if (!strcmp(what, "rd"))
        answer(",\"v\":\"0x%lx\"", told.value);
    return told.result;
}

/* Several descriptors at once; those that are not open are asked for too. */
static long files_poll(void)
{
    struct pollfd ready[MAX_FILES];
    char text[256], *rest;
    int many = 0;
    long result;

    snprintf(text, sizeof text, "%s", word("f") ? word("f") : "");
    for (char *item = strtok_r(text, "+", &rest); item && many < MAX_FILES; item = strtok_r(NULL, "+", &rest)) {
        ready[many].fd = files[strtoul(item, NULL, 0) & (MAX_FILES - 1)];
        ready[many++].events = POLLIN | POLLOUT;
    }
    result = or_errno(poll(ready, (nfds_t)many, 0));
    for (int i = 0; i < many; i++)
        answer(",\"ev%d\":%d", i, ready[i].revents);
    return result;
}

/* slept: it had to wait; asleep: it waits still, and is killed. */
static long reader_waits(int file)
{
    struct told { long result; uint32_t ports[4]; } told = { 0, { 0 } };
    struct pollfd done = { .events = POLLIN };
    int ends[2], status, shared = word("close") != NULL;
    pid_t child;

    if (pipe(ends) || (child = shared ? (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0) : fork()) < 0)
        return -errno;
    if (!child) {
        told.result = or_errno(read(files[file], told.ports, (size_t)(number("n", 4) & 15)));
        if (write(ends[1], &told, sizeof told) != (ssize_t)sizeof told)
            _exit(1);
        _exit(0);
    }
    if (!shared)
        close(ends[1]);
    done.fd = ends[0];
    if (!poll(&done, 1, SETTLED_MS)) {
        answer(",\"slept\":1");
        if (shared) {
            answer(",\"closed\":%ld", or_errno(close(files[file])));
            files[file] = -1;
        }
        if (word("ring")) {
            struct evtchn_port bell = { (unsigned)value_of("d0", word("p")) };

            answer(",\"rung\":%ld", or_errno(ioctl(files[number("ring", 0) & (MAX_FILES - 1)], IOCTL_EVTCHN_NOTIFY, &bell)));
        }
        if (!poll(&done, 1, SETTLED_MS)) {
            answer(",\"asleep\":1");
            kill(child, SIGKILL);
        }
    }
    waitpid(child, &status, 0);
    if (!poll(&done, 1, 0) || read(ends[0], &told, sizeof told) != (ssize_t)sizeof told)
        told.result = 0;
    close(ends[0]);
    if (shared)
        close(ends[1]);
    for (long i = 0; i < told.result / 4; i++)
        answer(",\"p%ld\":%u", i, told.ports[i]);
    return told.result;
}

int system_run(long *result)
{
    int file = (int)(number("f", 0) & (MAX_FILES - 1)), m = (int)(number("m", 0) & (MAX_MAPS - 1));

    if (strncmp(operation, "sys.", 4))
        return 0;
    for (; started < MAX_FILES; started++)
        files[started] = -1;
    if (is("open"))
        *result = file_open(file);
    else if (is("close")) {
        *result = or_errno(close(files[file]));
        files[file] = -1;
    } else if (is("ioctl"))
        *result = file_ioctl(file);
    else if (is("read"))
        *result = file_read(file);
    else if (is("write"))
        *result = file_write(file);
    else if (is("poll"))
        *result = file_poll(file);
    else if (is("polls"))
        *result = files_poll();
    else if (is("wait"))
        *result = reader_waits(file);
    else if (is("dup")) {
        int to = (int)(number("to", 0) & (MAX_FILES - 1));

        files[to] = dup(files[file]);
        *result = files[to] < 0 ? -errno : 0;
    } else if (is("mmap"))
        *result = area_map(file, m);
    else if (is("munmap"))
        *result = area_unmap(m);
    else if (is("mprotect"))
        *result = maps[m].at ? or_errno(mprotect(maps[m].at, maps[m].size, protection(word("prot") ? word("prot") : ""))) : -ENOENT;
    else if (is("mremap"))
        *result = area_move(m, (int)(number("to", 0) & (MAX_MAPS - 1)));
    else if (is("child"))
        *result = in_child(file, m);
    else if (is("rd") || is("wr"))
        *result = area_touch(m, is("wr"));
    else
        return 0;
    return 1;
}
