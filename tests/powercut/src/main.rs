//! A FUSE file system that behaves like a disk with a page cache and loses, when the power is cut,
//! what was not synced: writes, sizes, names. The program under test needs no change and no preloading.
//! Guarantees: what a completed fsync covers survives every cut; nothing else is promised to.
//! It does not model: loss of synced data, reordering of synced data, damage at rest.
//! Usage: `powercut BACKING MOUNT CONTROL_SOCKET [--fsync-names] [--detached] [--unsynced-max-mib N]`

mod control;
mod disk;
mod faults;
mod filesystem;
mod inode;
mod names;
mod pages;
mod rng;
mod tree;

use std::io::{self, Read};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};

use fuser::{Config, MountOption, SessionACL};
use rustix::mount::UnmountFlags;
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};

use control::Control;
use disk::{Disk, Settings};
use filesystem::PowerCut;

/// Requests served at once: enough that one waiting for the backing disk does not stop the rest.
const THREADS: usize = 4;
/// Enough for any test here; what was there before an overwrite is held in memory.
const UNSYNCED_MAX_MIB: u64 = 4096;

struct Arguments {
    settings: Settings,
    mount: PathBuf,
    socket: PathBuf,
    detached: bool,
}

fn main() -> ExitCode {
    match arguments().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("powercut: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> io::Result<Arguments> {
    let usage = || io::Error::other("usage: powercut BACKING MOUNT CONTROL_SOCKET [options]");
    let mut paths = Vec::new();
    let (mut fsync_names, mut detached, mut mib) = (false, false, UNSYNCED_MAX_MIB);
    let mut words = std::env::args_os().skip(1);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--fsync-names") => fsync_names = true,
            Some("--detached") => detached = true,
            Some("--unsynced-max-mib") => {
                let number = words.next().and_then(|number| number.to_str()?.parse().ok());
                mib = number.ok_or_else(usage)?;
            }
            Some(option) if option.starts_with("--") => return Err(usage()),
            _ => paths.push(PathBuf::from(word)),
        }
    }
    let [backing, mount, socket] = <[PathBuf; 3]>::try_from(paths).map_err(|_| usage())?;
    let unsynced_pages_max = disk::pages_of_mib(mib);
    let settings = Settings { backing, fsync_names, unsynced_pages_max };
    Ok(Arguments { settings, mount, socket, detached })
}

fn run(arguments: Arguments) -> io::Result<()> {
    let Arguments { settings, mount, socket, detached } = arguments;
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })?;
    let listener = UnixListener::bind(&socket)?;
    let disk = Arc::new(Disk::open(settings)?);
    let session = fuser::Session::new(PowerCut::new(disk.clone()), &mount, &config())
        .inspect_err(|_| drop(disk.shut_down()))?;
    let notifier = session.notifier();
    let _session = session.spawn()?;
    let stop = stopper(disk.clone(), mount);
    println!("ready");
    if !detached {
        let stop = stop.clone();
        std::thread::spawn(move || stop_at_end_of_input(&*stop));
    }
    Control { disk, notifier, stop: Box::new(move || stop()) }.serve(listener);
    Ok(())
}

fn config() -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("powercut".to_owned()),
        MountOption::Subtype("powercut".to_owned()),
        MountOption::DefaultPermissions,
    ];
    // Others than the owner need a system setting, unless the owner is root.
    config.acl = if geteuid().is_root() { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config
}

type Stopper = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// What switches off: unmount (which writes mapped pages back), then make durable what is left.
fn stopper(disk: Arc<Disk>, mount: PathBuf) -> Stopper {
    // Held while switching off, so that a command and the end of input do not do it at once.
    let mounted = Mutex::new(true);
    Arc::new(move || {
        let mut mounted = mounted.lock().expect("no holder panics");
        if std::mem::take(&mut *mounted) {
            unmount(&mount)?;
        }
        disk.shut_down()
    })
}

fn unmount(mount: &Path) -> io::Result<()> {
    if geteuid().is_root() {
        let gentle = rustix::mount::unmount(mount, UnmountFlags::empty());
        // A program still has something open: its next operation will find the disk gone.
        return Ok(gentle.or_else(|_| rustix::mount::unmount(mount, UnmountFlags::DETACH))?);
    }
    let status = Command::new("fusermount3").arg("-uz").arg(mount).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("fusermount3 -uz failed")) }
}

/// The one who started this holds its standard input; when that ends, nobody is left to unmount.
fn stop_at_end_of_input(stop: &dyn Fn() -> io::Result<()>) {
    let mut sink = [0; 64];
    while io::stdin().read(&mut sink).is_ok_and(|count| count > 0) {}
    let outcome = stop();
    if let Err(error) = &outcome {
        eprintln!("powercut: {error}");
    }
    std::process::exit(i32::from(outcome.is_err()));
}
