//! What tests need of a machine beyond the build, and what happens where it is not there.

/// Something that `.ci/run` installs.
#[derive(Debug)]
pub enum Need {
    /// bubblewrap, and a kernel that lets it make sandboxes.
    Bwrap,
    /// nginx, as the server of a static Hub.
    Nginx,
}

/// Says loudly that a test is skipped; fails it where `TMAX_CKPT_REQUIRE_ALL` is set, so that a
/// machine that should have everything cannot pass by skipping.
pub fn skip(need: &Need, why: &str) {
    let required = std::env::var_os("TMAX_CKPT_REQUIRE_ALL").is_some();
    assert!(!required, "TMAX_CKPT_REQUIRE_ALL is set and {need:?} is not there: {why}");
    eprintln!("SKIPPED: no {need:?}: {why}");
}
