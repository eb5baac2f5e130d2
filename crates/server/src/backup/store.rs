//! From a URL to an object store. Credentials for S3 come from the environment alone, under the
//! names that every S3 tool knows; they are no settings, so nothing prints them.

use std::{env, path::Path, sync::Arc};

use holdfast_backup::Location;
use holdfast_base::{Error, ErrorKind};
use holdfast_io::{FolderStore, ObjectStore, RealDisk, S3Options, S3Store};

use crate::data::make_durable;

/// Region where the environment names none; stores other than Amazon's take any.
const REGION: &str = "us-east-1";

/// What a store is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreUse<'a> {
    /// Listing and restoring: a folder that is absent is an error, not an empty store.
    Reading,
    /// Storing what is in this data folder: a folder is made if absent, and must not lie within.
    Storing(&'a Path),
}

/// Opens the store at this place.
pub fn open_store(
    location: &Location,
    purpose: StoreUse<'_>,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let failed =
        |error: std::io::Error| Error::new(ErrorKind::Unavailable, format!("{location}: {error}"));
    let refused = |why: &str| Err(Error::new(ErrorKind::Invalid, format!("{location}: {why}")));
    match location {
        Location::Folder(path) => {
            match purpose {
                StoreUse::Reading if !path.is_dir() => return refused("there is no such folder"),
                StoreUse::Storing(data) if lies_within(path, data) => {
                    return refused("it lies within the data folder: a backup goes elsewhere");
                }
                StoreUse::Reading | StoreUse::Storing(_) => {}
            }
            if let StoreUse::Storing(_) = purpose {
                make_durable(path)?;
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
    fn a_folder_within_the_data_is_refused_and_an_absent_one_is_not_read() -> Result<(), Error> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("it can be made");
        let inside = Location::Folder(data.join("a/b"));
        let error = open_store(&inside, StoreUse::Storing(&data)).err().expect("within");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let elsewhere = Location::Folder(folder.path().join("elsewhere"));
        let absent = open_store(&elsewhere, StoreUse::Reading).err().expect("not there yet");
        assert!(absent.text().contains("no such folder"), "{absent}");
        open_store(&elsewhere, StoreUse::Storing(&data))?;
        open_store(&elsewhere, StoreUse::Reading).map(|_| ())
    }
}
