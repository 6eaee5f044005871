/* Dom0's only process, /init of its initramfs: loads the drivers, then answers one call per line on the virtio-serial port.
 * The port's end, whether by `quit` or because the other side has gone, turns the machine off. `nopriv` on the kernel's
 * command line leaves privcmd out. */
#include "executor.h"
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PORT "/dev/vport0p1"
const char *answer_text(void);
void answer_start(void);

static void load(const char *module)
{
    char path[96];
    int file;

    snprintf(path, sizeof path, "/modules/%s.ko", module);
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || syscall(SYS_finit_module, file, "", 0))
        printf("EXECUTOR: module %s: %s\n", module, strerror(errno));
    if (file >= 0)
        close(file);
}

/* Faults of this process are answers, and not worth a line of the console each. */
static void quiet(void)
{
    int file = open("/proc/sys/debug/exception-trace", O_WRONLY | O_CLOEXEC);

    if (file < 0 || write(file, "0", 1) != 1)
        printf("EXECUTOR: faults will be on the console\n");
    if (file >= 0)
        close(file);
}

static int without_privcmd(void)
{
    char text[4096] = "";
    FILE *file = fopen("/proc/cmdline", "r");

    if (!file)
        return 0;
    if (!fgets(text, sizeof text, file))
        text[0] = 0;
    fclose(file);
    return strstr(text, "nopriv") != NULL;
}

static int open_port(void)
{
    struct timespec moment = { 0, 20000000 };

    for (int tries = 0; tries < 250; tries++) {
        int port = open(PORT, O_RDWR | O_CLOEXEC);

        if (port >= 0)
            return port;
        nanosleep(&moment, NULL);
    }
    return -1;
}

static void turn_off(void)
{
    sync();
    reboot(RB_POWER_OFF);
    _exit(0);
}

static void run(char *line, FILE *out)
{
    struct guest *caller;
    long result = 0;

    answer_start();
    words_read(line);
    if (!pages_run(&result) && !calls_run(&result) && !system_run(&result) && !areas_run(&result) && !files_run(&result)) {
        answer(",\"unknown\":1");
        result = -ENOSYS;
    }
    if (word("by") && (caller = guest_named(word("by"))) && caller->broken)
        answer(",\"%s\":1", caller->broken == CRASHED ? "crashed" : "stuck");
    answer(",\"r\":%ld", result);
    entries_show(word("show"));
    fprintf(out, "{%s}\n", answer_text() + 1);
    fflush(out);
}

int main(void)
{
    static const char *const drivers[] = { "xen-evtchn", "xen-gntdev", "xen-gntalloc", "virtio_ring", "virtio",
        "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_console" };
    static char line[1 << 16];
    FILE *in, *out;
    int port, privileged;

    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    mount("proc", "/proc", "proc", 0, NULL);
    quiet();
    for (size_t i = 0; i < sizeof drivers / sizeof *drivers; i++)
        load(drivers[i]);
    if (!without_privcmd())
        load("xen-privcmd");
    memory_start();
    privileged = !callers_start();
    if ((port = open_port()) < 0) {
        printf("EXECUTOR: no %s\n", PORT);
        turn_off();
    }
    in = fdopen(port, "r");
    out = fdopen(dup(port), "w");
    fprintf(out, "{\"hello\":1,\"privcmd\":%d}\n", privileged);
    fflush(out);
    while (fgets(line, sizeof line, in)) {
        line[strcspn(line, "\r\n")] = 0;
        if (!strcmp(line, "quit"))
            break;
        if (*line)
            run(line, out);
    }
    turn_off();
}
