"""Dom0's kernel drivers for user-space grant sharing: gntdev, gntalloc, privcmd, evtchn."""
