"""The Xen libraries of user space, as Python functions with the names and conventions of the C libraries."""
