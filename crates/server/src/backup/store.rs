//! From a URL to an object store. Credentials for S3 come from the environment alone, under the
//! names that every S3 tool knows; they are no settings, so nothing prints them.

use std::{env, path::Path, sync::Arc};

use holdfast_backup::Location;
use holdfast_base::{Error, ErrorKind};
use holdfast_io::{FolderStore, ObjectStore, RealDisk, S3Options, S3Store};

/// Region where the environment names none; stores other than Amazon's take any.
const REGION: &str = "us-east-1";

/// Opens the store at this place. A folder is made if absent, and must not lie within `data`.
pub fn open_store(location: &Location, data: Option<&Path>) -> Result<Arc<dyn ObjectStore>, Error> {
    let failed =
        |error: std::io::Error| Error::new(ErrorKind::Unavailable, format!("{location}: {error}"));
    match location {
        Location::Folder(path) => {
            if data.is_some_and(|data| lies_within(path, data)) {
                let text =
                    format!("{location} lies within the data folder: a backup goes elsewhere");
                return Err(Error::new(ErrorKind::Invalid, text));
            }
            let disk = RealDisk::new(path).map_err(failed)?;
            Ok(Arc::new(FolderStore::new(Arc::new(disk))))
        }
        Location::S3 { bucket, prefix } => {
            let options = s3_options(bucket, prefix, &|name| {
                env::var(name).ok().filter(|value| !value.is_empty())
            })?;
            Ok(Arc::new(S3Store::new(&options).map_err(failed)?))
        }
    }
}

/// Compares the real paths; what does not exist lies nowhere.
fn lies_within(path: &Path, data: &Path) -> bool {
    let existing = path.ancestors().find_map(|ancestor| ancestor.canonicalize().ok());
    let data = data.canonicalize().ok();
    existing.zip(data).is_some_and(|(path, data)| path.starts_with(data))
}

fn s3_options(
    bucket: &str,
    prefix: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<S3Options, Error> {
    let needed = |name: &str| {
        let text = format!("s3:// needs {name} in the environment of this process");
        variable(name).ok_or(Error::new(ErrorKind::Invalid, text))
    };
    Ok(S3Options {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: variable("AWS_ENDPOINT_URL"),
        region: variable("AWS_REGION").unwrap_or_else(|| REGION.to_owned()),
        access_key_id: needed("AWS_ACCESS_KEY_ID")?,
        secret_access_key: needed("AWS_SECRET_ACCESS_KEY")?,
        session_token: variable("AWS_SESSION_TOKEN"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_credentials_are_named() {
        let error = s3_options("bucket", "", &|_| None).expect_err("nothing is set");
        assert!(error.text().contains("AWS_ACCESS_KEY_ID"), "{error}");
    }

    #[test]
    fn a_folder_within_the_data_is_refused() -> Result<(), Error> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("it can be made");
        let inside = Location::Folder(data.join("a/b"));
        let error = open_store(&inside, Some(&data)).err().expect("within");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        open_store(&Location::Folder(folder.path().join("elsewhere")), Some(&data)).map(|_| ())
    }
}
