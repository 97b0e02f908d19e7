//! The filter of system calls that bwrap lays over everything in a sandbox.
//!
//! No capability, no namespace of one's own and no network are what keeps a task inside; the filter
//! takes away the parts of the kernel that a task has no use for and that such walls have been
//! broken through, and the ways around a network namespace (sockets to a hypervisor). What is
//! refused fails with `EPERM`, as it would for a program without rights, so that programs fall back.
//!
//! The program is classic BPF over `struct seccomp_data` (linux/seccomp.h): the call's number at 0,
//! the machine at 4, six arguments of 64 bits from 16. Little-endian machines only.

/// A system call that is refused whatever its arguments: name and number.
pub type Denied = (&'static str, i64);

macro_rules! denied {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}

/// The calls that are always refused.
pub const DENIED: &[Denied] = denied! {
    // Keys are the kernel's own store, and not all of them are in a namespace.
    SYS_add_key SYS_keyctl SYS_request_key
    // Programs in the kernel, and looking into it.
    SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_fanotify_init SYS_syslog SYS_lookup_dcookie
    SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register
    // Mounts and namespaces.
    SYS_mount SYS_umount2 SYS_pivot_root SYS_move_mount SYS_open_tree SYS_fsopen SYS_fsconfig
    SYS_fsmount SYS_fspick SYS_mount_setattr SYS_setns SYS_open_by_handle_at
    // The machine itself.
    SYS_kexec_load SYS_kexec_file_load SYS_init_module SYS_finit_module SYS_delete_module
    SYS_reboot SYS_swapon SYS_swapoff SYS_acct SYS_quotactl SYS_quotactl_fd SYS_vhangup
    SYS_settimeofday SYS_clock_settime SYS_clock_adjtime
};

/// Those of the x86 alone.
#[cfg(target_arch = "x86_64")]
pub const DENIED_HERE: &[Denied] = denied! { SYS_iopl SYS_ioperm };
/// Those of this machine alone.
#[cfg(not(target_arch = "x86_64"))]
pub const DENIED_HERE: &[Denied] = &[];

/// `AUDIT_ARCH_…` of linux/audit.h; `None` where no filter is known.
#[cfg(target_arch = "x86_64")]
const MACHINE: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const MACHINE: Option<u32> = Some(0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const MACHINE: Option<u32> = None;

/// Set in the numbers of the x32 calls, which are the same calls by other numbers.
const X32_BIT: u32 = 0x4000_0000;

const NAMESPACES: i32 = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS;
/// Of `unshare` alone: in `clone`, this bit belongs to a signal's number.
const CLONE_NEWTIME: i32 = 0x80;

/// Sockets that stay inside, and netlink, by which programs ask for their own interfaces. Others,
/// `AF_VSOCK` before all, do not care about network namespaces.
const SOCKETS: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Writing into a terminal's input, and the console's own version of it.
const TERMINAL_INPUT: [u32; 2] = [0x5412, 0x541c];

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

/// A filter as it is written: instructions of `code u16, jt u8, jf u8, k u32`.
struct Program(Vec<(u16, u8, u8, u32)>);

/// Returns the filter as bwrap's `--seccomp` reads it; `None` for a machine without one.
#[must_use]
pub fn filter() -> Option<Vec<u8>> {
    let mut program = Program(Vec::new());
    // Another machine's calls, such as those of 32-bit programs, have other numbers.
    program.push(LOAD, 0, 0, 4);
    program.push(IF_EQUAL, 1, 0, MACHINE?);
    program.refuse(libc::EPERM);
    program.push(LOAD, 0, 0, 0);
    program.push(IF_ANY_BIT, 0, 1, X32_BIT);
    program.refuse(libc::EPERM);
    for (_, number) in DENIED.iter().chain(DENIED_HERE) {
        program.push(IF_EQUAL, 0, 1, *number as u32);
        program.refuse(libc::EPERM);
    }
    // Its flags lie in memory, out of a filter's sight; programs fall back to `clone`.
    program.push(IF_EQUAL, 0, 1, libc::SYS_clone3 as u32);
    program.refuse(libc::ENOSYS);
    program.refuse_bits(libc::SYS_clone, NAMESPACES as u32);
    program.refuse_bits(libc::SYS_unshare, (NAMESPACES | CLONE_NEWTIME) as u32);
    program.refuse_values(libc::SYS_ioctl, 1, &TERMINAL_INPUT);
    program.refuse_others(libc::SYS_socket, 0, &SOCKETS.map(|family| family as u32));
    program.push(RETURN, 0, 0, ALLOW);
    Some(program.bytes())
}

impl Program {
    fn push(&mut self, code: u16, if_true: u8, if_false: u8, value: u32) {
        self.0.push((code, if_true, if_false, value));
    }

    fn refuse(&mut self, errno: i32) {
        self.push(RETURN, 0, 0, ERRNO | errno as u32);
    }

    /// Begins what is done with one call: loads the argument, or skips `len` instructions more.
    fn on(&mut self, call: i64, argument: u32, len: usize) {
        let skip = u8::try_from(len + 1).expect("lists of arguments are short");
        self.push(IF_EQUAL, 0, skip, call as u32);
        self.push(LOAD, 0, 0, 16 + 8 * argument);
    }

    /// Refuses a call whose first argument has any of `bits`.
    fn refuse_bits(&mut self, call: i64, bits: u32) {
        self.on(call, 0, 3);
        self.push(IF_ANY_BIT, 0, 1, bits);
        self.refuse(libc::EPERM);
        self.push(RETURN, 0, 0, ALLOW);
    }

    /// Refuses a call whose argument is one of `values`.
    fn refuse_values(&mut self, call: i64, argument: u32, values: &[u32]) {
        self.on(call, argument, 2 * values.len() + 1);
        for value in values {
            self.push(IF_EQUAL, 0, 1, *value);
            self.refuse(libc::EPERM);
        }
        self.push(RETURN, 0, 0, ALLOW);
    }

    /// Refuses a call whose argument is none of `values`.
    fn refuse_others(&mut self, call: i64, argument: u32, values: &[u32]) {
        self.on(call, argument, 2 * values.len() + 1);
        for value in values {
            self.push(IF_EQUAL, 0, 1, *value);
            self.push(RETURN, 0, 0, ALLOW);
        }
        self.refuse(libc::EPERM);
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 * self.0.len());
        for (code, if_true, if_false, value) in &self.0 {
            bytes.extend(code.to_ne_bytes());
            bytes.extend([*if_true, *if_false]);
            bytes.extend(value.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{ALLOW, DENIED, ERRNO, IF_ANY_BIT, IF_EQUAL, LOAD, MACHINE, filter};

    /// What the filter says of a call, by the rules of the kernel's interpreter.
    fn verdict(machine: u32, call: i64, arguments: [u64; 2]) -> u32 {
        let program = filter().expect("this machine has one");
        let (program, _) = program.as_chunks::<8>();
        let mut data = Vec::new();
        data.extend((call as u32).to_le_bytes());
        data.extend(machine.to_le_bytes());
        data.extend([0; 8]);
        arguments.iter().for_each(|a| data.extend(a.to_le_bytes()));
        let (mut loaded, mut at) = (0, 0);
        loop {
            let [c0, c1, if_true, if_false, k @ ..] = program[at];
            let (code, k) = (u16::from_ne_bytes([c0, c1]), u32::from_ne_bytes(k));
            let jump = |taken: bool| usize::from(if taken { if_true } else { if_false }) + 1;
            at += match code {
                LOAD => {
                    let word = &data[k as usize..k as usize + 4];
                    loaded = u32::from_le_bytes(word.try_into().expect("four bytes"));
                    1
                }
                IF_EQUAL => jump(loaded == k),
                IF_ANY_BIT => jump(loaded & k != 0),
                _ => return k,
            };
        }
    }

    #[test]
    fn calls_are_told_apart_by_number_machine_and_argument() {
        let here = MACHINE.expect("this machine has a filter");
        let refused = ERRNO | libc::EPERM as u32;
        for (name, number) in DENIED {
            assert_eq!(verdict(here, *number, [0, 0]), refused, "{name}");
        }
        let (user, sigchld) = (libc::CLONE_NEWUSER as u64, libc::SIGCHLD as u64);
        for (call, arguments, wanted) in [
            (libc::SYS_read, [0, 0], ALLOW),
            (libc::SYS_execve, [0, 0], ALLOW),
            (libc::SYS_clone, [sigchld, 0], ALLOW),
            (libc::SYS_clone, [sigchld | user, 0], refused),
            (libc::SYS_clone3, [0, 0], ERRNO | libc::ENOSYS as u32),
            (libc::SYS_unshare, [libc::CLONE_FILES as u64, 0], ALLOW),
            (libc::SYS_unshare, [user, 0], refused),
            (libc::SYS_unshare, [0x80, 0], refused),
            (libc::SYS_ioctl, [0, 0x5401], ALLOW),
            (libc::SYS_ioctl, [0, 0x5412], refused),
            // The kernel looks at 32 bits of it.
            (libc::SYS_ioctl, [0, 0xffff_ffff_0000_541c], refused),
            (libc::SYS_socket, [libc::AF_INET as u64, 1], ALLOW),
            (libc::SYS_socket, [libc::AF_VSOCK as u64, 1], refused),
            (libc::SYS_socket, [libc::AF_ALG as u64, 1], refused),
        ] {
            assert_eq!(verdict(here, call, arguments), wanted, "{call} {arguments:x?}");
        }
        assert_eq!(verdict(here, libc::SYS_read | 0x4000_0000, [0, 0]), refused, "x32");
        assert_eq!(verdict(0x4000_0003, libc::SYS_read, [0, 0]), refused, "i386");
    }
}
