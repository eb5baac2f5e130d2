//! What the node measures of itself.
//!
//! Threads count (`counters`, `histogram`, `decorate` around log and disk); one answer gathers the
//! figures of a moment (`sample`, `lag`); what they are called and mean is declared once (`table`);
//! `page` writes them for Prometheus, and the reference page.

mod counters;
mod decorate;
mod histogram;
mod lag;
mod page;
mod sample;
mod table;

pub use counters::{FAMILIES, Family, LogMetrics, NodeMetrics, WorkerMetrics};
pub(crate) use decorate::{MeasuredDisk, MeasuredSession};
pub use histogram::Histogram;
pub(crate) use lag::Lag;
pub use page::reference;
pub(crate) use page::render;
pub(crate) use sample::resident_bytes;
