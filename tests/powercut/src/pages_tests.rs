//! What of one file's content survives, against a plain copy of the durable bytes.

use std::fs::OpenOptions;

use super::*;

struct Sample {
    object: File,
    pages: Pages,
}

impl Sample {
    fn new() -> Self {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("powercut-pages-{}-{number}", std::process::id()));
        let object = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        std::fs::remove_file(&path).expect("the file was just created");
        Self { object: object.expect("the temp folder takes files"), pages: Pages::default() }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.pages.before_change(&self.object, offset, bytes.len() as u64).expect("readable");
        self.object.write_all_at(bytes, offset).expect("writable");
        self.pages.grown_to(offset + bytes.len() as u64);
    }

    fn resize(&mut self, size: u64) {
        self.pages.before_resize(&self.object, size).expect("readable");
        self.object.set_len(size).expect("writable");
    }

    fn cut(&mut self, fate: Fate, seed: u64) -> (Vec<u8>, Survived) {
        let outcome = self.pages.cut(&self.object, fate, &mut Rng::new(seed)).expect("writable");
        (self.content(), outcome)
    }

    fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.object.metadata().expect("open").len() as usize];
        self.object.read_exact_at(&mut bytes, 0).expect("within its size");
        bytes
    }
}

#[test]
fn dropping_gives_back_exactly_the_synced_bytes_after_any_changes() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut sample = Sample::new();
        let mut synced = Vec::new();
        for step in 0..60_u8 {
            match rng.below(8) {
                0..=4 => {
                    let bytes = vec![step + 1; 1 + rng.below(9000) as usize];
                    sample.write(rng.below(40_000), &bytes);
                }
                5..=6 => sample.resize(rng.below(50_000)),
                _ => {
                    sample.pages.synced();
                    synced = sample.content();
                }
            }
            assert_eq!(sample.pages.size(), sample.content().len() as u64, "seed {seed}");
        }
        assert_eq!(sample.cut(Fate::Drop, seed).0, synced, "seed {seed}");
    }
}

#[test]
fn a_subset_consists_of_whole_pages_old_or_new() {
    let mut mixed = 0;
    for seed in 0..50 {
        let mut sample = Sample::new();
        sample.write(0, &[1; 10 * PAGE as usize]);
        sample.pages.synced();
        sample.write(0, &[2; 10 * PAGE as usize]);
        let (bytes, outcome) = sample.cut(Fate::Subset, seed);
        let pages: Vec<&[u8]> = bytes.chunks(PAGE as usize).collect();
        assert!(pages.iter().all(|page| page.iter().all(|byte| Some(byte) == page.first())));
        assert_eq!(pages.len() as u64, outcome.kept + outcome.dropped);
        mixed += u32::from(outcome.kept > 0 && outcome.dropped > 0);
    }
    assert!(mixed > 25, "only {mixed} of 50 cuts were partial");
}

#[test]
fn a_torn_page_has_old_and_new_sectors_and_no_other() {
    for seed in 0..50 {
        let mut sample = Sample::new();
        sample.write(0, &[1; PAGE as usize]);
        sample.pages.synced();
        sample.write(0, &[2; PAGE as usize]);
        let (bytes, outcome) = sample.cut(Fate::Torn, seed);
        assert_eq!(outcome.torn, 1);
        let new = bytes.chunks(SECTOR).filter(|sector| **sector == [2; SECTOR]).count();
        let old = bytes.chunks(SECTOR).filter(|sector| **sector == [1; SECTOR]).count();
        assert!(new > 0 && old > 0 && new + old == 8, "seed {seed}: {new} new, {old} old");
    }
}

#[test]
fn after_a_failed_sync_a_later_good_one_does_not_save_the_lost_pages() {
    for fate in [Fate::Drop, Fate::Keep, Fate::Subset] {
        let mut sample = Sample::new();
        sample.write(0, &[1; 3 * PAGE as usize]);
        sample.pages.synced();
        sample.write(0, &[2; 2 * PAGE as usize]);
        sample.pages.sync_failed();
        sample.write(PAGE, &[3; 10]);
        sample.pages.synced();
        let (bytes, outcome) = sample.cut(fate, 7);
        assert_eq!(outcome, Survived { dropped: 1, ..Survived::default() });
        let firsts: Vec<u8> = bytes.chunks(PAGE as usize).map(|page| page[0]).collect();
        assert_eq!((firsts, bytes[PAGE as usize + 10]), (vec![1, 3, 1], 2));
    }
}

#[test]
fn what_was_cut_off_never_comes_back_behind_what_was_written_after() {
    for seed in 0..100 {
        let mut sample = Sample::new();
        sample.write(0, &[1; 6 * PAGE as usize]);
        sample.pages.synced();
        sample.resize(0);
        sample.write(0, &[2; 4 * PAGE as usize]);
        let (bytes, _) = sample.cut(Fate::Subset, seed);
        assert!(!(bytes.contains(&1) && bytes.contains(&2)), "seed {seed}");
    }
}
