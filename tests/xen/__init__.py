"""The rig: Debian's Xen with a Debian Linux as Dom0, under QEMU's software emulation, as one more target of calls."""
