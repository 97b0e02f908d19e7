//! The files of a bwrap sandbox's root: a fresh tree with a small `/etc`.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::error::{Error, Result};

/// Folders of the fresh root. `/usr` and its kin come from the host.
const FOLDERS: [(&str, u32); 20] = [
    ("app", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("logs", 0o755),
    ("logs/agent", 0o777),
    ("logs/artifacts", 0o777),
    ("logs/verifier", 0o777),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

/// What programs need of the host's `/etc` and tells nothing about the host's people.
const ETC_COPIED: [&str; 17] = [
    "bash.bashrc",
    "debian_version",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "localtime",
    "lsb-release",
    "magic",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "profile",
    "protocols",
    "rpc",
    "services",
    "shells",
    "timezone",
];

/// Folders of the host's `/etc` that are shown read-only.
pub(super) const ETC_SHOWN: [&str; 4] = ["alternatives", "ld.so.conf.d", "ssl/certs", "perl"];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
    daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
    nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n";
const HOSTS: &str = "127.0.0.1 localhost sandbox\n::1 localhost\n";

/// The host's top folders that programs live in: shown themselves, or as the links they are.
pub(super) const SYSTEM: [&str; 6] = ["usr", "bin", "sbin", "lib", "lib64", "lib32"];

/// Builds the tree at `root`.
pub(super) fn build(root: &Path) -> Result<()> {
    for (name, mode) in FOLDERS {
        let path = root.join(name);
        crate::fsio::create_dir_all(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            .map_err(Error::io(format!("set the mode of {}", path.display())))?;
    }
    for name in SYSTEM {
        let host = Path::new("/").join(name);
        if let Ok(target) = std::fs::read_link(&host) {
            symlink(target, root.join(name)).map_err(Error::io(format!("link /{name}")))?;
        } else if host.is_dir() {
            crate::fsio::create_dir_all(&root.join(name))?;
        }
    }
    build_etc(&root.join("etc")).map_err(Error::io("fill the sandbox's /etc"))
}

fn build_etc(etc: &Path) -> std::io::Result<()> {
    for name in ETC_COPIED {
        let host = Path::new("/etc").join(name);
        // `metadata` follows links: only what is a readable file in the end is copied.
        if host.metadata().is_ok_and(|meta| meta.is_file()) {
            std::fs::copy(&host, etc.join(name))?;
        }
    }
    for name in ETC_SHOWN {
        if Path::new("/etc").join(name).is_dir() {
            std::fs::create_dir_all(etc.join(name))?;
        }
    }
    for (name, text) in [
        ("passwd", PASSWD),
        ("group", GROUP),
        ("hosts", HOSTS),
        ("hostname", "sandbox\n"),
        ("resolv.conf", ""),
    ] {
        put(&etc.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// Writes a small file of a tree that nobody reads before it is complete.
pub(super) fn put(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    std::fs::File::options().write(true).create_new(true).open(path)?.write_all(bytes)
}
