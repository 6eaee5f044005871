/* `sys.file f= do=`: calls that the kernel has for every kind of file, on those of Xen's devices.
 *   pread pwrite [n= off=]  readv writev [n=]  lseek [off= whence=]  fsync ftruncate fallocate  statx
 *   sendfile splicein spliceout (from and to a pipe)  epoll  getfl  setfl [fl=]  ioctl [req= v=] (of the kernel, not of a driver)
 *   pass: sent by a socket, closed, and received again */
#include "executor.h"
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int is(const char *name)
{
    return word("do") && !strcmp(word("do"), name);
}

static long or_errno(long result)
{
    return result < 0 ? -errno : result;
}

static long through_pipe(int file, size_t size)
{
    int ends[2];
    long result;

    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC))
        return -errno;
    if (is("spliceout"))
        result = write(ends[1], user_buffer, size) < 0 ? -errno : or_errno(splice(ends[0], NULL, file, NULL, size, SPLICE_F_NONBLOCK));
    else
        result = or_errno(is("sendfile") ? sendfile(ends[1], file, NULL, size) : splice(file, NULL, ends[1], NULL, size, SPLICE_F_NONBLOCK));
    close(ends[0]);
    close(ends[1]);
    return result;
}

static long watched(int file)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLOUT };
    int set = epoll_create1(EPOLL_CLOEXEC);
    long result = or_errno(epoll_ctl(set, EPOLL_CTL_ADD, file, &event));

    event.events = 0;
    if (!result && (result = or_errno(epoll_wait(set, &event, 1, 0))) > 0)
        answer(",\"ev\":%u", event.events);
    close(set);
    return result;
}

static long kernels_ioctl(int file)
{
    int value = (int)number("v", 0);
    long result = or_errno(ioctl(file, (unsigned long)number("req", 0), &value));

    answer(",\"v\":%d", value);
    return result;
}

static long described(int file)
{
    struct stat state;
    long result = or_errno(fstat(file, &state));

    if (!result)
        answer(",\"mode\":%u,\"size\":%ld", state.st_mode & (unsigned)S_IFMT, (long)state.st_size);
    return result;
}

/* A file that is only in a message is open still; it ends with the socket. */
static long passed(int number_of, int file)
{
    int ends[2];
    char byte = 0, space[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec part = { &byte, 1 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    long result;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        return -errno;
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &file, sizeof file);
    result = or_errno(sendmsg(ends[0], &message, 0));
    if (result > 0) {
        close(file);
        memset(space, 0, sizeof space);
        result = or_errno(recvmsg(ends[1], &message, MSG_CMSG_CLOEXEC));
        head = CMSG_FIRSTHDR(&message);
        memcpy(&file, CMSG_DATA(head), sizeof file);
        file_known(number_of, file);
        result = 0;
    }
    close(ends[0]);
    close(ends[1]);
    return result;
}

int files_run(long *result)
{
    int number_of = (int)number("f", 0), file = file_at(number_of);
    size_t size = (size_t)number("n", 4);
    struct iovec part = { user_buffer, size };
    off_t offset = (off_t)number("off", 0);

    if (strcmp(operation, "sys.file"))
        return 0;
    memset(user_buffer, 0, PAGE);
    if (is("pread") || is("pwrite"))
        *result = or_errno(is("pread") ? pread(file, user_buffer, size, offset) : pwrite(file, user_buffer, size, offset));
    else if (is("readv") || is("writev"))
        *result = or_errno(is("readv") ? readv(file, &part, 1) : writev(file, &part, 1));
    else if (is("lseek"))
        *result = or_errno(lseek(file, offset, (int)number("whence", 0)));
    else if (is("fsync"))
        *result = or_errno(fsync(file));
    else if (is("ftruncate"))
        *result = or_errno(ftruncate(file, offset));
    else if (is("fallocate"))
        *result = or_errno(fallocate(file, 0, offset, (off_t)size));
    else if (is("statx"))
        *result = described(file);
    else if (is("sendfile") || is("splicein") || is("spliceout"))
        *result = through_pipe(file, size);
    else if (is("epoll"))
        *result = watched(file);
    else if (is("getfl"))
        *result = or_errno(fcntl(file, F_GETFL));
    else if (is("setfl"))
        *result = or_errno(fcntl(file, F_SETFL, (int)number("fl", 0)));
    else if (is("ioctl"))
        *result = kernels_ioctl(file);
    else if (is("pass"))
        *result = passed(number_of, file);
    else
        *result = -EINVAL;
    return 1;
}
