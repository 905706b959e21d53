"""The system calls that programs may make, as a BPF program made by libseccomp. Everything else is refused (EPERM).

Not in the list, on purpose: sockets other than unnamed pairs, ptrace and process_vm_*, mounting, namespaces (clone with
a namespace flag too), io_uring, userfaultfd, bpf, perf, keys, kernel modules, clocks, file handles, set*id, kexec,
quotas, swap, pidfd_getfd, limits of other processes, leases, inotify, System V shared memory (it would outlive a test),
sendmsg (descriptors in flight hold memory beyond their sender's end), memfd_create (its memory is nobody's). `clone3`
does not exist for them: its flags lie in memory, where a filter cannot look, and the C library falls back to clone.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import tempfile

from evaluator.sandbox import InfraError

_NEW_NAMESPACES = 0x7E020080  # mount, cgroup, uts, ipc, user, pid, net, time
_THREAD = 0x00010000

ALWAYS = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 close close_range lseek dup dup2
    dup3 ioctl open openat openat2 creat access faccessat faccessat2 stat lstat fstat newfstatat statx statfs
    fstatfs readlink readlinkat getdents getdents64 getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat
    rename renameat renameat2 link linkat symlink symlinkat truncate ftruncate fallocate fadvise64 chmod
    fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes utimensat futimesat umask flock fsync
    fdatasync sync_file_range sendfile splice tee copy_file_range mmap munmap mprotect mremap madvise brk
    msync mlock mlock2 munlock mincore membarrier pkey_alloc pkey_free pkey_mprotect get_mempolicy
    set_mempolicy mbind pipe pipe2 poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait
    epoll_pwait epoll_pwait2 eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime
    timerfd_gettime recvmsg sendto recvfrom recvmmsg shutdown getsockopt setsockopt getsockname getpeername
    futex futex_waitv futex_wait futex_wake futex_requeue get_robust_list set_robust_list set_tid_address rseq
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack pause
    restart_syscall exit exit_group wait4 waitid getpid getppid gettid getpgrp getpgid getsid getuid geteuid
    getgid getegid getresuid getresgid getgroups capget nanosleep clock_nanosleep clock_gettime clock_getres
    gettimeofday time times getitimer setitimer alarm timer_create timer_settime timer_gettime
    timer_getoverrun timer_delete sched_yield sched_getaffinity sched_setaffinity sched_getparam
    sched_getscheduler sched_get_priority_max sched_get_priority_min sched_setscheduler sched_getattr
    getpriority setpriority getcpu getrandom getrlimit setrlimit getrusage sysinfo uname arch_prctl
    landlock_create_ruleset landlock_add_rule landlock_restrict_self
""".split()  # noqa: SIM905

WITH_CHILDREN = """
    fork vfork execve execveat kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo setpgid setsid pidfd_open
    pidfd_send_signal
""".split()  # noqa: SIM905

_ENOSYS = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register", "process_madvise", "mseal")


@functools.cache
def program(tier: int) -> bytes:
    """The filter of a tier: an array of struct sock_filter. InfraError where libseccomp is missing."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise InfraError(f"seccomp: libseccomp cannot be used ({error}); install libseccomp2 and pyseccomp") from None
    rules = pyseccomp.SyscallFilter(defaction=pyseccomp.ERRNO(errno.EPERM))
    with contextlib.suppress(RuntimeError, ValueError, OSError):  # libseccomp before 2.5 cannot
        # A tree instead of a list: the kernel runs the whole filter for every call number when it is installed.
        rules.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)
    allowed = [*ALWAYS, *WITH_CHILDREN] if tier >= 2 else ALWAYS
    for name in allowed:
        _add(pyseccomp, rules, pyseccomp.ALLOW, name)
    for name in _ENOSYS:
        _add(pyseccomp, rules, pyseccomp.ERRNO(errno.ENOSYS), name)
    equal, masked = pyseccomp.EQ, pyseccomp.MASKED_EQ
    if tier >= 2:
        rules.add_rule(pyseccomp.ALLOW, "clone", pyseccomp.Arg(0, masked, _NEW_NAMESPACES, 0))
    else:
        rules.add_rule(pyseccomp.ALLOW, "clone", pyseccomp.Arg(0, masked, _NEW_NAMESPACES | _THREAD, _THREAD))
    rules.add_rule(pyseccomp.ALLOW, "socketpair", pyseccomp.Arg(0, equal, 1))  # AF_UNIX
    # Not leases and folder notices: a lease on a file of the machine makes the machine wait in open().
    rules.add_rule(pyseccomp.ALLOW, "fcntl", pyseccomp.Arg(1, pyseccomp.LT, 1024))
    for command in (1030, 1031, 1032, 1034):  # F_DUPFD_CLOEXEC, pipe sizes, F_GET_SEALS
        rules.add_rule(pyseccomp.ALLOW, "fcntl", pyseccomp.Arg(1, equal, command))
    rules.add_rule(pyseccomp.ALLOW, "prlimit64", pyseccomp.Arg(0, equal, 0))  # of the caller alone
    for option in (
        1,
        2,
        3,
        4,
        8,
        15,
        16,
        21,
        22,
        29,
        30,
        36,
        37,
        38,
        39,
        0x53564D41,
    ):  # death signal, name, timer slack...
        rules.add_rule(pyseccomp.ALLOW, "prctl", pyseccomp.Arg(0, equal, option))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _add(pyseccomp: object, rules: object, action: object, name: str) -> None:
    try:
        rules.add_rule(action, name)  # type: ignore[attr-defined]
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EFAULT, errno.EDOM, errno.EINVAL, None):
            raise
        # A name that this libseccomp or this architecture does not know cannot be called either.
