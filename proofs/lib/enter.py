#!/usr/bin/env python3
"""Becomes a program inside another root file system: enter.py ROOT UID GID COMMAND...

To be run in fresh mount and network namespaces (unshare --mount --net), so that what it mounts and the
ports that it takes are seen by nobody else and are gone with the process. Its environment is bare.
"""

import fcntl
import os
import socket
import struct
import subprocess
import sys

# As netdevice(7) has them.
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("H", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def main():
    root, uid, gid, *command = sys.argv[1:]
    loopback_up()
    # What every container runtime provides; an image has neither.
    for name, mount in (("proc", ["-t", "proc", "proc"]), ("dev", ["--rbind", "/dev"])):
        os.makedirs(f"{root}/{name}", exist_ok=True)
        subprocess.run(["mount", *mount, f"{root}/{name}"], check=True)
    os.chroot(root)
    os.chdir("/")
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
    os.execve(command[0], command, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "LC_ALL": "C"})


main()
