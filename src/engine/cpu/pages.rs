//! Room for weights in memory.

/// Makes an empty vector with room for `count` elements, in huge pages where the system gives them
/// on request: a gigabyte then costs 512 page faults instead of 262,144, and reading it through
/// does not stop at every 4 KiB.
pub fn roomy<T>(count: usize) -> Vec<T> {
    let mut room = Vec::with_capacity(count);
    #[cfg(target_os = "linux")]
    ask_for_huge_pages(room.spare_capacity_mut());
    room
}

#[cfg(target_os = "linux")]
fn ask_for_huge_pages<T>(room: &mut [std::mem::MaybeUninit<T>]) {
    const HUGE: usize = 2 << 20;
    let start = room.as_mut_ptr().cast::<u8>();
    let skipped = start.align_offset(HUGE);
    let Some(rest) = size_of_val(room).checked_sub(skipped) else { return };
    let len = rest / HUGE * HUGE;
    if len == 0 {
        return;
    }
    // SAFETY: the range lies within `room`, which is ours; the advice changes no byte of it.
    let _ = unsafe {
        rustix::mm::madvise(start.add(skipped).cast(), len, rustix::mm::Advice::LinuxHugepage)
    };
}

#[cfg(test)]
mod tests {
    use super::roomy;

    #[test]
    fn room_of_any_size_can_be_filled() {
        for count in [0, 1, 5000, 3 << 20] {
            let mut room: Vec<u16> = roomy(count);
            room.extend((0..count).map(|i| i as u16));
            assert!(room.iter().enumerate().all(|(i, v)| *v == i as u16));
        }
    }
}
