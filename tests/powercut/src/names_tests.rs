//! What of the name space survives, operation by operation.

use super::*;

fn durable(names: &Names, directory: Ino) -> Vec<(String, Ino)> {
    let entries = names.durable_entries(directory).expect("a directory of this test");
    entries.iter().map(|(name, ino)| (name.to_string_lossy().into_owned(), *ino)).collect()
}

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

fn two_directories() -> Names {
    let mut names = Names::new();
    for (ino, called) in [(2, "a"), (3, "b")] {
        names.add_directory(ino);
        names.set(ROOT, name(called), Some(ino));
    }
    names.set(2, name("f"), Some(10));
    names.sync_all();
    names
}

#[test]
fn a_name_is_durable_only_after_its_directory_was_synced() {
    let mut names = Names::new();
    names.set(ROOT, name("f"), Some(10));
    assert_eq!(durable(&names, ROOT), []);
    names.sync(ROOT);
    assert_eq!(durable(&names, ROOT), [("f".to_owned(), 10)]);
    names.set(ROOT, name("f"), None);
    assert_eq!(durable(&names, ROOT), [("f".to_owned(), 10)]);
    assert!(names.mentioned(10));
    names.sync(ROOT);
    assert_eq!((durable(&names, ROOT), names.mentioned(10)), (vec![], false));
    assert_eq!(names.take_unmentioned(), [10]);
}

#[test]
fn a_rename_within_a_directory_is_all_or_nothing() {
    let mut names = two_directories();
    names.set(2, name("g"), Some(11));
    names.rename((2, name("f")), (2, name("g")), 10);
    assert_eq!(durable(&names, 2), [("f".to_owned(), 10)]);
    let last = *names.waiting().last().expect("two operations wait");
    names.commit(BTreeSet::from([last]), Order::Any);
    assert_eq!(durable(&names, 2), [("g".to_owned(), 10)]);
}

#[test]
fn a_file_moved_across_directories_never_has_no_name() {
    let mut names = two_directories();
    names.rename((2, name("f")), (3, name("f")), 10);
    names.sync(2);
    assert_eq!((durable(&names, 2), durable(&names, 3)), (vec![], vec![("f".to_owned(), 10)]));

    let mut names = two_directories();
    names.rename((2, name("f")), (3, name("f")), 10);
    names.sync(3);
    let held = vec![("f".to_owned(), 10)];
    assert_eq!((durable(&names, 2), durable(&names, 3)), (held.clone(), held));
}

#[test]
fn a_moved_directory_has_one_parent_whichever_side_is_synced() {
    for side in [ROOT, 3] {
        let mut names = two_directories();
        names.rename((ROOT, name("a")), (3, name("a")), 2);
        names.sync(side);
        assert_eq!(durable(&names, ROOT), [("b".to_owned(), 3)]);
        assert_eq!(durable(&names, 3), [("a".to_owned(), 2)]);
        assert_eq!(names.paths(10), [PathBuf::from("b/a/f")]);
    }
}

#[test]
fn in_prefix_order_an_operation_brings_all_earlier_ones_of_its_directory() {
    let mut names = Names::new();
    for (ino, called) in [(10, "x"), (11, "y"), (12, "z")] {
        names.set(ROOT, name(called), Some(ino));
    }
    let middle = *names.waiting().get(1).expect("three operations wait");
    assert_eq!(names.commit(BTreeSet::from([middle]), Order::Prefix), 2);
    assert_eq!(durable(&names, ROOT), [("x".to_owned(), 10), ("y".to_owned(), 11)]);
    assert_eq!(names.pending(), 1);
}

#[test]
fn syncing_a_new_file_with_its_names_brings_the_directories_above() {
    let mut names = Names::new();
    names.add_directory(2);
    names.set(ROOT, name("a"), Some(2));
    names.set(2, name("f"), Some(10));
    names.set(2, name("later"), Some(11));
    names.sync_names_of(10);
    assert_eq!(durable(&names, ROOT), [("a".to_owned(), 2)]);
    assert_eq!(durable(&names, 2), [("f".to_owned(), 10)]);
}

#[test]
fn a_dropped_directory_gives_up_what_it_mentioned() {
    let mut names = two_directories();
    names.set(2, name("f"), None);
    names.set(ROOT, name("a"), None);
    names.sync(ROOT);
    assert_eq!(names.take_unmentioned(), [2]);
    assert!(names.mentioned(10), "the durable entry of the removed directory still holds it");
    names.drop_directory(2);
    assert_eq!((names.take_unmentioned(), names.pending()), (vec![10], 0));
}
