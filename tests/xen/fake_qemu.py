"""A fake QEMU for tests of failures: takes QEMU's arguments, and then behaves as its first argument says.

Contents: a separate program, started by `Machine` through a small script. Not here: the tests' expectations.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

HELLO = b'{"hello":1,"privcmd":1}\n'
PANIC = "(XEN) Panic on CPU 0:\n(XEN) FATAL TRAP: vector = 6\n"


def main(behaviour: str, words: list[str]) -> None:
    """Run the behaviour; returns normally only if that is the behaviour."""
    text = " ".join(words)
    number, console = re.search(r"fd=(\d+)", text), re.search(r"file:(\S+)", text)
    assert number is not None and console is not None
    line = socket.socket(fileno=int(number[1]))
    out = Path(console[1])
    out.write_text("(XEN) Xen version 4.17\n(XEN) the last line\n")
    if behaviour == "ends":
        print("qemu: could not open the kernel", file=sys.stderr)
        sys.exit(1)
    if behaviour == "hangs":
        time.sleep(600)
    if behaviour == "babbles":
        while True:
            line.sendall(b"x" * 65536)
    line.sendall(HELLO)
    if behaviour == "takes nothing":
        time.sleep(600)
    got = b""
    while b"\n" not in got:
        got += line.recv(65536)
    if got == b"quit\n":
        sys.exit(0)
    match behaviour:
        case "garbage":
            line.sendall(b"\x80\xffnonsense\n")
        case "no result":
            line.sendall(b'{"v":"0x1"}\n')
        case "unknown":
            line.sendall(b'{"unknown":1,"r":-38}\n')
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "panics":
            out.write_text(out.read_text() + PANIC)
        case "hangs up":
            line.shutdown(socket.SHUT_RDWR)
            line.close()
        case "answers once":
            line.sendall(b'{"r":0}\n')
    time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
