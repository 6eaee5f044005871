/* Pages of other domains (privcmd), Xen's own frames as resources, and loads and stores that survive SIGSEGV and SIGBUS. */
#include "executor.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include "linux.h"

int signal_code;
static int privcmd = -1;
static sigjmp_buf back;
static volatile sig_atomic_t guarded, caught;

static void on_signal(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (!guarded) {
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    caught = number;
    signal_code = info->si_code;
    siglongjmp(back, 1);
}

void memory_start(void)
{
    struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER };

    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    privcmd = open("/dev/xen/privcmd", O_RDWR | O_CLOEXEC);
}

void memory_stop(void)
{
    close(privcmd);
    privcmd = -1;
}

/* 0, or the signal that the access raised. */
int guarded_load(uint64_t address, uint64_t *value)
{
    if (sigsetjmp(back, 1)) {
        guarded = 0;
        return caught;
    }
    guarded = 1;
    *value = *(volatile uint64_t *)address;
    guarded = 0;
    return 0;
}

int guarded_store(uint64_t address, uint64_t value)
{
    if (sigsetjmp(back, 1)) {
        guarded = 0;
        return caught;
    }
    guarded = 1;
    *(volatile uint64_t *)address = value;
    guarded = 0;
    return 0;
}

/* Frames of a domain, mapped side by side; NULL with errno and *error if one of them cannot be. */
void *foreign_map(uint32_t domid, const uint64_t *frames, unsigned count, int writable, int *error)
{
    int errors[RAM_PAGES] = { 0 };
    void *at = mmap(NULL, count * PAGE, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, privcmd, 0);
    struct privcmd_mmapbatch_v2 batch = { .num = count, .dom = (uint16_t)domid, .addr = (uint64_t)at, .arr = frames,
                                          .err = errors };

    *error = 0;
    if (at == MAP_FAILED)
        return NULL;
    if (ioctl(privcmd, IOCTL_PRIVCMD_MMAPBATCH_V2, &batch))
        errors[0] = errors[0] ? errors[0] : -errno;
    for (unsigned i = 0; i < count && !*error; i++)
        *error = errors[i];
    if (*error) {
        int reason = -*error;

        munmap(at, count * PAGE);
        errno = reason;
        return NULL;
    }
    return at;
}

void foreign_unmap(void *address, unsigned count)
{
    if (address)
        munmap(address, count * PAGE);
}

/* The first frame of one of a domain's resources, or NULL. */
void *resource_map(uint32_t domid, unsigned kind, unsigned id)
{
    void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, privcmd, 0);
    struct privcmd_mmap_resource wanted = { .dom = (uint16_t)domid, .type = kind, .id = id, .num = 1, .addr = (uint64_t)at };

    if (at == MAP_FAILED)
        return NULL;
    if (ioctl(privcmd, IOCTL_PRIVCMD_MMAP_RESOURCE, &wanted)) {
        munmap(at, PAGE);
        return NULL;
    }
    return at;
}
