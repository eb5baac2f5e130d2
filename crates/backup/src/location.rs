//! Where backups lie, as a URL: `file:///absolute/folder` or `s3://bucket/prefix`.
//!
//! Nothing secret can stand in one: user information, queries and escapes are refused.

use std::fmt;
use std::path::PathBuf;

use holdfast_base::Error;

use crate::invalid;

/// Longest URL accepted.
const URL_BYTES_MAX: usize = 2048;

/// A parsed URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    /// A folder of this machine, absolute.
    Folder(PathBuf),
    /// A part of a bucket.
    S3 {
        /// The bucket.
        bucket: String,
        /// In front of every name; empty for none.
        prefix: String,
    },
}

impl Location {
    /// Reads a URL.
    pub fn parse(url: &str) -> Result<Location, Error> {
        let refused = |why: &str| {
            // What was given may hold a secret: it is not repeated.
            Err(invalid(format!("{why}: write file:///absolute/folder or s3://bucket/prefix")))
        };
        if url.len() > URL_BYTES_MAX {
            return refused("the URL is too long");
        }
        if url.contains(|c: char| matches!(c, '?' | '#' | '%' | '@' | '\\') || c.is_control()) {
            return refused("no user, query, fragment or escape may stand in the URL");
        }
        if let Some(path) = url.strip_prefix("file://") {
            if !path.starts_with('/') || !parts_are_names(path.trim_start_matches('/')) {
                return refused("not an absolute folder");
            }
            return Ok(Location::Folder(PathBuf::from(path)));
        }
        let Some(rest) = url.strip_prefix("s3://") else {
            return refused("neither file:// nor s3://");
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(fits) {
            return refused("not a bucket's name");
        }
        if !prefix.is_empty() && !parts_are_names(prefix) {
            return refused("the prefix has an empty part, `.` or `..`");
        }
        Ok(Location::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

fn parts_are_names(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Folder(path) => write!(f, "file://{}", path.display()),
            Location::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Location::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown_alike() -> Result<(), Error> {
        for url in ["file:///var/backups", "s3://bucket", "s3://my.bucket-1/a/b"] {
            assert_eq!(Location::parse(url)?.to_string(), url);
        }
        let slashed = Location::parse("s3://bucket/a/")?;
        assert_eq!(slashed, Location::S3 { bucket: "bucket".into(), prefix: "a".into() });
        Ok(())
    }

    #[test]
    fn anything_else_is_refused_without_repeating_it() {
        for url in [
            "",
            "/var/backups",
            "file://relative",
            "file:///",
            "file:///a/../b",
            "s3://",
            "s3://UPPER/x",
            "s3://key:hunter2@bucket/x",
            "s3://bucket/a//b",
            "s3://bucket/a?secret=hunter2",
            "https://bucket.example",
            "file:///a%2fb",
        ] {
            let error = Location::parse(url).expect_err(url);
            assert!(!error.text().contains("hunter2"), "{error}");
        }
    }
}
