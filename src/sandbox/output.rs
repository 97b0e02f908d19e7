//! Output of a command, kept up to a limit: the beginning and the end, not the middle.

use std::collections::VecDeque;

/// Bytes of which the middle may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    half: usize,
    dropped: u64,
}

impl Captured {
    /// Returns an empty buffer that keeps `limit_bytes` at most.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self { half: limit_bytes / 2, ..Self::default() }
    }

    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = self.half.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        self.tail.extend(&bytes[room..]);
        let excess = self.tail.len().saturating_sub(self.half);
        self.tail.drain(..excess);
        self.dropped += excess as u64;
    }

    /// Returns how many bytes of the middle are left out.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Returns the text, invalid UTF-8 replaced, with a line where the middle is left out.
    #[must_use]
    pub fn text(&self) -> String {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        if self.dropped == 0 {
            return String::from_utf8_lossy(&[self.head.as_slice(), &tail].concat()).into_owned();
        }
        format!(
            "{}\n[{} bytes left out: output limit]\n{}",
            String::from_utf8_lossy(&self.head),
            self.dropped,
            String::from_utf8_lossy(&tail)
        )
    }
}

impl From<Vec<u8>> for Captured {
    fn from(head: Vec<u8>) -> Self {
        Self { half: head.len(), head, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::Captured;

    #[test]
    fn keeps_head_and_tail_and_says_what_is_gone() {
        let mut captured = Captured::new(8);
        captured.push(b"abc");
        captured.push(b"defgh");
        assert_eq!(captured.text(), "abcdefgh");
        captured.push(b"ijk");
        assert_eq!(captured.dropped(), 3);
        assert_eq!(captured.text(), "abcd\n[3 bytes left out: output limit]\nhijk");
    }
}
