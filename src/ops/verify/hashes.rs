//! Files against the hashes that the Hub or a `SHA256SUMS` file vouches for.

use std::path::Path;

use rayon::prelude::*;

use super::{Check, Finding, HashedFile, Report, unreadable};
use crate::error::Result;
use crate::fsio;
use crate::hash::{ExpectedFile, Hash, Voucher, hash_file};
use crate::name::{escape, is_safe_relative_path, shorten};
use crate::progress::{Progress, Unit};

const SUMS_FILE: &str = "SHA256SUMS";
const SUMS_LEN_MAX: u64 = 1 << 20;
/// Reads `SHA256SUMS`, if the folder has one, in the form of coreutils.
pub(super) fn read_sums(dir: &Path, findings: &mut Vec<Finding>) -> Result<Vec<ExpectedFile>> {
    let path = dir.join(SUMS_FILE);
    if !fsio::exists(&path)? {
        return Ok(Vec::new());
    }
    let bytes = fsio::read_capped(&path, SUMS_LEN_MAX)?;
    let text = String::from_utf8_lossy(&bytes);
    let (sums, wrong) = parse_sums(&text);
    findings.extend(wrong.iter().map(|line| {
        let message = format!("`{}` is not a line of sha256sum", shorten(line));
        Finding::error(Check::Hash, SUMS_FILE, message)
    }));
    Ok(sums)
}

/// Reads the text of a `SHA256SUMS`; returns the files, whose names stay inside their folder, and
/// the lines that name none.
#[must_use]
pub fn parse_sums(text: &str) -> (Vec<ExpectedFile>, Vec<&str>) {
    let mut sums = Vec::new();
    let mut wrong = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match parse_sum(line) {
            Some(sum) => sums.push(sum),
            None => wrong.push(line),
        }
    }
    (sums, wrong)
}

fn parse_sum(line: &str) -> Option<ExpectedFile> {
    let (digest, rest) = line.split_once(' ')?;
    let name = rest.strip_prefix([' ', '*'])?;
    let name = name.strip_prefix("./").unwrap_or(name);
    let hash = Hash::from_hex(&digest.to_ascii_lowercase());
    let hash = hash.filter(|hash| matches!(hash, Hash::Sha256(_)))?;
    is_safe_relative_path(name).then(|| ExpectedFile {
        path: name.to_owned(),
        len_bytes: None,
        hash,
        voucher: Voucher::Sums,
    })
}

/// Hashes every file that `expected` names, several at once.
///
/// # Errors
/// A file that this process may not read.
pub(super) fn check(
    dir: &Path,
    expected: &[ExpectedFile],
    report: &mut Report,
    progress: &dyn Progress,
) -> Result<()> {
    let size = |file: &ExpectedFile| dir.join(&file.path).metadata().map_or(0, |m| m.len());
    progress.start("hash", expected.iter().map(size).sum(), Unit::Bytes);
    let results: Vec<Result<(HashedFile, Option<Finding>)>> =
        expected.par_iter().map(|file| check_file(dir, file, size(file), progress)).collect();
    progress.finish();
    for result in results {
        let (hashed, finding) = result?;
        report.hashed.push(hashed);
        report.findings.extend(finding);
    }
    report.hashed.sort_by(|a, b| (&a.name, &a.source).cmp(&(&b.name, &b.source)));
    Ok(())
}

fn check_file(
    dir: &Path,
    file: &ExpectedFile,
    len_bytes: u64,
    progress: &dyn Progress,
) -> Result<(HashedFile, Option<Finding>)> {
    let name = escape(&file.path);
    let fault = fault_of(dir, file, len_bytes, progress)?;
    let matches = fault.is_none();
    let finding = fault.map(|message| Finding::error(Check::Hash, name.clone(), message));
    Ok((HashedFile { name, len_bytes, source: file.voucher.to_string(), matches }, finding))
}

fn fault_of(
    dir: &Path,
    file: &ExpectedFile,
    len_bytes: u64,
    progress: &dyn Progress,
) -> Result<Option<String>> {
    let path = dir.join(&file.path);
    if !is_safe_relative_path(&file.path) || !fsio::exists(&path)? || !path.is_file() {
        return Ok(Some(format!("is missing ({})", file.voucher)));
    }
    if let Some(wanted) = file.len_bytes.filter(|wanted| *wanted != len_bytes) {
        return Ok(Some(format!("has {len_bytes} bytes, expected {wanted} ({})", file.voucher)));
    }
    progress.item_start(&file.path, len_bytes);
    let got = hash_file(&path, &file.hash, &|bytes| progress.advance(&file.path, bytes));
    match got {
        Ok(got) if got == file.hash => {
            progress.item_done(&file.path, "verified");
            Ok(None)
        }
        Ok(got) => {
            progress.item_done(&file.path, "FAILED");
            let short = |hash: &Hash| hash.hex()[..12].to_owned();
            let (kind, got, wanted) = (file.hash.name(), short(&got), short(&file.hash));
            Ok(Some(format!("{kind} {got}… ≠ {wanted}… ({})", file.voucher)))
        }
        Err(error) => Ok(Some(unreadable(error.into())?)),
    }
}

#[cfg(test)]
mod tests {
    use super::{ExpectedFile, Hash, Voucher, check, parse_sum, read_sums};
    use crate::ops::verify::Report;
    use crate::progress::Silent;

    #[test]
    fn sums_are_read_as_sha256sum_writes_them() {
        let digest = "a".repeat(64);
        for line in [format!("{digest}  x.json"), format!("{digest} *./x.json")] {
            assert_eq!(parse_sum(&line).expect("a line").path, "x.json");
        }
        for bad in [format!("{digest}  ../x"), format!("{digest}  /x"), "abc  x".into()] {
            assert!(parse_sum(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn hashes_of_both_kinds_are_compared() {
        let dir = tempfile::tempdir().expect("a temp dir");
        std::fs::write(dir.path().join("x"), "hello\n").expect("writes");
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let file = |hex: &str, len_bytes| {
            let hash = Hash::from_hex(hex).expect("hex");
            ExpectedFile { path: "x".into(), len_bytes, hash, voucher: Voucher::Hub }
        };
        let good = [file(sha256, Some(6)), file(git, None)];
        let mut report = Report::default();
        check(dir.path(), &good, &mut report, &Silent).expect("may be read");
        assert_eq!((report.findings.len(), report.hashed.len()), (0, 2));
        let bad = [
            file(&"0".repeat(64), None),
            file(&"0".repeat(40), None),
            file(sha256, Some(7)),
            ExpectedFile { path: "y".into(), ..good[0].clone() },
        ];
        check(dir.path(), &bad, &mut report, &Silent).expect("may be read");
        let messages: Vec<&str> = report.findings.iter().map(|f| f.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "sha256 5891b5b522d5… ≠ 000000000000… (Hub)",
                "git ce013625030b… ≠ 000000000000… (Hub)",
                "has 6 bytes, expected 7 (Hub)",
                "is missing (Hub)",
            ]
        );
    }

    #[test]
    fn a_bad_line_is_a_finding() {
        let dir = tempfile::tempdir().expect("a temp dir");
        std::fs::write(dir.path().join("SHA256SUMS"), "nonsense\n").expect("writes");
        let mut findings = Vec::new();
        assert!(read_sums(dir.path(), &mut findings).expect("reads").is_empty());
        assert_eq!(findings.len(), 1);
    }
}
