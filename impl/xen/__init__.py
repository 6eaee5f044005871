"""The hypervisor: frames, domains, grant tables, PV memory management, event channels, policy."""
