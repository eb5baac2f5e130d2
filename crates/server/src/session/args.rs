//! A request's own copy of its arguments, for transactions and fetches.

use holdfast_protocol::resp::{ArgRange, Args};

/// Arguments that outlive the receive buffer.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnedArgs {
    bytes: Vec<u8>,
    ranges: Vec<ArgRange>,
}

impl OwnedArgs {
    pub(crate) fn new(args: Args<'_>) -> OwnedArgs {
        let mut owned = OwnedArgs::default();
        for arg in args.iter() {
            let start = owned.bytes.len() as u32;
            owned.bytes.extend_from_slice(arg);
            owned.ranges.push(ArgRange { start, end: owned.bytes.len() as u32 });
        }
        owned
    }

    pub(crate) fn view(&self) -> Args<'_> {
        Args::new(&self.bytes, &self.ranges)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }
}
