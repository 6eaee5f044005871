"""The implementation: a hypervisor that behaves like Xen, and the Linux drivers of Dom0 on top of it."""
