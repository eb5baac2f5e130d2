//! The arguments of one request, borrowed from wherever their bytes already are.
//!
//! A multibulk request's arguments lie in the receive buffer, an inline request's in the parser's
//! scratch; [`Args`] looks the same for both and copies nothing.

/// Where one argument lies, in bytes from the start of its request.
///
/// 32 bits: a request is at most 4 GiB, and half the size keeps more of them in a cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArgRange {
    /// First byte of the argument.
    pub start: u32,
    /// One past its last byte.
    pub end: u32,
}

/// A request's arguments, the command's name first.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    bytes: &'a [u8],
    ranges: &'a [ArgRange],
}

impl<'a> Args<'a> {
    /// Views `ranges` of `bytes`, which are those that the ranges were made for.
    ///
    /// The accessors panic where a range reaches past `bytes`: that is a mix-up of buffers in the
    /// caller, which must not be served as data.
    pub fn new(bytes: &'a [u8], ranges: &'a [ArgRange]) -> Self {
        Self { bytes, ranges }
    }

    /// How many arguments there are, the name included.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is no argument, not even a name.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Argument `index`; 0 is the command's name.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        Some(slice(self.bytes, self.ranges.get(index)?))
    }

    /// The command's name as sent, or nothing for an empty view.
    #[inline]
    pub fn name(&self) -> &'a [u8] {
        self.get(0).unwrap_or_default()
    }

    /// The arguments from `index` on; empty if there are fewer.
    pub fn from(&self, index: usize) -> Self {
        Self { bytes: self.bytes, ranges: self.ranges.get(index..).unwrap_or_default() }
    }

    /// All arguments in order, the name first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &'a [u8]> + ExactSizeIterator + use<'a> {
        let bytes = self.bytes;
        self.ranges.iter().map(move |range| slice(bytes, range))
    }
}

impl std::fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |arg: &[u8]| arg.escape_ascii().to_string();
        f.debug_list().entries(self.iter().map(shown)).finish()
    }
}

#[inline]
fn slice<'a>(bytes: &'a [u8], range: &ArgRange) -> &'a [u8] {
    bytes
        .get(range.start as usize..range.end as usize)
        .expect("the ranges were made for these bytes: see Args::new")
}
