//! Following the archive behind a backup, up to a position or a time.
//!
//! Nothing is crossed silently: a missing object, an end before the target, another life or a chain
//! that does not continue are errors, found as far as possible before anything is downloaded.

use holdfast_base::{
    Error, Hlc, Incarnation, Lsn, ShardId,
    record::{BatchView, Record},
    row::AppliedState,
};
use holdfast_engine::Engine;
use holdfast_io::ObjectStore;
use holdfast_shard::apply_batches;

use crate::{
    Manifest, Step, Target, Watch,
    archive::{HEADER_BYTES, Header, OBJECT_BYTES_MAX, Span, archive_folder, spans},
    corrupt, invalid,
    manifest::read_whole,
    show_time, store_error,
};

/// The objects to apply, oldest first, and up to where.
pub(crate) struct Plan {
    folder: String,
    incarnation: Incarnation,
    spans: Vec<Span>,
    target: Target,
}

/// Finds what has to be applied behind the backup, and that the target can be reached.
pub(crate) fn plan(
    store: &dyn ObjectStore,
    manifest: &Manifest,
    target: Target,
) -> Result<Plan, Error> {
    let Manifest { incarnation, lsn, .. } = *manifest;
    let folder = archive_folder(incarnation);
    let mut plan = Plan { folder, incarnation, spans: Vec::new(), target };
    match target {
        Target::Backup => return Ok(plan),
        Target::Lsn(wanted) if wanted < lsn => return Err(too_new(manifest)),
        Target::Lsn(wanted) if wanted == lsn => return Ok(plan),
        Target::Time(ms) if ms < manifest.time.ms() => return Err(too_new(manifest)),
        Target::Lsn(_) | Target::Time(_) | Target::End => {}
    }
    let (mut reached, mut gap) = (lsn, None);
    for span in spans(store, incarnation)? {
        if span.last <= reached {
            continue;
        }
        if span.first > reached.next() {
            gap = Some((reached.next(), Lsn(span.first.0 - 1)));
            break;
        }
        reached = span.last;
        plan.spans.push(span);
        if matches!(target, Target::Lsn(wanted) if wanted <= reached) {
            return Ok(plan);
        }
    }
    let behind = match gap {
        Some((first, last)) => format!(
            "the archive has a gap: records {first} to {last} are missing; it reaches {reached}"
        ),
        None => format!("the archive ends at record {reached}"),
    };
    let end_time = match plan.spans.last() {
        Some(span) => plan.header(store, *span)?.last_time,
        None => manifest.time,
    };
    match target {
        Target::End if gap.is_none() => Ok(plan),
        // A later record proves that none is missing up to the time.
        Target::Time(ms) if end_time.ms() > ms => Ok(plan),
        _ => {
            let end = show_time(end_time.ms());
            Err(invalid(format!("{behind}, written at {end}. To go that far: --to-lsn {reached}")))
        }
    }
}

fn too_new(manifest: &Manifest) -> Error {
    let time = show_time(manifest.time.ms());
    let Manifest { id, lsn, .. } = manifest;
    invalid(format!("backup {id} holds records up to {lsn}, {time}: choose an older one"))
}

impl Plan {
    fn header(&self, store: &dyn ObjectStore, span: Span) -> Result<Header, Error> {
        let name = format!("{}/{}", self.folder, span.name());
        let head = store.read(&name, 0, HEADER_BYTES).map_err(store_error(name.as_str()))?;
        self.checked(&name, span, &head)
    }

    fn checked(&self, name: &str, span: Span, stored: &[u8]) -> Result<Header, Error> {
        let header = Header::decode(stored).map_err(|why| damaged(name, why))?;
        if header.incarnation != self.incarnation || header.span != span {
            return Err(damaged(name, "it holds other records than its name says"));
        }
        Ok(header)
    }

    fn wants(&self, record: &Record<'_>) -> bool {
        match self.target {
            Target::Backup => false,
            Target::Lsn(last) => record.lsn <= last,
            Target::Time(ms) => record.time <= Hlc(Hlc::from_ms(ms + 1).0 - 1),
            Target::End => true,
        }
    }

    /// Applies what was planned to the engine and to the state that it stands at.
    pub fn apply(
        &self,
        store: &dyn ObjectStore,
        shard: ShardId,
        engine: &dyn Engine,
        state: &mut AppliedState,
        watch: &mut Watch<'_>,
    ) -> Result<(), Error> {
        for span in &self.spans {
            let name = format!("{}/{}", self.folder, span.name());
            let stored = read_whole(store, &name, OBJECT_BYTES_MAX)?;
            watch(Step::Moved(stored.len() as u64))?;
            let header = self.checked(&name, *span, &stored)?;
            let mut rest = header.payload(&stored).map_err(|why| damaged(&name, why))?;
            let mut batches = Vec::new();
            while !rest.is_empty() {
                let batch = BatchView::decode(&mut rest)
                    .map_err(|why| damaged(&name, &format!("a batch: {why}")))?;
                if batch.header.incarnation != self.incarnation || batch.header.shard != shard {
                    return Err(damaged(&name, "it holds records of another life or shard"));
                }
                batches.push(batch);
            }
            apply_batches(shard, engine, state, batches.into_iter(), |record| self.wants(record))
                .map_err(|error| error.context(&name))?;
            watch(Step::Replayed(state.lsn))?;
        }
        match self.target {
            Target::Lsn(wanted) if state.lsn != wanted => {
                Err(corrupt(format!("the archive led to {} and not to {wanted}", state.lsn)))
            }
            _ => Ok(()),
        }
    }
}

fn damaged(name: &str, why: &str) -> Error {
    corrupt(format!("the archive is damaged: {name}: {why}"))
}
