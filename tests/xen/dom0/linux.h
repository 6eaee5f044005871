/* The structures of Linux's Xen devices (include/uapi/xen/privcmd.h and evtchn.h), as far as the executor itself uses
 * them. What a campaign sends goes by bytes, through the sys.* operations. */
#ifndef BULKHEAD_LINUX_H
#define BULKHEAD_LINUX_H
#include <stdint.h>
#include <sys/ioctl.h>

struct privcmd_hypercall { uint64_t op, arg[5]; };
struct privcmd_mmapbatch_v2 { unsigned int num; uint16_t dom; uint64_t addr; const uint64_t *arr; int *err; };
struct privcmd_mmap_resource { uint16_t dom; uint32_t type, id, idx; uint64_t num, addr; };
struct evtchn_unbound { unsigned int remote_domain; };
struct evtchn_port { unsigned int port; };

#define IOCTL_PRIVCMD_HYPERCALL     _IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall))
#define IOCTL_PRIVCMD_MMAPBATCH_V2  _IOC(_IOC_NONE, 'P', 4, sizeof(struct privcmd_mmapbatch_v2))
#define IOCTL_PRIVCMD_MMAP_RESOURCE _IOC(_IOC_NONE, 'P', 7, sizeof(struct privcmd_mmap_resource))
#define IOCTL_EVTCHN_BIND_UNBOUND   _IOC(_IOC_NONE, 'E', 2, sizeof(struct evtchn_unbound))
#define IOCTL_EVTCHN_UNBIND         _IOC(_IOC_NONE, 'E', 3, sizeof(struct evtchn_port))
#define IOCTL_EVTCHN_NOTIFY         _IOC(_IOC_NONE, 'E', 4, sizeof(struct evtchn_port))
#endif
