//! The outside world as arguments: clock, randomness, disk and object store, each behind a small
//! object-safe trait with a real and a simulated implementation.
//! Guarantee: code that takes its world from here can be run, crashed and repeated by seed.
//! Nothing here knows what the bytes mean, and nothing outside this crate opens a file, reads a
//! clock or draws a random number.

mod clock;
mod disk;
mod object_store;
mod random;
mod real_disk;
mod sim_disk;

pub use clock::{Clock, SimClock, SystemClock};
pub use disk::{
    DIRECT_ALIGN, Disk, DiskError, DiskLock, File, check_path, create_dir_durably, parent,
    write_file_durably,
};
pub use object_store::{FolderStore, ObjectEntry, ObjectStore, ObjectWriter};
#[cfg(feature = "s3")]
pub use object_store::{S3Options, S3Store};
pub use random::{OsRandom, Random, SeededRandom};
pub use real_disk::RealDisk;
pub use sim_disk::{Counters, SECTOR_BYTES, SimDisk};
