"""Tools in Dom0 user space: creating guests, consoles, XenStore, the file proxy."""
