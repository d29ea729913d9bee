"""What the parsing process gives up before it sees a file: the network, writing, other processes, and most resources.

There are four layers, so that none has to be perfect:

- limits of resources (setrlimit);
- a hook on what Python itself does (PEP 578);
- a filter of system calls (seccomp, on Linux for x86-64 and arm64), which holds for the C code of the parsers too;
- rules for files (Landlock, from Linux 5.13 on where enabled), since a filter cannot tell a library from the keys of a home.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
import sysconfig
from pathlib import Path
from typing import Any

OPEN_FILES = 64
_PACKAGE = str(Path(__file__).parents[2])
_CODE = (".py", ".pyc", ".so")
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_MODE_FILTER = 2
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_FORBIDDEN = frozenset(
    {
        "socket.connect",
        "socket.bind",
        "socket.sendto",
        "socket.sendmsg",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.gethostbyaddr",
        "urllib.Request",
        "http.client.connect",
        "ftplib.connect",
        "smtplib.connect",
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.remove",
        "os.rename",
        "os.mkdir",
        "os.rmdir",
        "os.link",
        "os.symlink",
        "os.truncate",
        "os.chmod",
        "os.chown",
        "os.kill",
        "shutil.rmtree",
        "shutil.move",
        "pty.spawn",
        "webbrowser.open",
    }
)

# Numbers of system calls: (x86-64, arm64), None where there is none. Refused with EPERM unless stated otherwise below.
_CALLS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "creat": (85, None),
    "truncate": (76, 45),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "link": (86, None),
    "linkat": (265, 37),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "mount": (165, 40),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "sendmmsg": (307, 269),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "chroot": (161, 51),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "unshare": (272, 97),
}
_ABSENT: dict[str, tuple[int | None, int | None]] = {"clone3": (435, 435), "openat2": (437, 437)}  # glibc then uses the older
_OPENS: dict[str, tuple[int | None, int | None]] = {"open": (2, None), "openat": (257, 56)}
_TGKILL, _CLONE = (234, 131), (56, 220)
_PRLIMIT, _SET_AFFINITY = (302, 261), (203, 122)  # the C library may use them on this process, whose number here is 0
_CLONE_THREAD = 0x10000
_EPERM, _ENOSYS = 1, 38
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000

_LOAD, _IS, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16  # offsets in seccomp_data (linux/seccomp.h)

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_FILE_RIGHTS = (0, 13, 14, 15, 15, 16)  # number of rights in each version of Landlock (linux/landlock.h)
_NETWORK = 0b11  # binding and connecting over TCP
_SCOPES = 0b11  # abstract Unix sockets and signals to others
_SYSTEM_LIBRARIES = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/usr/share/zoneinfo",
    "/etc/localtime",
    "/dev/null",
    "/dev/urandom",
)


def shut(memory_bytes: int) -> None:
    """Give all of it up for good; `memory_bytes` of address space remain."""
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_AS, memory_bytes),
    ):
        resource.setrlimit(what, (most, most))
    if sys.platform == "linux":
        _close_files()  # before the hook, which would not let it open them
    sys.addaudithook(_hook())
    if sys.platform == "linux" and platform.machine() in _MACHINES:
        _filter_calls(platform.machine())


def allow_seconds(seconds: int) -> None:
    """Allow this process so many more seconds of CPU time; SIGXCPU kills it after that."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _libraries() -> list[str]:
    """The folders of Python's code and of its packages."""
    return sorted({os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _hook() -> Any:
    readable = tuple(os.path.realpath(path).rstrip("/") + "/" for path in (*_libraries(), _PACKAGE, "/dev"))
    real = os.path.realpath

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN:
            raise PermissionError(f"a parser may not call {event}")
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int):
                return
            name = os.fsdecode(path)
            if name == os.devnull:
                return
            if isinstance(flags, int) and flags & _WRITING:
                raise PermissionError("a parser may not write files")
            if not (name.endswith(_CODE) or real(name).startswith(readable)):
                raise PermissionError("a parser may read only its own code")

    return hook


def _close_files() -> None:
    """Let this process read only libraries, by Landlock (https://docs.kernel.org/userspace-api/landlock.html).

    Where the kernel is older or Landlock is off, only the hook keeps files closed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return
    handled = (1 << _FILE_RIGHTS[min(version, len(_FILE_RIGHTS) - 1)]) - 1
    scopes = _SCOPES if version >= 6 else 0
    ruleset = struct.pack("=QQQ", handled, _NETWORK if version >= 4 else 0, scopes)
    ruleset = ruleset[: 24 if version >= 6 else 16 if version >= 4 else 8]
    rules = libc.syscall(_CREATE_RULESET, ruleset, len(ruleset), 0)
    if rules < 0:
        return
    try:
        base = os.path.realpath(sys.base_prefix)
        for path in (*_libraries(), _PACKAGE, os.path.join(base, "lib"), *_SYSTEM_LIBRARIES):
            try:
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            rights = _READ_FILE | (_READ_FOLDER if os.path.isdir(path) else 0)
            libc.syscall(_ADD_RULE, rules, _BENEATH, struct.pack("=Qi", rights, place), 0)
            os.close(place)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.syscall(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _filter_calls(machine: str) -> None:
    which, audit = _MACHINES[machine]
    program: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _MACHINE),
        (_IS, 1, 0, audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERROR | _ENOSYS)]
    for calls, error in ((_CALLS, _EPERM), (_ABSENT, _ENOSYS)):
        for numbers in calls.values():
            if (number := numbers[which]) is not None:
                program += [(_IS, 0, 1, number), (_RETURN, 0, 0, _ERROR | error)]

    def unless(number: int | None, argument: int, test: tuple[int, int, int, int]) -> None:
        """Refuse a call unless one of its arguments passes a test, which skips the next step."""
        if number is not None:
            program.extend(
                [
                    (_IS, 0, 4, number),
                    (_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
                    test,
                    (_RETURN, 0, 0, _ERROR | _EPERM),
                    (_LOAD, 0, 0, _NUMBER),
                ]
            )

    unless(_OPENS["open"][which], 1, (_ANY_BIT, 0, 1, _WRITING))
    unless(_OPENS["openat"][which], 2, (_ANY_BIT, 0, 1, _WRITING))
    unless(_CLONE[which], 0, (_ANY_BIT, 1, 0, _CLONE_THREAD))
    unless(_TGKILL[which], 0, (_IS, 1, 0, os.getpid()))
    unless(_PRLIMIT[which], 0, (_IS, 1, 0, 0))
    unless(_SET_AFFINITY[which], 0, (_IS, 1, 0, 0))
    program.append((_RETURN, 0, 0, _ALLOW))
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    listed = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, listed, 0, 0)
