//! Who yields to whom on the processor: how every thread is scheduled, by its name.
//!
//! A data thread that wakes up should run at once, not when a compaction has used up its slice: its
//! own slice is short, and Linux (6.12 and later) lets a waking thread with a shorter slice go first.
//! Background threads are batch work: waking up, they interrupt nobody, and compaction gets the
//! smaller share of a busy core, never none. Needs no privilege. Where the system refuses, threads
//! stay as they are and one line says so: nothing but latency depends on this.
//! Unsafe: one system call that `rustix` does not have.

#![expect(unsafe_code, reason = "sched_setattr has no safe wrapper")]

use std::{collections::BTreeMap, fs, io, time::Duration};

use rustix::process::{getpid, getpriority_process};

/// How a thread is scheduled. Niceness counts from that of the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    /// Somebody waits for it: it runs soon after it wakes up. The slice is the shortest that the
    /// kernel takes; a turn of a data thread is shorter still.
    Prompt,
    /// Work in bulk, with this niceness: 5 is a third of a normal thread's share of a busy core.
    Batch(i32),
}

/// Beginnings of thread names with their class; other threads are scheduled as the system does.
/// Flushes and the applier keep their full share, because writes wait for them in the end. No thread
/// is put last altogether (`SCHED_IDLE`): a compaction that starves stalls writes later, and a thread
/// that holds a lock must come to its end.
const CLASSES: &[(&str, Class)] = &[
    ("data-", Class::Prompt),
    ("log", Class::Prompt),
    ("apply", Class::Batch(0)),
    ("background", Class::Batch(0)),
    ("backup", Class::Batch(5)),
    ("digest", Class::Batch(5)),
    ("archive", Class::Batch(0)),
    ("rocksdb:high", Class::Batch(0)),
    ("rocksdb:low", Class::Batch(5)),
    ("jemalloc_bg_thd", Class::Batch(5)),
];

/// The nicest that a thread can be (sched(7)).
const NICE_MAX: i32 = 19;
/// Slice of a prompt thread.
const PROMPT_SLICE: Duration = Duration::from_micros(100);

/// `struct sched_attr` of the first published size (linux/sched/types.h).
#[repr(C)]
#[derive(Default)]
struct SchedulingAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// For the normal and batch policies the slice, in nanoseconds; older kernels ignore it.
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

/// Schedules all threads of the process by their names. Threads come and go (those of RocksDB and of
/// the allocator by themselves), so this is repeated now and then. Gives the first refusal.
pub(crate) fn schedule_threads() -> io::Result<()> {
    let base = getpriority_process(Some(getpid()))?;
    for (id, name) in threads()? {
        let class = CLASSES.iter().find(|(beginning, _)| name.starts_with(beginning));
        if let Some((_, class)) = class {
            schedule(id, *class, base)?;
        }
    }
    Ok(())
}

fn schedule(thread: libc::pid_t, class: Class, base: i32) -> io::Result<()> {
    let (policy, nicer, slice) = match class {
        Class::Prompt => (libc::SCHED_OTHER, 0, PROMPT_SLICE),
        Class::Batch(nice) => (libc::SCHED_BATCH, nice, Duration::ZERO),
    };
    let attributes = SchedulingAttributes {
        size: size_of::<SchedulingAttributes>() as u32,
        policy: policy as u32,
        nice: (base + nicer).min(NICE_MAX),
        runtime_ns: slice.as_nanos() as u64,
        ..SchedulingAttributes::default()
    };
    // SAFETY: the kernel reads `size` bytes from the pointer, which is that of a live value of just
    // that size, and writes nothing.
    let outcome =
        unsafe { libc::syscall(libc::SYS_sched_setattr, thread, &raw const attributes, 0) };
    match outcome {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // It has ended since it was listed.
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        },
    }
}

/// Processor time of threads of one name.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct ThreadTime {
    /// Running.
    pub running: Duration,
    /// Ready to run, while another thread had the core.
    pub waiting: Duration,
}

/// Processor time by thread name; threads of one name are taken together.
pub(crate) fn thread_times() -> BTreeMap<String, ThreadTime> {
    let mut times: BTreeMap<String, ThreadTime> = BTreeMap::new();
    for (id, name) in threads().unwrap_or_default() {
        let Ok(text) = fs::read_to_string(format!("/proc/self/task/{id}/schedstat")) else {
            continue;
        };
        let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
        let (running, waiting) = (numbers.next(), numbers.next());
        let time = times.entry(name).or_default();
        time.running += Duration::from_nanos(running.unwrap_or_default());
        time.waiting += Duration::from_nanos(waiting.unwrap_or_default());
    }
    times
}

/// Numbers and names of the process' threads at this moment.
fn threads() -> io::Result<Vec<(libc::pid_t, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let path = entry?.path();
        let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        // One that has ended in between has no name any more.
        if let (Some(id), Ok(name)) = (id, fs::read_to_string(path.join("comm"))) {
            found.push((id, name.trim_end().to_string()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `inside` on a thread of this name.
    fn on_thread<R: Send + 'static>(name: &str, inside: impl FnOnce() -> R + Send + 'static) -> R {
        let thread = std::thread::Builder::new().name(name.into()).spawn(inside);
        thread.expect("a test may start a thread").join().expect("it does not panic")
    }

    /// Policy and niceness as the kernel tells them (proc(5), `stat`, fields 41 and 19).
    fn own_policy_and_nice() -> (i32, i32) {
        let text = fs::read_to_string("/proc/thread-self/stat").expect("proc is mounted");
        let fields: Vec<&str> =
            text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let number = |field: usize| fields[field - 3].parse().expect("a number");
        (number(41), number(19))
    }

    #[test]
    fn threads_are_scheduled_by_their_names() -> io::Result<()> {
        let base = getpriority_process(Some(getpid()))?;
        for (name, (policy, nicer)) in [
            ("data-7", (libc::SCHED_OTHER, 0)),
            ("apply", (libc::SCHED_BATCH, 0)),
            ("rocksdb:low", (libc::SCHED_BATCH, 5)),
            ("somebody else", (libc::SCHED_OTHER, 0)),
        ] {
            let seen = on_thread(name, || schedule_threads().map(|()| own_policy_and_nice()))?;
            assert_eq!(seen, (policy, (base + nicer).min(NICE_MAX)), "{name}");
        }
        Ok(())
    }

    #[test]
    fn time_on_the_processor_is_counted_by_name() {
        let time = on_thread("busy-thread", || {
            let mut sum = 0u64;
            while thread_times()["busy-thread"].running < Duration::from_millis(5) {
                sum = std::hint::black_box((0..10_000).sum());
            }
            assert_eq!(sum, 49_995_000);
            thread_times()["busy-thread"]
        });
        assert!(time.running >= Duration::from_millis(5), "{time:?}");
    }
}
