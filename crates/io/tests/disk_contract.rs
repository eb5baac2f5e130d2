//! The contract of `Disk` and `File`, held by the real and the simulated disk alike.
//! Power cuts and faults are tested where they can be made: beside the simulated disk.

use std::io::{self, ErrorKind};

use holdfast_io::{
    DIRECT_ALIGN, Disk, DiskError, RealDisk, SimDisk, create_dir_durably, parent,
    write_file_durably,
};
use proptest::prelude::*;

/// Runs a behaviour on an empty real disk and on an empty simulated one.
fn on_both(behaviour: fn(&dyn Disk) -> io::Result<()>) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let real = RealDisk::new(directory.path().join("root")).expect("its root can be made");
    behaviour(&real).expect("the real disk keeps the contract");
    behaviour(&SimDisk::new()).expect("the simulated disk keeps the contract");
}

fn kind<T>(result: io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

fn content(disk: &dyn Disk, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open_read(path)?;
    let mut bytes = vec![0; file.len()? as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[test]
fn written_bytes_are_read_back_and_gaps_are_zeros() {
    on_both(|disk| {
        let file = disk.create("a")?;
        assert!(file.is_empty()?);
        file.write_at(b"world", 8)?;
        file.write_at(b"hello", 1)?;
        file.write_at(b"", 100)?;
        file.sync_data()?;
        file.sync_all()?;
        assert_eq!(content(disk, "a")?, b"\0hello\0\0world");
        assert_eq!(file.len()?, 13);
        Ok(())
    });
}

#[test]
fn reads_stop_at_the_end_of_the_file() {
    on_both(|disk| {
        let file = disk.create("a")?;
        file.write_at(b"0123456789", 0)?;
        let mut buffer = [0; 8];
        assert_eq!(file.read_at(&mut buffer, 6)?, 4);
        assert_eq!(&buffer[..4], b"6789");
        assert_eq!(file.read_at(&mut buffer, 10)?, 0);
        assert_eq!(file.read_at(&mut buffer, 1 << 40)?, 0);
        assert_eq!(kind(file.read_exact_at(&mut buffer, 6)), Some(ErrorKind::UnexpectedEof));
        file.read_exact_at(&mut buffer, 2)?;
        assert_eq!(&buffer, b"23456789");
        Ok(())
    });
}

#[test]
fn direct_writes_are_writes_aligned_or_not() {
    on_both(|disk| {
        let file = disk.create("a")?;
        file.write_at(&[1; 4000], 0)?;
        let room = vec![7; 4 * DIRECT_ALIGN];
        let start = room.as_ptr().align_offset(DIRECT_ALIGN);
        let aligned = &room[start..start + 2 * DIRECT_ALIGN];
        file.write_direct_at(aligned, 1024)?;
        file.write_direct_at(aligned, 8192)?;
        file.write_direct_at(&aligned[..100], 3)?;
        let mut expected = vec![1; 4000];
        expected[1024..2048].fill(7);
        expected[3..103].fill(7);
        expected.resize(8192, 0);
        expected.resize(8192 + 1024, 7);
        assert_eq!(content(disk, "a")?, expected);
        let file = disk.open_read("a")?;
        assert!(file.write_direct_at(aligned, 0).is_err());
        Ok(())
    });
}

#[test]
fn allocating_keeps_the_bytes_and_never_shrinks() {
    on_both(|disk| {
        let file = disk.create("a")?;
        file.write_at(b"kept", 0)?;
        file.allocate(1_000_001)?;
        assert_eq!(file.len()?, 1_000_001);
        let bytes = content(disk, "a")?;
        assert_eq!(&bytes[..4], b"kept");
        assert!(bytes[4..].iter().all(|byte| *byte == 0));
        file.allocate(10)?;
        assert_eq!(file.len()?, 1_000_001);
        Ok(())
    });
}

#[test]
fn truncating_cuts_and_growing_again_shows_zeros() {
    on_both(|disk| {
        let file = disk.create("a")?;
        file.write_at(b"secret", 0)?;
        file.truncate(2)?;
        file.truncate(5)?;
        assert_eq!(content(disk, "a")?, b"se\0\0\0");
        Ok(())
    });
}

#[test]
fn creating_twice_and_opening_nothing_are_refused() {
    on_both(|disk| {
        disk.create("a")?;
        assert_eq!(kind(disk.create("a")), Some(ErrorKind::AlreadyExists));
        assert_eq!(kind(disk.open("b")), Some(ErrorKind::NotFound));
        assert_eq!(kind(disk.open_read("b")), Some(ErrorKind::NotFound));
        assert_eq!(kind(disk.create("no/such/directory")), Some(ErrorKind::NotFound));
        assert_eq!(kind(disk.remove("b")), Some(ErrorKind::NotFound));
        assert_eq!(kind(disk.rename("b", "c")), Some(ErrorKind::NotFound));
        assert_eq!(kind(disk.list("b")), Some(ErrorKind::NotFound));
        assert_eq!(kind(disk.sync_dir("b")), Some(ErrorKind::NotFound));
        Ok(())
    });
}

#[test]
fn a_file_opened_for_reading_cannot_be_changed() {
    on_both(|disk| {
        disk.create("a")?.write_at(b"fixed", 0)?;
        let file = disk.open_read("a")?;
        assert!(file.write_at(b"x", 0).is_err());
        assert!(file.truncate(0).is_err());
        assert!(file.allocate(100).is_err());
        assert_eq!(content(disk, "a")?, b"fixed");
        Ok(())
    });
}

#[test]
fn paths_that_leave_the_root_are_refused() {
    on_both(|disk| {
        for path in ["", "/a", "a/", "a//b", "..", "a/../b", ".", "./a", "a\0b"] {
            assert_eq!(kind(disk.create(path)), Some(ErrorKind::InvalidInput), "{path:?}");
            assert_eq!(kind(disk.lock(path)), Some(ErrorKind::InvalidInput), "{path:?}");
            assert_eq!(kind(disk.remove(path)), Some(ErrorKind::InvalidInput), "{path:?}");
            assert_eq!(kind(disk.rename("a", path)), Some(ErrorKind::InvalidInput), "{path:?}");
        }
        assert_eq!(kind(disk.list("../a")), Some(ErrorKind::InvalidInput));
        assert!(disk.list("")?.is_empty());
        Ok(())
    });
}

#[test]
fn listing_gives_the_sorted_names_of_one_level() {
    on_both(|disk| {
        disk.create_dir("d/e")?;
        disk.create_dir("d/e")?;
        for path in ["d/b", "d/a", "d/c", "d/e/below", "beside"] {
            disk.create(path)?;
        }
        assert_eq!(disk.list("d")?, ["a", "b", "c", "e"]);
        assert_eq!(disk.list("")?, ["beside", "d"]);
        assert!(disk.list("beside").is_err());
        assert!(disk.exists("d/e")? && disk.exists("d/e/below")? && disk.exists("")?);
        assert!(!disk.exists("d/x")? && !disk.exists("x/y")?);
        Ok(())
    });
}

#[test]
fn renaming_replaces_the_target_and_open_files_follow() {
    on_both(|disk| {
        disk.create("old")?.write_at(b"old", 0)?;
        let replaced = disk.open("old")?;
        let file = disk.create("new")?;
        file.write_at(b"new", 0)?;
        disk.rename("new", "old")?;
        assert_eq!(disk.list("")?, ["old"]);
        assert_eq!(content(disk, "old")?, b"new");
        file.write_at(b"!", 3)?;
        assert_eq!(content(disk, "old")?, b"new!");
        let mut bytes = [0; 3];
        replaced.read_exact_at(&mut bytes, 0)?;
        assert_eq!(&bytes, b"old");
        disk.rename("old", "old")?;
        assert_eq!(content(disk, "old")?, b"new!");
        Ok(())
    });
}

#[test]
fn renaming_across_directories_is_refused() {
    on_both(|disk| {
        disk.create_dir("d")?;
        disk.create("a")?;
        assert_eq!(kind(disk.rename("a", "d/a")), Some(ErrorKind::Unsupported));
        assert!(disk.exists("a")? && !disk.exists("d/a")?);
        Ok(())
    });
}

#[test]
fn directories_are_renamed_with_their_files_and_removed_when_empty() {
    on_both(|disk| {
        disk.create_dir("d/e")?;
        disk.create("d/e/a")?.write_at(b"x", 0)?;
        disk.rename("d", "f")?;
        assert_eq!(content(disk, "f/e/a")?, b"x");
        assert_eq!(kind(disk.remove("f/e")), Some(ErrorKind::DirectoryNotEmpty));
        disk.create_dir("g")?;
        assert_eq!(kind(disk.rename("g", "f")), Some(ErrorKind::DirectoryNotEmpty));
        disk.create("file")?;
        assert_eq!(kind(disk.rename("file", "g")), Some(ErrorKind::IsADirectory));
        assert_eq!(kind(disk.rename("g", "file")), Some(ErrorKind::NotADirectory));
        assert_eq!(kind(disk.open("g")), Some(ErrorKind::IsADirectory));
        assert_eq!(kind(disk.open_read("g")), Some(ErrorKind::IsADirectory));
        assert!(disk.create_dir("file").is_err());
        assert_eq!(kind(disk.create("file/below")), Some(ErrorKind::NotADirectory));
        disk.remove("f/e/a")?;
        disk.remove("f/e")?;
        assert!(disk.list("f")?.is_empty());
        Ok(())
    });
}

#[test]
fn a_removed_file_stays_readable_while_open() {
    on_both(|disk| {
        let file = disk.create("a")?;
        file.write_at(b"still here", 0)?;
        disk.remove("a")?;
        disk.sync_dir("")?;
        assert!(!disk.exists("a")?);
        let mut bytes = [0; 10];
        file.read_exact_at(&mut bytes, 0)?;
        assert_eq!(&bytes, b"still here");
        file.sync_all()?;
        Ok(())
    });
}

#[test]
fn a_lock_excludes_others_until_it_is_dropped_and_names_its_holder() {
    on_both(|disk| {
        let lock = disk.lock("LOCK")?;
        let holder = String::from_utf8(content(disk, "LOCK")?).map_err(io::Error::other)?;
        let refusal = disk.lock("LOCK").expect_err("the lock is taken");
        assert_eq!(refusal.kind(), ErrorKind::WouldBlock);
        let expected = format!("held by process {}", holder.trim());
        assert!(refusal.to_string().contains(&expected), "{refusal}");
        drop(disk.lock("OTHER")?);
        drop(lock);
        let again = disk.lock("LOCK")?;
        assert_eq!(kind(disk.lock("LOCK")), Some(ErrorKind::WouldBlock));
        drop(again);
        Ok(())
    });
}

#[test]
fn the_real_lock_names_this_process() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let disk = RealDisk::new(directory.path()).expect("the directory exists");
    let _lock = disk.lock("LOCK").expect("the lock is free");
    let other = RealDisk::new(directory.path()).expect("the directory exists");
    let refusal = other.lock("LOCK").expect_err("the lock is taken").to_string();
    assert!(refusal.ends_with(&format!("held by process {}", std::process::id())), "{refusal}");
}

#[test]
fn an_error_names_the_action_and_the_path_and_keeps_its_cause() {
    on_both(|disk| {
        let error = disk.open("some/file").map(|_| ()).expect_err("there is no such file");
        assert!(error.to_string().starts_with("open some/file: "), "{error}");
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<DiskError>());
        let inner = inner.expect("the error carries a DiskError");
        assert_eq!((inner.action, inner.path.as_str()), ("open", "some/file"));
        assert_eq!(inner.source.kind(), ErrorKind::NotFound);
        Ok(())
    });
}

#[test]
fn a_durably_written_file_replaces_the_old_one_and_any_left_over_attempt() {
    on_both(|disk| {
        create_dir_durably(disk, "d/e")?;
        write_file_durably(disk, "d/e/a", b"the first and longer content")?;
        disk.create("d/e/a.tmp")?.write_at(b"left over by a crash, longer than both", 0)?;
        write_file_durably(disk, "d/e/a", b"the second")?;
        assert_eq!(content(disk, "d/e/a")?, b"the second");
        assert_eq!(disk.list("d/e")?, ["a"]);
        Ok(())
    });
}

#[test]
fn there_is_free_space() {
    on_both(|disk| {
        assert!(disk.free_bytes()? > 0);
        Ok(())
    });
}

#[test]
fn the_parent_of_a_path_is_what_stands_before_its_last_name() {
    assert_eq!((parent("a/b/c"), parent("a"), parent("")), ("a/b", "", ""));
}

/// One step on a small tree, chosen so that steps meet each other often.
#[derive(Debug, Clone)]
enum Step {
    Create(&'static str),
    CreateDir(&'static str),
    Remove(&'static str),
    Rename(&'static str, &'static str),
    Write(&'static str, u64, Vec<u8>),
    Truncate(&'static str, u64),
    Allocate(&'static str, u64),
    SyncDir(&'static str),
}

fn step() -> impl Strategy<Value = Step> {
    let path = || prop::sample::select(vec!["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a"]);
    let bytes = prop::collection::vec(any::<u8>(), 0..700);
    prop_oneof![
        path().prop_map(Step::Create),
        path().prop_map(Step::CreateDir),
        path().prop_map(Step::Remove),
        (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        (path(), 0..1_500_u64, bytes).prop_map(|(path, at, bytes)| Step::Write(path, at, bytes)),
        (path(), 0..1_500_u64).prop_map(|(path, len)| Step::Truncate(path, len)),
        (path(), 0..1_500_u64).prop_map(|(path, len)| Step::Allocate(path, len)),
        path().prop_map(Step::SyncDir),
    ]
}

fn take(disk: &dyn Disk, step: &Step) -> io::Result<()> {
    match step {
        Step::Create(path) => disk.create(path).map(|_| ()),
        Step::CreateDir(dir) => disk.create_dir(dir),
        Step::Remove(path) => disk.remove(path),
        Step::Rename(from, to) => disk.rename(from, to),
        Step::Write(path, offset, bytes) => disk.open(path)?.write_at(bytes, *offset),
        Step::Truncate(path, len) => disk.open(path)?.truncate(*len),
        Step::Allocate(path, len) => disk.open(path)?.allocate(*len),
        Step::SyncDir(dir) => disk.sync_dir(dir),
    }
}

/// Every path below `dir`, with its bytes where it is a file.
fn picture(disk: &dyn Disk, dir: &str, into: &mut Vec<(String, Option<Vec<u8>>)>) {
    for name in disk.list(dir).expect("the directory was listed by its parent") {
        let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
        match content(disk, &path) {
            Ok(bytes) => into.push((path, Some(bytes))),
            Err(_) => {
                into.push((path.clone(), None));
                picture(disk, &path, into);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn both_disks_answer_any_steps_alike(steps in prop::collection::vec(step(), 1..40)) {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let real = RealDisk::new(directory.path()).expect("the directory exists");
        let simulated = SimDisk::new();
        for step in &steps {
            let (expected, actual) = (take(&real, step), take(&simulated, step));
            let both = format!("{step:?}: {expected:?} and {actual:?}");
            prop_assert_eq!(expected.is_ok(), actual.is_ok(), "{}", both);
        }
        let (mut expected, mut actual) = (Vec::new(), Vec::new());
        picture(&real, "", &mut expected);
        picture(&simulated, "", &mut actual);
        prop_assert_eq!(expected, actual);
    }
}
